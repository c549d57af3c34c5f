"""Everything that has a field id, by one call per sample."""

from __future__ import annotations

import ctypes
import math
import time
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from .links import Links
from .values import INVALID_ARGUMENT, LOST, RARELY, RESET_REQUIRED, UNSUPPORTED

if TYPE_CHECKING:
    from .parent import Dial
    from .values import Values

Key = tuple[int, int]
"""Field id and scope."""

FAST = {
    (3, 0): "ecc_corrected",
    (4, 0): "ecc_uncorrected",
    (82, 0): "memory_temperature_celsius",
    (83, 0): "energy_millijoules",
    (230, 0): "recovery_action",
}
"""Asked in every sample."""
SLOW = {
    (5, 0): "ecc_corrected_aggregate",
    (6, 0): "ecc_uncorrected_aggregate",
    (29, 0): "retired_pages_single_bit",
    (30, 0): "retired_pages_double_bit",
    (31, 0): "retirement_pending",
    (74, 0): "power_violation_nanoseconds",
    (75, 0): "thermal_violation_nanoseconds",
    (91, 0): "nvlink_count",
    (94, 0): "pcie_replays",
    (142, 0): "remapped_rows_corrected",
    (143, 0): "remapped_rows_uncorrected",
    (144, 0): "remap_pending",
    (145, 0): "remap_failed",
}
"""Asked now and then."""
SLOWDOWN_TIMES = (
    (590, {(270, 0): "hardware_thermal_nanoseconds", (271, 0): "power_brake_nanoseconds"}),
    (575, {(252, 0): "hardware_thermal_nanoseconds", (253, 0): "power_brake_nanoseconds"}),
)
"""By the driver's branch, the newest first: NVIDIA's header for CUDA 13.1 gave these counters other numbers than those
for 12.9 and 13.0 had, and the old numbers to power smoothing. Before 12.9 there are none."""
PCIE_BYTES = {
    (197, 0): "pcie_transmitted_bytes_per_second",
    (198, 0): "pcie_received_bytes_per_second",
}
"""Counters that cost the driver tenths of a millisecond; asked now and then where profiling has no rates."""

MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Member of a field value's union, by NVML's value type."""
SHORTEST_SECONDS = 0.2
"""Over which a rate is worth something."""
WIDE = frozenset({2, 3, 4})
"""The types of 64 bits: a byte counter that is narrower wraps between two readings."""


class _FieldValue(ctypes.Structure):
    """pynvml's, without the Python that it runs at each look at a member."""

    _fields_ = nvml.c_nvmlFieldValue_t._fields_


class Fields:
    """One GPU's batch. Ids that the GPU does not know leave it, and are tried again rarely.

    Args:
        driver: the driver's branch, such as 570.
    """

    def __init__(self, driver: int) -> None:
        times = next((times for since, times in SLOWDOWN_TIMES if driver >= since), {})
        self._names: dict[Key, str] = {**FAST, **SLOW, **times}
        self._slow_at_first = [*SLOW, *times]
        self.links = Links()
        self._bytes: dict[Key, tuple[int, float]] = {}
        self._into: Values | None = None
        self._pcie_bytes = False
        self._due = 0
        self.reset_required = False
        """Whether the last reading was refused some value because the GPU must be reset."""
        self._start_again(0)

    def _start_again(self, tick: int) -> None:
        self._fast: list[Key] = list(FAST)
        self._slow: list[Key] = list(self._slow_at_first)
        self._pcie: list[Key] = list(PCIE_BYTES)
        self.links.start_again()
        self._retry = tick + RARELY

    def prepare(self, slow: Values | None, *, pcie_bytes: bool) -> None:
        """What the next reading shall ask for beside the fast ids: nothing, or what is slow, into ``slow``."""
        self._into = slow
        self._pcie_bytes = pcie_bytes

    def read(self, handle: Any, index: int, tick: int, dial: Dial) -> Values:
        """One call. Whatever becomes of a value, the others are there."""
        self.reset_required = False
        slow = self._into
        if tick < self._due:
            return {}
        if tick >= self._retry:
            self._start_again(tick)
        keys = list(self._fast)
        if slow is not None:
            keys += self._slow + self.links.keys + (self._pcie if self._pcie_bytes else [])
        if not keys:
            return {}
        dial.turn("nvmlDeviceGetFieldValues", index)
        try:
            batch = nvml.nvmlDeviceGetFieldValues(handle, keys)
        except nvml.NVMLError as error:
            if error.value not in UNSUPPORTED:
                raise
            self._due = tick + RARELY
            return {}
        fast: Values = {}
        for key, field in zip(keys, (_FieldValue * len(keys)).from_buffer(batch), strict=True):
            self._sort(key, field, fast, slow)
        if slow is not None:
            self.links.finish(handle, index, dial, slow.pop("nvlink_count", None))
            slow["nvlinks"] = self.links.found
        return fast

    def _sort(self, key: Key, field: Any, fast: Values, slow: Values | None) -> None:
        """One value, by its own return code."""
        code, value = field.nvmlReturn, None
        if code == 0:
            if field.valueType < len(MEMBERS):
                value = getattr(field.value, MEMBERS[field.valueType])
            if value is not None and not math.isfinite(value):
                value = None
        elif code in LOST:
            raise nvml.NVMLError(code)
        elif code == RESET_REQUIRED:
            self.reset_required = True
        refused = code in UNSUPPORTED or code == INVALID_ARGUMENT
        name = self._names.get(key)
        if key in PCIE_BYTES:
            self._rate(key, value, refused or field.valueType not in WIDE, slow)
        elif name is None:
            self.links.take(key, value, refused)
        elif refused:
            (self._fast if key in FAST else self._slow).remove(key)
        elif value is not None:
            (fast if slow is None or key in FAST else slow)[name] = value

    def _rate(self, key: Key, value: Any, useless: bool, slow: Values | None) -> None:
        """Bytes per second since the reading before; none across a wrap."""
        if useless:
            self._pcie.remove(key)
            return
        if value is None or slow is None:
            return
        now = time.monotonic()
        counted, since = self._bytes.get(key, (value, now))
        if now - since < SHORTEST_SECONDS and value >= counted:
            self._bytes[key] = (counted, since)
            return
        self._bytes[key] = (value, now)
        if value >= counted:
            slow[PCIE_BYTES[key]] = (value - counted) / (now - since)
