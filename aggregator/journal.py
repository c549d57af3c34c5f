"""What was decided, newest last: shown on the page, printed by the demo, counted by the exporter."""

from collections import deque
from collections.abc import Callable

import msgspec


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the policy did, or chose not to do, and why."""

    time_seconds: float
    """Unix time."""
    node: str
    kind: str
    """The intent's kind (``set-taint`` …), or ``declined``."""
    text: str
    """The reason, as a sentence a person can read."""
    taken: bool
    """False where the policy declined (the budget) or the cluster refused the write."""


class Journal:
    """A bounded log of decisions with listeners. One owner: the event loop."""

    def __init__(self, length: int = 1_000) -> None:
        self._entries: deque[Decision] = deque(maxlen=length)
        self._listeners: set[Callable[[Decision], None]] = set()
        self.counts: dict[tuple[str, bool], int] = {}
        """(kind, taken) → how many since start."""

    def add(self, decision: Decision) -> None:
        """Write one decision down and tell every listener."""
        self._entries.append(decision)
        key = (decision.kind, decision.taken)
        self.counts[key] = self.counts.get(key, 0) + 1
        for listener in tuple(self._listeners):
            listener(decision)

    def recent(self, limit: int = 100) -> list[Decision]:
        """The newest decisions, oldest first."""
        return list(self._entries)[-limit:]

    def listen(self, listener: Callable[[Decision], None]) -> Callable[[], None]:
        """Call ``listener`` with each new decision until the returned function is called."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)
