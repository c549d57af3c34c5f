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

_REMEMBERED = 128
"""Sets of levels; of 900 levels each is 30 kB. Where there are that many the same set hardly comes twice, where there are few it does."""


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
        found = (self.numbers - self.commonest)[self.places]
        if self.favourite >= 0:
            found[self.favourite] = self.favoured - self.commonest
        told = found.nonzero()[0]
        return told.tolist(), found[told].tolist()


def ranked(levels: Levels, rows: Places, scale: int) -> Ranking:
    """The numbers of some nodes.

    Args:
        levels: of the fleet, for the pod.
        rows: shape (m,), of the nodes that are asked about; -1: nobody knows it.
        scale: the best number there is.
    """
    places = levels.places[rows]
    counts = np.bincount(places, minlength=len(levels.values))
    found = decided(levels.key, (counts > 0).tobytes(), scale)
    favourite, favoured, numbers = -1, 0, found.numbers
    if found.best >= 0 and sum(map(counts.item, found.equals)) > 1:
        best = (places == found.best).nonzero()[0]
        chosen = filling_order(rows[best]).argmin() if len(best) > 1 else 0
        favourite, favoured, numbers = best.item(chosen), found.favoured, found.beside
    told = np.bincount(numbers, weights=counts, minlength=favoured + 1)
    if favourite >= 0:
        told[numbers[found.best]] -= 1
        told[favoured] += 1
    strangers = counts.item(levels.places.item(-1))
    return Ranking(numbers, places, favourite, favoured, int(told.argmax()), strangers)


class Decided(NamedTuple):
    """What follows from the levels alone; all by level."""

    numbers: Ints
    """shape (k,); 0 where no node is on the level."""
    best: int
    """The level of healthy nodes that no other is before; -1: there is none."""
    equals: tuple[int, ...]
    """All levels that no other is before."""
    favoured: int
    """The number of one that is preferred among them …"""
    beside: Ints
    """… and those of all others then."""


@lru_cache(_REMEMBERED)
def decided(levels: bytes, there: bytes, scale: int) -> Decided:
    """Of these levels, where there are nodes on some."""
    places = np.frombuffer(there, dtype=np.bool_).nonzero()[0]
    values = np.frombuffer(levels, dtype=np.int64)[places]
    numbers = np.zeros(len(there), dtype=np.int64)
    if not len(values):
        return Decided(numbers, -1, (), 0, numbers)
    verdicts = verdicts_of(values)
    scores = no_prize_for_silence(scores_of(values), verdicts)
    numbers[places] = spread(scores, scale)
    equals = np.flatnonzero(scores == scores.max())
    healthy = equals[verdicts[equals] == HEALTHY]
    equal = tuple(places[equals].tolist())
    if not len(healthy):
        return Decided(numbers, -1, equal, 0, numbers)
    favoured, others = favour(numbers[places], scale)
    beside = numbers.copy()
    beside[places] = others
    return Decided(numbers, int(places[healthy[0]]), equal, favoured, beside)
