"""Which devices should get no new pods: read off the open Incidents, so that nothing has to be remembered. Pure."""

from collections.abc import Iterable, Mapping

from aggregator.policy.devices.values import Wanted
from aggregator.policy.guards import was_quarantined
from aggregator.policy.model import ClusterView, Incident
from aggregator.policy.people import is_peoples
from contract.vocabulary import Finding, Severity

KINDS = ("gpu:", "npu:")


def device_named(subject: str) -> str:
    """The accelerator that a subject is about or a part of; empty: it is about the node or something else."""
    return subject.partition("/")[0] if subject.startswith(KINDS) else ""


def hard_devices(findings: Iterable[Finding]) -> dict[str, str]:
    """Device → code of the worst finding about it, of those with a critical or fatal one."""
    found: dict[str, str] = {}
    for each in sorted(findings, key=lambda each: (-each.severity, each.code)):
        if each.severity >= Severity.CRITICAL and (device := device_named(each.subject)):
            found.setdefault(device, each.code)
    return found


def only_devices(findings: Iterable[Finding]) -> bool:
    """Whether every hard finding is about one device, so that a quarantine of devices answers them all."""
    return all(
        device_named(each.subject) for each in findings if each.severity >= Severity.CRITICAL
    )


def asks(incident: Incident) -> bool:
    """Whether its bad devices should be kept from new pods: from its quarantine until its probation or its end.

    That a quarantine had its place in the pool's budget is therefore true of each device that is taken out.
    """
    return incident.open and was_quarantined(incident) and incident.soak_since_seconds is None


def wanted(
    view: ClusterView, hardware: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, list[Wanted]], frozenset[str]]:
    """By node the devices that should get no new pods, and the nodes on which nothing is changed now.

    Args:
        view: the cluster as of now.
        hardware: node → device → UUID, as its agent last said.
    """
    found: dict[str, list[Wanted]] = {}
    left_alone: set[str] = set()
    for incident in view.incidents.values():
        if not incident.open or incident.node not in view.nodes:
            continue
        if is_peoples(incident):
            left_alone.add(incident.node)
        if not asks(incident) or incident.cancel or not view.nodes[incident.node].managed:
            continue
        uuids = hardware.get(incident.node, {})
        listed = found.setdefault(incident.node, [])
        known = {each.device for each in listed}
        listed += [
            Wanted(
                node=incident.node,
                device=device,
                uuid=uuids.get(device, ""),
                incident=incident.name,
                code=code,
            )
            for device, code in hard_devices(incident.findings).items()
            if device not in known
        ]
    return found, frozenset(left_alone)
