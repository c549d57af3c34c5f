"""Everything that has a field id, by one call per sample."""

from __future__ import annotations

import ctypes
import math
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
    (83, 0): "energy_millijoules",
    (91, 0): "nvlink_count",
    (94, 0): "pcie_replays",
    (142, 0): "remapped_rows_corrected",
    (143, 0): "remapped_rows_uncorrected",
    (144, 0): "remap_pending",
    (145, 0): "remap_failed",
}
"""Asked now and then. Of these the energy costs an H200's driver (580.159.04) 3 to 6 ms, and 75 with 270 and 271 two more."""
SLOWDOWN_TIMES = {(270, 0): "hardware_thermal_nanoseconds", (271, 0): "power_brake_nanoseconds"}
"""Asked now and then of drivers that may have them."""
ONCE = {(270, 0): (252, 0), (271, 0): (253, 0)}
"""Their numbers in NVIDIA's headers for CUDA 12.9 and 13.0. The header for 13.1 gave those to power smoothing, and the driver
580.159.04, which came with 13.0, answers the new ones alone (recorded on an H100 and an H200). So the new ones are asked, and the old ones
only of a driver that does not know the new (INVALID_ARGUMENT; one that knows a number and has no value says NOT_SUPPORTED)."""
SLOWDOWN_TIMES_SINCE, SMOOTHING_SINCE = 575, 590
"""Branches: before the first there are no such counters, from the second on the old numbers are power smoothing's."""
MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Member of a field value's union, by NVML's value type."""


class _FieldValue(ctypes.Structure):
    """pynvml's, without the Python that it runs at each look at a member."""

    _fields_ = nvml.c_nvmlFieldValue_t._fields_


class Fields:
    """One GPU's batch. Ids that the GPU does not know leave it, and are tried again rarely.

    Args:
        driver: the driver's branch, such as 570.
    """

    def __init__(self, driver: int) -> None:
        times = SLOWDOWN_TIMES if driver >= SLOWDOWN_TIMES_SINCE else {}
        self._once = ONCE if driver < SMOOTHING_SINCE else {}
        once = {self._once[key]: name for key, name in times.items() if key in self._once}
        self._names: dict[Key, str] = {**FAST, **SLOW, **times, **once}
        self._slow_at_first = [*SLOW, *times]
        self.links = Links()
        self._into: Values | None = None
        self._due = 0
        self.reset_required = False
        """Whether the last reading was refused some value because the GPU must be reset."""
        self._start_again(0)

    def _start_again(self, tick: int) -> None:
        self._fast: list[Key] = list(FAST)
        self._slow: list[Key] = list(self._slow_at_first)
        self.links.start_again()
        self._retry = tick + RARELY

    def prepare(self, slow: Values | None) -> None:
        """What the next reading shall ask for beside the fast ids: nothing, or what is slow, into ``slow``."""
        self._into = slow

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
            keys += self._slow + self.links.keys
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
        if name is None:
            self.links.take(key, value, refused)
        elif refused:
            (self._fast if key in FAST else self._slow).remove(key)
            if code == INVALID_ARGUMENT and key in self._once:
                self._slow.append(self._once[key])
        elif value is not None:
            (fast if slow is None or key in FAST else slow)[name] = value
