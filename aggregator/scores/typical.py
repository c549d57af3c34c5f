"""Which pods are typical: a histogram of what pods ask for, learned from those that the cluster sees. Pure.

The model asks "which of the pods that usually come could still use what is left here?", so it needs their
popularity. Each pod that is seen adds one to its tenant's count of its shape; counts halve every
``half_life_seconds``, so that last year's jobs do not shape today's scores.

One tenant moves the histogram only within a bound. Tenants (namespaces) share the weight by what they ran, but none
gets more than ``tenant_cap`` of it, or an equal part where there are too few tenants for that: shares are
``min(λ·w, c)`` with λ such that they sum to one and ``c = max(tenant_cap, 1 / tenants)``. Since λ can only fall when a
tenant is added, every other tenant's share can only fall, and together they lose what the new one gets::

    ½ · Σ_m |p_m(with) - p_m(without)|  ≤  c

A cost that is an average over typical pods, as fragmentation is, then moves by no more than ``c`` times the span of the
single pods' costs, which is at most twice the node's free devices. A tenant's shapes push out no other tenant's.
The potential is no such average. What a thousand odd pods of one tenant among five do to it is measured: no node's score for
a usual pod moves by more than 200 of 1000, and the node chosen before is at most 40 behind the best.
"""

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from aggregator.scores.rows import Floats, Ints
from aggregator.scores.values import PodShape

Book = dict[PodShape, tuple[float, float]]
"""Per shape: a count, and the Unix time at which it was that."""


class Typical(msgspec.Struct, frozen=True, eq=False):
    """Typical pods and how common each is. The weights sum to one, or there are none at all."""

    shapes: tuple[PodShape, ...]
    weights: Floats

    @classmethod
    def of(cls, counts: Mapping[PodShape, float]) -> "Typical":
        """From any counts. A count that is zero, negative, infinite or NaN counts as not seen."""
        seen = sorted((shape, float(count)) for shape, count in counts.items() if _counts(count))
        weights = np.array([count for _, count in seen], dtype=np.float64)
        if seen:
            weights /= weights.max()  # first, so that huge counts do not sum to infinity
            weights /= weights.sum()
        weights.flags.writeable = False
        return cls(tuple(shape for shape, _ in seen), weights)

    def column(self, field: str) -> Ints:
        """One number of every shape, say ``cpu_milli``, in the order of the weights."""
        return np.array([getattr(shape, field) for shape in self.shapes], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.shapes)


NO_HISTORY = Typical.of({})
"""Nothing was seen yet: every measure that averages over typical pods is zero, the same on each node."""


class TypicalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long, how much and how evenly to remember."""

    half_life_seconds: float = 7 * 86_400.0
    tenant_cap: float = 0.25
    """Of the weight, at most, for one tenant; more only where there are fewer than 1/cap tenants."""
    shapes_per_tenant: int = 64
    """The most common ones are kept."""
    tenants: int = 256
    """The busiest ones are kept."""
    shapes: int = 512
    """Of all tenants together, the most common ones are told: what is made of them takes time that grows with their number."""


class TypicalPods:
    """What was learned from the pods so far. The caller tells the time; it need not be monotonic."""

    def __init__(self, settings: TypicalSettings | None = None) -> None:
        self._settings = settings or TypicalSettings()
        self._tenants: dict[str, Book] = {}

    def saw(self, shape: PodShape, tenant: str, at_seconds: float) -> None:
        """A pod of this shape was created at this Unix time. A time that is no number is not learned from."""
        if not np.isfinite(at_seconds):
            return
        book = self._tenants.setdefault(tenant, {})
        count, then = book.get(shape, (0.0, at_seconds))
        now = max(then, at_seconds)
        book[shape] = (self._faded(count, then, now) + self._faded(1.0, at_seconds, now), now)
        if len(book) > 2 * self._settings.shapes_per_tenant:
            self._trim(book, now)
        if len(self._tenants) > 2 * self._settings.tenants:
            self._trim_tenants(now)

    def shares(self, now: float) -> dict[str, float]:
        """Each tenant's share of the weight, by the rule above."""
        sums = {name: sum(self._counts_at(book, now).values()) for name, book in self._heard(now)}
        return capped_shares(sums, self._settings.tenant_cap)

    def typical(self, now: float) -> Typical:
        """The histogram at this Unix time."""
        shares = self.shares(now)
        counts: dict[PodShape, float] = {}
        for name, share in shares.items():
            mine = self._counts_at(self._tenants[name], now)
            total = sum(mine.values())
            for shape, count in mine.items():
                counts[shape] = counts.get(shape, 0.0) + share * count / total
        common = sorted(counts, key=lambda shape: (-counts[shape], shape))[: self._settings.shapes]
        return Typical.of({shape: counts[shape] for shape in common})

    def _heard(self, now: float) -> list[tuple[str, Book]]:
        """The busiest tenants with anything left to say."""
        sums = {
            name: sum(self._counts_at(each, now).values()) for name, each in self._tenants.items()
        }
        order = sorted(
            (name for name in sums if sums[name] > 0), key=lambda name: (-sums[name], name)
        )
        return [(name, self._tenants[name]) for name in order[: self._settings.tenants]]

    def _counts_at(self, book: Book, now: float) -> dict[PodShape, float]:
        faded = {shape: self._faded(count, then, now) for shape, (count, then) in book.items()}
        order = sorted(faded, key=lambda shape: (-faded[shape], shape))
        return {shape: faded[shape] for shape in order[: self._settings.shapes_per_tenant]}

    def _faded(self, count: float, then: float, now: float) -> float:
        return float(count * 0.5 ** (max(0.0, now - then) / self._settings.half_life_seconds))

    def _trim(self, book: Book, now: float) -> None:
        for shape in set(book) - set(self._counts_at(book, now)):
            del book[shape]

    def _trim_tenants(self, now: float) -> None:
        kept = {name for name, _ in self._heard(now)}
        self._tenants = {name: book for name, book in self._tenants.items() if name in kept}


def capped_shares(sums: Mapping[str, float], cap: float) -> dict[str, float]:
    """Shares of one whole, in proportion to ``sums``, none above ``max(cap, 1/n)``; empty for no sums.

    What is cut off is shared out among the others in proportion, until all are within the cap.
    """
    left = {name: amount for name, amount in sums.items() if _counts(amount)}
    if not left:
        return {}
    cap = max(cap, 1 / len(left))
    shares: dict[str, float] = {}
    whole = 1.0
    for name in _largest_first(left):
        rest = sum(left.values())
        shares[name] = min(cap, whole * left.pop(name) / rest)
        whole -= shares[name]
    return shares


def _largest_first(sums: Mapping[str, float]) -> Iterable[str]:
    return sorted(sums, key=lambda name: (-sums[name], name))


def _counts(amount: float) -> bool:
    return bool(np.isfinite(amount)) and amount > 0
