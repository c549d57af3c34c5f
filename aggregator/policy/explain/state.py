"""What state a node is in, and by whom: ours, somebody else's, a person's word. Pure."""

from collections.abc import Iterator

from aggregator.policy.explain.explanation import Facts, Line
from aggregator.policy.explain.words import clock, lasting
from aggregator.policy.model import ClusterNode, Incident
from contract.vocabulary import UNMANAGED_LABEL


def state(facts: Facts) -> Iterator[Line]:
    """Sentences, what matters for everything else first."""
    if facts.stopped:
        yield Line(
            f"Everything is stopped by the kill switch: {facts.stopped!r}. Nothing is written in the whole cluster."
        )
    if facts.mode != "kubernetes":
        yield Line(f"This aggregator is in {facts.mode} mode: it decides and writes nothing.")
    yield from _node_state(facts.node, facts.incident)
    for device, words in sorted(facts.devices.items()):
        yield Line(f"Quarantine of {device} by itself: {words}.")
    if facts.node is not None and not facts.node.managed:
        yield Line(
            f"Opted out by its label {UNMANAGED_LABEL}=false: Fleetmedic watches it and leaves it to people."
        )
    for each in facts.muted():
        codes = ", ".join(dict.fromkeys(one.code for one in each.findings)) or "its faults"
        until = each.muted_until_seconds or 0.0
        yield Line(
            f"A person overruled Fleetmedic (incident {each.name}). Until {clock(until, facts.now)} these are shown "
            f"here and not acted on: {codes}."
        )
    if facts.incident is not None:
        yield from _incident_state(facts.incident)
    if facts.health is None:
        yield Line("No agent of this node ever reported to this aggregator.")
    elif facts.silent:
        yield Line(
            f"Its agent has been silent for {lasting(facts.health.age_seconds)}: it may be well or not, "
            "and that is no reason to act."
        )


def _node_state(node: ClusterNode | None, incident: Incident | None) -> Iterator[Line]:
    if node is None:
        yield Line("The cluster lists no node of this name.")
        return
    since = incident.quarantined_seconds if incident else None
    if node.taint is not None:
        for_whom = f" for incident {node.quarantined_by}" if node.quarantined_by else ""
        meaning = {
            "NoSchedule": "It takes no new pods",
            "PreferNoSchedule": "Other nodes are preferred to it",
            "NoExecute": "It takes no new pods, and those that do not tolerate it were removed",
        }[node.taint.effect]
        yield Line(
            f"{meaning}: taint fleetmedic.io/quarantine={node.taint.code}:{node.taint.effect}, "
            f"put there by Fleetmedic{for_whom}.",
            since if node.taint.effect != "PreferNoSchedule" else None,
        )
    elif node.quarantined_by:
        yield Line(
            f"A person took Fleetmedic's taint off (it was for incident {node.quarantined_by})."
        )
    if node.unschedulable and node.cordoned_by:
        yield Line(f"Cordoned by Fleetmedic for incident {node.cordoned_by}.")
    elif node.unschedulable:
        yield Line(
            "Cordoned by a person or another tool, not by Fleetmedic; Fleetmedic will not undo it."
        )
    elif node.cordoned_by:
        yield Line(
            f"A person uncordoned it (Fleetmedic had cordoned it for incident {node.cordoned_by})."
        )
    if node.taint is None and not node.unschedulable:
        yield Line("In service: Fleetmedic keeps no pods from it.")


def _incident_state(incident: Incident) -> Iterator[Line]:
    yield Line(
        f"Incident {incident.name} is open, in phase {incident.phase}.",
        incident.opened_seconds
        if incident.phase_since_seconds is None
        else incident.phase_since_seconds,
    )
    if incident.hold:
        yield Line("On hold by a person: Fleetmedic decides nothing more here.")
    if incident.cancel:
        yield Line(
            "Cancelled by a person: Fleetmedic takes off what is its own and closes the incident."
        )
    if incident.release:
        yield Line("A person says that it is mended: Fleetmedic checks that now.")
    if incident.approve:
        yield Line(f"A person agreed to: {', '.join(incident.approve)}.")
    if incident.note:
        yield Line(f"Note: {incident.note}")
