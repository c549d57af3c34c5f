"""What a person can do about a node: stop it, or let it go on. Commands ready for a shell. Pure."""

import shlex
from collections.abc import Iterable, Iterator, Sequence

from aggregator.policy.config import PolicyConfig
from aggregator.policy.explain.explanation import Facts, Way
from aggregator.policy.explain.words import lasting
from aggregator.policy.health import NodeHealth
from aggregator.policy.model import Incident
from contract.vocabulary import CONTROL_CONFIG_MAP, UNMANAGED_LABEL, Finding


def stop(facts: Facts) -> Iterator[Way]:
    """How to stop what goes on; at least one way while an incident is open."""
    if facts.mode != "kubernetes":
        yield Way(f"nothing to stop: in {facts.mode} mode nothing is written")
        return
    node, incident = shlex.quote(facts.name), facts.incident
    if incident is not None and not incident.hold:
        patch = shlex.quote('{"spec":{"hold":true}}')
        yield Way("decide nothing more about this node", f"fleetmedic hold {node} --note WHY")
        yield Way(
            "the same without this tool",
            f"kubectl patch inc {shlex.quote(incident.name)} --type=merge -p {patch}",
        )
    if incident is not None and not incident.cancel:
        yield Way(
            "take off what is Fleetmedic's, close the incident, and leave these faults alone here for "
            f"{lasting(facts.config.mute_seconds)}",
            f"fleetmedic cancel {node} --note WHY",
        )
    if facts.node is None or facts.node.managed:
        yield Way(
            "leave this node to people for good",
            f"kubectl label node {node} {UNMANAGED_LABEL}=false",
        )
    if not facts.stopped:
        yield Way("stop every write in the whole cluster", f"fleetmedic stop WHY{_where(facts)}")
        yield Way(
            "the same without this tool",
            f"kubectl -n {shlex.quote(facts.namespace)} create configmap {CONTROL_CONFIG_MAP} "
            "--from-literal=stop=WHY --dry-run=client -o yaml | kubectl apply -f -",
        )
    elif incident is None or incident.hold:
        yield Way("everything is stopped already")


def go_on(facts: Facts) -> Iterator[Way]:
    """What takes back such a stop, and what a person can agree to."""
    if facts.mode != "kubernetes":
        return
    node, incident = shlex.quote(facts.name), facts.incident
    if facts.stopped:
        yield Way("let Fleetmedic act again, in the whole cluster", f"fleetmedic go{_where(facts)}")
    if facts.node is not None and not facts.node.managed:
        yield Way(
            "give this node back to Fleetmedic", f"kubectl label node {node} {UNMANAGED_LABEL}-"
        )
    if incident is None:
        return
    if incident.hold:
        yield Way("take off the hold", f"fleetmedic resume {node}")
    for rung in _unapproved(incident, facts.config, facts.health):
        yield Way(f"agree to {rung}, for this incident", f"fleetmedic approve {node} {rung}")
    if not incident.release and incident.quarantined_seconds is not None:
        yield Way(
            "say that it is mended: it is checked at once and released if all is well",
            f"fleetmedic release {node}",
        )


def _unapproved(
    incident: Incident, config: PolicyConfig, health: NodeHealth | None
) -> Sequence[str]:
    """Rungs that the findings may come to and that wait for a person."""
    findings: Iterable[Finding] = (*incident.findings, *(health.findings if health else ()))
    rungs = dict.fromkeys(rung for each in findings for rung in config.ladder.rungs(each))
    return [
        rung.value
        for rung in rungs
        if rung in config.needs_approval and rung not in incident.approve
    ]


def _where(facts: Facts) -> str:
    """The flag that names the kill switch's namespace, where it is not the usual one."""
    if facts.namespace == "fleetmedic":
        return ""
    return f" --namespace {shlex.quote(facts.namespace)}"
