"""Answers that are ready before the question: about all nodes that may take a pod, as though it named each of them. Pure.

kube-scheduler asks about every node that passes its own filters, thousands of names each time, and takes from the reply the numbers of those
alone that it asked about. So one reply serves whatever names there are, and they need not be read. It ranks them as a reply about the names
themselves does, but for this:

* A host that nobody here knows, and a healthy one with the least score, full by our books, are left out and so rank as most do, not in the middle
  and behind the others that are healthy. (Where the scheduler saw room on such nodes lately, all of them are told.)
* A silent node is not before any of the ``SPARE`` best healthy ones that were asked about, not of the best one alone; and of several best nodes
  the first ``FAVOURITES`` are told apart, as they are to be filled. For the scheduler may have filled the first ones while nobody told us yet.

Who is asked about is known from the last look: the names are looked at after an answer, when nobody waits (``CHECK_SECONDS``). Where a host is
among them of which the reply does not speak, the names are read before each answer for a while (``LINGER_SECONDS``).
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.feeds.extender_hosts import FULL_NAMES, told
from aggregator.feeds.extender_mirror import Mirror
from aggregator.feeds.extender_ranking import decided
from aggregator.feeds.extender_wishes import Known
from aggregator.scores.book import MAX_ARRAYS
from aggregator.scores.levels import Levels, scores_of, verdicts_of
from aggregator.scores.model import HEALTHY, LEAST_HEALTHY_SCORE, UNKNOWN, Ints
from aggregator.scores.table import Places, filling_order
from aggregator.scores.terms import Newcomer

CHECK_SECONDS = 1.0
"""After which the names are looked at again."""

LINGER_SECONDS = 3.0
"""What was seen at a look counts for so long: pods that look alike here may be asked about with other nodes in turns."""

TRUST_SECONDS = 30.0
"""After which names are read before the answer: others may ask by then, and about other nodes."""

MAX_KINDS = MAX_ARRAYS
"""Of pods, with all that they may differ in; the one that was looked at longest ago is forgotten."""

FAVOURITES, SPARE = 4, 16
"""In the 40 ms until we see where a pod went the scheduler places up to ten more: on four nodes, if they ask for less than half a node."""

IDLE_SHARE = 0.25
"""Of the hosts asked about: with more that are told and were not asked about the reply costs the scheduler more than reading the names costs us."""

MADE_AHEAD = 2
"""Times that a reply is made anew for nobody after it was given: a node that falls sick is told in two steps."""


class _Outlook(msgspec.Struct):
    """The fleet as it is for one kind of pod."""

    levels: Levels
    """From which this was made …"""
    changes: int
    """… and the mirror's number then."""
    rows: Places
    """shape (m,), the nodes that the reply speaks of."""
    expected: NDArray[np.bool_]
    """shape (n + 1,), the same by row; of one that nobody knows it does not."""
    counts: Ints
    """shape (k,), how many of them are on each level."""
    numbers: Ints
    """shape (k,), by level, as long as it does not count who is asked about."""
    crowded: bool
    """Whether there are more different scores than numbers: who is asked about would decide which of them are told apart."""


class _Kind(msgspec.Struct):
    """What was seen of the questions about one kind of pod."""

    asked_about: Places
    """Rows of the nodes at the last look, ascending, each once."""
    looked_seconds: float
    least_bytes: float
    """Of a list of more names than are told in full, by their mean length."""
    unfit_seconds: float
    """Unix time at which it was last seen that no reply can do without the names: there was a host that nobody knows, or too many were told in vain."""
    full_seconds: float
    """Unix time at which a node was last asked about that is full by our books."""
    outlook: _Outlook | None = None
    """From which the reply was made."""
    reply: bytes | None = None
    """``None``: not without the names."""
    ahead: int = 0
    """Times that it may still be made anew before anybody asks."""

    @property
    def full_too(self) -> bool:
        """Whether full nodes are told as well."""
        return abs(self.looked_seconds - self.full_seconds) <= LINGER_SECONDS

    @property
    def fit(self) -> bool:
        """Whether a reply may do without the names, as far as one can know."""
        return abs(self.looked_seconds - self.unfit_seconds) > LINGER_SECONDS


class FleetReplies:
    """One reply per kind of pod, made anew when the scores have changed.

    Args:
        mirror: the scores.
        scale: as for ``Extender``; a favourite may have ``FAVOURITES`` more.
    """

    def __init__(self, mirror: Mirror, scale: int) -> None:
        self._mirror = mirror
        self._scale = scale
        self._outlooks: dict[tuple[Newcomer, bool], _Outlook] = {}
        self._kinds: dict[Known, _Kind] = {}
        """The one that was looked at longest ago is first."""
        self._named: Places = np.zeros(0, dtype=np.int64)
        """Rows that are a node's."""
        self._changes = -1
        """The mirror's number when they were made."""

    def reply(self, known: Known, names_bytes: int, now: float) -> bytes | None:
        """The answer to a question about names that take so many bytes; ``None``: they have to be read."""
        kind = self._kinds.get(known)
        if kind is None or not kind.fit or names_bytes <= kind.least_bytes:
            return None
        if abs(now - kind.looked_seconds) > TRUST_SECONDS:
            return None
        reply = self._make(known, kind)
        if reply is None:
            kind.unfit_seconds = now
        else:
            kind.ahead = MADE_AHEAD
        return reply

    def is_due(self, known: Known, now: float) -> bool:
        """Whether it is time for a look at which nodes are asked about."""
        kind = self._kinds.get(known)
        return kind is None or abs(now - kind.looked_seconds) >= CHECK_SECONDS

    def look(self, known: Known, rows: Places, names_bytes: int, now: float) -> None:
        """These nodes are asked about, by names that take so many bytes; -1: nobody knows it."""
        before = self._kinds.pop(known, None)
        asked_about = np.unique(rows)
        strangers = not len(rows) or bool(asked_about[0] < 0)
        kind = _Kind(
            asked_about[int(strangers) :],
            now,
            least_bytes=FULL_NAMES * names_bytes / max(1, len(rows)),
            unfit_seconds=now if strangers else -math.inf,
            full_seconds=-math.inf,
        )
        if before is not None:
            kind.unfit_seconds = max(kind.unfit_seconds, before.unfit_seconds)
            kind.full_seconds, kind.ahead = before.full_seconds, before.ahead
        outlook = self._outlook(known, kind)
        if outlook is not None and not outlook.expected[kind.asked_about].all():
            kind.full_seconds = now
        if before is not None and np.array_equal(before.asked_about, kind.asked_about):
            kind.outlook, kind.reply = before.outlook, before.reply
        self._forget(now)
        self._kinds[known] = kind
        if kind.fit:
            self._make(known, kind)

    def prepare(self) -> bool:
        """Make one reply anew that was given and is old; whether there was one."""
        for known, kind in self._kinds.items():
            if kind.ahead and kind.outlook is not self._outlook(known, kind):
                self._make(known, kind)
                kind.ahead -= 1
                return True
        return False

    def _forget(self, now: float) -> None:
        """Kinds that nobody asked about for long, or that are too many by one."""
        while self._kinds:
            first = next(iter(self._kinds))
            old = abs(now - self._kinds[first].looked_seconds) > TRUST_SECONDS
            if not old and len(self._kinds) < MAX_KINDS:
                return
            del self._kinds[first]

    def _make(self, known: Known, kind: _Kind) -> bytes | None:
        """The reply as of now."""
        outlook = self._outlook(known, kind)
        if outlook is None:
            return None
        if kind.outlook is not outlook:
            kind.outlook, kind.reply = outlook, self._made(outlook, kind.asked_about)
        return kind.reply

    def _made(self, outlook: _Outlook, asked_about: Places) -> bytes | None:
        if outlook.crowded:
            return None
        numbers, first = _ranked(outlook, asked_about)
        commonest = int(np.bincount(numbers, weights=outlook.counts).argmax())
        differences = (numbers - commonest)[outlook.levels.places[outlook.rows]]
        apart = differences.nonzero()[0]
        asked = np.zeros(len(outlook.expected), dtype=np.bool_)
        asked[asked_about] = True
        if np.count_nonzero(~asked[outlook.rows[apart]]) > IDLE_SHARE * len(asked_about):
            return None
        found = dict(zip(outlook.rows[apart].tolist(), differences[apart].tolist(), strict=True))
        for row, number in first.items():
            found[row] = number - commonest
        names = self._mirror.names
        return told([names[row] for row in found], found.values())

    def _outlook(self, known: Known, kind: _Kind) -> _Outlook | None:
        """As of now; ``None``: the scores of this pod are not here."""
        mirror, pod = self._mirror, known.wish.pod
        if pod is None or (levels := mirror.levels(pod)) is None:
            return None
        key = pod, kind.full_too
        found = self._outlooks.get(key)
        if found is not None and found.levels is levels and found.changes == mirror.changes:
            return found
        self._outlooks.pop(key, None)
        if len(self._outlooks) >= MAX_ARRAYS:
            del self._outlooks[next(iter(self._outlooks))]
        scores = mirror.array(pod)
        assert scores is not None  # noqa: S101 - there are levels
        anew = self._outlooks[key] = self._looked(levels, scores, full_too=kind.full_too)
        return anew

    def _looked(self, levels: Levels, scores: Ints, *, full_too: bool) -> _Outlook:
        mirror = self._mirror
        if self._changes != mirror.changes:
            self._changes = mirror.changes
            self._named = np.fromiter(mirror.names, dtype=np.int64, count=len(mirror.names))
        rows = self._named
        if not full_too:
            full = scores == LEAST_HEALTHY_SCORE
            full[list(mirror.ailing)] = False  # the scheduler counts a sick device as one with room
            rows = rows[~full[rows]]
        expected = np.zeros(len(scores), dtype=np.bool_)
        expected[rows] = True
        counts = np.bincount(levels.places[rows], minlength=len(levels.values))
        there = counts > 0
        different = len(np.unique(scores_of(levels.values[there])))
        numbers = decided(levels.key, there.tobytes(), self._scale).numbers
        return _Outlook(
            levels, mirror.changes, rows, expected, counts, numbers, different > self._scale
        )


def _ranked(outlook: _Outlook, asked_about: Places) -> tuple[Ints, dict[int, int]]:
    """The numbers by level, and by row those of the favourites.

    Favourites are the first to be filled of several best ones that were asked about. They are above all that are as good, and below all that are
    better, which nobody asked about.
    """
    levels = outlook.levels
    rows = asked_about[outlook.expected[asked_about]]
    places = levels.places[rows]
    verdicts = verdicts_of(levels.values)
    roomy = (verdicts == HEALTHY) & (scores_of(levels.values) > LEAST_HEALTHY_SCORE)
    numbers = _behind(outlook.numbers, np.bincount(places, minlength=len(roomy)) * roomy, verdicts)
    if not len(rows):
        return numbers, {}
    best = int(numbers[places].max())
    equal = numbers[places] == best
    alike = rows[equal & (verdicts == HEALTHY)[places]]
    if np.count_nonzero(equal) < 2 or not len(alike):
        return numbers, {}
    first = alike[filling_order(alike).argsort()[:FAVOURITES]].tolist()
    numbers = numbers + len(first) * (numbers > best)
    return numbers, {row: best + len(first) - place for place, row in enumerate(first)}


def _behind(numbers: Ints, healthy: Ints, verdicts: NDArray[np.int8]) -> Ints:
    """The numbers, those of silent nodes no better than the worst of the ``SPARE`` best healthy ones.

    Args:
        numbers: shape (k,), by level.
        healthy: shape (k,), healthy nodes with room that were asked about.
        verdicts: shape (k,).
    """
    there = healthy.nonzero()[0]
    if not len(there):
        return numbers
    enough = int(np.searchsorted(np.cumsum(healthy[there][::-1]), SPARE))
    spared = there[::-1][min(enough, len(there) - 1)]
    return np.where(verdicts == UNKNOWN, np.minimum(numbers, numbers[spared]), numbers)
