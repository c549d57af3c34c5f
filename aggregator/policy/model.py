"""What the policy sees and what it may ask for. Values only."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from contract.vocabulary import Finding, Phase

TaintEffect = Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
ConditionStatus = Literal["True", "False", "Unknown"]


class Taint(msgspec.Struct, frozen=True):
    """Our own taint on a node: ``fleetmedic.io/quarantine=<code>:<effect>``."""

    code: str
    effect: TaintEffect


class Condition(msgspec.Struct, frozen=True):
    """One node condition of ours as it stands in the cluster."""

    status: ConditionStatus
    reason: str = ""
    """CamelCase, as Kubernetes wants it."""
    message: str = ""


class ClusterNode(msgspec.Struct, frozen=True, kw_only=True):
    """A Node object, as far as the policy cares."""

    name: str
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    unschedulable: bool = False
    taint: Taint | None = None
    """Ours only; foreign taints are not our business."""
    conditions: Mapping[str, Condition] = msgspec.field(default_factory=dict)
    """Ours only, by type: ``GPUHealthy`` …"""
    gpu_capacity: int = 0
    pool: str = "default"
    """Nodes that are budgeted together: the value of the pool label."""


class TimelineEntry(msgspec.Struct, frozen=True):
    """One step in the life of an incident."""

    time_seconds: float
    """Unix time."""
    phase: Phase
    text: str


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """The life of one node's trouble. At most one open incident per node."""

    name: str
    """A DNS name, unique in the cluster."""
    node: str
    pool: str
    phase: Phase
    findings: tuple[Finding, ...]
    """As last seen, worst first."""
    opened_seconds: float
    """Unix times, all of them."""
    quarantined_seconds: float | None = None
    clear_since_seconds: float | None = None
    """Since when no finding of quarantine strength is raised; ``None`` while one is."""
    closed_seconds: float | None = None
    next_step: str = ""
    """What happens next and when, in words."""
    hold: bool = False
    """Set by people in ``spec``: decide nothing more here."""
    timeline: tuple[TimelineEntry, ...] = ()

    @property
    def open(self) -> bool:
        """Whether it still needs anything."""
        return self.phase is not Phase.CLOSED


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """One consistent picture of the cluster per decision."""

    synced: bool
    """False until the first full list; nothing is decided on an unsynced view."""
    nodes: Mapping[str, ClusterNode]
    incidents: Mapping[str, Incident]
    """By incident name, open and closed."""


class SetTaint(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="set-taint"):
    """Put our taint on a node, replacing only our own."""

    node: str
    taint: Taint
    reason: str


class RemoveTaint(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="remove-taint"):
    """Take our taint off a node; every other taint stays."""

    node: str
    reason: str


class SetCondition(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="set-condition"
):
    """State one condition; ``lastTransitionTime`` moves only when the status flips."""

    node: str
    type: str
    condition: Condition
    reason: str


class RecordEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="record-event"):
    """A Kubernetes Event on the Node, for people."""

    node: str
    type: Literal["Normal", "Warning"]
    event_reason: str
    """CamelCase: ``Quarantined``, ``Released``."""
    reason: str


class SaveIncident(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="save-incident"
):
    """Create or update an Incident object's status."""

    incident: Incident
    reason: str

    @property
    def node(self) -> str:
        """The node it is about."""
        return self.incident.node


Intent = SetTaint | RemoveTaint | SetCondition | RecordEvent | SaveIncident


def kind_of(intent: Intent) -> str:
    """The intent's kind as people and metrics write it: ``set-taint``."""
    tag = intent.__struct_config__.tag
    assert isinstance(tag, str)  # noqa: S101 - every intent is declared with one
    return tag
