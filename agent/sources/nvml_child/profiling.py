"""The GPU's own profiling counters (NVML's GPM), which tell how busy it really is. Hopper and newer."""

from __future__ import annotations

import contextlib
import ctypes
import math
import time
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from .values import (
    FUNCTION_NOT_FOUND,
    LOST,
    RARELY,
    RESET_REQUIRED,
    SESSION_OVER,
    SLOW,
    UNSUPPORTED,
)

if TYPE_CHECKING:
    from .parent import Dial
    from .values import Values

METRICS = {
    1: "engine_active_percent",
    2: "sm_active_percent",
    3: "sm_occupancy_percent",
    5: "tensor_active_percent",
    10: "dram_active_percent",
    20: "pcie_transmitted_mebibytes_per_second",
    21: "pcie_received_mebibytes_per_second",
    60: "nvlink_received_mebibytes_per_second",
    61: "nvlink_transmitted_mebibytes_per_second",
}
SHORTEST_SECONDS = 0.2
"""Between two samples; NVIDIA's header asks for more than 0.1 s, for the counters are refreshed no more often."""
ABSENT = "profiling_absent"
NO_PERMISSION = 4
HOPPER = 9
"""NVML's number for the architecture."""

_asked = nvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=len(METRICS))
"""Twenty kilobytes, hence one for all GPUs: they are asked one after the other."""


class _Metric(ctypes.Structure):
    """pynvml's, without the Python that it runs at each look at a member."""

    _fields_ = nvml.c_nvmlGpmMetric_t._fields_


_answers = (_Metric * len(METRICS)).from_buffer(_asked, type(_asked).metrics.offset)
for _answer, _number in zip(_answers, METRICS, strict=True):
    _answer.metricId = _number


class Profiling:
    """One GPU's counters: what they counted between the sample before and this one."""

    def __init__(self) -> None:
        self._samples: list[Any] = []
        """The older and the newer one."""
        self._taken = 0.0
        self._divided: bool | None = None
        self._retry = 0
        self._last: Values = {}

    @property
    def has_rates(self) -> bool:
        """Whether the last answer had the traffic on PCIe in it, or the next one may."""
        return METRICS[20] in self._last or (bool(self._samples) and ABSENT in self._last)

    def read(self, handle: Any, index: int, tick: int, dial: Dial, divided: bool | None) -> Values:
        """The readings, or why there are none. ``divided``: MIG is on, which changes what is supported."""
        now = time.monotonic()
        if self._samples and now - self._taken < SHORTEST_SECONDS:
            return self._last
        if not self._samples and tick < self._retry and divided == self._divided:
            return self._last
        self._divided = divided
        try:
            self._last = self._sample(handle, index, tick, dial)
        except nvml.NVMLError as error:
            self.close()
            if error.value in LOST or error.value in SESSION_OVER or error.value == RESET_REQUIRED:
                raise
            lasting = error.value in UNSUPPORTED or error.value == NO_PERMISSION
            self._last = self._refused(
                tick, _why(error.value, divided), RARELY if lasting else SLOW
            )
        self._taken = now
        return self._last

    def close(self) -> None:
        """Give the driver's library its memory back; the next reading starts anew."""
        for sample in self._samples:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlGpmSampleFree(sample)
        self._samples = []

    def _sample(self, handle: Any, index: int, tick: int, dial: Dial) -> Values:
        if not self._samples:
            dial.turn("nvmlGpmQueryDeviceSupport", index)
            if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                return self._refused(tick, _lacking(handle, self._divided))
            self._samples = [nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()]
            dial.turn("nvmlGpmSampleGet", index)
            nvml.nvmlGpmSampleGet(handle, self._samples[1])
            return {ABSENT: "the first sample was just taken"}
        self._samples.reverse()  # what was the older one is written over
        before, after = self._samples
        dial.turn("nvmlGpmSampleGet", index)
        nvml.nvmlGpmSampleGet(handle, after)
        dial.turn("nvmlGpmMetricsGet", index)
        _asked.sample1, _asked.sample2 = before, after
        nvml.nvmlGpmMetricsGet(_asked)
        values = {
            name: answer.value
            for name, answer in zip(METRICS.values(), _answers, strict=True)
            if answer.nvmlReturn == 0 and math.isfinite(answer.value)
        }
        return values or {ABSENT: "the driver has none of the metrics"}

    def _refused(self, tick: int, why: str, pause: int = RARELY) -> Values:
        self._retry = tick + pause
        return {ABSENT: why}


def _lacking(handle: Any, divided: bool | None) -> str:
    architecture = 0
    with contextlib.suppress(nvml.NVMLError):
        architecture = nvml.nvmlDeviceGetArchitecture(handle)
    if 0 < architecture < HOPPER:
        return "not supported before Hopper"
    return "not supported while MIG is on" if divided else "not supported by this GPU"


def _why(code: int, divided: bool | None) -> str:
    if code == FUNCTION_NOT_FOUND:
        return "not supported by this driver: it is too old"
    if code in UNSUPPORTED:
        return "not supported while MIG is on" if divided else "not supported by this GPU"
    return f"refused by the driver (NVML error {code})"
