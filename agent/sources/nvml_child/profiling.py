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
    due_after,
)

if TYPE_CHECKING:
    from .parent import Dial
    from .values import Values

OFTEN = {
    2: "sm_active_percent",
    3: "sm_occupancy_percent",
    5: "tensor_active_percent",
    10: "dram_active_percent",
    20: "pcie_transmitted_mebibytes_per_second",
    21: "pcie_received_mebibytes_per_second",
    60: "nvlink_received_mebibytes_per_second",
    61: "nvlink_transmitted_mebibytes_per_second",
}
"""Asked of every pair of samples."""
SELDOM = {1: "engine_active_percent"}
"""Asked now and then, of the whole time between: it alone costs the driver of an H200 (580.159.04) 2 ms, all the others together a
quarter of that."""
SHORTEST_SECONDS = 0.2
"""Between two samples; NVIDIA's header asks for more than 0.1 s, for the counters are refreshed no more often."""
BUFFERS = 3
"""The sample before, the one of which the seldom metrics were last asked, and room for the next."""
ABSENT = "profiling_absent"
NO_PERMISSION = 4
HOPPER = 9
"""NVML's number for the architecture."""


class _Metric(ctypes.Structure):
    """pynvml's, without the Python that it runs at each look at a member."""

    _fields_ = nvml.c_nvmlGpmMetric_t._fields_


class _Question:
    """Twenty kilobytes, hence one for all GPUs: they are asked one after the other."""

    def __init__(self, metrics: dict[int, str]) -> None:
        self._names = metrics.values()
        self._asked = nvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=len(metrics))
        first = type(self._asked).metrics.offset
        self._answers = (_Metric * len(metrics)).from_buffer(self._asked, first)
        for answer, number in zip(self._answers, metrics, strict=True):
            answer.metricId = number

    def ask(self, before: Any, after: Any) -> Values:
        """What there is of the time between two samples of one GPU."""
        self._asked.sample1, self._asked.sample2 = before, after
        nvml.nvmlGpmMetricsGet(self._asked)
        return {
            name: answer.value
            for name, answer in zip(self._names, self._answers, strict=True)
            if answer.nvmlReturn == 0 and math.isfinite(answer.value)
        }


_often, _seldom = _Question(OFTEN), _Question(SELDOM)


class Profiling:
    """One GPU's counters: what they counted between the sample before and this one."""

    def __init__(self) -> None:
        self._samples: list[Any] = []
        """All buffers; none before the first sample."""
        self._before: Any = None
        self._since: Any = None
        """The sample of which the seldom metrics were last asked."""
        self._seldom: Values = {}
        self._seldom_due = 0
        self._taken = 0.0
        self._divided: bool | None = None
        self._retry = 0
        self._last: Values = {}

    @property
    def has_rates(self) -> bool:
        """Whether the last answer had the traffic on PCIe in it, or the next one may."""
        return OFTEN[20] in self._last or (bool(self._samples) and ABSENT in self._last)

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
            self._samples = [nvml.nvmlGpmSampleAlloc() for _ in range(BUFFERS)]
            self._before = self._since = self._samples[0]
            self._seldom, self._seldom_due = {}, tick
            dial.turn("nvmlGpmSampleGet", index)
            nvml.nvmlGpmSampleGet(handle, self._before)
            return {ABSENT: "the first sample was just taken"}
        after = next(
            each for each in self._samples if each is not self._before and each is not self._since
        )
        dial.turn("nvmlGpmSampleGet", index)
        nvml.nvmlGpmSampleGet(handle, after)
        dial.turn("nvmlGpmMetricsGet", index)
        values = _often.ask(self._before, after)
        if tick >= self._seldom_due:
            self._seldom = _seldom.ask(self._since, after)
            self._since, self._seldom_due = after, due_after(tick, index, SLOW)
        self._before = after
        return {**values, **self._seldom} or {ABSENT: "the driver has none of the metrics"}

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
