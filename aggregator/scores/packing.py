"""Where the next pod leaves the least stranded room: the whole fleet as arrays, one value per node. Pure.

For a pod's shape and every node that it fits, the cost of placing it there is a sum of terms, each in thousandths of a
device (``PackingTerms`` has their weights; a weight of zero switches a term off)::

    cost  = Σ_t weight_t · term_t
    value = ½ · (1 - cost / (SPREAD + |cost|))        0 < value < 1; 0 where the pod does not fit

so that ½ is "leaves things as they are", and a difference of a few thousandths stays visible however large the cost is.

- ``potential``: P(after) - P(before), the room that is expected to stay stranded, see ``potential.py``.
- ``fragmentation``: F(after) - F(before), the room that typical pods cannot use now, see ``fragmentation.py``. Off: the potential
  asks the same question with foresight.
- ``whole_nodes``: the free devices of the node, if it is one of the last ``kept_whole_nodes`` that still have all of at least
  ``whole_node_devices`` free, and the pod needs fewer than all: a gang of whole nodes may come tomorrow.
- ``order``: between 0 and 1, a fixed place of the node by its name. Where nodes are alike, pods then fill one after the other
  instead of opening all of them a little. Off: the extender favours one of equal nodes, which does the same, and nodes
  that are alike keep one score.

Where the pod shares one device, the device with the least cost is taken, and that is the one the model would choose.

Columns are kept per shape. When a node changes, only that node is computed anew, and only for the shapes that are asked
for. A sick device is no capacity: it is neither free nor counted.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from aggregator.scores.fragmentation import Fragmentation, accepts
from aggregator.scores.potential import Potential
from aggregator.scores.rows import Bools, Floats, Ints, Rows, rows_of
from aggregator.scores.typical import NO_HISTORY, Typical
from aggregator.scores.values import WHOLE, NodeRoom, PodShape

SPREAD = 1000.0
"""The cost, in thousandths of a device, at which a value is ¼ instead of ½."""

MAX_COLUMNS = 512
"""Shapes that are kept; the one that was not asked for longest is forgotten first."""


class PackingTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The weight of each term; zero switches it off."""

    potential: float = 1.0
    fragmentation: float = 0.0
    order: float = 0.0
    whole_nodes: float = 0.0
    kept_whole_nodes: int = 2
    """Per resource name, how many wholly free nodes are kept for gangs."""
    whole_node_devices: int = 8


Measure = Callable[[Rows], Floats]
"""A number per state, in thousandths of a device; what a placement adds to it is a cost."""


class _Column(msgspec.Struct):
    """What is known of one shape on every node."""

    accepts: Bools
    """Per kind of devices."""
    fits: Bools
    cost: Floats
    """Without the terms that depend on other nodes."""
    device: Ints
    """The device a sharing pod would take; -1: not one device."""
    seen: int
    """Changes of nodes that are in it already."""


class _Candidates(NamedTuple):
    """Ways to place one shape: on which of the nodes asked for, with which device, and the state after it."""

    node: Ints
    device: Ints
    after: Rows


class Packing:
    """Rooms of many nodes, and how well a pod would sit on each."""

    def __init__(
        self,
        rooms: Sequence[NodeRoom],
        typical: Typical = NO_HISTORY,
        *,
        terms: PackingTerms | None = None,
    ) -> None:
        self._terms = terms or PackingTerms()
        self._names = tuple(room.name for room in rooms)
        self._index = {name: place for place, name in enumerate(self._names)}
        if len(self._index) != len(self._names):
            raise ValueError("two rooms have the same node name; give each node once")
        self._rooms = list(rooms)
        self._kinds = sorted({(room.resource, room.model) for room in rooms})
        self._devices = max([len(room.gpus) for room in rooms], default=0) or 1
        self._order = _order(self._names)
        self._rows = rows_of(self._rooms, self._kinds, self._devices)
        self._sick = np.array([_sick(room, self._devices) for room in rooms], dtype=np.bool_)
        self._columns: dict[PodShape, _Column] = {}
        self._changes: list[int] = []
        self.learn(typical)

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes, in the order of every array."""
        return self._names

    @property
    def index(self) -> Mapping[str, int]:
        """The place of each node."""
        return self._index

    @property
    def kinds(self) -> Sequence[tuple[str, str]]:
        """The pairs of resource name and device model that ``rows.kind`` counts."""
        return self._kinds

    @property
    def terms_set(self) -> PackingTerms:
        """The weights in force."""
        return self._terms

    @property
    def rows(self) -> Rows:
        """The states as they are; to be read only."""
        return self._rows

    def learn(self, typical: Typical) -> None:
        """Another histogram: everything is computed anew when it is asked for."""
        self._typical = typical
        self._measures = _measures(self._terms, typical, self._kinds)
        self._before = self._state_cost(self._rows)
        self._columns.clear()
        self._changes.clear()

    def room(self, node: int) -> NodeRoom:
        """The node's room as it is now. A sick device shows nothing free."""
        rows, room = self._rows, self._rooms[node]
        return msgspec.structs.replace(
            room,
            cpu_free_milli=int(rows.cpu_free[node]),
            memory_free_mib=int(rows.memory_free[node]),
            gpus=tuple(int(free) for free in rows.gpus[node, : len(room.gpus)]),
        )

    def replace(self, room: NodeRoom) -> None:
        """One node changed. A node that is not in the picture raises KeyError: build a new one."""
        node = self._index[room.name]
        kind = (room.resource, room.model)
        if kind not in self._kinds or len(room.gpus) > self._devices:
            self._rebuild(node, room)
            return
        self._rooms[node] = room
        row = rows_of([room], self._kinds, self._devices)
        for whole, part in zip(self._rows.columns, row.columns, strict=True):
            whole[node] = part[0]
        self._sick[node] = _sick(room, self._devices)
        self._changed(node)

    def fits(self, shape: PodShape) -> Bools:
        """Per node, whether the pod's requests fit what is left."""
        return self._column(shape).fits.copy()

    def value(self, shape: PodShape) -> Floats:
        """Per node 0..1, larger is the better place; 0 where the pod does not fit. Never NaN."""
        column = self._column(shape)
        value = worth(column.cost + self._kept(shape))
        value[~column.fits] = 0.0
        return value

    def costs(self, shape: PodShape) -> Floats:
        """Per node, the cost in thousandths of a device; infinite where the pod does not fit."""
        column = self._column(shape)
        return np.where(column.fits, column.cost + self._kept(shape), np.inf)

    def devices(self, shape: PodShape, node: int) -> tuple[int, ...]:
        """The devices that the model would take, by index; empty if it needs none or does not fit."""
        column = self._column(shape)
        if not column.fits[node] or not shape.gpu_count:
            return ()
        if shape.gpu_count == 1 and column.device[node] >= 0:
            return (int(column.device[node]),)
        return tuple(_tightest(self._rows.gpus[node : node + 1], shape)[0].tolist())

    def terms(self, shape: PodShape, node: int) -> Mapping[str, float]:
        """Each term's part in the cost, weights included, in thousandths of a device; empty if it does not fit."""
        column = self._column(shape)
        if not column.fits[node]:
            return {}
        here = self._rows.at(slice(node, node + 1))
        ways = _ways(shape, here)
        way = ways.after.at(np.nonzero(ways.device == column.device[node])[0][:1])
        found = {
            name: weight * float(measure(way)[0] - measure(here)[0])
            for name, (weight, measure) in self._measures.items()
        }
        found["order"] = self._terms.order * float(self._order[node])
        found["whole_nodes"] = float(self._kept(shape)[node])
        return found

    def take(self, node: int, shape: PodShape, devices: Sequence[int]) -> None:
        """A pod of this shape was placed here. Raises ValueError if there is no room for it."""
        self._move(node, shape, devices, -1)

    def give(self, node: int, shape: PodShape, devices: Sequence[int]) -> None:
        """A pod of this shape is gone from here; what it had of a sick device does not come back.

        Raises ValueError if more would be free than there is.
        """
        self._move(node, shape, devices, +1)

    def _move(self, node: int, shape: PodShape, devices: Sequence[int], sign: int) -> None:
        rows = self._rows
        cpu = int(rows.cpu_free[node]) + sign * shape.cpu_milli
        memory = int(rows.memory_free[node]) + sign * shape.memory_mib
        gpus = rows.gpus[node].copy()
        if len(set(devices)) != len(devices) or len(devices) != shape.gpu_count:
            raise ValueError(f"the pod needs {shape.gpu_count} devices, not {list(devices)}")
        held = [device for device in devices if sign < 0 or not self._sick[node, device]]
        gpus[held] += sign * shape.gpu_milli
        inside = 0 <= cpu <= rows.cpu[node] and 0 <= memory <= rows.memory[node]
        if not inside or gpus.min() < 0 or gpus.max() > WHOLE:
            word = "has no room for" if sign < 0 else "does not hold"
            raise ValueError(f"{self._names[node]} {word} {shape} on devices {list(devices)}")
        rows.cpu_free[node], rows.memory_free[node], rows.gpus[node] = cpu, memory, gpus
        self._changed(node)

    def _changed(self, node: int) -> None:
        here = slice(node, node + 1)
        self._before[here] = self._state_cost(self._rows.at(here))
        self._changes.append(node)
        if len(self._changes) > 4 * len(self._names) + 1024:
            self._columns.clear()
            self._changes.clear()

    def _rebuild(self, changed: int, room: NodeRoom) -> None:
        """With a node whose kind or number of devices there was no place for."""
        rooms = [self.room(node) for node in range(len(self._rooms))]
        rooms[changed] = room
        self._rooms = rooms
        self._kinds = sorted({(each.resource, each.model) for each in rooms})
        self._devices = max(len(each.gpus) for each in rooms) or 1
        self._rows = rows_of(rooms, self._kinds, self._devices)
        self._sick = np.array([_sick(each, self._devices) for each in rooms], dtype=np.bool_)
        self.learn(self._typical)

    def _column(self, shape: PodShape) -> _Column:
        column = self._columns.pop(shape, None)
        if column is None:
            column = self._new_column(shape)
            self._fill(shape, column, np.arange(len(self._names)))
            if len(self._columns) >= MAX_COLUMNS:
                del self._columns[next(iter(self._columns))]
        elif column.seen < len(self._changes):
            self._fill(shape, column, np.unique(np.array(self._changes[column.seen :])))
        column.seen = len(self._changes)
        self._columns[shape] = column  # the newest is last
        return column

    def _new_column(self, shape: PodShape) -> _Column:
        count = len(self._names)
        return _Column(
            accepts=np.array([accepts(shape, kind) for kind in self._kinds], dtype=np.bool_),
            fits=np.zeros(count, dtype=np.bool_),
            cost=np.zeros(count),
            device=np.full(count, -1, dtype=np.int64),
            seen=0,
        )

    def _fill(self, shape: PodShape, column: _Column, nodes: Ints) -> None:
        column.fits[nodes] = fitting(shape, self._rows.at(nodes), column.accepts)
        nodes = nodes[column.fits[nodes]]
        if not len(nodes):
            return
        ways = _ways(shape, self._rows.at(nodes))
        change = self._state_cost(ways.after) - self._before[nodes][ways.node]
        best = _cheapest(change, ways.node, len(nodes))
        column.cost[nodes] = change[best] + self._terms.order * self._order[nodes]
        column.device[nodes] = ways.device[best]

    def _state_cost(self, rows: Rows) -> Floats:
        """What a state costs by all terms that look at one node's state, weights included."""
        cost = np.zeros(rows.size)
        for weight, measure in self._measures.values():
            cost += weight * measure(rows)
        return cost

    def _kept(self, shape: PodShape) -> Floats:
        """The term of the last wholly free nodes, weight included, per node."""
        rows, terms = self._rows, self._terms
        kept = np.zeros(len(self._names))
        if not terms.whole_nodes or not shape.gpu_count:
            return kept
        free = (rows.gpus == WHOLE).sum(axis=1)
        whole = (free >= terms.whole_node_devices) & (free == rows.device_count)
        for resource in {resource for resource, _ in self._kinds}:
            here = np.array([each == resource for each, _ in self._kinds])[rows.kind] & whole
            if here.sum() <= terms.kept_whole_nodes:
                taken = here & (shape.gpu_count < free)
                kept[taken] = terms.whole_nodes * WHOLE * free[taken]
        return kept


def _measures(
    terms: PackingTerms, typical: Typical, kinds: Sequence[tuple[str, str]]
) -> dict[str, tuple[float, Measure]]:
    """The terms that look at one node's state and are not switched off, with their weights."""
    measures: dict[str, tuple[float, Measure]] = {}
    if terms.potential:
        measures["potential"] = (terms.potential, Potential(typical, kinds))
    if terms.fragmentation:
        measures["fragmentation"] = (terms.fragmentation, Fragmentation(typical, kinds))
    return measures


def _order(names: Sequence[str]) -> Floats:
    """Each node's fixed place among all, 0..1: the same for the same names, and like any other by kind or rack."""
    ranked = sorted(
        range(len(names)), key=lambda node: (zlib.crc32(names[node].encode()), names[node])
    )
    order = np.empty(len(names))
    order[ranked] = np.arange(len(names)) / max(1, len(names) - 1)
    return order


def _sick(room: NodeRoom, devices: int) -> list[bool]:
    """Per device, padded."""
    told = list(room.sick[: len(room.gpus)])
    return told + [False] * (devices - len(told))


def worth(cost: Floats) -> Floats:
    """The value of each cost, between 0 and 1; ½ for no cost."""
    value: Floats = 0.5 * (1.0 - cost / (SPREAD + np.abs(cost)))
    return value


def fitting(shape: PodShape, rows: Rows, accepted: Bools) -> Bools:
    """Per state, whether the pod's requests fit; ``accepted`` is per kind of devices."""
    fits: Bools = (rows.cpu_free >= shape.cpu_milli) & (rows.memory_free >= shape.memory_mib)
    if shape.gpu_count:
        enough = (rows.gpus >= max(1, shape.gpu_milli)).sum(axis=1) >= shape.gpu_count
        fits &= enough & accepted[rows.kind]
    return fits


def _ways(shape: PodShape, rows: Rows) -> _Candidates:
    """Every way worth a thought: each different device for a sharing pod, else one way per node."""
    if shape.gpu_count == 1 and shape.gpu_milli < WHOLE:
        node, device = np.nonzero(_different(rows.gpus) & (rows.gpus >= shape.gpu_milli))
    else:
        node, device = np.arange(rows.size), np.full(rows.size, -1, dtype=np.int64)
    gpus = rows.gpus[node]
    if shape.gpu_count:
        taken = device[:, None] if device.min() >= 0 else _tightest(gpus, shape)
        np.put_along_axis(
            gpus, taken, np.take_along_axis(gpus, taken, axis=1) - shape.gpu_milli, axis=1
        )
    after = rows.at(node)._replace(
        cpu_free=rows.cpu_free[node] - shape.cpu_milli,
        memory_free=rows.memory_free[node] - shape.memory_mib,
        gpus=gpus,
    )
    return _Candidates(node, device, after)


def _different(gpus: Ints) -> Bools:
    """Per device, whether no earlier device of its node has the same left."""
    same = gpus[:, :, None] == gpus[:, None, :]
    earlier = np.tri(gpus.shape[1], k=-1, dtype=np.bool_)
    different: Bools = ~(same & earlier).any(axis=2)
    return different


def _tightest(gpus: Ints, shape: PodShape) -> Ints:
    """Per state, as many devices as the pod needs, those with the least left that is enough; lower index first."""
    left = np.where(gpus >= max(1, shape.gpu_milli), gpus, np.iinfo(np.int64).max)
    return np.sort(np.argsort(left, axis=1, kind="stable")[:, : shape.gpu_count], axis=1)


def _cheapest(cost: Floats, group: Ints, groups: int) -> Ints:
    """Per group, the place of its smallest cost; the first of equals. Groups are sorted and none is empty."""
    starts = np.searchsorted(group, np.arange(groups))
    least = np.minimum.reduceat(cost, starts)
    places = np.nonzero(cost == least[group])[0]
    first = np.searchsorted(group[places], np.arange(groups))
    best: Ints = places[first]
    return best
