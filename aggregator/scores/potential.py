"""How much of a node's free devices will stay empty however well it is filled. Pure, one pass over many nodes.

The measure looks ahead. Fragmentation gradient descent (Weng et al., USENIX ATC '23, ``fragmentation.py``) asks which free
devices the next typical pod cannot use; here the question is what the coming typical pods can make of them together. In
thousandths of a device, for a node with g_d thousandths free on each device d and c free cores::

    Φ(node) = Σ_d w(g_d) + C(Σ_d g_d / 1000, c)

A pod is best placed, and the device of a sharing pod best chosen, where Φ grows least or falls most.

``w(r)``: of one device with r thousandths free, what will stay empty. One table serves all nodes: 1001 numbers, from the
histogram of typical pods alone::

    w(r)    = (1 - PRICED) · left(r) + PRICED · (r - 1000 · V(r))
    left(r) = t · min_s left(r - s) + (1 - t) · r    over the sizes s ≤ r;  left(r) = r if none is that small
    t       = P(r) / (P(r) + PATIENCE),              P(r): the share of devices asked for by pods of size ≤ r

- ``left`` is the least that can be left by pods of the sizes seen, trusted (``t``) as far as pods that fit are common.
- ``V`` is the worth of that room, in whole devices, at the prices of a well packed fleet (``prices.py``): a gap is kept for
  the pod that fills it, not for the first that fits, and a rare small pod goes to the gap that nothing else can use.

``C``: of I free devices, those without CPU, if each needs κ cores as the typical pod with devices does. A soft minimum, since
pods differ; part of it counts, since pods with little CPU come too::

    C = 1000 · CPU_WEIGHT · (softplus(b·(I - c/κ)) - softplus(-b·c/κ)) / b,    b = CPU_SHARPNESS

A pod that asks for no device changes C alone: it goes where cores are in surplus. C is 0 without free devices, and falls as
cores become free.

With no history nothing is known of sizes or CPU: left(r) = r, V is 1 for a whole device and 0 for a part, C = 0. A part of a
device is then lost until it is full, so that pods fill the devices that are begun. A sick device has nothing free.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from aggregator.scores.fragmentation import accepts
from aggregator.scores.prices import worth_of
from aggregator.scores.rows import Bools, Floats, Rows
from aggregator.scores.typical import Typical
from aggregator.scores.values import WHOLE, PodShape

PATIENCE = 0.02
"""Pods that are as rare as this are half trusted to come. 0.01 to 0.05 changes the result on openb by 0.05 points."""

PRICED = 0.6
"""The part of prices in w. 0.3 to 1 changes the result on openb by 0.06 points."""

CPU_WEIGHT = 0.5
"""Thousandths that are lost of each thousandth of a device without CPU."""

CPU_SHARPNESS = 10.0
"""Per device: the larger, the closer to a sharp minimum."""

CPU_OUTLIER = 4.0
"""Times more or less than the median pod's CPU per device, to which a pod's is cut. On openb that moves the mean by 0.01 %."""

LARGE_POD = 8
"""Devices: a pod that asks for more counts as one that asks for so many. Else a few impossible pods would be the whole mix."""


class Potential:
    """Φ for many states at once, over one histogram of typical pods."""

    def __init__(self, typical: Typical, kinds: Sequence[tuple[str, str]]) -> None:
        patterns = [tuple(accepts(shape, kind) for shape in typical.shapes) for kind in kinds]
        distinct = sorted(set(patterns)) or [(True,) * len(typical)]
        self._table_of = np.array([distinct.index(each) for each in patterns], dtype=np.int64)
        masks = [np.array(each, dtype=np.bool_) for each in distinct]
        self._tables = np.stack([stranded(typical, mask) for mask in masks])
        self._cpu_per_device = np.array([_cpu_per_device(typical, mask) for mask in masks])

    def __call__(self, rows: Rows) -> Floats:
        """Φ of each state, in thousandths of a device; finite, 0 for a node with no free device.

        Only differences mean something: where room is worth more to the mix than its size, Φ is negative.
        """
        table = self._table_of[rows.kind]
        alone: Floats = self._tables[table[:, None], rows.gpus].sum(axis=1)
        return alone + _starved(rows, self._cpu_per_device[table])


def stranded(typical: Typical, accepted: Bools | None = None) -> Floats:
    """The table w by free thousandths: 1001 numbers. ``accepted``: which typical pods count; all by default."""
    pods = np.zeros(WHOLE + 1)
    for shape, weight in _device_pods(typical, accepted):
        pods[shape.gpu_milli] += weight * min(shape.gpu_count, LARGE_POD)
    demand = {int(size): float(pods[size]) for size in np.flatnonzero(pods)}
    gap = np.arange(WHOLE + 1) - WHOLE * worth_of(demand).room
    table: Floats = (1.0 - PRICED) * _left(pods) + PRICED * gap
    table.flags.writeable = False
    return table


def _left(pods: Floats) -> Floats:
    """``left`` by free thousandths, from the weight of pods by size."""
    total = float(pods.sum())
    left = np.arange(WHOLE + 1, dtype=np.float64)
    if not total:
        return left
    sizes = np.flatnonzero(pods)
    common = np.cumsum(pods) / total
    trust = common / (common + PATIENCE)
    for free in range(int(sizes[0]), WHOLE + 1):
        least = left[free - sizes[: np.searchsorted(sizes, free, side="right")]].min()
        left[free] = trust[free] * least + (1.0 - trust[free]) * free
    return left


def _starved(rows: Rows, cpu_per_device: Floats) -> Floats:
    """C: what stays empty for lack of CPU; zero where nothing is known of what a device needs."""
    known = cpu_per_device > 0.0
    free = rows.gpus.sum(axis=1) / WHOLE
    served = CPU_SHARPNESS * rows.cpu_free / np.where(known, cpu_per_device, 1.0)
    soft = np.logaddexp(0.0, CPU_SHARPNESS * free - served) - np.logaddexp(0.0, -served)
    lost = np.where(known, np.maximum(soft, 0.0) / CPU_SHARPNESS, 0.0)
    starved: Floats = WHOLE * CPU_WEIGHT * lost
    return starved


def _cpu_per_device(typical: Typical, accepted: Bools) -> float:
    """Thousandths of a core that typical pods ask for per whole device; 0: not known.

    One tenant's million cores are no need of the others: a pod counts for at most ``CPU_OUTLIER`` times the median one.
    """
    pods = [
        (max(0, shape.cpu_milli) * WHOLE / shape.gpu_milli_total, weight, _size(shape))
        for shape, weight in _device_pods(typical, accepted)
    ]
    need, weight, devices = np.array(sorted(pods), dtype=np.float64).reshape(-1, 3).T
    reached = np.cumsum(weight)
    if not len(reached) or (weight @ devices) <= 0.0:  # weights may be too small for a number
        return 0.0
    median = need[np.searchsorted(reached, reached[-1] / 2)]
    cut = np.clip(need, median / CPU_OUTLIER, median * CPU_OUTLIER)
    return float(np.average(cut, weights=weight * devices))


def _size(shape: PodShape) -> float:
    """In devices."""
    return min(shape.gpu_count, LARGE_POD) * shape.gpu_milli / WHOLE


def _device_pods(
    typical: Typical, accepted: Bools | None = None
) -> Iterator[tuple[PodShape, float]]:
    """The typical pods that ask for devices in amounts that make sense, with their weights."""
    for place, shape in enumerate(typical.shapes):
        sensible = shape.gpu_count > 0 and 0 < shape.gpu_milli <= WHOLE
        if sensible and (accepted is None or accepted[place]):
            yield shape, float(typical.weights[place])
