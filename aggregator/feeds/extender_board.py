"""What the extender needs to know of the scores. ``ScoreBook`` is a board; ``Mirror`` is one in another process. Pure."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from aggregator.scores.ailing import Ailment
from aggregator.scores.levels import Levels
from aggregator.scores.model import Ints
from aggregator.scores.table import Places
from aggregator.scores.terms import Newcomer


class Board(Protocol):
    """The scores of a fleet, a row per node. All arrays are to be read only, and may be other ones after the next change."""

    @property
    def size(self) -> int:
        """Nodes that are known."""

    @property
    def settled_seconds(self) -> float | None:
        """Unix time at which the scores were last brought up to date; ``None``: never."""

    @property
    def ailing(self) -> Mapping[int, Ailment]:
        """By row, what is wrong there; where nothing is, there is no entry."""

    def places(self, names: Sequence[str]) -> Places:
        """The row of each of these nodes; -1: not known."""

    def array(self, pod: Newcomer) -> Ints | None:
        """The scores for a pod by row, 0..1000, and one more for a node nobody knows; ``None``: they are not at hand."""

    def levels(self, pod: Newcomer | None) -> Levels | None:
        """The same as levels; without a pod in hand they are always there."""
