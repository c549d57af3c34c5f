"""Time, as the checks count it: what a GPU spent its minutes on, and how far a counter rose. Pure.

Time in which nobody looked (a restart of the agent, a driver that did not answer) counts as nothing.
"""

from collections.abc import Collection
from typing import Self

import msgspec

from agent.checks.window import Window

LONGEST_STEP_SECONDS = 180.0
"""Three times the longest sample interval that can be set."""
SHORTEST_GAP_SECONDS = 3.0
SLOTS = 12


class Pace(msgspec.Struct, frozen=True):
    """How often the node is looked at."""

    last_seconds: float = 0.0
    """Unix time of the last look; 0: never."""
    usual_seconds: float = 0.0
    """The usual interval; it follows a changed setting within a few looks."""

    def step(self, at_seconds: float) -> tuple[Self, float]:
        """The pace after one more look, and the seconds since the last one; 0 where there was a gap."""
        elapsed = at_seconds - self.last_seconds
        if not self.last_seconds or elapsed <= 0:
            return type(self)(at_seconds, self.usual_seconds), 0.0
        usual = self.usual_seconds or min(elapsed, LONGEST_STEP_SECONDS / 3)
        longest = min(max(3 * usual, SHORTEST_GAP_SECONDS), LONGEST_STEP_SECONDS)
        usual = min(max(elapsed, usual / 2), usual * 2, LONGEST_STEP_SECONDS / 3)
        return type(self)(at_seconds, usual), elapsed if elapsed <= longest else 0.0


class Minutes(msgspec.Struct, frozen=True):
    """For how many seconds of each minute a condition held; a GPU that has nothing to tell keeps nothing."""

    past: tuple[tuple[float, dict[str, float]], ...] = ()
    """(Unix time at which the minute began, condition → seconds), oldest first."""

    def add(
        self, at_seconds: float, seconds: float, conditions: Collection[str], *, keep_seconds: float
    ) -> Self:
        """With one more look.

        Args:
            at_seconds: Unix time.
            seconds: what this look stands for.
            conditions: what held.
            keep_seconds: how far back anybody asks.
        """
        past = self.past
        if past and not at_seconds - keep_seconds < past[0][0] <= at_seconds:
            past = tuple(each for each in past if at_seconds - keep_seconds < each[0] <= at_seconds)
        if seconds > 0 and conditions:
            start = at_seconds - at_seconds % 60
            current = dict(past[-1][1]) if past and past[-1][0] == start else {}
            for condition in conditions:
                current[condition] = current.get(condition, 0.0) + seconds
            past = (*(each for each in past if each[0] != start), (start, current))
        return self if past is self.past else type(self)(past)

    def seconds(self, condition: str, span_seconds: float, at_seconds: float) -> float:
        """How long it held in the minutes that began within the span before now."""
        start = at_seconds - span_seconds
        return sum(held.get(condition, 0.0) for began, held in self.past if began > start)


def watched(
    window: Window,
    at_seconds: float,
    value: float | None,
    *,
    span_seconds: float,
    gap: bool = False,
) -> Window:
    """The window with one more reading; one that has nothing to tell stays as it is.

    Args:
        window: so far.
        at_seconds: Unix time.
        value: the counter.
        span_seconds: how far back the window reaches.
        gap: nobody looked for a while, and what came in that time says nothing about a rate.
    """
    if value is None or (value == window.last and not window.rise):
        return window
    if gap:
        window = Window()
    return window.add(at_seconds, value, span_seconds=span_seconds, slots=SLOTS)
