"""Storms of the same event told as one, with a count. Pure: the clock comes in.

One dying job on a large node writes its XID tens of thousands of times. Every one of them counts for the fault; people
and the aggregator are told of the first, then of how many more there were.
"""

from collections.abc import Iterable

import msgspec

from contract.vocabulary import Event

WINDOW_SECONDS = 10.0
"""How long after an event its likes are held back; doubles while the storm goes on."""

LONGEST_WINDOW_SECONDS = 640.0

SAME_MOMENT_SECONDS = 1.0
"""Only so close together are two of a batch one: a log that is read again holds days."""
MAX_KINDS = 1_000
"""Different events watched at once; beyond that each is told by itself."""

Kind = tuple[str, str, str, str]


def collapsed(events: Iterable[Event]) -> tuple[Event, ...]:
    """Alike events of one batch as one with their count, told with the first one's words.

    A verdict of the driver or a person's word is never merged, and nothing is moved across one.
    """
    told: list[Event] = []
    places: dict[Kind, int] = {}
    for event in events:
        if not _is_countable(event):
            places.clear()
            told.append(event)
        elif (place := places.get(_kind(event))) is not None and (
            abs(event.time_seconds - told[place].time_seconds) < SAME_MOMENT_SECONDS
        ):
            first = told[place]
            told[place] = msgspec.structs.replace(first, count=first.count + event.count)
        else:
            places[_kind(event)] = len(told)
            told.append(event)
    return tuple(told)


class Storms:
    """What was told lately, and what is held back."""

    def __init__(self) -> None:
        self._until: dict[Kind, float] = {}
        self._windows: dict[Kind, float] = {}
        self._held: dict[Kind, Event] = {}

    def tell(self, events: Iterable[Event], now: float) -> tuple[Event, ...]:
        """What to pass on of these events, at this Unix time; the rest is counted."""
        return tuple(event for event in events if self._passes(event, now))

    def flush(self, now: float) -> tuple[Event, ...]:
        """What was held back long enough."""
        due = [kind for kind, until in self._until.items() if until <= now]
        told = []
        for kind in due:
            held = self._held.pop(kind, None)
            if held is None:
                del self._until[kind], self._windows[kind]
            else:
                window = min(2 * self._windows[kind], LONGEST_WINDOW_SECONDS)
                self._windows[kind], self._until[kind] = window, now + window
                told.append(held)
        return tuple(told)

    def _passes(self, event: Event, now: float) -> bool:
        kind = _kind(event)
        if not _is_countable(event):
            return True
        if kind not in self._until:
            if len(self._until) < MAX_KINDS:
                self._windows[kind] = WINDOW_SECONDS
                self._until[kind] = now + WINDOW_SECONDS
            return True
        held = self._held.get(kind)
        count = event.count + (held.count if held else 0)
        self._held[kind] = msgspec.structs.replace(event, count=count)
        return False


def _is_countable(event: Event) -> bool:
    return bool(event.finding) and event.finding != "xid-154"


def _kind(event: Event) -> Kind:
    return (event.kind, event.subject, event.finding, event.id.partition(":")[0])
