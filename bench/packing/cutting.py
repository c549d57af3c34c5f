"""What shares of GPUs are worth when as much as can be of a fleet is handed out: a linear program over patterns. Pure.

A pattern is a set of shares that one GPU holds. In whole GPUs, over how many of them are filled by which pattern::

    max  Σ_s s · n_s     least_s ≤ n_s + lost_s ≤ most_s,  n in ``gpus`` GPUs,  lost in ``lost_gpus`` GPUs

``lost`` shares must find room too, and count nothing. Whatever prices y_s ≥ 0 shares have, no way to fill the GPUs is
better than (weak duality)::

    gpus · V(y) + lost_gpus · V(max(y - s, 0)) + Σ_s [ max(s - y_s, 0) · most_s - max(y_s - s, 0) · least_s ]
    V(y) = max Σ_s a_s · y_s   over the patterns a: whole numbers with Σ_s a_s · s ≤ 1

``ceiling`` is that number, so that it holds for any prices, however they were found. ``best_prices`` finds those which make it small:
the simplex method, patterns made when they are wanted (Gilmore and Gomory, Operations Research 9, 1961).
"""

from collections.abc import Sequence

import numpy as np

from aggregator.scores.rows import Floats, Ints
from aggregator.scores.values import WHOLE

MAX_STEPS = 3000
REFRESH_STEPS = 50
"""After as many steps the inverse is computed anew, so that rounding does not grow."""

TOLERANCE = 1e-7
MISSING = 10.0
"""What a share that must stand and has no room costs, in GPUs: prices stay finite where there is no solution."""

JITTER = 1e-7
"""Added to the amounts, each a little more, so that no two bounds bind at once and the method cannot go in circles."""


class Cutting:
    """The program for shares of these sizes; it keeps the patterns it has found."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """``sizes``: different thousandths of a GPU, 1..1000. Raises ValueError."""
        if not sizes or len(set(sizes)) < len(sizes) or not 0 < min(sizes) <= max(sizes) <= WHOLE:
            raise ValueError(f"sizes are {list(sizes)}; they must be different, 1 to {WHOLE}")
        self.values: Floats = np.array(sizes, dtype=np.float64) / WHOLE
        grid = int(np.gcd.reduce(np.array([*sizes, WHOLE])))
        self._cells: Ints = np.array(sizes, dtype=np.int64) // grid
        self._room = WHOLE // grid
        self._patterns: list[tuple[bool, Floats]] = []

    def ceiling(
        self,
        prices: Floats,
        least: Floats,
        most: Floats,
        gpus: float,
        lost_gpus: Floats | float = 0.0,
    ) -> Floats:
        """An upper bound on what can be handed out, in whole GPUs; ``least`` and ``most`` per case and size."""
        over = np.maximum(prices - self.values, 0.0)
        held = gpus * self.best(prices)[0] + lost_gpus * self.best(over)[0]
        ceiling: Floats = held + most @ np.maximum(self.values - prices, 0.0) - least @ over
        return ceiling

    def best(self, prices: Floats) -> tuple[float, Floats]:
        """V(y), and the pattern that has it: a count per size."""
        worth, last = [0.0], [-1]
        for room in range(1, self._room + 1):
            best, which = worth[room - 1], -1
            for place, cells in enumerate(self._cells):
                if cells <= room and worth[room - cells] + prices[place] > best + 1e-12:
                    best, which = worth[room - cells] + float(prices[place]), place
            worth.append(best)
            last.append(which)
        pattern, room = np.zeros(len(self._cells)), self._room
        while room > 0:
            place = last[room]
            if place >= 0:
                pattern[place] += 1.0
            room -= int(self._cells[place]) if place >= 0 else 1
        return worth[-1], pattern

    def best_prices(
        self, least: Floats, most: Floats, gpus: float, lost_gpus: float = 0.0
    ) -> Floats:
        """Per size, in whole GPUs. When steps run out they are not the best, but prices still.

        The rows: shares of each size find room; GPUs; lost GPUs; shares of each size are not more than come.
        """
        count = len(self.values)
        amounts = np.concatenate([least, [gpus, lost_gpus], most - least])
        amounts += JITTER * np.arange(1, len(amounts) + 1)
        columns, gains = self._columns()
        basis = np.arange(2 * count + 2)
        inverse: Floats = np.eye(2 * count + 2)
        for step in range(MAX_STEPS):
            dual: Floats = gains[basis] @ inverse
            reduced = gains - dual @ columns
            entering = int(np.argmax(reduced))
            if reduced[entering] <= TOLERANCE:
                if not self._find_pattern(dual):
                    break
                entering = columns.shape[1]
                column, gain = self._column(*self._patterns[-1])
                columns, gains = np.column_stack([columns, column]), np.append(gains, gain)
            change: Floats = inverse @ columns[:, entering]
            made = inverse @ amounts
            usable = change > TOLERANCE
            if not usable.any():
                break
            leaving = int(np.argmin(np.where(usable, made / np.where(usable, change, 1.0), np.inf)))
            basis[leaving] = entering
            if step % REFRESH_STEPS == REFRESH_STEPS - 1:
                inverse = np.linalg.inv(columns[:, basis]).astype(np.float64)
                continue
            pivot = inverse[leaving] / change[leaving]
            inverse = inverse - np.outer(change, pivot)
            inverse[leaving] = pivot
        prices: Floats = np.maximum(-(gains[basis] @ inverse)[:count], 0.0)
        return prices

    def _columns(self) -> tuple[Floats, Floats]:
        """Missing shares, unused GPUs, shares that do not come; shares above the least; unused room; and the patterns known."""
        count = len(self.values)
        own, none = np.eye(2 * count + 2), np.zeros((count + 2, count))
        more = np.vstack([-np.eye(count), none[:2], np.eye(count)])
        unused = np.vstack([-np.eye(count), none])
        known = [self._column(*pattern) for pattern in self._patterns]
        gains = [np.full(count, -MISSING), np.zeros(count + 2), self.values, np.zeros(count)]
        return (
            np.column_stack([own, more, unused, *(column for column, _ in known)]),
            np.concatenate([*gains, np.array([gain for _, gain in known])]),
        )

    def _column(self, lost: bool, pattern: Floats) -> tuple[Floats, float]:
        """A pattern as a column, and what a GPU filled by it adds: nothing, or less what is lost in it."""
        count = len(pattern)
        column = np.concatenate([pattern, [not lost, lost], np.zeros(count)])
        return column, -float(pattern @ self.values) if lost else 0.0

    def _find_pattern(self, dual: Floats) -> bool:
        """Whether there is a pattern that is worth more than its GPU; it is the last one then."""
        count = len(self.values)
        prices = np.maximum(-dual[:count], 0.0)
        ways = []
        for lost, each in ((False, prices), (True, np.maximum(prices - self.values, 0.0))):
            worth, pattern = self.best(each)
            ways.append((worth - dual[count + lost], lost, pattern))
        gain, lost, pattern = max(ways, key=lambda way: way[0])
        if gain <= TOLERANCE:
            return False
        self._patterns.append((lost, pattern))
        return True
