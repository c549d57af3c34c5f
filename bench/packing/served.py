"""Our policy as a cluster has it: the book of scores that is served, what the extender makes of it, and a scheduler that chooses.

kube-scheduler filters the nodes that fit, asks the extender (``aggregator.scores.book``, then ``aggregator.feeds.extender_scale``),
and takes one of those with the largest number, at random among equals. Like the published policies, which place every pod, ours is
asked about pods without a GPU too: ``managedResources`` is left out of the scheduler's configuration. As it is shipped it is
there, and kube-scheduler places those pods by its own defaults, LeastAllocated and BalancedAllocation: ``gpu-pods-only``.
"""

import random
from typing import Literal, NamedTuple

import numpy as np

from aggregator.feeds.extender_pod import coarse
from aggregator.feeds.extender_ranking import ranked
from aggregator.feeds.extender_scale import spread
from aggregator.scores.book import ScoreBook
from aggregator.scores.model import Judgement, NodeFacts
from aggregator.scores.packing import PackingTerms
from aggregator.scores.rows import Floats, Ints, Rows
from aggregator.scores.table import Places
from aggregator.scores.terms import Newcomer, ScoreTerms
from aggregator.scores.typical import Typical, TypicalPods
from aggregator.scores.values import PodShape
from aggregator.scoring import ASSUMED, mixed
from bench.packing.rivals import Place, Scored
from bench.packing.trace import Trace, typical_pods

PODS_PER_TICK = 100
"""After as many pods the aggregator's tick counts the whole nodes anew."""

PODS_PER_HISTOGRAM = 500
"""Where the histogram is learned, after as many pods it is learned anew."""

SECONDS_PER_POD = 60.0
"""Between two pods, where the histogram is learned: the trace then takes eight days, the half-life of a count is seven."""


class Setting(NamedTuple):
    """What of the served path takes part; by default all of it, as shipped."""

    terms: ScoreTerms | None = None
    packing: PackingTerms | None = None
    scale: int = 100
    """The extender's best number."""
    favours: bool = True
    """Whether one of several best nodes gets a number more."""
    learns: bool = False
    """Whether typical pods are learned from those that came, from nothing; else the workload is known."""
    cpu_pods: Literal["spread", "packed", "model"] = "model"
    """Pods without a GPU: by kube-scheduler's defaults, by its MostAllocated, or where the packing model says."""
    own_devices: bool = True
    """Whether the model's device is taken; else the tightest, as schedulers that share devices choose it."""


class Served(Scored):
    """The model behind the extender."""

    def __init__(self, trace: Trace, dice: random.Random, setting: Setting = Setting()) -> None:  # noqa: B008
        super().__init__(trace, dice)
        self._setting = setting
        self._seen = TypicalPods()
        self._came = self._asking = 0
        self._open(ASSUMED if setting.learns else typical_pods(trace.pods, 1.0))

    def choose(self, shape: PodShape) -> Place | None:
        """What the scheduler does with one pod."""
        self._tick(shape)
        able = np.flatnonzero(self.fits(shape))
        if not len(able):
            return None
        numbers = self._numbers(shape, able)
        best = able[numbers == numbers.max()]
        node = int(best[self.dice.randrange(len(best))])
        return node, self.devices(shape, node)

    def devices(self, shape: PodShape, node: int) -> tuple[int, ...]:
        if self._setting.own_devices and shape.gpu_count:
            return self.book.packing.devices(shape, int(self._rows[node]))
        return super().devices(shape, node)

    def placed(self, node: int, shape: PodShape, sign: int) -> None:
        self.changed(node)

    def changed(self, node: int) -> None:
        self.book.take_room(self.fleet.names[node], self.fleet.room(node))

    def lost(self, node: int, device: int) -> None:
        super().lost(node, device)
        self.changed(node)

    def warned(self, node: int, device: int) -> None:
        """What is suspect takes no new pods; those that are there stay."""
        self.lost(node, device)

    def _numbers(self, shape: PodShape, able: Ints) -> Ints:
        setting = self._setting
        if not shape.gpu_count and setting.cpu_pods != "model":
            left = self.fleet.rows.at(able)
            return by_default(shape, left) if setting.cpu_pods == "spread" else packed(shape, left)
        pod = Newcomer(shape=shape if shape.gpu_count else coarse(shape))
        return answered(self.book, pod, self._rows[able], setting.scale, favours=setting.favours)

    def _tick(self, shape: PodShape) -> None:
        self._came += 1
        if self._setting.learns:
            self._learn(shape)
        if self._came % PODS_PER_TICK == 0:
            self.book.settle(SECONDS_PER_POD * self._came)

    def _learn(self, shape: PodShape) -> None:
        """As ``aggregator.scoring`` does, but less often."""
        now = SECONDS_PER_POD * self._came
        self._asking += shape.gpu_count > 0
        self._seen.saw(shape, "all", now)
        if self._came % PODS_PER_HISTOGRAM == 0 or self._came in (20, 50, 100, 200):
            self._open(mixed(self._seen.typical(now), self._asking))

    def _open(self, typical: Typical) -> None:
        """A book over this histogram: as if a tick had renewed every array."""
        self.book = ScoreBook(self._setting.terms, self._setting.packing)
        self.book.learn(typical)
        healthy = Judgement("healthy", "healthy")
        for node, name in enumerate(self.fleet.names):
            self.book.take_health(NodeFacts(name=name), healthy)
            self.book.take_room(name, self.fleet.room(node))
        self._rows = self.book.places(self.fleet.names)
        self.book.settle(SECONDS_PER_POD * self._came)


def answered(
    book: ScoreBook, pod: Newcomer, rows: Places, scale: int, *, favours: bool = True
) -> Ints:
    """The numbers that the extender answers for these nodes."""
    if favours:
        return ranked(book.levels(pod), rows, scale).each()
    return spread(book.array(pod)[rows], scale)


def by_default(shape: PodShape, rows: Rows) -> Ints:
    """kube-scheduler's own numbers for a pod without a GPU: room that stays, and CPU and memory used evenly."""
    cpu = _share(rows.cpu_free - shape.cpu_milli, rows.cpu)
    memory = _share(rows.memory_free - shape.memory_mib, rows.memory)
    least = (np.floor(100 * cpu) + np.floor(100 * memory)) // 2
    even = np.floor(100 * (1.0 - np.abs(cpu - memory) / 2))
    numbers: Ints = (least + even).astype(np.int64)
    return numbers


def packed(shape: PodShape, rows: Rows) -> Ints:
    """kube-scheduler's numbers for a pod without a GPU under MostAllocated alone."""
    cpu = 1.0 - _share(rows.cpu_free - shape.cpu_milli, rows.cpu)
    memory = 1.0 - _share(rows.memory_free - shape.memory_mib, rows.memory)
    numbers: Ints = ((np.floor(100 * cpu) + np.floor(100 * memory)) // 2).astype(np.int64)
    return numbers


def _share(part: Ints, whole: Ints) -> Floats:
    share: Floats = part / np.maximum(whole, 1)
    return share
