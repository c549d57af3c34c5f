"""Events as they come: a thread of its own, which waits in NVML and never for the sampler."""

from __future__ import annotations

import contextlib
import ctypes
import time
from typing import TYPE_CHECKING, Any

import pynvml as nvml

if TYPE_CHECKING:
    from collections.abc import Callable

    from .gpu import Gpu
    from .parent import Outlet

EVENT_WAIT_MILLISECONDS = 5000
EVENT_KINDS = {
    0x8: "xid",
    0x2: "double-bit-ecc",
    0x800: "dram-retirement-failure",
    0x2000: "fatal-poison",
    0x4000: "gpu-unavailable",
    0x8000: "gpu-recovery-action",
}
"""What is listened for, of what a GPU supports. Corrected errors and clocks come too often to be news."""
LONGEST_EVENT_PAUSE_SECONDS = 60.0


def watch(current: Callable[[], list[Gpu]], outlet: Outlet) -> None:
    """Push events as they come, for ever. Where NVML refuses, wait longer each time: the kernel log has them too."""
    pause = 1.0
    while True:
        with contextlib.suppress(nvml.NVMLError):
            if _watch_until_changed(current, outlet):
                pause = 1.0
                continue
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_EVENT_PAUSE_SECONDS)


def _watch_until_changed(current: Callable[[], list[Gpu]], outlet: Outlet) -> bool:
    """Wait for events of the GPUs there are, until there are others; false if none of them has events."""
    met = _met(current())
    events = nvml.nvmlEventSetCreate()
    try:
        buses = _register(current(), events)
        while buses and _met(current()) == met:
            try:
                event = nvml.nvmlEventSetWait_v2(events, EVENT_WAIT_MILLISECONDS)
            except nvml.NVMLError_Timeout:
                continue
            outlet.send(
                kind="event",
                event=EVENT_KINDS.get(event.eventType, "other"),
                bus=buses.get(_address(event.device), ""),
                data=event.eventData,
                gpu_instance=event.gpuInstanceId,
            )
        return bool(buses)
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlEventSetFree(events)


def _met(gpus: list[Gpu]) -> list[tuple[Gpu, int]]:
    """Which GPUs there are, and how often each was met: changes when events must be asked for anew."""
    return [(gpu, gpu.meetings) for gpu in gpus]


def _register(gpus: list[Gpu], events: Any) -> dict[int, str]:
    """Bus id of each GPU that now reports to this set, by the address that stands for it in events."""
    buses: dict[int, str] = {}
    for gpu in gpus:
        with contextlib.suppress(nvml.NVMLError):
            wanted = nvml.nvmlDeviceGetSupportedEventTypes(gpu.handle) & sum(EVENT_KINDS)
            if not wanted:
                continue
            nvml.nvmlDeviceRegisterEvents(gpu.handle, wanted, events)
            buses[_address(gpu.handle)] = gpu.facts.get("bus", "")
    return buses


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
