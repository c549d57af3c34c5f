"""What is asked of a GPU by a call of its own, and how often; and what a return code means."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import pynvml as nvml

if TYPE_CHECKING:
    from collections.abc import Callable

    from .parent import Dial

SLOW = 10
"""Samples between two readings of what changes slowly or costs the driver much; of a GPU without a handle, too."""
SELDOM = 3 * SLOW
"""Samples between two readings of what people change, and machines do not."""
RARELY = 300
"""Samples until a value that a GPU does not support is asked for again."""

INVALID_ARGUMENT = 2
NOT_FOUND = 6
FUNCTION_NOT_FOUND = 13
UNSUPPORTED = frozenset({3, FUNCTION_NOT_FOUND, 25, 26})
"""NOT_SUPPORTED, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED."""
LOST = frozenset({15})
"""GPU_IS_LOST: no call reaches it any more."""
RESET_REQUIRED = 16
"""The driver sees it and refuses to work with it. Not every call does: the others are still worth making."""
NO_HANDLE = LOST | {NOT_FOUND, 28}
"""NOT_FOUND and GPU_NOT_FOUND say that a GPU is gone only where its handle is asked for."""
SESSION_OVER = frozenset({1, 9, 18})
"""UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH: no GPU will answer this process any more."""

FACTS = (
    ("uuid", "nvmlDeviceGetUUID", ()),
    ("bus", "nvmlDeviceGetPciInfo_v3", ()),
    ("model", "nvmlDeviceGetName", ()),
    ("serial", "nvmlDeviceGetSerial", ()),
    ("vbios_version", "nvmlDeviceGetVbiosVersion", ()),
    ("shutdown_temperature_celsius", "nvmlDeviceGetTemperatureThreshold", (0,)),
    ("slowdown_temperature_celsius", "nvmlDeviceGetTemperatureThreshold", (1,)),
    ("sm_clock_max_megahertz", "nvmlDeviceGetMaxClockInfo", (1,)),
    ("pcie_generation_max", "nvmlDeviceGetMaxPcieLinkGeneration", ()),
    ("pcie_width_max", "nvmlDeviceGetMaxPcieLinkWidth", ()),
)
"""What stays as it is while a GPU stays: name, function, arguments after the handle."""

Calls = tuple[tuple[Any, ...], ...]

FAST: tuple[tuple[str, Calls], ...] = (
    ("temperature_celsius", (("nvmlDeviceGetTemperatureV", 0), ("nvmlDeviceGetTemperature", 0))),
    ("utilization", (("nvmlDeviceGetUtilizationRates",),)),  # of 200 ms; over time: ``duty``
    ("memory", (("nvmlDeviceGetMemoryInfo", 0x02000028), ("nvmlDeviceGetMemoryInfo",))),
    ("power_milliwatts", (("nvmlDeviceGetPowerUsage",),)),
    ("sm_clock_megahertz", (("nvmlDeviceGetClockInfo", 1),)),
    (
        "clocks_event_reasons",
        (
            ("nvmlDeviceGetCurrentClocksEventReasons",),
            ("nvmlDeviceGetCurrentClocksThrottleReasons",),
        ),
    ),
)
"""What is asked in every sample: name, and the calls that answer it, the preferred one first."""

SLOWLY: tuple[tuple[int, str, Calls], ...] = (
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
    (SLOW, "memory_clock_megahertz", (("nvmlDeviceGetClockInfo", 2),)),
    (SLOW, "performance_state", (("nvmlDeviceGetPerformanceState",),)),
    (SLOW, "pcie_generation", (("nvmlDeviceGetCurrPcieLinkGeneration",),)),
    (SLOW, "pcie_width", (("nvmlDeviceGetCurrPcieLinkWidth",),)),
    (
        SLOW,
        "sram",
        (
            ("nvmlDeviceGetSramEccErrorStatus", nvml.c_nvmlEccSramErrorStatus_v1_t),
            ("nvmlDeviceGetMemoryErrorCounter", 1, 0, 7),  # uncorrected, volatile, SRAM
        ),
    ),
    (
        SLOW,
        "fabric",
        (
            ("nvmlDeviceGetGpuFabricInfoV", nvml.c_nvmlGpuFabricInfo_v3_t),
            ("nvmlDeviceGetGpuFabricInfoV", nvml.c_nvmlGpuFabricInfo_v2_t),
            ("nvmlDeviceGetGpuFabricInfo", nvml.c_nvmlGpuFabricInfo_t),
        ),
    ),
    (SELDOM, "persistence_mode", (("nvmlDeviceGetPersistenceMode",),)),
)
"""The rest: every how many samples, a multiple of ``SLOW``; a class stands for a struct that the call fills."""

THROUGHPUT: tuple[tuple[str, Calls], ...] = (
    ("pcie_transmitted_kilobytes_per_second", (("nvmlDeviceGetPcieThroughput", 0),)),
    ("pcie_received_kilobytes_per_second", (("nvmlDeviceGetPcieThroughput", 1),)),
)
"""Asked now and then of GPUs whose profiling has no rates: the driver counts for 20 ms, and the call lasts as long. (Its byte
counters, fields 197 and 198, have 32 bits: recorded on an H100 and an H200; at full speed they wrap seven times a second.)"""

Values = dict[str, Any]


def _processes(processes: Any) -> Values:
    return {
        "process_count": len(processes),
        "process_ids": sorted({each.pid for each in processes}),
    }


def _sram(status: Any) -> Values:
    if isinstance(status, int):
        return {"ecc_sram_uncorrected": status}
    return {
        "ecc_sram_uncorrected": status.volatileUncParity + status.volatileUncSecDed,
        "sram_threshold_exceeded": bool(status.bThresholdExceeded),
    }


def _fabric(info: Any) -> Values:
    return {
        "fabric_state": info.state,
        "fabric_status": info.status,
        "fabric_health_mask": getattr(info, "healthMask", None),
    }


UNPACK: dict[str, Callable[[Any], Values]] = {
    "utilization": lambda rates: {
        "utilization_percent": rates.gpu,
        "memory_utilization_percent": rates.memory,
    },
    "memory": lambda info: {
        "memory_used_bytes": info.used,
        "memory_total_bytes": info.total,
        "memory_reserved_bytes": getattr(info, "reserved", None),
    },
    "processes": _processes,
    "sram": _sram,
    "fabric": _fabric,
    "persistence_mode": lambda mode: {"persistence_mode": bool(mode)},
}
"""Readings that are more, or other, than one number."""


class Value:
    """One reading of one GPU: asked when due, by the first call that this GPU knows."""

    __slots__ = ("_at", "_calls", "_due", "_every", "_last", "_unpack")

    def __init__(self, every: int, calls: Calls, unpack: Callable[[Any], Values]) -> None:
        self._every = every
        self._calls = [(name, *_asking(name, arguments)) for name, *arguments in calls]
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
                self._due = due_after(tick, index, self._every)
                return self._last
        self._at, self._due = 0, tick + RARELY
        return self._last


def due_after(tick: int, index: int, every: int) -> int:
    """When to ask again: not of every GPU in the same sample."""
    return tick + every - (tick - index) % every


def fast_readings() -> list[Value]:
    """What is asked in every sample, of a GPU just met."""
    return [Value(1, calls, UNPACK.get(name, _one(name))) for name, calls in FAST]


def slow_readings() -> list[Value]:
    """What is asked now and then, of a GPU just met."""
    return [Value(every, calls, UNPACK.get(name, _one(name))) for every, name, calls in SLOWLY]


def throughput_readings() -> list[Value]:
    """What is asked now and then where profiling has no rates, of a GPU just met."""
    return [Value(SLOW, calls, _one(name)) for name, calls in THROUGHPUT]


def _one(name: str) -> Callable[[Any], Values]:
    return lambda number: {name: number}


def _asking(name: str, arguments: list[Any]) -> tuple[Callable[..., Any], list[Any]]:
    function: Callable[..., Any] = getattr(nvml, name)
    if not arguments or not isinstance(arguments[0], type):
        return function, arguments
    structure = arguments[0]

    def fill(handle: Any) -> Any:
        filled = structure()
        function(handle, ctypes.byref(filled))
        return filled

    return fill, []
