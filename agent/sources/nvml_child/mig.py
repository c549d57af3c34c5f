"""MIG: whether a GPU is divided, and into what."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from .values import (
    INVALID_ARGUMENT,
    NOT_FOUND,
    RARELY,
    SELDOM,
    UNSUPPORTED,
    due_after,
)

if TYPE_CHECKING:
    from .parent import Dial
    from .values import Values

PASSED_OVER = UNSUPPORTED | {INVALID_ARGUMENT, NOT_FOUND}
"""A place without an instance, or an instance that was taken away between two calls."""


class Mig:
    """One GPU's mode, asked with what is slow, and its instances, asked seldom and whenever the mode has changed."""

    def __init__(self) -> None:
        self.enabled: bool | None = None
        self._instances: list[Values] = []
        self._due = self._listed = 0

    def read(self, handle: Any, index: int, tick: int, dial: Dial) -> Values:
        """What is known; nothing of a GPU that has no MIG."""
        if tick < self._due:
            return {}
        dial.turn("nvmlDeviceGetMigMode", index)
        before = self.enabled
        try:
            self.enabled = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
        except nvml.NVMLError as error:
            self.enabled = None
            if error.value not in UNSUPPORTED:
                raise
            self._due = tick + RARELY
            return {}
        if not self.enabled:
            self._instances = []
        elif before is not True or tick >= self._listed:
            self._instances = list(_instances(handle, index, dial))
            self._listed = due_after(tick, index, SELDOM)
        return {"mig_enabled": self.enabled, "mig_instances": self._instances}


def _instances(handle: Any, index: int, dial: Dial) -> list[Values]:
    dial.turn("nvmlDeviceGetMaxMigDeviceCount", index)
    found = []
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with _passing_over():
            dial.turn("nvmlDeviceGetMigDeviceHandleByIndex", index)
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
            values: Values = {
                "uuid": nvml.nvmlDeviceGetUUID(instance),
                "gpu_instance": nvml.nvmlDeviceGetGpuInstanceId(instance),
            }
            found.append(values)
            with _passing_over():
                values["compute_instance"] = nvml.nvmlDeviceGetComputeInstanceId(instance)
            with _passing_over():
                memory = nvml.nvmlDeviceGetMemoryInfo(instance)
                values["memory_used_bytes"] = memory.used
                values["memory_total_bytes"] = memory.total
    return found


@contextlib.contextmanager
def _passing_over() -> Any:
    try:
        yield
    except nvml.NVMLError as error:
        if error.value not in PASSED_OVER:
            raise
