"""Which directives this node ever took up, and how each went. Pure; what makes "at most once" true.

Nothing is started before it stands in here as running, on the disk. So whatever a restart finds running was begun
and not seen to its end: it is never begun again.
"""

from typing import Self

import msgspec

from contract.vocabulary import Directive, DirectiveKind, DirectiveOutcome, OutcomeState

VERSION = 1
MAX_ENTRIES = 64
MAX_OUTPUTS = 8
"""Only the newest keep what their commands printed: every report carries all of it."""

MAX_EVIDENCE = 300
MAX_OUTPUT = 1_024
MAX_NAME = 256


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One directive."""

    id: str
    kind: str
    subject: str = ""
    state: OutcomeState
    issued_seconds: float
    started_seconds: float
    finished_seconds: float = 0.0
    boot_id: str = ""
    """In which it was started."""
    evidence: str = ""
    output: str = ""

    def ended(self, state: OutcomeState, evidence: str, *, now: float, output: str = "") -> "Entry":
        """The same, over."""
        return msgspec.structs.replace(
            self,
            state=state,
            evidence=" ".join(evidence.split())[:MAX_EVIDENCE],
            output=output[-MAX_OUTPUT:],
            finished_seconds=now,
        )

    def outcome(self) -> DirectiveOutcome:
        """As reports tell it."""
        return DirectiveOutcome(
            id=self.id,
            kind=self.kind,
            state=self.state,
            subject=self.subject,
            output=self.output,
            evidence=self.evidence,
            started_seconds=self.started_seconds,
            finished_seconds=self.finished_seconds,
        )


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """All that is remembered, oldest first."""

    version: int = VERSION
    node: str
    entries: tuple[Entry, ...] = ()
    forgotten_seconds: float = 0.0
    """When the newest directive was issued that is not in here any more."""

    def find(self, id_: str) -> Entry | None:
        """The directive of this id."""
        return next((each for each in self.entries if each.id == id_), None)

    def outcomes(self) -> tuple[DirectiveOutcome, ...]:
        """As reports tell them, oldest first."""
        return tuple(each.outcome() for each in self.entries)

    def with_entry(self, entry: Entry) -> Self:
        """With this entry in the place of the one of its id, else as the newest; the oldest that is over gives way."""
        if self.find(entry.id):
            entries = [entry if each.id == entry.id else each for each in self.entries]
        else:
            entries = [*self.entries, entry]
        forgotten = self.forgotten_seconds
        while len(entries) > MAX_ENTRIES:
            oldest = next(each for each in entries if each.state is not OutcomeState.RUNNING)
            entries.remove(oldest)
            forgotten = max(forgotten, oldest.issued_seconds)
        entries = [
            msgspec.structs.replace(each, output="") if place < len(entries) - MAX_OUTPUTS else each
            for place, each in enumerate(entries)
        ]
        return msgspec.structs.replace(self, entries=tuple(entries), forgotten_seconds=forgotten)


def begun(directive: Directive, *, now: float, boot_id: str) -> Entry:
    """A directive that is about to be carried out."""
    return Entry(
        id=directive.id[:MAX_NAME],
        kind=directive.kind[:MAX_NAME],
        subject=directive.subject[:MAX_NAME],
        state=OutcomeState.RUNNING,
        issued_seconds=directive.issued_seconds,
        started_seconds=now,
        boot_id=boot_id,
    )


def after_restart(book: Book, *, boot_id: str, now: float, reboot_limit_seconds: float) -> Book:
    """What an agent that starts can say of what it finds running.

    Args:
        book: as it was found.
        boot_id: of this boot; empty: nobody knows it, and so no reboot is proven.
        now: Unix time.
        reboot_limit_seconds: how long after its start a reboot may still come; until then it stays running.
    """
    for entry in book.entries:
        if entry.state is OutcomeState.RUNNING:
            book = book.with_entry(
                _found_running(entry, boot_id=boot_id, now=now, limit=reboot_limit_seconds)
            )
    return book


def _found_running(entry: Entry, *, boot_id: str, now: float, limit: float) -> Entry:
    if entry.kind != DirectiveKind.REBOOT_NODE:
        return entry.ended(
            OutcomeState.FAILED,
            "the agent restarted in the middle; whether it worked is not known",
            now=now,
        )
    if not boot_id or not entry.boot_id:
        return entry.ended(
            OutcomeState.FAILED,
            "the agent restarted in the middle and knows no boot id; whether it worked is not known",
            now=now,
        )
    if boot_id != entry.boot_id:
        return entry.ended(OutcomeState.DONE, f"up again, new boot id {boot_id}", now=now)
    if 0 <= now - entry.started_seconds < limit:
        return entry
    return entry.ended(OutcomeState.FAILED, no_reboot(limit, boot_id), now=now)


def no_reboot(limit_seconds: float, boot_id: str) -> str:
    """Words for a reboot that never came."""
    return f"no reboot within {limit_seconds:g} s: the boot id is still {boot_id or 'unknown'}"


def encode(book: Book) -> bytes:
    """The book as JSON."""
    return msgspec.json.encode(book)


def decode(content: bytes, *, node: str) -> Book:
    """The book from JSON.

    Raises:
        ValueError: it is no book of ours, or of another node.
    """
    book = msgspec.json.decode(content, type=Book)
    if book.version != VERSION:
        raise ValueError(f"it has version {book.version}, and this agent reads {VERSION}")
    if book.node != node:
        raise ValueError(f"it is of node {book.node!r}, and this is {node!r}")
    return book
