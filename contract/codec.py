"""Between the shared words and their wire form. Total: no input that parses as protobuf is an error here."""

import math

from contract import report_pb2 as pb
from contract.vocabulary import (
    Action,
    Directive,
    DirectiveOutcome,
    Domain,
    Event,
    Finding,
    OutcomeState,
    Severity,
    SourceState,
    SourceStatus,
)
from contract.wire import MAX_TEXT


def finding_to_wire(finding: Finding) -> pb.Finding:
    """One finding as protobuf."""
    return pb.Finding(
        code=finding.code,
        subject=finding.subject,
        severity=int(finding.severity),  # type: ignore[arg-type]
        action=int(finding.action),  # type: ignore[arg-type]
        domain=int(finding.domain),  # type: ignore[arg-type]
        evidence=finding.evidence[:MAX_TEXT],
        since_time_seconds=finding.since_seconds,
        last_seen_time_seconds=finding.last_seen_seconds,
        count=finding.count,
        clears=finding.clears[:MAX_TEXT],
    )


def finding_from_wire(message: pb.Finding) -> Finding:
    """One finding from protobuf; unknown words read as the nearest weaker one known."""
    return Finding(
        code=message.code[:MAX_TEXT],
        subject=message.subject[:MAX_TEXT],
        severity=Severity.at_most(message.severity),
        action=Action.at_most(message.action),
        domain=Domain.at_most(message.domain),
        evidence=message.evidence[:MAX_TEXT],
        since_seconds=_time(message.since_time_seconds),
        last_seen_seconds=_time(message.last_seen_time_seconds),
        count=max(1, message.count),
        clears=message.clears[:MAX_TEXT],
    )


def source_to_wire(status: SourceStatus) -> pb.SourceStatus:
    """One source's state as protobuf."""
    return pb.SourceStatus(
        name=status.name,
        state=int(status.state),  # type: ignore[arg-type]
        reason=status.reason[:MAX_TEXT],
        since_time_seconds=status.since_seconds,
    )


def source_from_wire(message: pb.SourceStatus) -> SourceStatus:
    """One source's state from protobuf; a state that was not said, or is below "ok", reads as failing."""
    return SourceStatus(
        name=message.name[:MAX_TEXT],
        state=SourceState.at_most(message.state)
        if message.state >= SourceState.OK
        else SourceState.FAILING,
        reason=message.reason[:MAX_TEXT],
        since_seconds=_time(message.since_time_seconds),
    )


def event_to_wire(event: Event) -> pb.Event:
    """One event as protobuf."""
    return pb.Event(
        id=event.id,
        time_seconds=event.time_seconds,
        kind=event.kind,
        subject=event.subject,
        message=event.message[:MAX_TEXT],
        code=event.code,
        finding=event.finding,
        count=event.count,
    )


def event_from_wire(message: pb.Event) -> Event:
    """One event from protobuf."""
    return Event(
        id=message.id[:MAX_TEXT],
        time_seconds=_time(message.time_seconds),
        kind=message.kind[:MAX_TEXT],
        subject=message.subject[:MAX_TEXT],
        message=message.message[:MAX_TEXT],
        code=message.code if message.HasField("code") else None,
        finding=message.finding[:MAX_TEXT],
        count=max(1, message.count),
    )


def directive_to_wire(directive: Directive) -> pb.Directive:
    """One directive as protobuf."""
    return pb.Directive(
        id=directive.id,
        kind=directive.kind,
        subject=directive.subject,
        code=directive.code,
        expires_time_seconds=directive.expires_seconds,
        reason=directive.reason[:MAX_TEXT],
        node=directive.node,
        issued_time_seconds=directive.issued_seconds,
        boot_id=directive.boot_id,
    )


def directive_from_wire(message: pb.Directive) -> Directive:
    """One directive from protobuf."""
    return Directive(
        id=message.id[:MAX_TEXT],
        kind=message.kind[:MAX_TEXT],
        subject=message.subject[:MAX_TEXT],
        code=message.code[:MAX_TEXT],
        expires_seconds=_time(message.expires_time_seconds),
        reason=message.reason[:MAX_TEXT],
        node=message.node[:MAX_TEXT],
        issued_seconds=_time(message.issued_time_seconds),
        boot_id=message.boot_id[:MAX_TEXT],
    )


def outcome_to_wire(outcome: DirectiveOutcome) -> pb.DirectiveOutcome:
    """One outcome as protobuf."""
    return pb.DirectiveOutcome(
        id=outcome.id,
        kind=outcome.kind,
        state=int(outcome.state),  # type: ignore[arg-type]
        subject=outcome.subject,
        output=outcome.output[-MAX_TEXT:],
        evidence=outcome.evidence[:MAX_TEXT],
        started_time_seconds=outcome.started_seconds,
        finished_time_seconds=outcome.finished_seconds,
    )


def outcome_from_wire(message: pb.DirectiveOutcome) -> DirectiveOutcome:
    """One outcome from protobuf; a state that was not said is not over."""
    return DirectiveOutcome(
        id=message.id[:MAX_TEXT],
        kind=message.kind[:MAX_TEXT],
        state=OutcomeState.at_most(message.state),
        subject=message.subject[:MAX_TEXT],
        output=message.output[-MAX_TEXT:],
        evidence=message.evidence[:MAX_TEXT],
        started_seconds=_time(message.started_time_seconds),
        finished_seconds=_time(message.finished_time_seconds),
    )


def _time(seconds: float) -> float:
    """A time as sent; what is no number reads as not said, so that times stay comparable."""
    return seconds if math.isfinite(seconds) else 0.0
