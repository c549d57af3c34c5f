"""One GPU as this process reads it: met, sampled, lost, met again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from .duty import Duty
from .fields import Fields
from .mig import Mig
from .profiling import Profiling
from .values import (
    FACTS,
    LOST,
    NO_HANDLE,
    RESET_REQUIRED,
    SESSION_OVER,
    SLOW,
    due_after,
    fast_readings,
    slow_readings,
    throughput_readings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .parent import Dial
    from .values import Value, Values

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Gpu:
    """One place in NVML's enumeration.

    Args:
        index: which.
        dial: where to say which call is made.
        driver: the driver's branch, such as 570.
    """

    def __init__(self, index: int, dial: Dial, driver: int) -> None:
        self.index = index
        self.handle: Any = None
        self.meetings = 0
        self.facts: Values = {}
        self._dial = dial
        self._driver = driver
        self._met = self._lost = self._reset_required = False
        self._retry = self._slow_due = 0
        self._facts_text = self._slow_text = ""
        self._start_again()

    def _start_again(self) -> None:
        self._fast: list[Value] = fast_readings()
        self._slow: list[Value] = slow_readings()
        self._throughput: list[Value] = throughput_readings()
        self._duty = Duty()
        self._fields = Fields(self._driver)
        self._mig = Mig()
        self._profiling = Profiling()

    def sample(self, tick: int) -> str:
        """A JSON object: facts and readings; of a GPU out of reach its facts, as far as they are known, and why."""
        try:
            if not self._met and not self._meet(tick):
                return self._out_of_reach()
            needed_reset = self._reset_required
            text = self._read(tick)
        except nvml.NVMLError as error:
            if error.value in SESSION_OVER:
                raise
            self._met = False
            self._reset_required = error.value == RESET_REQUIRED
            self._lost = error.value in (NO_HANDLE if self.handle is None else LOST)
            return self._out_of_reach()
        # After a reset its counters begin anew, and its driver may have other answers.
        self._met = not needed_reset or self._reset_required
        return text

    def _out_of_reach(self) -> str:
        state = {"reset_required": True} if self._reset_required else {"lost": self._lost}
        return "{" + _members({"index": self.index, **self.facts, **state}) + "}"

    def _meet(self, tick: int) -> bool:
        """Take the handle and read the facts; without a handle only now and then, for that can cost seconds."""
        if self.handle is None:
            if tick < self._retry:
                return False
            self._retry = tick + SLOW
            self._dial.turn("nvmlDeviceGetHandleByIndex_v2", self.index)
            self.handle = nvml.nvmlDeviceGetHandleByIndex(self.index)
        facts: Values = {}
        reset_required = False
        for name, function, arguments in FACTS:
            self._dial.turn(function, self.index)
            try:
                facts[name] = getattr(nvml, function)(self.handle, *arguments)
            except nvml.NVMLError as error:
                if error.value in LOST or error.value in SESSION_OVER:
                    self.facts = self.facts or _plain(facts)
                    raise
                reset_required |= error.value == RESET_REQUIRED
        self.facts = {**(self.facts if reset_required else {}), **_plain(facts)}
        self._met, self._lost, self._reset_required = True, False, reset_required
        self.meetings += 1
        self._slow_due = tick
        self._profiling.close()
        self._start_again()
        self._facts_text = _members({"index": self.index, **self.facts})
        return True

    def _read(self, tick: int) -> str:
        """Every value by itself: one that fails hides no other."""
        self._reset_required = False
        fast: Values = {}
        slow: Values | None = {} if tick >= self._slow_due else None
        for value in self._fast:
            self._attempt(fast, value.read, tick)
        self._attempt(fast, self._duty.read, tick)
        self._attempt(fast, self._profile, tick)
        self._fields.prepare(slow)
        self._attempt(fast, self._fields.read, tick)
        self._reset_required |= self._fields.reset_required
        if slow is not None:
            for value in self._slow + ([] if self._profiling.has_rates else self._throughput):
                self._attempt(slow, value.read, tick)
            self._attempt(slow, self._mig.read, tick)
            soon = self._fields.links.unfinished
            self._slow_due = tick + 1 if soon else due_after(tick, self.index, SLOW)
            self._slow_text = _members(slow)
        if self._reset_required:
            fast["reset_required"] = True
        return (
            "{" + ",".join(filter(None, (self._facts_text, _members(fast), self._slow_text))) + "}"
        )

    def _profile(self, handle: Any, index: int, tick: int, dial: Dial) -> Values:
        return self._profiling.read(handle, index, tick, dial, self._mig.enabled)

    def _attempt(self, into: Values, read: Callable[..., Values], tick: int) -> None:
        try:
            into.update(read(self.handle, self.index, tick, self._dial))
        except nvml.NVMLError as error:
            if error.value in LOST or error.value in SESSION_OVER:
                raise
            if error.value == RESET_REQUIRED:
                self._reset_required = True


def _members(values: Values) -> str:
    return _encode(values)[1:-1]


def _plain(facts: Values) -> Values:
    if "bus" in facts:
        facts["bus"] = facts["bus"].busId
    return facts
