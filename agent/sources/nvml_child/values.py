"""What is asked of a GPU, by which calls and how often, and what a return code means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pynvml as nvml

if TYPE_CHECKING:
    from collections.abc import Callable

    from .parent import Dial

SLOW = 10
"""Samples between two readings of what changes slowly or costs the driver much; of a GPU without a handle, too."""
RARELY = 300
"""Samples until a value that a GPU does not support is asked for again."""

INVALID_ARGUMENT = 2
UNSUPPORTED = frozenset({3, 13, 25, 26})
"""NOT_SUPPORTED, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED."""
LOST = frozenset({15, 16})
"""GPU_IS_LOST, RESET_REQUIRED."""
NO_HANDLE = LOST | {6, 28}
"""NOT_FOUND and GPU_NOT_FOUND say that a GPU is gone only where its handle is asked for."""
SESSION_OVER = frozenset({1, 9, 18})
"""UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH: no GPU will answer this process any more."""

FIELDS = {
    3: "ecc_corrected",
    4: "ecc_uncorrected",
    82: "memory_temperature_celsius",
    83: "energy_millijoules",
    230: "recovery_action",
}
VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Member of a field value's union, by NVML's value type."""

FACTS = (
    ("uuid", "nvmlDeviceGetUUID", ()),
    ("bus", "nvmlDeviceGetPciInfo_v3", ()),
    ("model", "nvmlDeviceGetName", ()),
    ("serial", "nvmlDeviceGetSerial", ()),
    ("shutdown_temperature_celsius", "nvmlDeviceGetTemperatureThreshold", (0,)),
    ("slowdown_temperature_celsius", "nvmlDeviceGetTemperatureThreshold", (1,)),
)
"""What stays as it is while a GPU stays: name, function, arguments after the handle."""

READINGS: tuple[tuple[int, str, tuple[tuple[Any, ...], ...]], ...] = (
    (1, "temperature_celsius", (("nvmlDeviceGetTemperatureV", 0), ("nvmlDeviceGetTemperature", 0))),
    (1, "utilization", (("nvmlDeviceGetUtilizationRates",),)),
    (1, "memory", (("nvmlDeviceGetMemoryInfo", 0x02000028), ("nvmlDeviceGetMemoryInfo",))),
    (1, "power_milliwatts", (("nvmlDeviceGetPowerUsage",),)),
    (1, "sm_clock_megahertz", (("nvmlDeviceGetClockInfo", 1),)),
    (
        1,
        "clocks_event_reasons",
        (
            ("nvmlDeviceGetCurrentClocksEventReasons",),
            ("nvmlDeviceGetCurrentClocksThrottleReasons",),
        ),
    ),
    (
        SLOW,
        "power_limit_milliwatts",
        (("nvmlDeviceGetEnforcedPowerLimit",), ("nvmlDeviceGetPowerManagementLimit",)),
    ),
    (
        SLOW,
        "processes",
        (
            ("nvmlDeviceGetComputeRunningProcesses_v3",),
            ("nvmlDeviceGetComputeRunningProcesses_v2",),
        ),
    ),
)
"""What changes: every how many samples, name, and the calls that answer it, the preferred one first."""

Values = dict[str, Any]

UNPACK: dict[str, Callable[[Any], Values]] = {
    "utilization": lambda rates: {
        "utilization_percent": rates.gpu,
        "memory_utilization_percent": rates.memory,
    },
    "memory": lambda info: {"memory_used_bytes": info.used, "memory_total_bytes": info.total},
    "processes": lambda processes: {"process_count": len(processes)},
}
"""Readings that are more than one number."""


class Value:
    """One reading of one GPU: asked when due, by the first call that this GPU knows."""

    __slots__ = ("_at", "_calls", "_due", "_every", "_last", "_unpack")

    def __init__(
        self, every: int, calls: tuple[tuple[Any, ...], ...], unpack: Callable[[Any], Values]
    ) -> None:
        self._every = every
        self._calls = [(name, getattr(nvml, name), arguments) for name, *arguments in calls]
        self._unpack = unpack
        self._at = self._due = 0
        self._last: Values = {}

    def read(self, handle: Any, index: int, tick: int, dial: Dial) -> Values:
        """The reading, or nothing where the GPU does not support it; then it is not asked for a while."""
        if tick < self._due:
            return self._last
        self._last = {}
        for name, call, arguments in self._calls[self._at :]:
            dial.turn(name, index)
            try:
                self._last = self._unpack(call(handle, *arguments))
            except nvml.NVMLError as error:
                if error.value not in UNSUPPORTED:
                    raise
                self._at += 1
            else:
                # Not every GPU's slow readings in the same sample.
                self._due = tick + self._every - (tick - index) % self._every
                return self._last
        self._at, self._due = 0, tick + RARELY
        return self._last


class Fields:
    """Many values by one call. Ids that a GPU does not know are left out of the next batches."""

    def __init__(self) -> None:
        self.ids = list(FIELDS)
        self._batches = 0

    def unpack(self, batch: Any) -> Values:
        """Each value has a return code of its own."""
        values: Values = {}
        for field in batch:
            code = field.nvmlReturn
            if code == 0:
                values[FIELDS[field.fieldId]] = getattr(field.value, VALUE_MEMBERS[field.valueType])
            elif code in LOST:
                raise nvml.NVMLError(code)
            elif code in UNSUPPORTED or code == INVALID_ARGUMENT:
                self.ids.remove(field.fieldId)
        self._batches += 1
        if self._batches % RARELY == 0:
            self.ids[:] = FIELDS
        return values


def readings() -> list[Value]:
    """Every reading of a GPU just met, none asked yet."""
    fields = Fields()
    values = [Value(1, (("nvmlDeviceGetFieldValues", fields.ids),), fields.unpack)]
    values += [Value(every, calls, UNPACK.get(name, _one(name))) for every, name, calls in READINGS]
    return values


def _one(name: str) -> Callable[[Any], Values]:
    return lambda number: {name: number}
