"""The scores of the whole fleet, kept ready: per tick only what changed is computed, a scheduler's question is a lookup.

Per pod that is asked for (``Newcomer``) one array of whole numbers is kept, a place per node. What is taken in marks
nodes; marked nodes are computed anew when their array is next asked for, or at the end of the tick (``settle``).
Another histogram makes all arrays old at once: they stay in use and are renewed a few per tick, so that no tick is long.

Without a pod in hand (labels, the page) a node's score is what a typical pod would find there::

    v(node) = Σ_m p_m · v_m(node)  /  Σ_m p_m        over the typical pods m that fit it

over the ``TYPICAL`` most common ones; 0 where none fits. Where nothing is known of a node's room, or of typical pods,
health and use decide (``model.by_use``).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.scores import terms as term
from aggregator.scores.ailing import Ailment
from aggregator.scores.levels import Levels, levels_of
from aggregator.scores.model import (
    HEALTHY,
    NEUTRAL_SCORE,
    Codes,
    Floats,
    Ints,
    Judgement,
    NodeFacts,
    NodeScore,
    by_use,
    grades,
)
from aggregator.scores.packing import Packing, PackingTerms
from aggregator.scores.rows import usable
from aggregator.scores.table import NodeTable, Places
from aggregator.scores.terms import Newcomer, ScoreTerms, Term
from aggregator.scores.typical import NO_HISTORY, Typical
from aggregator.scores.values import WHOLE, NodeRoom, PodShape

MAX_ARRAYS = 128
"""Kinds of pod whose scores are kept; the one not asked for longest goes first."""

TYPICAL = 8
"""Typical pods by which a node is judged without a pod in hand."""

RENEWED_PER_TICK = 1
"""Arrays that another histogram made old and that one tick computes anew."""


class _Kept(msgspec.Struct):
    """The values of one kind of pod on every node."""

    values: Floats
    fits: NDArray[np.bool_]
    scores: Ints
    """One longer than there are rows: the last is that of a node we do not know."""
    seen: int
    """Changes that are in it."""
    generation: int
    """Of the histogram."""


class ScoreBook:
    """Takes in what is known, gives out scores. One owner: one thread takes in and asks.

    Args:
        terms: the weights.
        packing: the weights inside the packing term.
    """

    def __init__(
        self, terms: ScoreTerms | None = None, packing: PackingTerms | None = None
    ) -> None:
        self.weights = terms or ScoreTerms()
        self.table = NodeTable()
        self.scores: dict[str, NodeScore] = {}
        """By node, without a pod in hand, as of the newest ``settle``."""
        self.settled_seconds: float | None = None
        """Unix time of the newest ``settle``."""
        self.version = 0
        """Another number whenever anything was taken in or settled."""
        self.assumed = True
        """Whether the typical pods are an assumption, since none were seen."""
        self._packing_terms = packing
        self._packing = Packing(())
        self._typical = NO_HISTORY
        self._generation = 0
        self._common: tuple[tuple[Newcomer, float], ...] = ()
        self._keep_whole = term.KeepWhole(self.table)
        self._terms: list[Term] = [
            term.Packing(self.table, self._value, lambda: not self.assumed),
            self._keep_whole,
            term.Rdma(self.table),
            term.Neighbourhood(self.table),
        ]
        self._kept: dict[Newcomer, _Kept] = {}
        self._changes: list[int] = []
        """Rows, as they changed."""
        self._generic: Ints = np.full(1, NEUTRAL_SCORE, dtype=np.int64)
        self._words_due: set[int] = set()
        self._furnish_all()

    @property
    def size(self) -> int:
        """Nodes that are known."""
        return len(self.table)

    @property
    def terms(self) -> Sequence[tuple[Term, float]]:
        """All terms with their weights."""
        return [(each, float(getattr(self.weights, each.name))) for each in self._terms]

    @property
    def most_common(self) -> Newcomer | None:
        """The pod that comes most often; ``None``: that is not known."""
        return self._common[0][0] if self._common else None

    @property
    def verdicts(self) -> Codes:
        """By row; to be read only."""
        return self.table.verdicts

    @property
    def ailing(self) -> Mapping[int, Ailment]:
        """By row, what is wrong there."""
        return self.table.ailing

    @property
    def packing(self) -> Packing:
        """The packing model, a place per row of the table."""
        return self._packing

    def add_term(self, added: Term) -> None:
        """One more term; its name is that of its weight in ``ScoreTerms``."""
        self._terms.append(added)
        self._forget_arrays()

    def take_health(self, facts: NodeFacts, judged: Judgement) -> None:
        """What is known of one node's health now."""
        row = self._row(facts.name)
        self.version += 1
        if self.table.take(row, facts, judged):
            self._changes.append(row)
        self._words_due.add(row)

    def take_room(self, name: str, room: NodeRoom | None) -> None:
        """What is left on one node now; ``None``: nothing is known of it. Without any device, neither."""
        if room is not None and not room.gpus:
            room = None
        if room is None and name not in self.table.index:
            return
        row = self._row(name)
        if self.table.furnish(row, room):
            self.version += 1
            self._place(row, room)
            self._changes.append(row)
            self._words_due.add(row)

    def drop(self, name: str) -> None:
        """A node is gone."""
        row = self.table.drop(name)
        if row is not None:
            self.version += 1
            self._place(row, None)
            self._changes.append(row)
            self._generic[row] = NEUTRAL_SCORE
            self.scores.pop(name, None)
            self._words_due.discard(row)

    def learn(self, typical: Typical, *, assumed: bool = False) -> None:
        """Another histogram of typical pods.

        Args:
            typical: which pods are usual.
            assumed: it was not learned from pods, so it does not judge a node without a pod in hand.
        """
        self._typical = typical
        self.assumed = assumed
        self._packing.learn(typical)
        self._generation += 1
        order = np.argsort(-typical.weights, kind="stable")
        asking = [n for n in order if typical.shapes[n].gpu_count and not assumed][:TYPICAL]
        self._common = tuple(
            (Newcomer(shape=typical.shapes[n]), float(typical.weights[n])) for n in asking
        )

    def used(self, names: Sequence[str]) -> None:
        """The measured use of these nodes changed."""
        self._changes += [self.table.index[name] for name in names if name in self.table.index]

    def partly_used(self) -> list[str]:
        """Nodes with a device that is free in part."""
        free = self.table.free
        shared = np.flatnonzero(((free > 0) & (free < WHOLE)).any(axis=1))
        return [name for row in shared.tolist() if (name := self.table.names[row])]

    def settle(self, now: float) -> None:
        """The end of a tick: arrays in use and the scores without a pod in hand are brought up to date."""
        for _ in self.settling(now):
            pass

    def settling(self, now: float) -> Iterator[None]:
        """As ``settle``, in steps: the words, which are for people, take 10 ms for 2,000 nodes that reported."""
        for row in self._bring_up_to_date():
            if self.table.judged[row] is not None:
                self.scores[self.table.names[row]] = self._told_of(row)
            yield
        self.settled_seconds = now
        self.version += 1

    def _bring_up_to_date(self) -> set[int]:
        """The arrays; the rows of which the words are to be written anew."""
        if self._changes and self._keep_whole.recount() and self.weights.keep_whole:
            self._changes += self.table.rows()[self.table.empty(self.table.rows())].tolist()
        old = [pod for pod, kept in self._kept.items() if kept.generation != self._generation]
        for pod in old[-RENEWED_PER_TICK:]:
            self._renew(pod, self._kept[pod])
        for pod, kept in self._kept.items():
            self._refresh(pod, kept)
        due = self._judge_all()
        self._shorten()
        return due

    def lookup(self, pod: Newcomer, names: Sequence[str]) -> Ints:
        """The score of each of these nodes for a pod, shape (len(names),); what is not known gets the neutral one."""
        return self.array(pod)[self.places(names)]

    def places(self, names: Sequence[str]) -> Places:
        """The row of each of these nodes; -1: not known."""
        found = map(self.table.index.get, names, itertools.repeat(-1))
        return np.fromiter(found, dtype=np.int64, count=len(names))

    def array(self, pod: Newcomer) -> Ints:
        """The scores for a pod by row, and one more at the end: that of unknown nodes."""
        kept = self._kept.pop(pod, None)
        if kept is None:
            kept = self._new(pod)
            if len(self._kept) >= MAX_ARRAYS:
                del self._kept[next(iter(self._kept))]
        else:
            self._refresh(pod, kept)
        self._kept[pod] = kept  # the newest is last
        return kept.scores

    @property
    def generic(self) -> Ints:
        """The scores without a pod in hand by row, and one more at the end; as of the newest ``settle``."""
        return self._generic

    def levels(self, pod: Newcomer | None) -> Levels:
        """Which nodes are alike to a pod, or without one in hand."""
        return levels_of(self._generic if pod is None else self.array(pod), self.verdicts)

    def values(self, pod: Newcomer, rows: Places) -> Floats:
        """The value of the terms for a pod on some nodes; 0 where it does not fit by our books."""
        found = term.combine(
            self._terms, [getattr(self.weights, each.name) for each in self._terms], pod, rows
        )
        if pod.shape.gpu_count:
            found[~self.table.unfurnished()[rows] & ~self.fits(pod, rows)] = 0.0
        return found

    def fits(self, pod: Newcomer, rows: Places) -> NDArray[np.bool_]:
        """Whether a pod fits each of these nodes, by our books."""
        return self._packing.fits(pod.shape)[rows]

    @contextmanager
    def as_if(self, name: str, room: NodeRoom | None) -> Iterator[None]:
        """With another room on one node, for as long as it takes to look."""
        row = self.table.index.get(name)
        before = self.table.rooms[row] if row is not None else None
        self.take_room(name, room)
        try:
            yield
        finally:
            self.take_room(name, before)

    def _value(self, shape: PodShape) -> Floats:
        """The packing model's value by row; NaN where no room is known."""
        value = self._packing.value(shape)
        value[self.table.unfurnished()] = np.nan
        return value

    def _row(self, name: str) -> int:
        capacity = self.table.capacity
        row = self.table.row(name)
        if self.table.capacity != capacity:
            self._furnish_all()
        return row

    def _place(self, row: int, room: NodeRoom | None) -> None:
        placed = _placed(row, room)
        self._packing.replace(placed)
        left = usable(placed)
        if self._packing.rows.gpus[row, : len(left)].tolist() != left:
            # A kind of devices that is new here: the model was built anew from what it had.
            self._packing.replace(placed)

    def _furnish_all(self) -> None:
        """A new packing model, with a place per row."""
        rooms = [_placed(row, room) for row, room in enumerate(self.table.rooms)]
        self._packing = Packing(rooms, self._typical, terms=self._packing_terms)
        grown = self.table.capacity + 1 - len(self._generic)
        self._generic = np.pad(self._generic, (0, grown), constant_values=NEUTRAL_SCORE)
        self._forget_arrays()

    def _forget_arrays(self) -> None:
        self._kept.clear()
        self._changes.clear()

    def _new(self, pod: Newcomer) -> _Kept:
        size = self.table.capacity
        scores = np.full(size + 1, NEUTRAL_SCORE, dtype=np.int64)
        fits = np.zeros(size, dtype=np.bool_)
        kept = _Kept(np.full(size, np.nan), fits, scores, len(self._changes), self._generation)
        self._compute(pod, kept, self.table.rows())
        return kept

    def _renew(self, pod: Newcomer, kept: _Kept) -> None:
        self._compute(pod, kept, self.table.rows())
        kept.seen, kept.generation = len(self._changes), self._generation

    def _refresh(self, pod: Newcomer, kept: _Kept) -> None:
        """Nodes that changed since; under an old histogram it waits for its renewal, but health counts at once."""
        if kept.seen == len(self._changes):
            return
        rows = np.unique(np.array(self._changes[kept.seen :], dtype=np.int64))
        if kept.generation == self._generation:
            self._compute(pod, kept, rows)
        else:
            kept.scores[rows] = self._graded(kept.values[rows], rows)
        kept.seen = len(self._changes)

    def _compute(self, pod: Newcomer, kept: _Kept, rows: Places) -> None:
        kept.values[rows], kept.fits[rows] = self.values(pod, rows), self.fits(pod, rows)
        kept.scores[rows] = self._graded(kept.values[rows], rows)

    def _graded(self, values: Floats, rows: Places) -> Ints:
        """Scores for values; where no term spoke, health and use decide."""
        table = self.table
        graded = grades(table.verdicts[rows], values)
        return np.where(np.isnan(values), table.by_health[rows], graded)

    def _judge_all(self) -> set[int]:
        """The scores without a pod in hand; the rows of those that changed, and of those that are to be told anew."""
        table = self.table
        rows = table.rows()
        found = self._graded(self._expected(rows), rows)
        changed = self._generic[rows] != found
        self._generic[rows] = found
        due = {*rows[changed].tolist(), *self._words_due}
        self._words_due.clear()
        return due

    def _expected(self, rows: Places) -> Floats:
        """The value that a typical pod that fits would find; NaN where health and use decide."""
        if not self._common:
            return np.full(len(rows), np.nan)
        total, weight = np.zeros(len(rows)), np.zeros(len(rows))
        for pod, common in self._common:
            self.array(pod)
            values = self._kept[pod].values[rows]
            fits = self._kept[pod].fits[rows] & ~np.isnan(values)
            total[fits] += common * values[fits]
            weight[fits] += common
        found = np.zeros(len(rows))
        np.divide(total, weight, out=found, where=weight > 0)
        found[self.table.unfurnished()[rows]] = np.nan
        return found

    def _told_of(self, row: int) -> NodeScore:
        """One node's score without a pod in hand, in words."""
        table = self.table
        facts, judged = table.facts[row], table.judged[row]
        assert facts is not None and judged is not None  # noqa: S101, PT018 - the caller asked
        if not self._common or table.rooms[row] is None:
            return by_use(facts, judged)
        reason = judged.reason
        if table.verdicts[row] == HEALTHY:
            reason = f"healthy, {term.free_words(table, row)}"
        return NodeScore(int(self._generic[row]), reason, judged.verdict)

    def _shorten(self) -> None:
        """Changes that every array has are forgotten."""
        if len(self._changes) > 4 * self.table.capacity and all(
            kept.seen == len(self._changes) for kept in self._kept.values()
        ):
            self._changes.clear()
            for kept in self._kept.values():
                kept.seen = 0


def _placed(row: int, room: NodeRoom | None) -> NodeRoom:
    """A room under the number of its row; nothing for a row without one."""
    if room is None:
        return NodeRoom(name=str(row))
    return msgspec.structs.replace(room, name=str(row))
