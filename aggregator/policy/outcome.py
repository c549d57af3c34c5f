"""From what a step wants to the writes that get there, in the order in which they must happen. Pure."""

from aggregator.policy.case import Step
from aggregator.policy.model import (
    ClusterNode,
    Cordon,
    Incident,
    Intent,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetTaint,
    Taint,
    Uncordon,
)
from contract.vocabulary import Phase

EVENTS = {
    Phase.QUARANTINED: ("Warning", "Quarantined"),
    Phase.DRAINING: ("Normal", "Draining"),
    Phase.REPAIRING: ("Normal", "Repairing"),
    Phase.VERIFYING: ("Normal", "Verifying"),
    Phase.NEEDS_HUMAN: ("Warning", "NeedsHuman"),
    Phase.CLOSED: ("Normal", "Released"),
}
"""Phase → type and reason of the Event that tells of coming into it."""


def intents_of(known: Incident | None, step: Step, node: ClusterNode) -> list[Intent]:
    """What must be written to get from what is known to what the step wants.

    What keeps pods away comes first, and what lets them back comes before the Incident says so: a crash in between
    leaves an open Incident, which the next round takes up.
    """
    incident = step.incident
    intents: list[Intent] = []
    if step.cordon is False and node.cordoned_by:
        intents.append(Uncordon(node=node.name, reason=step.why))
    if _effect(node.taint) != _effect(step.taint) or (step.taint is None and node.quarantined_by):
        intents.append(_taint(step, node))
    if step.cordon and not node.unschedulable:
        intents.append(Cordon(node=node.name, incident=incident.name, reason=step.why))
    if known != incident:
        intents.append(SaveIncident(incident=incident, reason=f"{incident.phase}: {step.why}"))
    before = known.phase if known is not None else None
    if incident.phase is not before and incident.phase in EVENTS:
        type_, reason = EVENTS[incident.phase]
        text = incident.timeline[-1].text
        intents.append(
            RecordEvent(
                node=node.name,
                type="Warning" if type_ == "Warning" else "Normal",
                event_reason=reason,
                reason=text,
            )
        )
    return intents


def _taint(step: Step, node: ClusterNode) -> SetTaint | RemoveTaint:
    if step.taint is None:
        return RemoveTaint(node=node.name, reason=step.why)
    return SetTaint(node=node.name, taint=step.taint, reason=step.why, incident=step.incident.name)


def _effect(taint: Taint | None) -> str | None:
    """A new code alone is not worth a write: every taint change wakes the scheduler's queue."""
    return taint.effect if taint else None
