"""How much of a node's free devices is of no use to the pods that usually come. Pure, one pass over many nodes.

The measure is that of Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation
Gradient Descent", USENIX ATC '23. With typical pods m of popularity p_m (they sum to one) and a node's devices d with
g_d thousandths free::

    F(node) = Σ_m p_m · f_m(node)
    f_m     = Σ_d g_d                       if m does not fit the node, or asks for no device
    f_m     = Σ_d g_d · [g_d < gpu_milli_m] if it does

It is in thousandths of a device. A pod is best placed where F grows least or falls most. Memory is no part of F there,
nor here unless asked for; whether a pod itself fits is another question, and memory counts in that one.

Pods with the same need of devices are one class: such a class needs of a node only the weight of those of its pods whose
CPU (and memory) fit, which is looked up in a table of cumulative weights.
"""

from collections.abc import Sequence

import numpy as np

from aggregator.scores.rows import Floats, Ints, Rows
from aggregator.scores.typical import Typical
from aggregator.scores.values import PodShape

CHUNK = 4096
"""States at a time, so that the work stays in the processor's cache."""


class Fragmentation:
    """F for many states at once, over one histogram of typical pods."""

    def __init__(
        self, typical: Typical, kinds: Sequence[tuple[str, str]], *, memory: bool = False
    ) -> None:
        gpu = [place for place, shape in enumerate(typical.shapes) if shape.gpu_milli_total > 0]
        shapes = [typical.shapes[place] for place in gpu]
        self._mass = float(typical.weights.sum())
        needs = sorted({(shape.gpu_milli, shape.gpu_count) for shape in shapes})
        self._levels = np.array(sorted({milli for milli, _ in needs}), dtype=np.int64)
        self._level_of = np.searchsorted(self._levels, [milli for milli, _ in needs])
        self._need = np.array([count for _, count in needs], dtype=np.int64)
        self._cpu = _steps([shape.cpu_milli for shape in shapes])
        self._memory = _steps([shape.memory_mib for shape in shapes] if memory else [])
        patterns = [tuple(accepts(shape, kind) for shape in shapes) for kind in kinds]
        distinct = sorted(set(patterns))
        self._pattern_of = np.array([distinct.index(each) for each in patterns], dtype=np.int64)
        table = np.zeros((len(distinct), len(self._cpu) + 1, len(self._memory) + 1, len(needs)))
        for place, shape in zip(gpu, shapes, strict=True):
            at = needs.index((shape.gpu_milli, shape.gpu_count))
            cpu = int(np.searchsorted(self._cpu, shape.cpu_milli)) + 1
            ram = int(np.searchsorted(self._memory, shape.memory_mib)) + 1 if memory else 0
            for number, pattern in enumerate(distinct):
                if pattern[shapes.index(shape)]:
                    table[number, cpu, ram, at] += typical.weights[place]
        self._weight = table.cumsum(axis=1).cumsum(axis=2)

    def __call__(self, rows: Rows) -> Floats:
        """F of each state, in thousandths of a device; finite, never negative."""
        out = np.empty(rows.size)
        for start in range(0, rows.size, CHUNK):
            span = slice(start, start + CHUNK)
            out[span] = self._some(rows.at(span))
        return out

    def _some(self, rows: Rows) -> Floats:
        total: Floats = rows.gpus.sum(axis=1) * self._mass
        if not len(self._need):
            return total
        enough = rows.gpus[:, :, None] >= self._levels
        count = enough.sum(axis=1)
        free = np.einsum("kd,kdl->kl", rows.gpus, enough)
        weight = self._weight[
            self._pattern_of[rows.kind],
            np.searchsorted(self._cpu, rows.cpu_free, side="right"),
            np.searchsorted(self._memory, rows.memory_free, side="right"),
        ]
        fits = count[:, self._level_of] >= self._need
        found: Floats = (weight * fits * free[:, self._level_of]).sum(axis=1)
        fragmented: Floats = np.maximum(total - found, 0.0)
        return fragmented


def accepts(shape: PodShape, kind: tuple[str, str]) -> bool:
    """Whether a node with devices of this resource name and model may run the pod at all."""
    resource, model = kind
    if not shape.gpu_count:
        return True
    return (not shape.resource or shape.resource == resource) and (
        not shape.models or model in shape.models
    )


def _steps(amounts: list[int]) -> Ints:
    return np.array(sorted(set(amounts)), dtype=np.int64)
