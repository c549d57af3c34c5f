"""The published placement policies, written from the papers.

The published figures come from a scheduler that gives each node a whole number 0..100 and takes the first of the best in
an order that is random, drawn once per run, and the same for all pods of the run. All of that matters: without the
rounding and a fixed order fragmentation gradient descent loses two to five points, and with the order of the node file, which
has like nodes side by side, clustering and packing lose 0.7 (see docs/packing.md). So the rivals that score are rounded down
and tied in that way, each with the formula of its paper or of its published run.
"""

import random
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.scores.fragmentation import Fragmentation, accepts
from aggregator.scores.packing import Packing, PackingTerms, fitting
from aggregator.scores.rows import Bools, Floats, Ints
from aggregator.scores.values import WHOLE, PodShape
from bench.packing.trace import Trace, typical_pods

MOST_CPU_MILLI = 128_000
MOST_GPU_MILLI = 8_000
"""The largest node of the published runs, by which amounts are made comparable."""

NOTHING = PackingTerms(potential=0.0, fragmentation=0.0, order=0.0)
"""For policies that need the fleet's capacities only."""

NOT_HERE = -(2**60)

Place = tuple[int, tuple[int, ...]]


class Policy(Protocol):
    """Chooses places. It reads the fleet, and is told what was placed or taken away."""

    fleet: Packing

    def choose(self, shape: PodShape) -> Place | None:
        """The node and its devices; ``None`` when the pod fits nowhere."""

    def placed(self, node: int, shape: PodShape, sign: int) -> None:
        """A pod came to the node (1), or left it (-1); the fleet knows already."""

    def lost(self, node: int, device: int) -> None:
        """A device failed: it is no capacity from now on."""

    def warned(self, node: int, device: int) -> None:
        """An agent sees signs that this device may fail. Only who listens to agents hears it."""


class Scored:
    """Who scores nodes: what fits, and the tightest device for a pod that shares one."""

    def __init__(self, trace: Trace, dice: random.Random) -> None:
        self.fleet = Packing(trace.rooms, terms=NOTHING)
        self.dice = dice
        self._accepted: dict[PodShape, Bools] = {}

    def fits(self, shape: PodShape) -> Bools:
        """Per node, whether the pod fits."""
        rows = self.fleet.rows
        if shape not in self._accepted:
            kinds = self.fleet.kinds
            self._accepted[shape] = np.array(
                [accepts(shape, kind) for kind in kinds], dtype=np.bool_
            )
        return fitting(shape, rows, self._accepted[shape])

    def choose(self, shape: PodShape) -> Place | None:
        """The node and its devices; ``None`` when the pod fits nowhere."""
        raise NotImplementedError

    def devices(self, shape: PodShape, node: int) -> tuple[int, ...]:
        """Those with the least left that is enough, the lower index first."""
        free = self.fleet.rows.gpus[node]
        able = np.nonzero(free >= max(1, shape.gpu_milli))[0]
        order = able[np.argsort(free[able], kind="stable")]
        return tuple(sorted(order[: shape.gpu_count].tolist()))

    def placed(self, node: int, shape: PodShape, sign: int) -> None:
        """Nothing to remember."""

    def lost(self, node: int, device: int) -> None:
        """Whoever places pods is told of it at once."""
        room = self.fleet.room(node)
        sick = [place < len(room.sick) and room.sick[place] for place in range(len(room.gpus))]
        sick[device] = True
        self.fleet.replace(msgspec.structs.replace(room, sick=tuple(sick)))

    def warned(self, node: int, device: int) -> None:
        """No agent tells."""


class Random(Scored):
    """Any node that fits, any device that fits."""

    def choose(self, shape: PodShape) -> Place | None:
        able = np.nonzero(self.fits(shape))[0]
        if not len(able):
            return None
        node = int(able[self.dice.randrange(len(able))])
        if shape.gpu_count != 1 or shape.gpu_milli >= WHOLE:
            return node, self.devices(shape, node)
        devices = np.nonzero(self.fleet.rows.gpus[node] >= shape.gpu_milli)[0].tolist()
        return node, (self.dice.choice(devices),)


class FirstOfBest(Scored):
    """A whole number per node, and of the best nodes the first in the run's own order."""

    def __init__(self, trace: Trace, dice: random.Random) -> None:
        super().__init__(trace, dice)
        nodes = range(len(self.fleet.names))
        self._order: Ints = np.array(dice.sample(nodes, len(nodes)), dtype=np.int64)

    def scores(self, shape: PodShape) -> Ints:
        """A whole number per node, larger is better; only those that fit are looked at."""
        raise NotImplementedError

    def choose(self, shape: PodShape) -> Place | None:
        fits = self.fits(shape)
        if not fits.any():
            return None
        scores = np.where(fits, self.scores(shape), NOT_HERE)
        node = int(self._order[np.argmax(scores[self._order])])
        return node, self.devices(shape, node)


class DotProduct(FirstOfBest):
    """Tetris (Grandl et al., SIGCOMM '14), over CPU and GPU: the smaller the product of request and room, the better."""

    def scores(self, shape: PodShape) -> Ints:
        rows = self.fleet.rows
        cpu = rows.cpu_free / MOST_CPU_MILLI * (shape.cpu_milli / MOST_CPU_MILLI)
        gpu = rows.gpus.sum(axis=1) / MOST_GPU_MILLI * (shape.gpu_milli_total / MOST_GPU_MILLI)
        return _whole(100 * (1 - (cpu + gpu) / 2))


class Clustering(FirstOfBest):
    """Gandiva (Xiao et al., OSDI '18): beside pods that need as many GPUs, on the fullest of such nodes."""

    def __init__(self, trace: Trace, dice: random.Random) -> None:
        super().__init__(trace, dice)
        self._here: dict[int, Ints] = {}

    def scores(self, shape: PodShape) -> Ints:
        if not shape.gpu_count:
            return np.zeros(len(self.fleet.names), dtype=np.int64)
        others = [held > 0 for need, held in self._here.items() if need != _need(shape)]
        mixed = np.any(others, axis=0) if others else np.zeros(len(self.fleet.names), np.bool_)
        alike = self._held(_need(shape)) > 0
        tier = np.select([alike & ~mixed, alike, ~mixed], [75, 50, 25], 0)
        free = self.fleet.rows.gpus.sum(axis=1)
        scores: Ints = tier + 25 * (MOST_GPU_MILLI - free) // MOST_GPU_MILLI
        return scores

    def placed(self, node: int, shape: PodShape, sign: int) -> None:
        if shape.gpu_count:
            self._held(_need(shape))[node] += sign

    def _held(self, need: int) -> Ints:
        return self._here.setdefault(need, np.zeros(len(self.fleet.names), dtype=np.int64))


class GpuPacking(FirstOfBest):
    """Shared GPUs first, then free GPUs of used nodes, empty nodes last."""

    def scores(self, shape: PodShape) -> Ints:
        rows = self.fleet.rows
        if not shape.gpu_count:
            return np.zeros(rows.size, dtype=np.int64)
        free = (rows.gpus == WHOLE).sum(axis=1)
        able = np.where(rows.gpus >= shape.gpu_milli, rows.gpus, 2 * WHOLE)
        taken = np.sort(able, axis=1)[:, : shape.gpu_count]
        broken = (taken == WHOLE).sum(axis=1)
        shared = np.maximum(100 - (taken * 100 // WHOLE).sum(axis=1) // 10, 50)
        scores: Ints = np.where(
            free == rows.device_count,
            np.maximum(33 - free, free),
            np.where(broken > 0, np.maximum(50 - broken, 33), shared),
        )
        return scores


class BestFit(FirstOfBest):
    """The node with the least left afterwards, CPU and GPU weighing the same."""

    def scores(self, shape: PodShape) -> Ints:
        rows = self.fleet.rows
        cpu = (rows.cpu_free - shape.cpu_milli) / MOST_CPU_MILLI
        gpu = (rows.gpus.sum(axis=1) - shape.gpu_milli_total) / MOST_GPU_MILLI
        return _whole(100 * (1 - (0.5 * cpu + 0.5 * gpu)))


class GradientDescent(FirstOfBest):
    """Fragmentation gradient descent (Weng et al., USENIX ATC '23)."""

    def __init__(self, trace: Trace, dice: random.Random) -> None:
        super().__init__(trace, dice)
        terms = PackingTerms(potential=0.0, fragmentation=1.0, order=0.0)
        self.fleet = Packing(trace.rooms, typical_pods(trace.pods), terms=terms)
        self._measure = Fragmentation(typical_pods(trace.pods), self.fleet.kinds)

    def fits(self, shape: PodShape) -> Bools:
        return self.fleet.fits(shape)

    def scores(self, shape: PodShape) -> Ints:
        return _fgd_score(self.fleet.costs(shape))

    def devices(self, shape: PodShape, node: int) -> tuple[int, ...]:
        """A sharing pod takes the first device whose score, rounded down, is the best."""
        if shape.gpu_count != 1 or shape.gpu_milli >= WHOLE:
            return super().devices(shape, node)
        here = self.fleet.rows.at(slice(node, node + 1))
        able = np.nonzero(here.gpus[0] >= shape.gpu_milli)[0]
        gpus = np.repeat(here.gpus, len(able), axis=0)
        gpus[np.arange(len(able)), able] -= shape.gpu_milli
        after = here.at(np.zeros(len(able), dtype=np.int64))._replace(
            cpu_free=np.repeat(here.cpu_free - shape.cpu_milli, len(able)), gpus=gpus
        )
        scores = _fgd_score(self._measure(after) - self._measure(here))
        return (int(able[np.argmax(scores)]),)


def _need(shape: PodShape) -> int:
    return 0 if shape.gpu_milli < WHOLE else shape.gpu_count


def _whole(score: Floats) -> NDArray[np.int64]:
    return score.astype(np.int64)


def _fgd_score(cost: Floats) -> Ints:
    return _whole(100 / (1 + np.exp(np.minimum(cost / 1000, 700.0))))
