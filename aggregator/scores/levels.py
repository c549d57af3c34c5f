"""Which nodes of a fleet are alike to a pod. Pure.

Of thousands of nodes only some hundred differ: a level is a score and a verdict. Whoever compares nodes counts them by level, and
decides by level.
"""

from typing import NamedTuple

import numpy as np

from aggregator.scores.model import UNKNOWN, Codes, Ints

_CODES = 8
"""A level is ``score · 8 + verdict``."""

_STRANGER = 4
"""In place of a verdict, of a node that nobody knows."""


class Levels(NamedTuple):
    """A fleet, for one pod."""

    values: Ints
    """shape (k,), the levels that there are, ascending."""
    places: Ints
    """shape (n + 1,), by row the place of its level; at the end that of a node nobody knows."""
    key: bytes
    """Equal for equal values."""


def levels_of(scores: Ints, verdicts: Codes) -> Levels:
    """The levels of a fleet.

    Args:
        scores: shape (n + 1,), 0..1000; at the end that of a node nobody knows.
        verdicts: shape (n,) or more, places in ``model.VERDICTS``.
    """
    found = scores * _CODES
    found[:-1] += verdicts[: len(scores) - 1]
    found[-1] += _STRANGER
    there = np.zeros(int(found.max()) + 1, dtype=np.bool_)
    there[found] = True
    values = np.flatnonzero(there)
    return Levels(values, np.cumsum(there)[found] - 1, values.tobytes())


def scores_of(values: Ints) -> Ints:
    """Of these levels the scores."""
    return values // _CODES


def verdicts_of(values: Ints) -> Codes:
    """Of these levels the verdicts; of a node that nobody knows nothing is known."""
    found = values % _CODES
    found[found == _STRANGER] = UNKNOWN
    return found.astype(np.int8)
