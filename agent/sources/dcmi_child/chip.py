"""One chip as this process reads it: facts once, health and faults each time, the rest when due."""

from __future__ import annotations

import contextlib
import ctypes
from ctypes import byref, c_int, c_uint
from typing import TYPE_CHECKING, Any

from .library import FUNCTION_MISSING, MAX_FAULTS, NOT_SUPPORTED, TEXT_BYTES, DcmiError, FaultEvent
from .readings import FACTS, OFTEN, READINGS, logic_id, physical_id

if TYPE_CHECKING:
    from .library import Dcmi
    from .readings import Values

GONE = frozenset({-8007, -8008, -8012})
"""Invalid device, no such device, not ready: no other call is worth its wait."""

NOT_FOR_US = frozenset({NOT_SUPPORTED, FUNCTION_MISSING, -8002, -8013})
"""Not supported, missing, not permitted, not in a container: asked again only now and then."""

RARELY = 300
"""Samples until something unsupported is asked for again."""

FACT_COUNT = len(FACTS) + 2
"""Together with both of its numbers."""


class Chip:
    """One chip of one card."""

    def __init__(self, dcmi: Dcmi, card: int, chip: int) -> None:
        self.card = card
        self.chip = chip
        self._dcmi = dcmi
        self._facts: Values = {}
        self._last: list[Values] = [{} for _ in READINGS]
        self._due = [0] * len(READINGS)
        self._texts: dict[int, str] = {}
        self._severities: dict[int, int] = {}
        self._codes: tuple[int, ...] | None = None

    @property
    def place(self) -> Values:
        """Who it is, as far as known."""
        return {"card": self.card, "chip": self.chip, **self._facts}

    def sample(self, tick: int) -> Values:
        """Facts and readings; ``health_error`` is the code with which the question for its health failed."""
        values: Values = {}
        health = c_uint()
        try:
            self._dcmi.of_chip("dcmi_get_device_health", self.card, self.chip, byref(health))
            values["health"] = health.value
        except DcmiError as error:
            values["health_error"] = error.code
        values |= self._faults()
        if values.get("health_error") in GONE:
            self._due = [0] * len(READINGS)
            return {**self.place, **values}
        if not self._facts or (len(self._facts) < FACT_COUNT and tick % OFTEN == 0):
            self._meet()
        for position in range(len(READINGS)):
            values |= self._reading(position, tick)
        return {**self.place, **values}

    def _meet(self) -> None:
        """Learn what does not change; what fails is asked again later."""
        for read in FACTS:
            with contextlib.suppress(DcmiError):
                self._facts |= read(self._dcmi, self.card, self.chip)
        with contextlib.suppress(DcmiError):
            self._facts |= logic_id(self._dcmi, self.card, self.chip)
            self._facts |= physical_id(self._dcmi, self.card, self.chip, self._facts["index"])

    def _reading(self, position: int, tick: int) -> Values:
        every, read = READINGS[position]
        if tick < self._due[position]:
            return self._last[position]
        self._last[position] = {}
        # Not every chip's slow readings in the same sample.
        self._due[position] = tick + every - (tick - self.card) % every
        try:
            self._last[position] = read(self._dcmi, self.card, self.chip)
        except DcmiError as error:
            if error.code in NOT_FOR_US:
                self._due[position] = tick + RARELY
        return self._last[position]

    def _faults(self) -> Values:
        """The faults that the driver holds against it now; no key where it does not say."""
        count, codes = c_int(), (c_uint * MAX_FAULTS)()
        try:
            self._dcmi.of_chip(
                "dcmi_get_device_errorcode_v2",
                self.card,
                self.chip,
                byref(count),
                codes,
                MAX_FAULTS,
            )
        except DcmiError:
            return {}
        present = tuple(code for code in codes[: max(min(count.value, MAX_FAULTS), 0)] if code)
        if present and present != self._codes:
            self._learn_severities()
        self._codes = present
        return {"faults": [self._fault(code) for code in present]}

    def _fault(self, code: int) -> Values:
        fault: Values = {"code": code, "text": self._text(code)}
        if code in self._severities:
            fault["severity"] = self._severities[code]
        return fault

    def _text(self, code: int) -> str:
        if code not in self._texts:
            text = ctypes.create_string_buffer(TEXT_BYTES)
            with contextlib.suppress(DcmiError):
                self._dcmi.of_chip(
                    "dcmi_get_device_errorcode_string",
                    self.card,
                    self.chip,
                    c_uint(code),
                    text,
                    TEXT_BYTES,
                )
            self._texts[code] = text.value.decode(errors="replace").strip()
        return self._texts[code]

    def _learn_severities(self) -> None:
        """How bad the driver holds each present fault to be; newer libraries tell."""
        events: Any = (FaultEvent * MAX_FAULTS)()
        count = c_int()
        with contextlib.suppress(DcmiError):
            self._dcmi.of_chip(
                "dcmi_get_device_current_fault_event",
                self.card,
                self.chip,
                events,
                MAX_FAULTS,
                byref(count),
            )
            for event in events[: max(min(count.value, MAX_FAULTS), 0)]:
                self._severities[event.event_id] = event.severity
