"""All judgement of one node: snapshots and events in, findings out. Pure: no I/O, no clock.

What ``run``, ``check`` and the tests' timelines decide by is this one class.
"""

from collections.abc import Collection, Iterable

import msgspec

from agent.catalogue import Catalogue, Code
from agent.checks import Context, Limits
from agent.checks import all as all_checks
from agent.faults import Book, Timing, clear, findings
from agent.faults.events import record_events
from agent.faults.levels import advance
from agent.health import health_of
from agent.holders import holders_of
from agent.kernel_log import recovery_action_in
from agent.snapshot import Snapshot
from agent.storm import Storms, collapsed
from contract.vocabulary import Event, Finding, Health


class Judge:
    """What is wrong with one node, kept over time."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        limits: Limits,
        timing: Timing,
        book: Book | None = None,
        memory: all_checks.Memory | None = None,
    ) -> None:
        self.book = book or Book()
        self.memory = memory or all_checks.Memory()
        self.findings: tuple[Finding, ...] = findings(self.book, timing)
        self.blind: frozenset[str] = frozenset()
        self._catalogue = catalogue
        self._ignored: Collection[str] = frozenset()
        self._limits = limits
        self._timing = timing
        self._storms = Storms()

    def look(self, snapshot: Snapshot) -> tuple[Event, ...]:
        """Judge one snapshot; returns what a storm had held back."""
        context = Context(catalogue=self._catalogue, limits=self._limits)
        checked = all_checks.run(snapshot, self.memory, context)
        self.memory, self.blind = checked.memory, checked.blind
        observations = (
            each for each in checked.observations if each.code.code not in self._ignored
        )
        self.book = advance(
            self.book, snapshot, observations, self._timing, checked.resets, checked.unjudged
        )
        self._conclude()
        return self._storms.flush(snapshot.taken_seconds)

    def hear(self, events: Iterable[Event], snapshot: Snapshot, now: float) -> tuple[Event, ...]:
        """Judge what happened; returns what is worth telling others.

        Args:
            events: in the order in which they came.
            snapshot: the newest one; it says who holds which device.
            now: Unix time.
        """
        heard = collapsed(each for each in events if self._matters(each))
        for event in heard:
            if event.kind == "clear":
                self._forget(event.subject, event.message)
        self.book = record_events(
            self.book,
            heard,
            self._catalogue,
            self._timing,
            lambda subject: holders_of(snapshot, subject),
        )
        self._conclude()
        return self._storms.tell(heard, now)

    def clear(self, *, subject: str, code: str) -> None:
        """A person said that this is over."""
        self.book = clear(self.book, subject=subject, code=code)
        self._forget(subject, code)
        self._conclude()

    def use(self, catalogue: Catalogue, ignored: Collection[str]) -> None:
        """Judge by this from now on; what is already known is judged anew."""
        before, self._catalogue, self._ignored = self._catalogue, catalogue, ignored
        self.book = msgspec.structs.replace(
            self.book,
            faults={
                key: msgspec.structs.replace(fault, code=_anew(fault.code, before, catalogue))
                for key, fault in self.book.faults.items()
                if fault.code.code not in ignored
            },
        )
        self._conclude()

    def health(self, snapshot: Snapshot) -> dict[str, Health]:
        """How each device is."""
        return health_of(snapshot, self.findings, self.blind)

    def _conclude(self) -> None:
        self.findings = findings(self.book, self._timing)

    def _matters(self, event: Event) -> bool:
        """Whether it is to be judged; that the driver takes its verdict back is never passed over."""
        takes_back = event.finding == "xid-154" and recovery_action_in(event.message) == 0
        return takes_back or event.finding not in self._ignored

    def _forget(self, subject: str, code: str) -> None:
        """What the checks learned is forgotten for a value of theirs, not for a line of the kernel log."""
        if self._catalogue.find(code).clears == "good-for":
            self.memory = all_checks.forget(self.memory, subject)


def _anew(code: Code, before: Catalogue, after: Catalogue) -> Code:
    """The code as it is judged now; what a check says of one case (a driver's verdict) stays said."""
    usual, now = before.find(code.code), after.find(code.code)
    if (code.severity, code.action) == (usual.severity, usual.action):
        return now
    return msgspec.structs.replace(now, severity=code.severity, action=code.action)
