"""Measured use: how busy a device is, and how much memory it takes, as far back as it matters. Pure: the time comes in.

A history is a histogram of the duty cycle in fiftieths, in which a sample's weight halves with every half-life, and the
high-water mark of memory, which sinks at the same pace. (Exponentially decaying histograms of use, and packing by their
percentiles: Rzadca et al., "Autopilot", EuroSys '20.) It lives in memory and starts anew with the process: no history is said
to be none, never guessed.

The risk of putting several onto one device is the share of time in which their duty cycles together exceed it::

    risk = (1 - c) · P[Σ Dᵢ > 1, independent] + c · P[Σ Qᵢ(u) > 1, u uniform on 0..1]

The first is the convolution of the histograms; the second lets all be busiest at the same time (comonotone: each at the same
quantile ``u``), as pods that serve the same people's day are. ``c`` says how much of that to expect. On the duty cycles of 92
serving pods over a day (Alibaba's 2026 GenAI trace; two of them correlate by 0.31 on average), random groups of three and of
five overloaded one device for 1.4 % and 7.0 % of the time; independence alone says 0.8 % and 2.7 %, ``c`` = 1/2 says 2.5 % and
8.5 %. Of eight and more it tells too little (16 % for 21 %): by then the risk is far beyond what anybody allows.

A duty cycle is that of some ten seconds, where the driver tells it: two pods that want a device for half of every second each fit
together by it, and may still wait for each other within that second.
"""

import math
from array import array
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.fleet import NodeState
from aggregator.readings import duty_ratio
from aggregator.scores.device_facts import MAX_REPORTED, DeviceFacts
from aggregator.scores.placed import Kind
from aggregator.scores.values import WHOLE, PodShape
from contract import report_pb2 as pb

STEPS = 50
"""A duty cycle is kept to the nearest fiftieth: idle and busy are kept exactly."""

HALF_LIFE_SECONDS = 86_400.0
MIN_SPAN_SECONDS = 3_600.0
MIN_SAMPLES = 100
"""Less than that is no history to pack by."""

CORRELATION = 0.5
MEMORY_HEADROOM_RATIO = 0.1
"""Of a device's memory, that stays free of what its pods took at most."""

REACHES_BACK_SECONDS = 25.0
"""A duty cycle is of up to ten seconds and stands for ten more (``nvml_child/duty.py``); a report follows within five. So long after the pods
on a device changed it may still tell of those before, and is left out."""

_NOBODY: tuple[tuple[str, ...] | None, float] = (None, 0.0)

MAX_HISTORIES = 100_000
"""Kept at once; of more, those longest without a sample go first. 0.5 KiB each."""

_RESCALE_AT = 30.0
"""Half-lives after which all weights are brought down, so that none overflows."""

Weights = NDArray[np.float64]


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """A history in a few numbers."""

    duty_p50: float
    """Duty cycles 0..1."""
    duty_p95: float
    duty_mean: float
    memory_high_bytes: int
    samples: int
    """That were taken in; older ones weigh less."""
    span_seconds: float
    """Between the first and the last one."""


class DutyHistory:
    """Of one device, or of all pods of one workload."""

    __slots__ = ("_half_life", "_memory", "_reference", "_weights", "first", "last", "samples")

    def __init__(self, now: float, half_life_seconds: float = HALF_LIFE_SECONDS) -> None:
        self._half_life = half_life_seconds
        self._weights = array("f", bytes(4 * (STEPS + 1)))
        self._reference = now
        self._memory = 0.0
        self.first = now
        self.last = now
        """Unix time of the newest sample."""
        self.samples = 0

    def add(self, now: float, duty_ratio: float | None, memory_bytes: int | None = None) -> None:
        """One sample. What is no number is left out; a clock that went back counts as standing still."""
        now = max(now, self.last)
        if memory_bytes is not None and memory_bytes >= 0:
            sunk = self._memory * 2.0 ** -((now - self.last) / self._half_life)
            self._memory = max(float(memory_bytes), sunk)
        if duty_ratio is not None and math.isfinite(duty_ratio):
            age = (now - self._reference) / self._half_life
            if age > _RESCALE_AT:
                factor = 2.0**-age
                self._weights = array("f", (weight * factor for weight in self._weights))
                self._reference, age = now, 0.0
            self._weights[round(min(1.0, max(0.0, duty_ratio)) * STEPS)] += 2.0**age
            self.samples += 1
        self.last = now

    @property
    def shares(self) -> Weights:
        """Share of time by duty cycle in steps of a fiftieth, 51 of them, summing to 1; all zero without a sample."""
        weights = np.array(self._weights, dtype=np.float64)
        total = weights.sum()
        return weights / total if total > 0 else weights

    def use(self) -> Use:
        """The history in a few numbers; zeros without a sample."""
        shares = self.shares
        reached = np.cumsum(shares)
        p50, p95 = (int(np.searchsorted(reached, each - 1e-9)) for each in (0.5, 0.95))
        return Use(
            duty_p50=p50 / STEPS if self.samples else 0.0,
            duty_p95=p95 / STEPS if self.samples else 0.0,
            duty_mean=float(shares @ np.arange(STEPS + 1)) / STEPS,
            memory_high_bytes=int(self._memory),
            samples=self.samples,
            span_seconds=self.last - self.first,
        )


class UseBook:
    """The histories of all devices and of all workloads. One owner."""

    def __init__(
        self,
        *,
        half_life_seconds: float = HALF_LIFE_SECONDS,
        max_histories: int = MAX_HISTORIES,
    ) -> None:
        self._half_life = half_life_seconds
        self._max = max_histories
        self._histories: dict[str, DutyHistory] = {}
        """Longest without a sample first."""
        self._residents: dict[str, tuple[tuple[str, ...], float]] = {}
        """By device: the pods that its history is of, and since when."""

    def take_report(
        self,
        state: NodeState,
        facts: DeviceFacts,
        workload_of: Callable[[str], str],
        now: float,
    ) -> None:
        """Take in one regular report of a node.

        A device's history is of the pods on it: with others it starts anew, once the duty cycle no longer tells of those before. A workload's is told only by devices that one pod
        of it has alone.

        Args:
            state: with the report.
            facts: made of the same report.
            workload_of: ``namespace/name`` of a pod → its workload; empty: none, or not known.
            now: Unix time.
        """
        told: dict[str, pb.Gpu | pb.Npu] = {
            each.uuid: each for each in state.report.gpus[:MAX_REPORTED]
        }
        told |= {str(each.index): each for each in state.report.npus[:MAX_REPORTED]}
        for device in facts.ids:
            reading = told.get(device)
            duty = None if reading is None else duty_ratio(reading)
            if reading is None or duty is None:
                continue
            memory = reading.memory_used_bytes if reading.HasField("memory_used_bytes") else None
            key = device_key(state.name, device)
            pods = facts.holders.get(device)
            if pods is not None:
                if self._residents.get(key, _NOBODY)[0] != pods:
                    self._settle(key, pods, now)
                if self._is_of_others(key, reading, now):
                    duty = None
            if pods == ():
                continue  # that an empty device is idle says nothing of who comes next
            self._add(key, now, duty, memory)
            if pods is not None and len(pods) == 1 and (workload := workload_of(pods[0])):
                self._add(workload, now, duty, memory)

    def of_device(self, node: str, device: str) -> DutyHistory | None:
        """Of what is on a device now; ``None``: there is no history."""
        return self._histories.get(device_key(node, device))

    def of_workload(self, workload: str) -> DutyHistory | None:
        """Of one device as the pods of a workload use it; ``None``: there is no history."""
        return self._histories.get(workload)

    def __len__(self) -> int:
        return len(self._histories)

    def _is_of_others(self, key: str, reading: pb.Gpu | pb.Npu, now: float) -> bool:
        """Whether a duty cycle may still tell of those who were on the device before."""
        since = self._residents[key][1]
        over_time = isinstance(reading, pb.Gpu) and reading.HasField("duty_cycle_ratio")
        return over_time and 0 <= now - since < REACHES_BACK_SECONDS

    def _settle(self, key: str, pods: tuple[str, ...], now: float) -> None:
        self._histories.pop(key, None)
        self._residents[key] = (pods, now)
        if len(self._residents) > self._max:
            del self._residents[next(iter(self._residents))]

    def _add(
        self, key: str, now: float, duty_ratio: float | None, memory_bytes: int | None
    ) -> None:
        history = self._histories.pop(key, None) or DutyHistory(now, self._half_life)
        history.add(now, duty_ratio, memory_bytes)
        self._histories[key] = history
        if len(self._histories) > self._max:
            del self._histories[next(iter(self._histories))]


def device_key(node: str, device: str) -> str:
    """No workload is called so: those begin with a namespace, which has no colon."""
    return f"device:{node}/{device}"


def overload_risk(histories: Sequence[DutyHistory], *, correlation: float = CORRELATION) -> float:
    """The share of time, 0..1, in which these on one device would want more than all of it; by the formula above.

    Without a history there is nothing to say: leave out nobody, and ask ``why_not_by_use`` first.
    """
    shares = [each.shares for each in histories]
    if len(shares) < 2:
        return 0.0
    together = shares[0]
    for each in shares[1:]:
        together = np.convolve(together, each)
    independent = float(together[STEPS + 1 :].sum())
    grid = (np.arange(1000) + 0.5) / 1000
    quantiles = sum(np.searchsorted(np.cumsum(each), grid) for each in shares)
    comonotone = float(np.mean(np.asarray(quantiles) > STEPS))
    return min(1.0, max(0.0, (1 - correlation) * independent + correlation * comonotone))


def memory_fits(
    uses: Sequence[Use],
    device_memory_bytes: int,
    *,
    headroom_ratio: float = MEMORY_HEADROOM_RATIO,
) -> bool:
    """Whether what all took at most fits one device together, with headroom; of an unknown size nothing fits."""
    wanted = sum(each.memory_high_bytes for each in uses)
    return wanted <= device_memory_bytes * (1 - headroom_ratio)


def why_not_by_use(
    kind: Kind,
    shape: PodShape,
    history: DutyHistory | None,
    *,
    min_samples: int = MIN_SAMPLES,
    min_span_seconds: float = MIN_SPAN_SECONDS,
) -> str:
    """Why a pod is packed by its requests alone; empty: its measured use counts."""
    if not shape.gpu_count:
        return "it asks for no device"
    if kind == "training":
        return "training pods are never packed by use: all of a job waits for its slowest"
    if shape.gpu_count > 1:
        return "it asks for several devices"
    if kind == "unknown" and shape.gpu_milli == WHOLE:
        return (
            "it has a device to itself and does not say that it serves; "
            "label it fleetmedic.io/workload=serving if it may share"
        )
    if history is None or not history.samples:
        return "no use history"
    span = history.last - history.first
    if history.samples < min_samples or span < min_span_seconds:
        return (
            f"its use history is short: {history.samples} samples over {span / 60:.0f} min, "
            f"{min_samples} over {min_span_seconds / 60:.0f} min are needed"
        )
    return ""
