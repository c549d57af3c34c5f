"""From scores 0..1000 to what the scheduler gets: 0..``scale``, the ranking kept. Pure.

kube-scheduler adds ``Score · weight · 10`` to a node's total (``MaxNodeScore / MaxExtenderPriority``), and takes any
whole number. Plain rounding to 0..100 would make two nodes equal that are not; so among the nodes of one question each
better score gets a better number, as long as there is room for all of them, and as near to the rounded one as can be.
A sick node alone gets 0.

Of several best nodes one, always the same, gets a number more. The scheduler would choose among equals at random, and a
burst of pods, each ranked before we saw where the one before went, would open a node each. So they go to one node until the
scheduler itself finds it full.

Of many hosts only those are told that differ from the commonest number, by that difference: a host that a reply leaves out
counts as 0 for the scheduler, and only differences decide. So the reply says the same in fewer words, and some of them are negative.
"""

import numpy as np

from aggregator.scores.model import HEALTHY, MAX_SCORE, Ints
from aggregator.scores.table import Places, filling_order

MAX_SCALE = 1000
DEFAULT_SCALE = 100


def spread(scores: Ints, scale: int = DEFAULT_SCALE) -> Ints:
    """The numbers to answer.

    Args:
        scores: shape (n,), whole numbers 0..1000.
        scale: the best number there is, 1..1000.

    Returns:
        shape (n,), whole numbers 0..``scale``, in the order of the scores: never a worse number for a better
        score, and a better one as long as the different scores among them are not more than ``scale``.
    """
    there = np.zeros(MAX_SCORE + 1, dtype=np.bool_)
    there[scores] = True
    levels = np.flatnonzero(there)
    return _numbers(levels, scale)[scores]


def favourite(rows: Places, scores: Ints, verdicts: Ints) -> int | None:
    """The place of the node that is filled first, where several healthy ones are the best.

    Args:
        rows: shape (n,), of the nodes that are compared; n > 0.
        scores: shape (n,).
        verdicts: shape (n,), places in ``model.VERDICTS``.

    Returns:
        ``None``: one alone is the best, or no healthy one is.
    """
    best = np.flatnonzero(scores == scores.max())
    if len(best) < 2:
        return None
    healthy = best[verdicts[best] == HEALTHY]
    return int(healthy[np.argmin(filling_order(rows[healthy]))]) if len(healthy) else None


def favour(numbers: Ints, chosen: int, scale: int = DEFAULT_SCALE) -> Ints:
    """The same numbers, one of the best of them larger than its equals, where there is room for that.

    Args:
        numbers: shape (n,), as ``spread`` made them.
        chosen: the place of one of the largest.
        scale: the best number there is.
    """
    best = int(numbers[chosen])
    found = numbers.copy()
    if best < scale:
        found[chosen] = best + 1
    elif not (numbers == best - 1).any() and best > 1:
        found[numbers == best] = best - 1
        found[chosen] = best
    return found


def short(numbers: Ints) -> tuple[Ints, Ints]:
    """The same ranking in few words.

    Args:
        numbers: shape (n,), whole numbers from 0.

    Returns:
        The places of those that differ from the commonest number, and by how much; both of shape (m,), m < n where there is any.
    """
    if not len(numbers):
        return numbers, numbers
    differences = numbers - int(np.bincount(numbers).argmax())
    told = np.flatnonzero(differences)
    return told, differences[told]


def _numbers(levels: Ints, scale: int) -> Ints:
    """By score 0..1000, the number for it; levels are those that are there, ascending."""
    numbers = np.zeros(MAX_SCORE + 1, dtype=np.int64)
    levels = levels[levels > 0]
    rounded = np.maximum(1, (levels * scale + MAX_SCORE // 2) // MAX_SCORE)
    if len(levels) <= scale:
        step = np.arange(len(levels))
        rounded = np.maximum.accumulate(rounded - step) + step
        rounded = np.minimum(rounded, scale - step[::-1])
    numbers[levels] = rounded
    return numbers
