"""What happened → faults: raised at once, cleared only by the driver's own word or a person's. Pure."""

from collections.abc import Callable, Iterable

import msgspec

from agent.catalogue import DRIVER_VERDICTS, Catalogue, Clears, Code
from agent.faults import MAX_FAULTS, Book, Fault, Key, Timing, Verdict, clear, device_of
from agent.faults.history import Occurrence, remember, rung_met, workload_of
from agent.kernel_log import XID_RECOVERY_ACTION_CHANGED, recovery_action_in
from contract.vocabulary import Action, Domain, Event, Severity

Holders = Callable[[str], tuple[str, ...]]
"""Subject → who holds that device, ``namespace/pod``."""

SOURCE_OF_DOMAIN = {
    Domain.GPU: "nvidia",
    Domain.NPU: "ascend",
    Domain.RDMA: "rdma",
    Domain.HOST: "host",
    Domain.STORAGE: "host",
}
"""The source that shows whether a device answers again."""


def nobody(subject: str) -> tuple[str, ...]:
    """Nobody is known to hold it."""
    return ()


def record_events(
    book: Book,
    events: Iterable[Event],
    catalogue: Catalogue,
    timing: Timing,
    holders: Holders = nobody,
) -> Book:
    """Raise what the events say."""
    for event in events:
        if event.kind == "clear":
            book = clear(book, subject=event.subject, code=event.message)
        elif event.kind == "reset":
            book = driver_is_content(book, event.subject, before_seconds=event.time_seconds)
        elif event.code == XID_RECOVERY_ACTION_CHANGED and event.kind == "xid":
            book = _recovery_action_changed(book, event, catalogue, timing)
        elif event.finding:
            book = _raise(book, catalogue.find(event.finding), event, timing, holders)
    return book


def driver_is_content(book: Book, subject: str, *, before_seconds: float | None = None) -> Book:
    """The driver took its verdict back, or the device was reset: what waited for that is over.

    Args:
        book: so far.
        subject: the device; its MIG instances go with it.
        before_seconds: spare what was seen at or after this Unix time.
    """

    def over(fault: Fault) -> bool:
        return (
            device_of(fault.subject) == subject
            and fault.clears in ("driver", "device-answers")
            and fault.rung is None
            and (before_seconds is None or fault.last_seen_seconds < before_seconds)
        )

    return msgspec.structs.replace(
        book, faults={key: fault for key, fault in book.faults.items() if not over(fault)}
    )


def _raise(
    book: Book,
    code: Code,
    event: Event,
    timing: Timing,
    holders: Holders = nobody,
    said: Verdict | None = None,
) -> Book:
    key = (event.subject, code.code)
    faults = dict(book.faults)
    known = faults.get(key)
    severity = said.severity if said else code.severity
    if known is None and len(faults) >= MAX_FAULTS and not _made_room(faults, severity):
        return book
    clears = said.clears if said else code.clears
    # A line from before the start is first held against the device: it may have answered long since.
    is_news = event.time_seconds >= timing.started_seconds or clears != "device-answers"
    origin = event.id.partition(":")[0]
    sightings = dict(known.sightings) if known else {}
    sightings[origin] = sightings.get(origin, 0) + event.count
    history = book.history
    if code.escalation and (key in history or len(history) < MAX_FAULTS):
        happened = Occurrence(
            at_seconds=event.time_seconds,
            origin=origin,
            count=event.count,
            pods=_suspects(holders(event.subject)),
        )
        history = {**history, key: remember(history.get(key, ()), happened, code)}
    faults[key] = Fault(
        code=code,
        subject=event.subject,
        evidence=known.evidence if known and _tells_less(event, known) else event.message,
        source=_source(code, clears),
        since_seconds=min(known.since_seconds, event.time_seconds) if known else event.time_seconds,
        last_seen_seconds=max(known.last_seen_seconds, event.time_seconds)
        if known
        else event.time_seconds,
        raised=is_news or (known is not None and known.raised),
        sightings=sightings,
        said=said,
        is_old=event.time_seconds < timing.started_seconds,
        rung=rung_met(code, history.get(key, ()), event.time_seconds),
    )
    return msgspec.structs.replace(book, faults=faults, history=history)


def _suspects(pods: tuple[str, ...]) -> tuple[str, ...]:
    """Whose program it was, where only one workload holds the device; of several nobody can say which."""
    return pods[:1] if len({workload_of(pod) for pod in pods}) == 1 else ()


def _source(code: Code, clears: Clears) -> str:
    return SOURCE_OF_DOMAIN[code.domain] if clears in ("device-answers", "driver") else ""


def _tells_less(event: Event, known: Fault) -> bool:
    """NVML gives the bare number of what the kernel log puts in words."""
    return not event.id.startswith("kmsg:") and "kmsg" in known.sightings


def _made_room(faults: dict[Key, Fault], severity: Severity) -> bool:
    """Give up the weakest fault for a worse one; what is only shown pushes nothing out."""
    if severity <= Severity.INFO:
        return False
    weakest = min(faults.values(), key=lambda each: (each.severity, each.last_seen_seconds))
    if weakest.severity >= severity:
        return False
    del faults[weakest.key]
    return True


def _recovery_action_changed(
    book: Book, event: Event, catalogue: Catalogue, timing: Timing
) -> Book:
    """XID 154 is the driver's own verdict on one GPU: it outranks the table, and its zero clears."""
    number = recovery_action_in(event.message)
    if number == 0:
        return driver_is_content(book, event.subject)
    known = book.faults.get((event.subject, f"xid-{XID_RECOVERY_ACTION_CHANGED}"))
    said = known.said if known else None
    if number in DRIVER_VERDICTS:
        severity, action = DRIVER_VERDICTS[number]
        said = Verdict(severity=severity, action=action, clears="driver")
    elif said is None:  # NVML tells the number only: no verdict takes back none
        said = Verdict(severity=Severity.INFO, action=Action.NONE, clears="quiet")
    code = catalogue.xid(XID_RECOVERY_ACTION_CHANGED)
    return _raise(book, code, event, timing, said=said)
