"""When a node whose bad devices are quarantined by themselves may take pods again. Pure.

The node is tainted first and at once; only what is seen to hold relaxes that. ``PreferNoSchedule`` is left: other nodes are
preferred to one with a dying device, and our taint and its signature stay together, so that a person's act is still seen.
"""

from aggregator.policy.attempts import open_attempt
from aggregator.policy.case import Case
from aggregator.policy.devices.wanted import hard_devices, only_devices
from aggregator.policy.ladder import Rung
from aggregator.policy.model import ClusterNode, Incident
from contract.vocabulary import Phase

OF_A_DEVICE = frozenset({None, Rung.DRAIN_DEVICE, Rung.RESET_DEVICE})
"""Rungs that need nothing of the rest of the node; ``None``: there is none left to take by itself."""


def kept_by_device(incident: Incident, case: Case, rung: Rung | None = None) -> bool:
    """Whether the node's hard taint may be relaxed now.

    Only while it simply stands in quarantine: what drains or repairs, and what proves a repair, keeps the whole node.

    Args:
        incident: as it is about to be saved.
        case: the node's.
        rung: the rung that comes next and waits for something.
    """
    quiet = incident.phase is Phase.QUARANTINED and open_attempt(incident) is None
    if not quiet or rung not in OF_A_DEVICE or not _only_moved_from_device(incident):
        return False
    if not (only_devices(incident.findings) and only_devices(case.health.findings)):
        return False
    bad = hard_devices(incident.findings).keys() | hard_devices(case.health.findings).keys()
    if not bad:
        return False
    if case.devices_kept is None:
        # Nobody looked yet, after a start: what is relaxed stays so until somebody did.
        return case.node.taint is not None and case.node.taint.effect == "PreferNoSchedule"
    return bad <= case.devices_kept


def is_unguarded(incident: Incident, case: Case) -> bool:
    """Whether a node that does not report is relaxed for a device quarantine that is not seen any more."""
    taint = case.node.taint
    relaxed = taint is not None and taint.effect == "PreferNoSchedule"
    if incident.phase is not Phase.QUARANTINED or not relaxed:
        return False
    return not kept_by_device(incident, case)


def still_keeps(incident: Incident, node: ClusterNode, kept: frozenset[str] | None) -> bool:
    """Whether no pod came to the bad devices although the node's taint is not hard."""
    if node.taint is None or not _only_moved_from_device(incident):
        return False
    return kept is None or hard_devices(incident.findings).keys() <= kept


def _only_moved_from_device(incident: Incident) -> bool:
    """Whether nothing that was done in this quarantine rests on the whole node taking no pods."""
    since = incident.quarantined_seconds or incident.opened_seconds
    return all(
        each.rung == Rung.DRAIN_DEVICE
        for each in incident.attempts
        if each.started_seconds >= since
    )
