"""The terms of the score: each a value 0..1 per node for one pod, documented with its formula. Pure.

The value of a node is the weighted mean of the terms that speak of it::

    v(node) = Σ_t w_t · v_t(node)  /  Σ_t w_t        over terms t that do not abstain there

A term abstains (NaN) where it has nothing to say of this pod or does not know this node; the others' weights then
count for more. A weight of 0 switches a term off. Where all abstain, ``v`` is NaN, and the score the middle.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from aggregator.scores.model import Floats
from aggregator.scores.table import NodeTable, Places
from aggregator.scores.values import WHOLE, PodShape

Weight = Annotated[float, Meta(ge=0, le=1000)]


class ScoreTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The weight of each term; 0 switches it off. Only their proportions matter."""

    packing: Weight = 10.0
    keep_whole: Weight = 0.2
    """Beside packing about 20 thousandths of a device, more than the model's ``order``: it decides where places are nearly alike.
    What more of it costs: docs/packing.md."""
    rdma: Weight = 2.0
    neighbourhood: Weight = 1.0
    use: Weight = 4.0
    max_overload_risk: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """The chance that a shared device is asked for more than it has which is still taken."""


class Newcomer(msgspec.Struct, frozen=True, kw_only=True, order=True, cache_hash=True):
    """The pod to be placed, as far as a score depends on it. Hashable: equal ones have equal scores."""

    shape: PodShape
    workload: str = ""
    """By which its use is remembered; empty: nothing was measured of its like, or its use does not count."""


class Term(Protocol):
    """One reason to prefer a node."""

    name: str
    """As the settings and people write it."""

    def values(self, pod: Newcomer, rows: Places) -> Floats:
        """0..1 for each of these nodes; NaN: it abstains."""

    def words(self, pod: Newcomer, row: int) -> str:
        """What its value on this node means, or why it abstains; one clause."""

    def wish(self, row: int, value: float) -> str:
        """What would have to happen for it to have this higher value here: ``if …``."""


class Load(NamedTuple):
    """What is known of one device that has room."""

    device: int
    """By index."""
    p95: float
    """Duty cycle of what is on it, 0..1; 0: nobody is."""
    risk: float
    """Of overload with the newcomer, 0..1."""
    fits: bool
    """By memory."""


class Measured(Protocol):
    """Measured use (``loads.Loads``)."""

    def why_not(self, pod: Newcomer) -> str:
        """Why a pod is not packed by use; empty: it is."""

    def values(self, pod: Newcomer, rows: Places) -> Floats:
        """The term's values."""

    def loads(self, pod: Newcomer, row: int) -> Sequence[Load]:
        """Device by device."""


class Packing:
    """How little room the pod would strand on the node: 0 much, 1 none (``aggregator.scores.packing``).

    A pod without a device goes where CPU is to spare. Abstains where nothing is known of what the node has left.
    """

    name = "packing"

    def __init__(
        self, table: NodeTable, value: Callable[[PodShape], Floats], learned: Callable[[], bool]
    ) -> None:
        self._table = table
        self._value = value
        self._learned = learned

    def values(self, pod: Newcomer, rows: Places) -> Floats:
        """As the packing model has it, which knows best what it means by it."""
        return self._value(pod.shape)[rows]

    def words(self, pod: Newcomer, row: int) -> str:
        """What is free there."""
        room = self._table.rooms[row]
        if room is None:
            return "what is free on it is not known"
        free = free_words(self._table, row)
        if not fits(self._table, pod.shape, row):
            return f"{free}: by our books the pod does not fit"
        guess = "; which pod holds which device is a guess" if room.guessed else ""
        known = "" if self._learned() else "; which pods are typical is assumed: too few were seen"
        return f"{free}{guess}{known}"

    def wish(self, row: int, value: float) -> str:
        """Packing is changed by pods that come and go."""
        return f"if pods came or went there so that its packing rose to {value:.2f}"


class KeepWhole:
    """Whether nodes that are free as a whole are kept so, the last ones most of all: gangs need them.

    For a pod that takes whole devices, and fewer than the node has, ``n`` being the nodes of the same kind with all devices free::

        1                  the node is in use already
        ½ · (1 - 1/n)      the pod would break into it: 0 for the last one
    """

    name = "keep_whole"

    def __init__(self, table: NodeTable) -> None:
        self._table = table
        self.whole: dict[int, int] = {}
        """Kind of node → how many are free as a whole."""

    def recount(self) -> bool:
        """Count again, after rooms changed; whether there are others now."""
        rows = self._table.rows()
        kinds = self._table.kinds[rows[self._table.empty(rows)]]
        found = {
            int(kind): int(count)
            for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True)
        }
        changed = found != self.whole
        self.whole = found
        return changed

    def values(self, pod: Newcomer, rows: Places) -> Floats:
        """By the formula above; abstains for a pod that takes the whole node, a part of a device, or none."""
        values = _nothing(rows)
        if not pod.shape.gpu_count or shared(pod.shape):
            return values  # a part of a device is the packing model's own question: it knows which gap it fills
        table = self._table
        devices = (table.free[rows] >= 0).sum(axis=1)
        part = pod.shape.gpu_milli_total < devices * WHOLE
        kinds, place = np.unique(table.kinds[rows], return_inverse=True)
        counts = np.array([self.whole.get(int(kind), 1) for kind in kinds], dtype=np.float64)
        broken = 0.5 * (1.0 - 1.0 / np.maximum(counts, 1.0))[place]
        values[part] = np.where(table.empty(rows), broken, 1.0)[part]
        return values

    def words(self, pod: Newcomer, row: int) -> str:
        """How many whole nodes there are."""
        value = self.values(pod, np.array([row]))[0]
        if np.isnan(value):
            return "the pod takes the whole node, a part of a device, or no device"
        if value == 1.0:
            return "it is in use already: no whole node is broken into"
        whole = self.whole.get(int(self._table.kinds[row]), 1)
        last = "the last one" if whole <= 1 else f"one of {whole}"
        return f"all its devices are free, and it is {last} of its kind"

    def wish(self, row: int, value: float) -> str:
        """Others would have to become free; that alone brings no more than a half."""
        more = ", or more nodes of its kind were free as a whole" if value < 0.5 else ""
        return f"if it were in use already{more}"


class Rdma:
    """Whether a pod on several devices finds the node's network whole: RDMA ports up ÷ ports.

    A node without a port counts 0 where any node of the fleet has one. Abstains for pods on one device, where
    the ports are not known, and where no node has any.
    """

    name = "rdma"

    def __init__(self, table: NodeTable) -> None:
        self._table = table

    def values(self, pod: Newcomer, rows: Places) -> Floats:
        """By the formula above."""
        if pod.shape.gpu_count < 2 or not self._table.ports_total.any():
            return _nothing(rows)
        return self._table.ports_share[rows].copy()

    def words(self, pod: Newcomer, row: int) -> str:
        """Ports in numbers."""
        facts = self._table.facts[row]
        if pod.shape.gpu_count < 2:
            return "a pod on one device needs no network between devices"
        if facts is None or facts.ports_total is None:
            return "its RDMA ports are not known"
        if not self._table.ports_total.any():
            return "no node here has RDMA ports"
        return f"{facts.ports_up} of {facts.ports_total} RDMA ports are up"

    def wish(self, row: int, value: float) -> str:
        """Ports have to come up."""
        total = int(self._table.ports_total[row])
        if not total:
            return "if it had RDMA ports"
        return f"if {int(np.ceil(round(value * total, 6)))} of its {total} RDMA ports were up"


class Neighbourhood:
    """Whether a pod on several devices finds them near each other: on one socket.

    ``f`` being the free devices of the node's best neighbourhood, ``k`` those that the pod needs::

        min(1, f / k)

    Abstains for pods on one device, for pods that need more than one neighbourhood has, and where the
    addresses of the devices do not tell (``inputs.neighbourhoods``).
    """

    name = "neighbourhood"

    def __init__(self, table: NodeTable) -> None:
        self._table = table

    def values(self, pod: Newcomer, rows: Places) -> Floats:
        """By the formula above."""
        values = _nothing(rows)
        if pod.shape.gpu_count < 2:
            return values
        size, best = self._halves(rows)
        known = (size >= pod.shape.gpu_count) & (size > 0)
        values[known] = np.minimum(1.0, best[known] / pod.shape.gpu_count)
        return values

    def words(self, pod: Newcomer, row: int) -> str:
        """Devices in numbers."""
        if pod.shape.gpu_count < 2:
            return "a pod on one device has no neighbours"
        size, best = self._halves(np.array([row]))
        if not size[0]:
            return "which devices are near each other is not known"
        if size[0] < pod.shape.gpu_count:
            return f"{pod.shape.gpu_count} devices are more than one socket's {size[0]}"
        return f"{best[0]} devices of one socket are free, {pod.shape.gpu_count} are needed"

    def wish(self, row: int, value: float) -> str:
        """Devices of one socket have to become free."""
        return "if more devices of one of its sockets were free"

    def _halves(self, rows: Places) -> tuple[Places, Places]:
        """Devices of the larger neighbourhood, and free ones of the freer; 0, 0: not known."""
        halves, whole = self._table.halves[rows], self._table.free[rows] >= WHOLE
        numbers = range(int(halves.max(initial=-1)) + 1)
        zero = np.zeros(len(rows), dtype=np.int64)
        sizes = [(halves == number).sum(axis=1) for number in numbers]
        frees = [((halves == number) & whole).sum(axis=1) for number in numbers]
        return np.max([zero, *sizes], axis=0), np.max([zero, *frees], axis=0)


class Use:
    """How full the fullest device that still takes the newcomer is by measured use, for pods that share one.

    On each device with room, by requests, for the newcomer: the chance that what runs there and the newcomer ask for
    more than the device has, from measured duty cycle and memory. Devices above ``max_overload_risk`` are out::

        0                                              none is left
        (measured p95 use + the newcomer) ÷ device     of the fullest that is left, at most 1

    Training pods hold whole devices and are never packed by use. Abstains for them, and without history.
    """

    name = "use"

    def __init__(self, loads: Measured, max_risk: float) -> None:
        self._loads = loads
        self._max_risk = max_risk

    def values(self, pod: Newcomer, rows: Places) -> Floats:
        """By the formula above."""
        return self._loads.values(pod, rows) if shared(pod.shape) else _nothing(rows)

    def words(self, pod: Newcomer, row: int) -> str:
        """What was measured."""
        if not shared(pod.shape):
            return "the pod takes whole devices: measured use says nothing about it"
        if why := self._loads.why_not(pod):
            return f"packed by requests alone: {why}"
        found = self._loads.loads(pod, row)
        if not found:
            return "no use history of a device with room here"
        inside = [each for each in found if each.risk <= self._max_risk and each.fits]
        if not inside:
            least = min(found, key=lambda each: each.risk)
            why = f"overload risk {least.risk:.1%} at best, {self._max_risk:.0%} is allowed"
            return why if least.risk > self._max_risk else "no device has memory for both"
        best = max(inside, key=lambda each: each.p95)
        return f"device {best.device} is {best.p95:.0%} busy (p95); overload risk with the pod {best.risk:.1%}"

    def wish(self, row: int, value: float) -> str:
        """The risk has to fall, or a device to be busier."""
        return (
            f"if, with the pod, one of its devices were {value:.0%} busy (p95) "
            f"at an overload risk of {self._max_risk:.0%} or less"
        )


def shared(shape: PodShape) -> bool:
    """Whether it takes a part of one device."""
    return shape.gpu_count == 1 and 0 < shape.gpu_milli < WHOLE


def combine(terms: Sequence[Term], weights: Sequence[float], pod: Newcomer, rows: Places) -> Floats:
    """The value of each node, shape (n,): the weighted mean of the terms that speak; NaN where none does."""
    total, weight = np.zeros(len(rows)), np.zeros(len(rows))
    for term, each in zip(terms, weights, strict=True):
        if each <= 0:
            continue
        values = bounded(term.values(pod, rows))
        speaks = ~np.isnan(values)
        total[speaks] += each * values[speaks]
        weight[speaks] += each
    found = np.full(len(rows), np.nan)
    np.divide(total, weight, out=found, where=weight > 0)
    return found


def bounded(values: Floats) -> Floats:
    """0..1 or NaN: an infinity is no value either."""
    return np.clip(np.where(np.isfinite(values), values, np.nan), 0.0, 1.0)


def fits(table: NodeTable, shape: PodShape, row: int) -> bool:
    """Whether a pod fits a node by our books: devices, CPU and memory."""
    room = table.rooms[row]
    if room is None:
        return False
    devices = int((table.free[row] >= max(1, shape.gpu_milli)).sum())
    kind = (not shape.resource or shape.resource == room.resource) and (
        not shape.models or room.model in shape.models
    )
    return (
        kind
        and devices >= shape.gpu_count
        and room.cpu_free_milli >= shape.cpu_milli
        and room.memory_free_mib >= shape.memory_mib
    )


def free_words(table: NodeTable, row: int) -> str:
    """Free devices in words: ``3 of 8 devices free, 1 in part, 1 sick``."""
    room = table.rooms[row]
    if room is None:
        return "not known"
    free = table.free[row]
    parts = [f"{int((free >= WHOLE).sum())} of {len(room.gpus)} devices free"]
    if part := int(((free > 0) & (free < WHOLE)).sum()):
        parts.append(f"{part} in part")
    if sick := sum(room.sick):
        parts.append(f"{sick} sick")
    return ", ".join(parts)


def _nothing(rows: Places) -> Floats:
    return np.full(len(rows), np.nan)
