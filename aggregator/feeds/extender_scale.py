"""From scores 0..1000 to what the scheduler gets: 0..``scale``, the ranking kept. Pure.

kube-scheduler adds ``Score · weight · 10`` to a node's total (``MaxNodeScore / MaxExtenderPriority``), and takes any
whole number. Plain rounding to 0..100 would make two nodes equal that are not; so among the nodes of one question each
better score gets a better number, as long as there is room for all of them, and as near to the rounded one as can be.
A sick node alone gets 0.

Of several best nodes one, always the same, gets a number more. The scheduler would choose among equals at random, and a
burst of pods, each ranked before we saw where the one before went, would open a node each. So they go to one node until the
scheduler itself finds it full.
"""

import numpy as np

from aggregator.scores.model import MAX_SCORE, Ints

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


def favour(numbers: Ints, scale: int = DEFAULT_SCALE) -> tuple[int, Ints]:
    """Of several best nodes one gets a larger number than the others, where there is room for that.

    Args:
        numbers: shape (n,), n > 0, as ``spread`` made them.
        scale: the best number there is.

    Returns:
        Its number, and those of all others, shape (n,).
    """
    best = int(numbers.max())
    if best < scale:
        return best + 1, numbers
    if best > 1 and not (numbers == best - 1).any():
        return best, np.where(numbers == best, best - 1, numbers)
    return best, numbers


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
