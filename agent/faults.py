"""The life of a fault on this node: pending, raised, cleared. Pure: the clock comes in.

Level-triggered faults (a value read each tick) are raised after they were bad for the hold time and clear
after they were good for the clear time. Edge-triggered faults (a line in the kernel log) are raised at once and
clear by the rule of their code: the device answers again, the driver takes its verdict back, or it stays
quiet. While the source that would show a fault's end cannot be read, nothing clears: not seeing is not good.
"""

from collections.abc import Iterable, Mapping

import msgspec

from agent.catalogue import DRIVER_VERDICTS, Catalogue, Code
from agent.checks import Observation, source_is_ok
from agent.kernel_log import XID_RECOVERY_ACTION_CHANGED, recovery_action_in
from agent.snapshot import Gpu, Snapshot
from contract.vocabulary import Action, Event, Finding, Severity, SourceState

Key = tuple[str, str]
"""(subject, code)"""

MAX_FAULTS = 1_000
"""Distinct faults kept; a flood of unknown codes must not grow the agent."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long is long enough."""

    hold_seconds: float = 10.0
    clear_seconds: float = 60.0
    started_seconds: float = 0.0
    """Unix time at which this agent began to look. A kernel-log line older than that starts no new clearing
    time, so that a restart of the agent does not forge a fault that was over."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, raised or still pending."""

    code: Code
    subject: str
    evidence: str
    source: str
    """The source whose silence keeps it from clearing; empty: none."""
    since_seconds: float
    """Unix times, all of them."""
    last_seen_seconds: float
    good_since_seconds: float | None = None
    """Since when its clearing condition holds; ``None`` while it does not."""
    raised: bool = False
    sightings: Mapping[str, int] = {}
    """Origin (``kmsg``, ``nvml``, ``check``) → how often. The kernel log and NVML tell of the same fault
    twice, so the count of a fault is that of its most talkative origin."""
    action: Action | None = None
    """What the driver itself asks for, where it said so; it outranks the catalogue."""

    @property
    def key(self) -> Key:
        """What makes two sightings the same fault."""
        return (self.subject, self.code.code)

    def finding(self) -> Finding:
        """The fault as others see it."""
        return Finding(
            code=self.code.code,
            subject=self.subject,
            severity=self.code.severity,
            action=self.code.action if self.action is None else self.action,
            domain=self.code.domain,
            evidence=self.evidence,
            since_seconds=self.since_seconds,
            last_seen_seconds=self.last_seen_seconds,
            count=max(self.sightings.values(), default=1),
        )


Book = Mapping[Key, Fault]
"""All faults of this node."""


def findings(book: Book) -> tuple[Finding, ...]:
    """What is raised now, worst first."""
    raised = (fault.finding() for fault in book.values() if fault.raised)
    return tuple(sorted(raised, key=lambda each: (-each.severity, each.since_seconds, each.key)))


def record_events(
    book: Book, events: Iterable[Event], catalogue: Catalogue, timing: Timing
) -> dict[Key, Fault]:
    """Raise what the events say; only the driver's own word, or a person's, clears anything."""
    faults = dict(book)
    for event in events:
        if event.kind == "clear":
            faults.pop((event.subject, event.message), None)
        if event.kind != "xid" or event.code is None:
            continue
        if event.code == XID_RECOVERY_ACTION_CHANGED:
            _recovery_action_changed(faults, event, catalogue, timing)
        else:
            _raise(faults, catalogue.xid(event.code), event, timing)
    return faults


def advance(
    book: Book, snapshot: Snapshot, observations: Iterable[Observation], timing: Timing
) -> dict[Key, Fault]:
    """One tick: hold, raise and clear by what the snapshot shows."""
    now = snapshot.taken_seconds
    seen = {(each.subject, each.code.code): each for each in observations}
    faults = dict(book)
    for key, observation in seen.items():
        faults[key] = _observed(faults.get(key), observation, now, timing)
    gpus = {gpu.subject: gpu for gpu in snapshot.gpus}
    for key, fault in list(faults.items()):
        if key in seen:
            continue
        if fault.source and not source_is_ok(snapshot, fault.source):
            faults[key] = _unseen(fault, snapshot, timing)
            continue
        if not fault.raised and fault.code.clears == "good-for":
            del faults[key]  # it was bad for less than the hold time
            continue
        good_since = _good_since(fault, gpus, now, timing)
        if good_since is not None and now - good_since >= timing.clear_seconds:
            _clear(faults, fault)
        elif not fault.raised or good_since != fault.good_since_seconds:
            faults[key] = msgspec.structs.replace(fault, good_since_seconds=good_since, raised=True)
    return faults


def clear(book: Book, *, subject: str, code: str) -> dict[Key, Fault]:
    """A person said that this fault is over."""
    return {key: fault for key, fault in book.items() if key != (subject, code)}


def _observed(known: Fault | None, observation: Observation, now: float, timing: Timing) -> Fault:
    since = now if known is None else known.since_seconds
    hold_seconds = timing.hold_seconds if observation.code.hold else 0.0
    seen_before = known.sightings.get("check", 0) if known else 0
    return Fault(
        code=observation.code,
        subject=observation.subject,
        evidence=observation.evidence,
        source=observation.source,
        since_seconds=since,
        last_seen_seconds=now,
        raised=(known is not None and known.raised) or now - since >= hold_seconds,
        sightings={"check": 1 + (seen_before if observation.occurrence else 0)},
    )


def _unseen(fault: Fault, snapshot: Snapshot, timing: Timing) -> Fault:
    """The source that would show its end cannot be read: time in the dark is no good time."""
    waiting = not fault.raised and fault.code.clears == "device-answers"
    status = snapshot.source(fault.source)
    may_yet_answer = status is not None and status.state is not SourceState.ABSENT
    patient = snapshot.taken_seconds - timing.started_seconds < timing.hold_seconds
    raised = fault.raised or (waiting and not (may_yet_answer and patient))
    if raised is fault.raised and fault.good_since_seconds is None:
        return fault
    return msgspec.structs.replace(fault, raised=raised, good_since_seconds=None)


def _clear(faults: dict[Key, Fault], fault: Fault) -> None:
    faults.pop(fault.key, None)
    if fault.code.code == "gpu-recovery-action":
        _driver_is_content(faults, fault.subject)


def _driver_is_content(faults: dict[Key, Fault], subject: str) -> None:
    for key, fault in list(faults.items()):
        if fault.subject == subject and fault.code.clears in ("driver", "device-answers"):
            del faults[key]


def _good_since(fault: Fault, gpus: Mapping[str, Gpu], now: float, timing: Timing) -> float | None:
    """Since when the clearing condition holds; the driver's own clearing comes as an event instead."""
    if fault.code.clears == "quiet":
        return fault.last_seen_seconds
    start = fault.good_since_seconds
    if start is None:
        start = fault.last_seen_seconds if fault.last_seen_seconds < timing.started_seconds else now
    if fault.code.clears == "good-for":
        return start
    gpu = gpus.get(fault.subject)
    answers = gpu is not None and not gpu.lost and not gpu.recovery_action
    return start if fault.code.clears == "device-answers" and answers else None


def _raise(faults: dict[Key, Fault], code: Code, event: Event, timing: Timing) -> None:
    key = (event.subject, code.code)
    known = faults.get(key)
    if known is None and len(faults) >= MAX_FAULTS and not _made_room(faults, code):
        return
    # A line from before the start is first held against the device: it may have answered long since.
    is_news = event.time_seconds >= timing.started_seconds or code.clears != "device-answers"
    origin = event.id.partition(":")[0]
    sightings = dict(known.sightings) if known else {}
    sightings[origin] = sightings.get(origin, 0) + 1
    faults[key] = Fault(
        code=code,
        subject=event.subject,
        evidence=known.evidence if known and _tells_less(event, known) else event.message,
        source="nvidia" if code.clears in ("device-answers", "driver") else "",
        since_seconds=min(known.since_seconds, event.time_seconds) if known else event.time_seconds,
        last_seen_seconds=max(known.last_seen_seconds, event.time_seconds)
        if known
        else event.time_seconds,
        raised=is_news or (known is not None and known.raised),
        sightings=sightings,
        action=known.action if known else None,
    )


def _tells_less(event: Event, known: Fault) -> bool:
    """NVML gives the bare number of what the kernel log puts in words."""
    return not event.id.startswith("kmsg:") and "kmsg" in known.sightings


def _made_room(faults: dict[Key, Fault], code: Code) -> bool:
    """Give up the weakest fault for a worse one; what is only shown pushes nothing out."""
    if code.severity <= Severity.INFO:
        return False
    weakest = min(faults.values(), key=lambda each: (each.code.severity, each.last_seen_seconds))
    if weakest.code.severity >= code.severity:
        return False
    del faults[weakest.key]
    return True


def _recovery_action_changed(
    faults: dict[Key, Fault], event: Event, catalogue: Catalogue, timing: Timing
) -> None:
    """XID 154 is the driver's own verdict on one GPU: it outranks the table, and its zero clears."""
    verdict = recovery_action_in(event.message)
    if verdict == 0:
        _driver_is_content(faults, event.subject)
        return
    severity, action = DRIVER_VERDICTS.get(verdict or 0, (Severity.INFO, Action.NONE))
    code = msgspec.structs.replace(
        catalogue.xid(XID_RECOVERY_ACTION_CHANGED),
        meaning="The driver's verdict on this GPU",
        severity=severity,
        action=action,
        clears="driver" if verdict in DRIVER_VERDICTS else "quiet",
    )
    known = faults.get((event.subject, code.code))
    if known is not None and verdict not in DRIVER_VERDICTS:
        code = known.code  # NVML tells the number only: no verdict takes back none
    _raise(faults, code, event, timing)
    for key, fault in list(faults.items()):
        if fault.subject == event.subject and verdict in DRIVER_VERDICTS:
            faults[key] = msgspec.structs.replace(fault, action=action)
