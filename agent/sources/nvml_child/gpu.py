"""One GPU as this process reads it: met, sampled, lost, met again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pynvml as nvml

from .values import FACTS, LOST, NO_HANDLE, SESSION_OVER, SLOW, readings

if TYPE_CHECKING:
    from .parent import Dial
    from .values import Value, Values


class Gpu:
    """One place in NVML's enumeration."""

    def __init__(self, index: int, dial: Dial) -> None:
        self.index = index
        self.handle: Any = None
        self.lost = False
        self.meetings = 0
        self.facts: Values = {}
        self._dial = dial
        self._retry = 0
        self._values: list[Value] = []

    def sample(self, tick: int) -> Values:
        """Facts and readings; of a GPU out of reach its facts, as far as they are known, and that it is lost."""
        try:
            if (self.handle is None or self.lost) and not self._meet(tick):
                return {"index": self.index, "lost": self.lost, **self.facts}
            return {"index": self.index, **self.facts, **self._read(tick)}
        except nvml.NVMLError as error:
            if error.value in SESSION_OVER:
                raise
            self.lost = error.value in (NO_HANDLE if self.handle is None else LOST)
            return {"index": self.index, "lost": self.lost, **self.facts}

    def _meet(self, tick: int) -> bool:
        """Take the handle and read the facts; without a handle only now and then, for that can cost seconds."""
        if self.handle is None:
            if tick < self._retry:
                return False
            self._retry = tick + SLOW
            self._dial.turn("nvmlDeviceGetHandleByIndex_v2", self.index)
            self.handle = nvml.nvmlDeviceGetHandleByIndex(self.index)
        facts: Values = {}
        for name, function, arguments in FACTS:
            self._dial.turn(function, self.index)
            try:
                facts[name] = getattr(nvml, function)(self.handle, *arguments)
            except nvml.NVMLError as error:
                if error.value in LOST or error.value in SESSION_OVER:
                    self.facts = self.facts or _plain(facts)
                    raise
        self.facts, self.lost, self.meetings = _plain(facts), False, self.meetings + 1
        self._values = readings()
        return True

    def _read(self, tick: int) -> Values:
        values: Values = {}
        for value in self._values:
            try:
                values.update(value.read(self.handle, self.index, tick, self._dial))
            except nvml.NVMLError as error:
                if error.value in LOST or error.value in SESSION_OVER:
                    raise
        return values


def _plain(facts: Values) -> Values:
    if "bus" in facts:
        facts["bus"] = facts["bus"].busId
    return facts
