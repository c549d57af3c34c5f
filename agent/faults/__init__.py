"""The life of a fault on this node: pending, raised, cleared. Pure: the clock comes in.

Level-triggered faults (a value read each tick) are raised after they were bad for the hold time and clear
after they were good for the clear time. Edge-triggered faults (a line in the kernel log) are raised at once and
clear by the rule of their code: the device answers again, the driver takes its verdict back, the device was reset,
or it stays quiet. While the source that would show a fault's end cannot be read, nothing clears: not seeing is not good.

``events.py`` takes what happened, ``levels.py`` what a tick shows, ``history.py`` knows how often.
"""

from collections.abc import Mapping

import msgspec

from agent.catalogue import Clears, Code, Escalation
from agent.faults.history import Occurrence
from contract.vocabulary import Action, Finding, Severity

Key = tuple[str, str]
"""(subject, code)"""

MAX_FAULTS = 1_000
"""Distinct faults kept; a flood of unknown codes must not grow the agent."""

MIG = "/mig:"
"""Between the subject of a GPU and the number of one of its instances."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long is long enough."""

    hold_seconds: float = 10.0
    clear_seconds: float = 60.0
    started_seconds: float = 0.0
    """Unix time at which this agent began to look. A kernel-log line older than that starts no new clearing
    time, so that a restart of the agent does not forge a fault that was over."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver itself says; it outranks the catalogue."""

    severity: Severity
    action: Action
    clears: Clears


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
    bad_seconds: float = 0.0
    """How long a value was seen bad, by a clock that never steps."""
    good_seconds: float | None = None
    """How long its clearing condition holds, likewise; ``None`` while it does not."""
    raised: bool = False
    sightings: Mapping[str, int] = {}
    """Origin (``kmsg``, ``nvml``, ``check``) → how often. The kernel log and NVML tell of the same fault
    twice, so the count of a fault is that of its most talkative origin."""
    said: Verdict | None = None
    is_old: bool = False
    """Its newest line is from before this agent, which did not see what came after it."""
    rung: Escalation | None = None
    """The worst rung of its escalation that is met now; it keeps the fault from clearing."""

    @property
    def key(self) -> Key:
        """What makes two sightings the same fault."""
        return (self.subject, self.code.code)

    @property
    def clears(self) -> Clears:
        """What ends it."""
        return self.said.clears if self.said else self.code.clears

    @property
    def severity(self) -> Severity:
        """How bad it is, with how often it came."""
        base = self.said.severity if self.said else self.code.severity
        return max(base, self.rung.severity) if self.rung else base

    @property
    def action(self) -> Action:
        """What would mend it: history first, then the driver, then the catalogue."""
        if self.rung:
            return self.rung.action
        return self.said.action if self.said else self.code.action


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of this node's faults."""

    faults: Mapping[Key, Fault] = {}
    history: Mapping[Key, tuple[Occurrence, ...]] = {}
    """Of codes with an escalation; outlives the fault, and the boot."""
    ticked_seconds: float = 0.0
    """Unix time of the newest tick that was judged."""
    answered: Mapping[str, float] = {}
    """GPU subject → Unix time at which its counters were read last."""
    cards: Mapping[str, str] = {}
    """GPU subject → UUID of the card that was there last."""


def findings(book: Book, timing: Timing) -> tuple[Finding, ...]:
    """What is raised now, worst first."""
    verdicts = _verdicts(book)
    raised = (
        _finding(fault, verdicts.get(device_of(fault.subject)), timing)
        for fault in book.faults.values()
        if fault.raised
    )
    return tuple(sorted(raised, key=lambda each: (-each.severity, each.since_seconds, each.key)))


def clear(book: Book, *, subject: str, code: str) -> Book:
    """A person said that this fault is over: it and its history are forgotten."""
    key = (subject, code)
    return msgspec.structs.replace(
        book,
        faults={each: fault for each, fault in book.faults.items() if each != key},
        history={each: past for each, past in book.history.items() if each != key},
    )


def device_of(subject: str) -> str:
    """The physical device of a subject: a MIG instance's GPU, else the subject itself."""
    return subject.partition(MIG)[0]


def _verdicts(book: Book) -> dict[str, Action]:
    """What the driver asks for now, by device: it knows better than any table what mends its GPU."""
    return {
        fault.subject: fault.action
        for fault in book.faults.values()
        if fault.raised
        and fault.code.code in ("gpu-recovery-action", "xid-154")
        and fault.action is not Action.NONE
    }


def _finding(fault: Fault, verdict: Action | None, timing: Timing) -> Finding:
    obeys = fault.clears in ("driver", "device-answers") and fault.rung is None
    return Finding(
        code=fault.code.code,
        subject=fault.subject,
        severity=fault.severity,
        action=verdict if verdict is not None and obeys else fault.action,
        domain=fault.code.domain,
        evidence=fault.evidence if fault.rung is None else f"{fault.evidence} ({_often(fault)})",
        since_seconds=fault.since_seconds,
        last_seen_seconds=fault.last_seen_seconds,
        count=max(fault.sightings.values(), default=1),
        clears=_clears_in_words(fault, timing),
    )


def _often(fault: Fault) -> str:
    assert fault.rung is not None  # noqa: S101
    what = "different workloads" if fault.rung.across_pods else "times"
    apart = f", {_span(fault.rung.apart_seconds)} apart," if fault.rung.apart_seconds else ""
    return f"{fault.rung.count} {what} or more{apart} within {_span(fault.rung.within_seconds)}"


def _clears_in_words(fault: Fault, timing: Timing) -> str:
    span = _span(
        timing.clear_seconds if fault.code.clear_seconds is None else fault.code.clear_seconds
    )
    if fault.rung is not None:
        return f"when it is no longer true: {_often(fault)}; or by a person"
    return {
        "good-for": f"good for {span}",
        "quiet": f"no repeat for {span}",
        "device-answers": f"the device answers cleanly for {span}",
        "driver": "the driver takes its verdict back, or a reset of the device",
        "boot": "a new boot",
        "person": "a person",
    }[fault.clears]


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"
