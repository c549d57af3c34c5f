"""What a share of a device is worth: the price of each size, and of any room left. Pure.

Cut as few devices as possible into the shares that pods usually ask for: the cutting-stock problem, solved as a linear
program by column generation (Gilmore and Gomory, "A Linear Programming Approach to the Cutting-Stock Problem", Operations
Research 9, 1961). Its dual solution says what part of a whole device a share of each size costs when the mix is packed well.
Such prices know what a percentage does not: a share of 0.81 costs a whole device, since next to nothing fits beside it; two
of 0.47 cost one together; a share of 0.16 costs nothing where many gaps of 0.19 wait for it.

Room is then worth the best set of shares that it holds::

    V(r) = max Σ_s a_s · y_s    over whole numbers a_s with Σ_s a_s · s ≤ r

V never falls as r grows, V(0) = 0, and V(1000) = 1 is the worth of a whole device.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from aggregator.scores.rows import Floats, Ints
from aggregator.scores.values import WHOLE

MAX_SIZES = 32
"""Sizes that get a price of their own; a rarer one counts as the next larger of them."""

MAX_ROUNDS = 120
"""Patterns that are tried. When they run out, prices are lowered until they hold: a little worse, never wrong."""

TOLERANCE = 1e-9
"""What is lost to rounding."""

PIVOT = 1e-6
"""Less than this of a pattern in the basis is taken for none: the next basis must have an inverse."""


class Worth(NamedTuple):
    """Prices in whole devices."""

    sizes: Ints
    """Thousandths of a device, increasing."""
    prices: Floats
    """Per size, 0..1."""
    room: Floats
    """V by free thousandths: 1001 numbers from 0 to 1, never falling."""


def worth_of(demand: Mapping[int, float]) -> Worth:
    """The prices for shares of 1..999 thousandths, each as common as ``demand`` says in any unit.

    Amounts that are not above zero, and sizes that are no share, are not looked at. Without any demand only a whole
    device is worth anything.
    """
    kept = _merged(
        {size: amount for size, amount in demand.items() if 0 < size < WHOLE and amount > 0}
    )
    sizes = np.array(sorted(kept), dtype=np.int64)
    if not len(sizes):
        return Worth(sizes, np.zeros(0), _whole_only())
    grid = int(np.gcd.reduce(np.append(sizes, WHOLE)))
    cells = sizes // grid
    wanted = np.array([kept[int(size)] for size in sizes])
    prices = _prices(cells, wanted / wanted.sum(), WHOLE // grid)
    values, _ = _best(cells, prices, WHOLE // grid)
    scale = max(
        1.0, float(values[-1])
    )  # Farley's bound: too many rounds still give prices that hold
    room = np.minimum(values / scale, 1.0)[np.arange(WHOLE + 1) // grid]
    room[WHOLE] = 1.0
    return Worth(sizes, prices / scale, room)


def _whole_only() -> Floats:
    room = np.zeros(WHOLE + 1)
    room[WHOLE] = 1.0
    return room


def _merged(demand: Mapping[int, float]) -> Mapping[int, float]:
    """The most common sizes; a rarer one counts as the next larger that is kept, and one above all of them not at all."""
    if len(demand) <= MAX_SIZES:
        return demand
    common = sorted(demand, key=lambda size: (-demand[size], size))[:MAX_SIZES]
    merged = dict.fromkeys(common, 0.0)
    for size, amount in demand.items():
        larger = [each for each in common if each >= size]
        if larger:
            merged[min(larger)] += amount
    return merged


def _prices(cells: Ints, demand: Floats, room: int) -> Floats:
    """The dual solution by the revised simplex method: a basis of patterns, one better pattern a round."""
    basis = np.diag((room // cells).astype(np.float64))
    inverse = np.diag(1.0 / (room // cells))
    prices: Floats = inverse.sum(axis=0)
    for _ in range(MAX_ROUNDS):
        values, pattern = _best(cells, prices, room)
        step = inverse @ pattern
        usable = step > PIVOT
        if values[-1] <= 1.0 + TOLERANCE or not usable.any():
            break
        made = inverse @ demand
        ratio = np.where(usable, made / np.where(usable, step, 1.0), np.inf)
        basis[:, int(np.argmin(ratio))] = pattern
        inverse = np.linalg.inv(basis).astype(np.float64)
        prices = np.maximum(inverse.sum(axis=0), 0.0)
    return prices


def _best(cells: Ints, prices: Floats, room: int) -> tuple[Floats, Floats]:
    """By room, the worth of the best set of shares; and that set for all of the room, as a count per size."""
    values = np.zeros(room + 1)
    for size, price in zip(cells.tolist(), prices.tolist(), strict=True):
        values = _with_more_of(values, size, price)
    pattern = np.zeros(len(cells))
    free = room
    while values[free] > TOLERANCE:
        free = int(np.searchsorted(values, values[free] - TOLERANCE))
        taken = int(np.argmax(np.where(cells <= free, values[free - cells] + prices, -np.inf)))
        pattern[taken] += 1
        free -= int(cells[taken])
    return values, pattern


def _with_more_of(values: Floats, size: int, price: float) -> Floats:
    """The worth by room when any number of shares of one more size may be used: a running maximum per remainder."""
    rows = -(-len(values) // size)
    padded = np.full(rows * size, -np.inf)
    padded[: len(values)] = values
    earned = price * np.arange(rows)[:, None]
    best = np.maximum.accumulate(padded.reshape(rows, size) - earned, axis=0) + earned
    found: Floats = np.maximum.accumulate(best.ravel()[: len(values)])
    return found
