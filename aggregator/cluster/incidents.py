"""Incidents as objects of ``incidents.fleetmedic.io``: people's ``spec``, our ``status``.

Reading is total: what cannot be understood becomes an incident in phase ``needs-human`` that says
why, because one broken object must not stop the care of all other nodes.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from aggregator.cluster import times
from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import Conflict
from aggregator.cluster.reflector import Reflector
from aggregator.policy.model import Incident, TimelineEntry
from contract.vocabulary import Action, Domain, Finding, Phase, Severity

API_VERSION = "fleetmedic.io/v1alpha1"
MAX_COUNT = 2**63 - 1
"""The schema's int64: a larger one would be refused, and with it the whole status, for ever."""
INCIDENTS = f"/apis/{API_VERSION}/incidents"


class _Finding(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    code: str
    subject: str
    severity: str
    action: str
    domain: str
    evidence: str
    since_time: str
    last_seen_time: str
    count: int = 1


class _Step(msgspec.Struct, frozen=True, kw_only=True):
    time: str
    phase: Phase
    text: str


class _Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    phase: Phase
    opened_time: str
    pool: str = ""
    findings: tuple[_Finding, ...] = ()
    quarantined_time: str | None = None
    clear_since_time: str | None = None
    closed_time: str | None = None
    next_step: str = ""
    timeline: tuple[_Step, ...] = ()


def to_status(incident: Incident) -> Json:
    """The ``status`` that says all of an incident but what people decide."""
    status = _Status(
        phase=incident.phase,
        opened_time=times.exact(incident.opened_seconds),
        pool=incident.pool,
        findings=tuple(_from_finding(one) for one in incident.findings),
        quarantined_time=_maybe_time(incident.quarantined_seconds),
        clear_since_time=_maybe_time(incident.clear_since_seconds),
        closed_time=_maybe_time(incident.closed_seconds),
        next_step=incident.next_step,
        timeline=tuple(
            _Step(time=times.exact(one.time_seconds), phase=one.phase, text=one.text)
            for one in incident.timeline
        ),
    )
    value: Json = msgspec.to_builtins(status)
    return value


def from_object(obj: Json) -> Incident:
    """The incident that an object tells of; never fails."""
    metadata, spec, status = (_dict(obj.get(part)) for part in ("metadata", "spec", "status"))
    name, node = str(metadata.get("name") or ""), str(spec.get("node") or "")
    hold = spec.get("hold") is True
    opened = _created(metadata)
    try:
        if not status:  # created a moment ago, or by a person: a beginning, nothing wrong
            return _empty(name, node, Phase.SUSPECT, opened, hold, "")
        return _from_status(name, node, hold, msgspec.convert(status, _Status))
    except (ValueError, OverflowError) as error:  # msgspec's errors are ValueErrors
        why = f"this object cannot be read ({error}); mend its status or delete it"
        return _empty(name, node, Phase.NEEDS_HUMAN, opened, hold, why)


def _from_status(name: str, node: str, hold: bool, status: _Status) -> Incident:
    return Incident(
        name=name,
        node=node,
        pool=status.pool,
        phase=status.phase,
        findings=tuple(_to_finding(one) for one in status.findings),
        opened_seconds=times.to_seconds(status.opened_time),
        quarantined_seconds=_maybe_seconds(status.quarantined_time),
        clear_since_seconds=_maybe_seconds(status.clear_since_time),
        closed_seconds=_maybe_seconds(status.closed_time),
        next_step=status.next_step,
        hold=hold,
        timeline=tuple(
            TimelineEntry(times.to_seconds(one.time), one.phase, one.text)
            for one in status.timeline
        ),
    )


def _empty(
    name: str, node: str, phase: Phase, opened: float, hold: bool, next_step: str
) -> Incident:
    return Incident(
        name=name,
        node=node,
        pool="",
        phase=phase,
        findings=(),
        opened_seconds=opened,
        next_step=next_step,
        hold=hold,
    )


def _from_finding(finding: Finding) -> _Finding:
    return _Finding(
        code=finding.code,
        subject=finding.subject,
        severity=finding.severity.label,
        action=finding.action.label,
        domain=finding.domain.label,
        evidence=finding.evidence,
        since_time=times.exact(finding.since_seconds),
        last_seen_time=times.exact(finding.last_seen_seconds),
        count=min(finding.count, MAX_COUNT),
    )


def _to_finding(one: _Finding) -> Finding:
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
    )


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _created(metadata: Json) -> float:
    try:
        return times.to_seconds(str(metadata.get("creationTimestamp")))
    except (ValueError, OverflowError):
        return 0.0


def _maybe_time(seconds: float | None) -> str | None:
    return None if seconds is None else times.exact(seconds)


def _maybe_seconds(text: str | None) -> float | None:
    return None if text is None else times.to_seconds(text)


class IncidentWriter:
    """Creates Incident objects and replaces their status; never touches an existing ``spec``.

    Args:
        api: the way to the server.
        incidents: where versions are read from and the answers are put.
        permit: called right before each write; raises when we may not write any more.
    """

    def __init__(
        self, api: Api, incidents: Reflector[Incident], *, permit: Callable[[], None]
    ) -> None:
        self._api = api
        self._incidents = incidents
        self._permit = permit

    async def save(self, incident: Incident) -> None:
        """Create the object if there is none, then write its status: one request, or two.

        Raises:
            Conflict: somebody changed it meanwhile, say put it on hold. The view then shows
                that, and the decision has to be made anew.
            ApiError: it could not be done.
        """
        known = self._incidents.entries.get(incident.name)
        version = known.version if known is not None else await self._create(incident)
        path = f"{INCIDENTS}/{quote(incident.name, safe='')}"
        metadata = {"name": incident.name, "resourceVersion": version}
        self._permit()
        try:
            written = await self._api.replace(
                f"{path}/status", {**_kind(metadata), "status": to_status(incident)}
            )
        except Conflict:
            self._incidents.put(await self._api.get(path))
            raise
        self._incidents.put(written)

    async def _create(self, incident: Incident) -> str:
        """The version of the new object, or of the one that is there already."""
        spec: Json = {"node": incident.node}
        if incident.hold:
            spec["hold"] = True
        self._permit()
        try:
            made = await self._api.create(
                INCIDENTS, {**_kind({"name": incident.name}), "spec": spec}
            )
        except Conflict:
            made = await self._api.get(f"{INCIDENTS}/{quote(incident.name, safe='')}")
        version: str = made["metadata"]["resourceVersion"]
        return version


def _kind(metadata: Json) -> Json:
    return {"apiVersion": API_VERSION, "kind": "Incident", "metadata": metadata}
