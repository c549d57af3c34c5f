"""What the extender counts. The process that answers keeps ``Counts`` and sends them home, where they are added up. Pure."""

from bisect import bisect_left
from typing import Protocol

import msgspec

EXTENDER_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.2)
"""Of the histogram of answers, in seconds."""


class _Tally(Protocol):
    def add(self, key: str, amount: int = 1) -> None:
        """Count it."""


class _Histogram(Protocol):
    def observe(self, value: float) -> None:
        """Count one value, in seconds."""


class ExtenderCounters(Protocol):
    """The counters that an extender writes; plain numbers that the exporter reads."""

    @property
    def extender_requests(self) -> _Tally:
        """Asked, by verb: ``filter``, ``prioritize``."""

    @property
    def extender_answers(self) -> _Tally:
        """Answered, by what the answer rests on: ``pod``, ``node``, ``not-ours``, ``stale``, ``unreadable``."""

    @property
    def extender_passed_over(self) -> _Tally:
        """Pods that could not be scored by their own wish, by reason."""

    @property
    def extender_seconds(self) -> _Histogram:
        """From the body read to the reply made."""

    extender_unknown_nodes_total: int
    extender_ready_total: int
    """Answers that were ready before the question."""
    extender_errors_total: int


class Counted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was counted since the last time it was asked for."""

    requests: dict[str, int] = {}
    answers: dict[str, int] = {}
    passed_over: dict[str, int] = {}
    seconds_counts: list[int] = []
    """Per bucket of ``EXTENDER_BOUNDS``, and one more for what is above."""
    seconds_sum: float = 0.0
    unknown_nodes: int = 0
    ready: int = 0
    errors: int = 0


class _Counts(dict[str, int]):
    def add(self, key: str, amount: int = 1) -> None:
        self[key] = self.get(key, 0) + amount


class _Seconds:
    def __init__(self) -> None:
        self.counts = [0] * (len(EXTENDER_BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(EXTENDER_BOUNDS, value)] += 1
        self.sum += value


class Counts:
    """``ExtenderCounters`` of a process that nobody scrapes. Every key is a word of ours, so they are few."""

    def __init__(self) -> None:
        self.clear()

    @property
    def any(self) -> bool:
        """Whether anything was counted."""
        return bool(self.extender_requests)

    def seen(self) -> Counted:
        """All of it."""
        return Counted(
            requests=self.extender_requests,
            answers=self.extender_answers,
            passed_over=self.extender_passed_over,
            seconds_counts=self.extender_seconds.counts,
            seconds_sum=self.extender_seconds.sum,
            unknown_nodes=self.extender_unknown_nodes_total,
            ready=self.extender_ready_total,
            errors=self.extender_errors_total,
        )

    def clear(self) -> None:
        """From zero again."""
        self.extender_requests = _Counts()
        self.extender_answers = _Counts()
        self.extender_passed_over = _Counts()
        self.extender_seconds = _Seconds()
        self.extender_unknown_nodes_total = 0
        self.extender_ready_total = 0
        self.extender_errors_total = 0
