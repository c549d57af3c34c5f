"""Many node states at once, as arrays: what every measure of a node's room is computed from. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregator.scores.values import WHOLE, NodeRoom

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Rows(NamedTuple):
    """K node states; arrays of length K, ``gpus`` and ``healthy`` of K rows and D columns (padded)."""

    cpu_free: Ints
    """Thousandths of a core that no pod asked for."""
    memory_free: Ints
    """MiB."""
    gpus: Ints
    """Free thousandths of each device; 0 where it is full, sick or not there."""
    cpu: Ints
    """Allocatable thousandths of a core."""
    memory: Ints
    """Allocatable MiB."""
    device_count: Ints
    """Devices that are not sick."""
    kind: Ints
    """Index into the kinds: pairs of resource name and device model."""

    @property
    def size(self) -> int:
        """K."""
        return len(self.cpu_free)

    def at(self, index: Ints | slice) -> "Rows":
        """The states at these places."""
        return Rows(*(column[index] for column in self.columns))

    @property
    def columns(self) -> tuple[Ints, ...]:
        """All arrays, in the order of the fields."""
        return tuple(self[place] for place in range(len(self._fields)))


def usable(room: NodeRoom) -> list[int]:
    """The free thousandths of each device, with nothing left on a sick one; odd amounts are clipped to 0..1000."""
    sick = room.sick
    return [
        0 if place < len(sick) and sick[place] else min(WHOLE, max(0, free))
        for place, free in enumerate(room.gpus)
    ]


def rows_of(rooms: Sequence[NodeRoom], kinds: Sequence[tuple[str, str]], devices: int) -> Rows:
    """The rooms' states. ``kinds`` must hold every pair that appears; ``devices`` is D."""
    place = {kind: at for at, kind in enumerate(kinds)}
    gpus = np.zeros((len(rooms), devices), dtype=np.int64)
    for at, room in enumerate(rooms):
        gpus[at, : len(room.gpus)] = usable(room)
    return Rows(
        cpu_free=np.array([max(0, each.cpu_free_milli) for each in rooms], dtype=np.int64),
        memory_free=np.array([max(0, each.memory_free_mib) for each in rooms], dtype=np.int64),
        gpus=gpus,
        cpu=np.array([max(0, each.cpu_milli) for each in rooms], dtype=np.int64),
        memory=np.array([max(0, each.memory_mib) for each in rooms], dtype=np.int64),
        device_count=np.array(
            [len(each.gpus) - sum(each.sick[: len(each.gpus)]) for each in rooms], dtype=np.int64
        ),
        kind=np.array([place[each.resource, each.model] for each in rooms], dtype=np.int64),
    )
