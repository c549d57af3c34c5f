"""How much of the GPUs any policy could hand out that cannot refuse a pod which fits: an upper bound for one seed. Pure.

The policy may know all pods beforehand, and place each wherever it likes. The argument:

1. Take the most common pod of one GPU, T. A pod is small if it asks for one GPU of any model and for no more than T of
   everything, and large if it asks for at least as much as T of everything, on one GPU or on several.
2. The turn is the first time that a small pod is refused. Every small pod before the turn was accepted, and stands. At the
   turn no node has room for that pod; so none has for T, and none ever will, since nothing leaves. After the turn no
   large pod is accepted.
3. So what stands at the end is, of each size, at least the small pods before the turn, and at most the pods before the turn
   and those after it that are not large. A pod of several GPUs counts as so many whole ones. It stands in the fleet's
   GPUs. That cores, memory and nodes are left out from here on can only make the bound larger.
4. The most that can stand is a linear program over ways to fill one GPU, and its dual bounds it from above for any prices
   (``cutting.py``): neither rounding nor a method that stops early can make the bound too small.
5. When the turn comes is the policy's choice. The bound is the largest over all places of the turn, "never" included.

That is ``rigorous``. ``practical`` counts every share of at most T's size as small, whatever its cores and memory: it adds the
assumption that before the turn no share is refused for want of cores or memory. A policy that knows all pods could
bring that about on purpose; a score that fills nodes does not.

GPUs that fail: their pods come again at once. A small pod that dies after the turn need not find a place again: it was last in one
of the GPUs that fail after the turn, which therefore hold what must stand, and count nothing. A policy that stops to use a GPU
before it fails is covered as well. Assumed is that the cores which dying pods leave let no large pod in after the turn; so with
failures there is only ``practical``.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from aggregator.scores.rows import Floats
from aggregator.scores.values import WHOLE, PodShape
from bench.packing.cutting import Cutting
from bench.packing.failures import failures
from bench.packing.trace import Trace, arrivals

MAX_ROUNDS = 100
"""Prices that are tried for one bound; it is about five."""

CLOSE_GPUS = 1e-3
"""The worst turn is not priced again for less than this."""


class BoundLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The bound for one seed, or the mean of all; in percent of all GPUs, those that fail included."""

    seed: int | None = None
    """Not there: the mean of all seeds."""
    practical: float
    rigorous: float | None = None
    """Not there with GPUs that fail."""
    failing_percent: float | None = None


def bound_of(trace: Trace, seed: int, demand: float, failing_percent: float = 0.0) -> BoundLine:
    """The bound for the pods, and the failures, of this seed."""
    pods = arrivals(trace, demand, seed)
    events = failures(trace, failing_percent, seed, len(pods))
    failed = [event.at for event in events if event.failed]
    gpus = trace.gpu_milli // WHOLE
    percent = 100.0 / gpus
    return BoundLine(
        seed=seed,
        practical=_rounded_up(percent * most_gpus(pods, gpus, failed, practical=True)),
        rigorous=None if failed else _rounded_up(percent * most_gpus(pods, gpus)),
        failing_percent=failing_percent or None,
    )


def mean_of(lines: Sequence[BoundLine]) -> BoundLine:
    """Of lines that have the same share of failing GPUs."""
    rigorous = [line.rigorous for line in lines if line.rigorous is not None]
    return BoundLine(
        practical=round(float(np.mean([line.practical for line in lines])), 3),
        rigorous=round(float(np.mean(rigorous)), 3) if rigorous else None,
        failing_percent=lines[0].failing_percent,
    )


def most_gpus(
    pods: Sequence[PodShape], gpus: int, failed: Iterable[int] = (), *, practical: bool = False
) -> float:
    """The bound in whole GPUs for pods that come in this order. ``failed``: per GPU that fails, before which pod."""
    sizes = sorted({pod.gpu_milli for pod in pods if pod.gpu_count})
    if not sizes:
        return 0.0
    least, most = _standing(pods, sizes, practical=practical)
    lost = np.zeros(len(pods) + 1)
    for at in failed:
        lost[: at + 1] += 1.0
    cutting, left = Cutting(sizes), gpus - float(lost[0])
    bound = cutting.ceiling(cutting.values, least, most, left, lost)
    for _ in range(MAX_ROUNDS):
        worst = int(np.argmax(bound))
        prices = cutting.best_prices(least[worst], most[worst], left, float(lost[worst]))
        priced = cutting.ceiling(prices, least, most, left, lost)
        if priced[worst] > bound[worst] - CLOSE_GPUS:
            break
        bound = np.minimum(bound, priced)
    return float(bound.max())


def _rounded_up(percent: float) -> float:
    """A bound that is rounded down may be none."""
    return math.ceil(percent * 1000) / 1000


def _standing(
    pods: Sequence[PodShape], sizes: Sequence[int], *, practical: bool
) -> tuple[Floats, Floats]:
    """Per place of the turn, 0 to the number of pods, and per size: how many stand at least, and at most."""
    least, large, others = (np.zeros((len(pods) + 1, len(sizes))) for _ in range(3))
    threshold = _threshold(pods)
    for place, pod in enumerate(pods, start=1):
        if not pod.gpu_count:
            continue
        size = sizes.index(pod.gpu_milli)
        if threshold is not None and _covers(threshold, pod, practical=practical):
            least[place, size] = 1.0
        came = large if threshold is not None and _covers(pod, threshold) else others
        came[place, size] += pod.gpu_count
    standing = np.cumsum(least, axis=0)
    return standing, np.maximum(np.cumsum(large, axis=0) + others.sum(axis=0), standing)


def _threshold(pods: Sequence[PodShape]) -> PodShape | None:
    """The most common pod that asks for one GPU of any model."""
    counts = Counter(pod for pod in pods if pod.gpu_count == 1 and not pod.models)
    return counts.most_common(1)[0][0] if counts else None


def _covers(large: PodShape, small: PodShape, *, practical: bool = False) -> bool:
    """Whether a node with room for the large pod has room for the small one, which asks for one GPU of any model."""
    enough = large.cpu_milli >= small.cpu_milli and large.memory_mib >= small.memory_mib
    fits = large.gpu_milli >= small.gpu_milli and (practical or enough)
    return fits and small.gpu_count == 1 and not small.models
