"""What we write about an incident: the ``status`` of its object, in the words and bounds of its schema.

Writing is total: a status that the schema refuses would be refused for ever.
"""

from typing import Any

import msgspec

from aggregator.cluster import times
from aggregator.policy.model import Attempt, AttemptOutcome, DrainProgress, DrainState, Incident
from contract.vocabulary import Finding, Phase

Json = dict[str, Any]

MAX_COUNT = 2**63 - 1
"""The schema's int64."""
MAX_PODS = 2**31 - 1
"""The schema's int32."""
MAX_TEXT = 1_024
"""Characters of what people read."""
MAX_WORD = 256
"""Characters of codes, subjects, names."""
MAX_FINDINGS = 64
MAX_STEPS = 100
MAX_ATTEMPTS = 128
MAX_NOTED = 256
MAX_BYTES = 700_000
"""Of one status; the API server's store takes 1.5 MB at most, with everything around it."""
TIGHT_TEXT = 100
TIGHT_WORD = 64
"""Characters kept where ``MAX_BYTES`` are not enough: they may take six bytes each, and then still fit."""


class FindingObject(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One finding."""

    code: str
    subject: str
    severity: str
    action: str
    domain: str
    evidence: str
    since_time: str
    last_seen_time: str
    count: int = 1
    clears: str = ""


class StepObject(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the timeline."""

    time: str
    phase: Phase
    text: str


class AttemptObject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt at a rung."""

    id: str
    rung: str
    started_time: str = msgspec.field(name="startedTime")
    deadline_time: str = msgspec.field(name="deadlineTime")
    outcome: AttemptOutcome
    subject: str = ""
    code: str = ""
    boot_id: str = msgspec.field(default="", name="bootID")
    finished_time: str | None = msgspec.field(default=None, name="finishedTime")
    text: str = ""


class DrainObject(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a drain goes."""

    attempt: str
    state: DrainState
    pods_total: int = 0
    pods_gone: int = 0
    text: str = ""


class StatusObject(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Everything that we tell about an incident."""

    phase: Phase
    opened_time: str
    pool: str = ""
    action: str = ""
    findings: tuple[FindingObject, ...] = ()
    quarantined_time: str | None = None
    clear_since_time: str | None = None
    closed_time: str | None = None
    phase_since_time: str | None = None
    next_step: str = ""
    next_step_time: str | None = None
    noted_times: dict[str, str] = {}
    attempts: tuple[AttemptObject, ...] = ()
    drain: DrainObject | None = None
    soak_since_time: str | None = None
    muted_until_time: str | None = None
    needs: str = ""
    release_taken_time: str | None = None
    told_time: str | None = None
    timeline: tuple[StepObject, ...] = ()


def to_spec(incident: Incident) -> Json:
    """The ``spec`` of a new object: people's words, of which most were never said."""
    spec: Json = {"node": incident.node}
    for word in ("hold", "cancel", "release"):
        if getattr(incident, word):
            spec[word] = True
    if incident.approve:
        spec["approve"] = list(incident.approve)
    if incident.note:
        spec["note"] = incident.note
    return spec


def to_status(incident: Incident) -> Json:
    """The ``status`` that says all of an incident but what people decide; never more than the schema takes.

    Of too many findings the worst stay, of everything else the newest.
    """
    value: Json = msgspec.to_builtins(_Writer(MAX_TEXT, MAX_WORD).status(incident))
    if len(msgspec.json.encode(value)) > MAX_BYTES:
        value = msgspec.to_builtins(_Writer(TIGHT_TEXT, TIGHT_WORD).status(incident))
    return value


def action_of(incident: Incident) -> str:
    """What is being done, else what would mend the worst finding; nothing once it is closed."""
    if not incident.open:
        return ""
    under_way = [one.rung for one in incident.attempts if one.open]
    if under_way:
        return under_way[-1]
    return incident.findings[0].action.label if incident.findings else ""


class _Writer:
    """Puts an incident into the schema's words, cutting texts and words at these lengths."""

    def __init__(self, text: int, word: int) -> None:
        self._text = text
        self._word = word

    def status(self, incident: Incident) -> StatusObject:
        text, word = self._text, self._word
        newest = sorted(incident.noted_seconds.items(), key=lambda item: item[1])[-MAX_NOTED:]
        return StatusObject(
            phase=incident.phase,
            opened_time=times.exact(incident.opened_seconds),
            pool=incident.pool[:word],
            action=action_of(incident)[:word],
            findings=tuple(self._finding(one) for one in incident.findings[:MAX_FINDINGS]),
            quarantined_time=_maybe_time(incident.quarantined_seconds),
            clear_since_time=_maybe_time(incident.clear_since_seconds),
            closed_time=_maybe_time(incident.closed_seconds),
            phase_since_time=_maybe_time(incident.phase_since_seconds),
            next_step=incident.next_step[:text],
            next_step_time=_maybe_time(incident.next_step_seconds),
            noted_times={code[:word]: times.exact(seconds) for code, seconds in newest},
            attempts=tuple(self._attempt(one) for one in incident.attempts[-MAX_ATTEMPTS:]),
            drain=self._drain(incident.drain),
            soak_since_time=_maybe_time(incident.soak_since_seconds),
            muted_until_time=_maybe_time(incident.muted_until_seconds),
            needs=incident.needs[:text],
            release_taken_time=_maybe_time(incident.release_taken_seconds),
            told_time=_maybe_time(incident.told_seconds),
            timeline=tuple(
                StepObject(
                    time=times.exact(one.time_seconds), phase=one.phase, text=one.text[:text]
                )
                for one in incident.timeline[-MAX_STEPS:]
            ),
        )

    def _finding(self, finding: Finding) -> FindingObject:
        return FindingObject(
            code=finding.code[: self._word],
            subject=finding.subject[: self._word],
            severity=finding.severity.label,
            action=finding.action.label,
            domain=finding.domain.label,
            evidence=finding.evidence[: self._text],
            since_time=times.exact(finding.since_seconds),
            last_seen_time=times.exact(finding.last_seen_seconds),
            count=max(0, min(finding.count, MAX_COUNT)),
            clears=finding.clears[: self._text],
        )

    def _attempt(self, one: Attempt) -> AttemptObject:
        return AttemptObject(
            # Whole in any case: cut short, one attempt would be taken for another, and its outcome with it.
            id=one.id[:MAX_WORD] or "unnamed",
            rung=one.rung[: self._word] or "unknown",
            subject=one.subject[: self._word],
            code=one.code[: self._word],
            started_time=times.exact(one.started_seconds),
            deadline_time=times.exact(one.deadline_seconds),
            boot_id=one.boot_id[: self._word],
            outcome=one.outcome,
            finished_time=_maybe_time(one.finished_seconds),
            text=one.text[: self._text],
        )

    def _drain(self, drain: DrainProgress | None) -> DrainObject | None:
        if drain is None:
            return None
        return DrainObject(
            attempt=drain.attempt[:MAX_WORD],
            state=drain.state,
            pods_total=max(0, min(drain.pods_total, MAX_PODS)),
            pods_gone=max(0, min(drain.pods_gone, MAX_PODS)),
            text=drain.text[: self._text],
        )


def _maybe_time(seconds: float | None) -> str | None:
    return None if seconds is None else times.exact(seconds)
