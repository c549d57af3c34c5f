"""A copy of the scores in the process that answers the scheduler, kept true by what it is told. Pure."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from aggregator.feeds.extender_frames import Update, begun_anew, changed
from aggregator.scores.ailing import Ailment
from aggregator.scores.levels import Levels, levels_of
from aggregator.scores.model import NEUTRAL_SCORE, UNKNOWN, Codes, Ints
from aggregator.scores.table import Places
from aggregator.scores.terms import Newcomer


class Mirror:
    """A ``Board`` that is told everything. Until it is told anything it knows no node, and its scores are stale."""

    def __init__(self) -> None:
        self.settled_seconds: float | None = None
        self.leading = False
        """Whether agents report to the process that tells us."""
        self.verdicts: Codes = np.full(1, UNKNOWN, dtype=np.int8)
        self.generic: Ints = np.full(1, NEUTRAL_SCORE, dtype=np.int64)
        self.names: dict[int, str] = {}
        """By row; to be read only."""
        self.changes = 0
        """Another number whenever names or ailments became others."""
        self._index: dict[str, int] = {}
        self._ailing: dict[int, Ailment] = {}
        self._scores: dict[Newcomer, Ints] = {}
        self._levels: dict[Newcomer | None, Levels] = {}
        """Those that were asked for since the last change."""

    @property
    def size(self) -> int:
        """Nodes that are known."""
        return len(self._index)

    @property
    def ailing(self) -> Mapping[int, Ailment]:
        """By row, what is wrong there."""
        return self._ailing

    @property
    def pods(self) -> Sequence[Newcomer]:
        """Those of which the scores are here."""
        return tuple(self._scores)

    def places(self, names: Sequence[str]) -> Places:
        """The row of each of these nodes; -1: not known."""
        found = map(self._index.get, names, itertools.repeat(-1))
        return np.fromiter(found, dtype=np.int64, count=len(names))

    def array(self, pod: Newcomer) -> Ints | None:
        """The scores for a pod by row, and one more for an unknown node; ``None``: they are not here."""
        return self._scores.get(pod)

    def levels(self, pod: Newcomer | None) -> Levels | None:
        """The same as levels; ``None`` as above, never so without a pod."""
        found = self._levels.get(pod)
        if found is None:
            scores = self.generic if pod is None else self._scores.get(pod)
            if scores is None:
                return None
            found = self._levels[pod] = levels_of(scores, self.verdicts)
        return found

    def apply(self, update: Update) -> None:
        """Take in what became another.

        Raises:
            ValueError: it does not fit to what was told before.
        """
        self.changes += bool(update.names or update.ailing)
        self._rename(update.names)
        for row, ailment in update.ailing.items():
            if ailment is None:
                self._ailing.pop(row, None)
            else:
                self._ailing[row] = ailment
        if update.verdicts is not None:
            verdicts = changed(self.verdicts.astype(np.int64), update.verdicts)
            self.verdicts = verdicts.astype(np.int8)
            self._levels.clear()
        if update.generic is not None:
            self.generic = changed(self.generic, update.generic)
            self._levels.pop(None, None)
            for pod in [each for each in self._scores if not self._is_whole(each)]:
                del self._scores[pod]
                self._levels.pop(pod, None)
        if update.names:
            for pod, scores in self._scores.items():
                self._scores[pod] = begun_anew(scores, update.names, self.generic)
            self._levels.clear()
        for pod in update.dropped:
            self._scores.pop(pod, None)
            self._levels.pop(pod, None)
        if update.scores is not None:
            pod, change = update.scores
            self._scores[pod] = changed(self._scores.get(pod), change)
            self._levels.pop(pod, None)
        if update.settled_seconds is not None:
            self.settled_seconds = update.settled_seconds
        if update.leading is not None:
            self.leading = update.leading

    def _is_whole(self, pod: Newcomer) -> bool:
        """Whether there is a number for each row: of one that came since there is none."""
        return len(self._scores[pod]) == len(self.generic)

    def _rename(self, names: Mapping[int, str]) -> None:
        for row in names:
            if (old := self.names.pop(row, "")) and self._index.get(old) == row:
                del self._index[old]
        for row, name in names.items():
            if name:
                self.names[row] = name
                self._index[name] = row
