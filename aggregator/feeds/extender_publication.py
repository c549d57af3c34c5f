"""What the extender's process is told of the scores, and when. Pure: the clock comes in.

Names, verdicts, what ails the nodes and the scores without a pod go out whenever they changed. The scores for a pod are worked out
anew for each change only while that pod is asked for (``HOT_SECONDS``), since that costs half a millisecond per kind of pod; the others
follow with the next settling, which works them out anyway.
"""

from collections.abc import Iterator

import msgspec
import numpy as np

from aggregator.feeds.extender_frames import Update, begun_anew, change_of, fresh
from aggregator.scores.ailing import Ailment
from aggregator.scores.book import MAX_ARRAYS, ScoreBook
from aggregator.scores.model import Ints
from aggregator.scores.terms import Newcomer

HOT_SECONDS = 5.0
"""After it was last asked for, a pod's scores follow every change."""

KEPT_SECONDS = 300.0
"""After it was last asked for, a pod's scores follow every settling."""

MAX_PODS = MAX_ARRAYS - 16
"""Kinds of pod that are followed: fewer than the book keeps, or it would work them out from nothing again and again."""


class _Followed(msgspec.Struct):
    """One kind of pod."""

    wanted_seconds: float
    told: Ints | None = None
    """Its scores as they were told last; ``None``: never yet."""
    version: int = -1
    """Of the book then."""
    settled_seconds: float | None = None
    """The book's newest settling then."""


class Publication:
    """What one reader was told, and what it is to be told next.

    Args:
        book: the scores.
    """

    def __init__(self, book: ScoreBook) -> None:
        self._book = book
        self._told = -1
        """The book's version when the fleet was told last."""
        self._names: list[str] = []
        self._ailing: dict[int, Ailment] = {}
        self._verdicts: Ints | None = None
        self._generic: Ints | None = None
        self._settled: float | None = None
        self._leading: bool | None = None
        self._followed: dict[Newcomer, _Followed] = {}
        """The one not wanted for longest is first."""

    @property
    def pods(self) -> int:
        """Kinds of pod that are followed."""
        return len(self._followed)

    def want(self, pod: Newcomer, now: float) -> bool:
        """This pod was asked about; whether its scores were not followed before.

        Args:
            pod: its kind.
            now: seconds, as all times here; monotonic.
        """
        known = self._followed.pop(pod, None)
        followed = self._followed[pod] = known or _Followed(now)
        followed.wanted_seconds = now
        return known is None

    def updates(self, now: float, *, leading: bool) -> Iterator[Update]:
        """All that is to be told now, one after the other; the book may change in between.

        Args:
            now: as above.
            leading: whether agents report to this process.
        """
        if update := self._update(leading):
            yield update
        yield from self._forget(now)
        # Somebody waits for those of which nothing was told yet.
        for pod, followed in sorted(self._followed.items(), key=_was_told):
            if self._due(followed, now) and (update := self._update(leading, pod)):
                yield update

    def _forget(self, now: float) -> Iterator[Update]:
        over = len(self._followed) - MAX_PODS
        dropped = [
            pod
            for place, (pod, followed) in enumerate(self._followed.items())
            if place < over or now - followed.wanted_seconds > KEPT_SECONDS
        ]
        for pod in dropped:
            del self._followed[pod]
        if dropped:
            yield Update(dropped=dropped)

    def _due(self, followed: _Followed, now: float) -> bool:
        """By what was told of this pod: the book may have settled while others were told."""
        book = self._book
        if followed.told is None or len(followed.told) != book.table.capacity + 1:
            return True  # there are rows now of which nothing was told
        hot = now - followed.wanted_seconds <= HOT_SECONDS
        settled = followed.settled_seconds != book.settled_seconds
        return settled or (hot and followed.version != book.version)

    def _update(self, leading: bool, pod: Newcomer | None = None) -> Update | None:
        """What changed of the fleet, and of one pod's scores."""
        update = self._of_fleet(leading)
        if pod is not None and (followed := self._followed.get(pod)) is not None:
            array = self._book.array(pod).copy()
            change = change_of(followed.told, array)
            followed.told, followed.version = array, self._book.version
            followed.settled_seconds = self._book.settled_seconds
            if change is not None:
                return msgspec.structs.replace(update, scores=(pod, change))
        return update if update != _NOTHING else None

    def _of_fleet(self, leading: bool) -> Update:
        """What changed but for the scores of pods."""
        book = self._book
        if book.version == self._told and leading == self._leading:
            return _NOTHING
        names, ailing = book.table.names, dict(book.ailing)
        verdicts, generic = book.verdicts.astype(np.int64), book.generic.copy()
        renamed = self._renamed(names)
        for followed in self._followed.values():
            if followed.told is not None:
                followed.told = begun_anew(followed.told, renamed, generic)
        update = Update(
            names=renamed,
            ailing=fresh(self._ailing, ailing),
            verdicts=change_of(self._verdicts, verdicts),
            generic=change_of(self._generic, generic),
            settled_seconds=None if book.settled_seconds == self._settled else book.settled_seconds,
            leading=None if leading == self._leading else leading,
        )
        self._names, self._ailing = list(names), ailing
        self._verdicts, self._generic = verdicts, generic
        self._settled, self._leading = book.settled_seconds, leading
        self._told = book.version
        return update

    def _renamed(self, names: list[str]) -> dict[int, str]:
        before = self._names
        if names == before:
            return {}
        before = [*before, *[""] * (len(names) - len(before))]
        return {
            row: name
            for row, (old, name) in enumerate(zip(before, names, strict=True))
            if old != name
        }


def _was_told(item: tuple[Newcomer, _Followed]) -> bool:
    return item[1].told is not None


_NOTHING = Update()
