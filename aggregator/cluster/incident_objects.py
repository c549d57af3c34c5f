"""What we read of an incident: an object of ``incidents.fleetmedic.io``, whatever became of it.

Reading is total: what cannot be understood becomes an incident in phase ``needs-human`` that says
why, because one broken object must not stop the care of all other nodes. Whatever part can still be
read stays, the attempts above all: a spoilt object must never give a node its budget of repairs back.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from aggregator.cluster import times
from aggregator.cluster.incident_status import (
    MAX_TEXT,
    MAX_WORD,
    AttemptObject,
    DrainObject,
    FindingObject,
    StepObject,
)
from aggregator.policy.model import (
    Attempt,
    AttemptOutcome,
    DrainProgress,
    DrainState,
    Incident,
    TimelineEntry,
)
from contract.vocabulary import Action, Domain, Finding, Phase, Severity

Json = dict[str, Any]
T = TypeVar("T")


def from_object(obj: Json) -> Incident:
    """The incident that an object tells of; never fails."""
    metadata, spec = _dict(obj.get("metadata")), _dict(obj.get("spec"))
    said = _said(metadata, spec)
    opened = _created(metadata)
    raw = obj.get("status")
    if raw is None or raw == {}:  # created a moment ago, or by a person: a beginning, nothing wrong
        return Incident(pool="", phase=Phase.SUSPECT, findings=(), opened_seconds=opened, **said)
    wrong: list[str] = []
    read = _Reader(raw, wrong)
    fields = _fields(read, opened)
    if wrong:
        why = f"this object cannot be read ({'; '.join(wrong[:3])}); mend its status or delete it"
        fields |= {
            "phase": Phase.NEEDS_HUMAN,
            "needs": why[:MAX_TEXT],
            "next_step": why[:MAX_TEXT],
            "next_step_seconds": None,
            "unreadable": True,
        }
    return Incident(**said, **fields)


class _Reader:
    """Reads one status part by part; what cannot be read is noted and replaced."""

    def __init__(self, raw: Any, wrong: list[str]) -> None:
        self.wrong = wrong
        self._raw = raw if isinstance(raw, dict) else {}
        if not isinstance(raw, dict):
            wrong.append(f"$.status is {type(raw).__name__}")

    def one(self, name: str, kind: type[T], fallback: T, *, needed: bool = False) -> T:
        """One part as this type."""
        value = self._raw.get(name)
        if value is None:
            if needed:
                self.wrong.append(f"$.{name} is missing")
            return fallback
        read: T = self._convert(value, kind, f"$.{name}", fallback)
        return read

    def time(self, name: str) -> float | None:
        """One part as Unix time."""
        text = self.one(name, str, "")
        return self.seconds(text, f"$.{name}", None) if text else None

    def seconds(self, text: str, where: str, fallback: float | None) -> float | None:
        """Unix time of a text."""
        try:
            return times.to_seconds(text)
        except (ValueError, OverflowError) as error:
            self.wrong.append(f"{where}: {error}")
            return fallback

    def each(self, name: str, kind: type[T]) -> list[tuple[str, Any, T | None]]:
        """The items of a list: where, as it is, and as this type; ``None``: it cannot be."""
        items: list[Any] = self.one(name, list, [])
        return [
            (where, item, self._convert(item, kind, where, None))
            for where, item in ((f"$.{name}[{index}]", item) for index, item in enumerate(items))
        ]

    def _convert(self, value: Any, kind: Any, where: str, fallback: Any) -> Any:
        try:
            return msgspec.convert(value, kind)
        except (ValueError, OverflowError) as error:  # msgspec's errors are ValueErrors
            self.wrong.append(f"{where}: {error}")
            return fallback


def _fields(read: _Reader, opened: float) -> Json:
    """Everything of an incident that its status tells."""
    began = read.one("openedTime", str, "", needed=True)
    since = read.seconds(began, "$.openedTime", None) if began else None
    start = opened if since is None else since
    timeline = _timeline(read)
    # Of what has lost its time, the latest one known: too early a time would free a budget.
    latest = max([start, *(each.time_seconds for each in timeline)])
    return {
        "phase": read.one("phase", Phase, Phase.NEEDS_HUMAN, needed=True),
        "opened_seconds": start,
        "pool": read.one("pool", str, ""),
        "findings": _findings(read),
        "quarantined_seconds": read.time("quarantinedTime"),
        "clear_since_seconds": read.time("clearSinceTime"),
        "closed_seconds": read.time("closedTime"),
        "phase_since_seconds": read.time("phaseSinceTime"),
        "next_step": read.one("nextStep", str, ""),
        "next_step_seconds": read.time("nextStepTime"),
        "noted_seconds": _noted(read),
        "attempts": tuple(
            _attempt(read, where, raw, one, latest)
            for where, raw, one in read.each("attempts", AttemptObject)
        ),
        "drain": _drain(read),
        "soak_since_seconds": read.time("soakSinceTime"),
        "muted_until_seconds": read.time("mutedUntilTime"),
        "needs": read.one("needs", str, ""),
        "release_taken_seconds": read.time("releaseTakenTime"),
        "told_seconds": read.time("toldTime"),
        "timeline": timeline,
    }


def _findings(read: _Reader) -> tuple[Finding, ...]:
    found = []
    for where, _, one in read.each("findings", FindingObject):
        if one is None:
            continue
        try:
            found.append(_to_finding(one))
        except (ValueError, OverflowError) as error:
            read.wrong.append(f"{where}: {error}")
    return tuple(found)


def _timeline(read: _Reader) -> tuple[TimelineEntry, ...]:
    steps = []
    for where, _, one in read.each("timeline", StepObject):
        seconds = read.seconds(one.time, where, None) if one else None
        if one is not None and seconds is not None:
            steps.append(TimelineEntry(seconds, one.phase, one.text))
    return tuple(steps)


def _noted(read: _Reader) -> dict[str, float]:
    noted = {}
    for code, text in read.one("notedTimes", dict[str, Any], {}).items():
        seconds = read.seconds(str(text), f"$.notedTimes.{code[:64]}", None)
        if seconds is not None:
            noted[code] = seconds
    return noted


def _attempt(
    read: _Reader, where: str, raw: Any, one: AttemptObject | None, latest: float
) -> Attempt:
    """One attempt; one that cannot be read still counts, and nobody knows how it ended."""
    if one is not None:
        started = read.seconds(one.started_time, f"{where}.startedTime", None)
        deadline = read.seconds(one.deadline_time, f"{where}.deadlineTime", None)
        finished = (
            read.seconds(one.finished_time, f"{where}.finishedTime", None)
            if one.finished_time
            else None
        )
        if started is not None and deadline is not None:
            return Attempt(
                id=one.id,
                rung=one.rung,
                subject=one.subject,
                code=one.code,
                started_seconds=started,
                deadline_seconds=deadline,
                boot_id=one.boot_id,
                outcome=one.outcome,
                finished_seconds=finished,
                text=one.text,
            )
    told = _dict(raw)
    return Attempt(
        id=str(told.get("id") or where)[:MAX_WORD],
        rung=str(told.get("rung") or "unknown")[:MAX_WORD],
        started_seconds=latest,
        deadline_seconds=latest,
        outcome=AttemptOutcome.UNKNOWN,
        text="this attempt cannot be read any more",
    )


def _said(metadata: Json, spec: Json) -> Json:
    """What names the incident and what people said; the schema keeps nonsense out of it."""
    approve: Any = spec.get("approve")
    words: Sequence[Any] = approve if isinstance(approve, list) else ()
    note = spec.get("note")
    return {
        "name": str(metadata.get("name") or ""),
        "node": str(spec.get("node") or ""),
        "hold": spec.get("hold") is True,
        "approve": tuple(one for one in words if isinstance(one, str)),
        "cancel": spec.get("cancel") is True,
        "release": spec.get("release") is True,
        "note": note if isinstance(note, str) else "",
    }


def _to_finding(one: FindingObject) -> Finding:
    return Finding(
        code=one.code,
        subject=one.subject,
        severity=Severity.from_label(one.severity),
        action=Action.from_label(one.action),
        domain=Domain.from_label(one.domain),
        evidence=one.evidence,
        since_seconds=times.to_seconds(one.since_time),
        last_seen_seconds=times.to_seconds(one.last_seen_time),
        count=one.count,
        clears=one.clears,
    )


def _drain(read: _Reader) -> DrainProgress | None:
    none = DrainObject(attempt="", state=DrainState.DONE)
    one = read.one("drain", DrainObject, none)
    if one is none:
        return None
    return DrainProgress(
        attempt=one.attempt,
        state=one.state,
        pods_total=one.pods_total,
        pods_gone=one.pods_gone,
        text=one.text,
    )


def _dict(value: Any) -> Json:
    return dict(value) if isinstance(value, Mapping) else {}


def _created(metadata: Json) -> float:
    try:
        return times.to_seconds(str(metadata.get("creationTimestamp")))
    except (ValueError, OverflowError):
        return 0.0
