"""Intents as the policy hands them to the edge, all about one GPU that fell off the bus."""

from typing import Any

import msgspec

from aggregator.policy.model import Incident, SaveIncident, SetTaint, Taint, TimelineEntry
from contract.vocabulary import TAINT_KEY, Action, Domain, Finding, Phase, Severity

OURS = {"key": TAINT_KEY, "value": "xid-79", "effect": "NoSchedule"}
GONE_BAD = Taint("xid-79", "NoSchedule")
T0 = 1_795_449_600.0


def set_taint(node: str, taint: Taint = GONE_BAD, incident: str = "") -> SetTaint:
    return SetTaint(node=node, taint=taint, incident=incident, reason="GPU 3 fell off the bus")


def incident(name: str, node: str, **changes: Any) -> Incident:
    finding = Finding(
        code="xid-79",
        subject="gpu:0000:3b:00.0",
        severity=Severity.FATAL,
        action=Action.REBOOT_NODE,
        domain=Domain.GPU,
        evidence="NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",
        since_seconds=T0 + 0.1234567,
        last_seen_seconds=T0 + 1.5,
        count=2,
    )
    base = Incident(
        name=name,
        node=node,
        pool="h200",
        phase=Phase.SUSPECT,
        findings=(finding,),
        opened_seconds=T0 + 0.987654321,
        next_step="quarantine at once",
        timeline=(TimelineEntry(T0, Phase.SUSPECT, "first seen"),),
    )
    return msgspec.structs.replace(base, **changes)


def save(one: Incident) -> SaveIncident:
    return SaveIncident(incident=one, reason="opened")
