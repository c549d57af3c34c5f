"""The numbers that the nodes of one question get, in as few steps as can be. Pure.

Nodes are counted by level, all is decided by level, and what was decided for the same levels is remembered: when a question comes,
other work of the same core has emptied its caches, and each step costs several times what it costs in a loop.

Of many hosts only those are told that differ from the commonest number, by that difference: a host that a reply leaves out
counts as 0 for the scheduler, and only differences decide. So the reply says the same in fewer words, and some of them are negative.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from aggregator.feeds.extender_scale import favour, spread
from aggregator.scores.levels import Levels, scores_of, verdicts_of
from aggregator.scores.model import HEALTHY, Ints, no_prize_for_silence
from aggregator.scores.table import Places, filling_order

_REMEMBERED = 1_000
"""Sets of levels; a few hundred bytes each."""


class Ranking(NamedTuple):
    """The answer to one question."""

    numbers: Ints
    """shape (k,), by level; of a level that no node is on, anything."""
    places: Ints
    """shape (m,), by place among the nodes that are asked about: its level's."""
    favourite: int
    """Place of the one that is filled first, where several healthy ones are the best; -1: there is none."""
    favoured: int
    """Its number."""
    commonest: int
    """The smallest of the numbers that most nodes have."""
    strangers: int
    """Nodes that nobody knows."""

    def each(self) -> Ints:
        """Shape (m,): the number of each."""
        found = self.numbers[self.places]
        if self.favourite >= 0:
            found[self.favourite] = self.favoured
        return found

    def few(self) -> tuple[list[int], list[int]]:
        """The same ranking in few words: the places of those that differ from the commonest number, and by how much."""
        differences = self.numbers - self.commonest
        if differences.any():
            found = self.each() - self.commonest
            told = found.nonzero()[0]
            return told.tolist(), found[told].tolist()
        if self.favourite >= 0 and self.favoured != self.commonest:
            return [self.favourite], [self.favoured - self.commonest]
        return [], []


def ranked(levels: Levels, rows: Places, scale: int) -> Ranking:
    """The numbers of some nodes.

    Args:
        levels: of the fleet, for the pod.
        rows: shape (m,), of the nodes that are asked about; -1: nobody knows it.
        scale: the best number there is.
    """
    places = levels.places[rows]
    counts = np.bincount(places, minlength=len(levels.values))
    there = counts.nonzero()[0]
    decided = _decided(levels.values[there].tobytes(), scale)
    many = counts[there].tolist()
    favourite, favoured, by_level = -1, 0, decided.numbers
    if decided.best >= 0 and sum(many[each] for each in decided.equals) > 1:
        best = (places == there[decided.best]).nonzero()[0]
        favourite = int(best[filling_order(rows[best]).argmin()])
        favoured, by_level = decided.favoured, decided.beside
    numbers = np.full(len(counts), by_level[0] if by_level else 0, dtype=np.int64)
    numbers[there] = by_level
    strangers = int(counts[levels.places[-1]])
    commonest = _commonest(by_level, many, decided.best if favourite >= 0 else -1, favoured)
    return Ranking(numbers, places, favourite, favoured, commonest, strangers)


class _Decided(NamedTuple):
    """What follows from the levels alone; all by place among those that are there."""

    numbers: tuple[int, ...]
    best: int
    """The level of healthy nodes that no other is before; -1: there is none."""
    equals: tuple[int, ...]
    """All levels that no other is before."""
    favoured: int
    """The number of one that is preferred among them …"""
    beside: tuple[int, ...]
    """… and those of all others then."""


@lru_cache(_REMEMBERED)
def _decided(levels: bytes, scale: int) -> _Decided:
    values = np.frombuffer(levels, dtype=np.int64)
    if not len(values):
        return _Decided((), -1, (), 0, ())
    verdicts = verdicts_of(values)
    scores = no_prize_for_silence(scores_of(values), verdicts)
    numbers = spread(scores, scale)
    equals = np.flatnonzero(scores == scores.max())
    healthy = equals[verdicts[equals] == HEALTHY]
    if not len(healthy):
        return _Decided(tuple(numbers.tolist()), -1, tuple(equals.tolist()), 0, ())
    favoured, beside = favour(numbers, scale)
    return _Decided(
        tuple(numbers.tolist()),
        int(healthy[0]),
        tuple(equals.tolist()),
        favoured,
        tuple(beside.tolist()),
    )


def _commonest(numbers: tuple[int, ...], counts: list[int], less: int, favoured: int) -> int:
    """The number that most have, the smallest of several; one of a level may have another."""
    if not numbers:
        return 0
    told = dict.fromkeys(numbers, 0)
    for number, count in zip(numbers, counts, strict=True):
        told[number] += count
    if less >= 0:
        told[numbers[less]] -= 1
        told[favoured] = told.get(favoured, 0) + 1
    most = max(told.values())
    return min(number for number, count in told.items() if count == most)
