"""What the policy sees and what it may ask for. Values only."""

from collections.abc import Mapping
from enum import StrEnum
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


class NodeCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a Node offers to pods, all of it: ``status.allocatable``, and what stands behind its devices."""

    cpu_milli: int = 0
    """0: not told."""
    memory_mib: int = 0
    """0: not told."""
    devices: Mapping[str, int] = msgspec.field(default_factory=dict)
    """By resource name, accelerators as they are asked for whole: healthy ones, by the device plugin."""
    physical_devices: int = 0
    """Devices that there really are, where a sharing layer lists many shares of each; 0: it lists devices."""
    sliced: bool = False
    """Each device is listed as several whole ones: as time slices or as MIG instances, by the node's labels."""
    model: str = ""
    """Of its devices, by its labels."""


class ClusterNode(msgspec.Struct, frozen=True, kw_only=True):
    """A Node object, as far as the policy and the scores care."""

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
    uid: str = ""
    boot_id: str = ""
    """As the kubelet last said; changes with a reboot."""
    quarantined_by: str = ""
    """The Incident that our taint is for. Set without a taint: a person took the taint off."""
    cordoned_by: str = ""
    """The Incident that our cordon is for. Empty and unschedulable: somebody else's cordon.
    Set and schedulable: a person uncordoned the node."""
    managed: bool = True
    """False where people opted the node out by its label."""
    capacity: NodeCapacity = NodeCapacity()


class TimelineEntry(msgspec.Struct, frozen=True):
    """One step in the life of an incident."""

    time_seconds: float
    """Unix time."""
    phase: Phase
    text: str


class AttemptOutcome(StrEnum):
    """How one attempt at a rung stands."""

    STARTED = "started"
    """Written down before anything was done; whether it was done is not known yet."""
    DONE = "done"
    """With evidence."""
    FAILED = "failed"
    REFUSED = "refused"
    """Nothing was done: the node's agent does not allow it."""
    UNKNOWN = "unknown"
    """Nobody knows, and nobody will: it is never repeated, only climbed over."""
    CANCELLED = "cancelled"
    """A person stopped it."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try of one rung of the ladder. Saved before anything is done; counts against the caps for ever."""

    id: str
    """Unique in the cluster; the id of its directive, where it has one."""
    rung: str
    """``drain``, ``reset-device`` … as in the ladder; or ``diagnose``."""
    subject: str = ""
    """The device it is about; empty: the node."""
    code: str = ""
    """Of the finding that it is for."""
    started_seconds: float
    deadline_seconds: float
    """Unix time after which its outcome is not waited for any more."""
    boot_id: str = ""
    """The node's when it started."""
    outcome: AttemptOutcome = AttemptOutcome.STARTED
    finished_seconds: float | None = None
    text: str = ""
    """The evidence, or why it failed; one line."""

    @property
    def open(self) -> bool:
        """Whether its outcome is still waited for."""
        return self.outcome is AttemptOutcome.STARTED


class DrainState(StrEnum):
    """How far the drain of a node is."""

    RUNNING = "running"
    DONE = "done"
    """Every pod that was to go is gone."""
    STUCK = "stuck"
    """What is left will not go by itself: a rule says ``never``, or the plan refuses a pod. Nothing was forced."""


class DrainProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How a drain goes, as its runner last told."""

    attempt: str
    """The id of the attempt that it carries out."""
    state: DrainState
    pods_total: int = 0
    """That have to go, by the plan."""
    pods_gone: int = 0
    text: str = ""
    """What holds it up, in words: ``2 blocked by PDB serving/llm: needs 3 healthy, has 3``."""


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
    """Set by people in ``spec``, as are the next four: decide nothing more here."""
    approve: tuple[str, ...] = ()
    """Rungs that a person agreed to, for this incident."""
    cancel: bool = False
    """Stop, take off what is ours, close, and leave these faults alone for the mute time."""
    release: bool = False
    """A person mended it: verify now, and release if all is well."""
    note: str = ""
    timeline: tuple[TimelineEntry, ...] = ()
    phase_since_seconds: float | None = None
    """Since when it stands in this phase; ``None``: since it was opened."""
    next_step_seconds: float | None = None
    """Unix time of what ``next_step`` announces, where it has one."""
    noted_seconds: Mapping[str, float] = msgspec.field(default_factory=dict)
    """Code → Unix time at which it was first written down here. Written once; the breaker counts by it."""
    attempts: tuple[Attempt, ...] = ()
    """Oldest first."""
    drain: DrainProgress | None = None
    """Of the newest drain."""
    soak_since_seconds: float | None = None
    """While verifying: since when it is on probation; ``None``: not yet."""
    muted_until_seconds: float | None = None
    """Closed by a person's act: until then the same codes on this node are shown and not acted on."""
    needs: str = ""
    """In ``needs-human``: what a person has to do, in words."""
    release_taken_seconds: float | None = None
    """When ``release`` was last acted upon; once until people take it back and set it again."""
    told_seconds: float | None = None
    """When the webhook was told that a person is needed."""
    unreadable: bool = False
    """Its object cannot be read, and what it says of attempts cannot be trusted: never written, never stepped."""

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
    stopped: str = ""
    """Why a person stopped everything (the kill switch); empty: they did not."""
    drains: Mapping[str, DrainProgress] = msgspec.field(default_factory=dict)
    """By node: what the drain runners of this process know. Empty after a restart, until they looked."""
    device_quarantines: Mapping[str, frozenset[str]] | None = msgspec.field(default_factory=dict)
    """By node: the devices that are seen to be kept from new pods by themselves. ``None``: nobody looked yet."""
    device_words: Mapping[str, Mapping[str, str]] = msgspec.field(default_factory=dict)
    """By node and device: how each of these quarantines stands, for people; nothing is decided by it."""


class SetTaint(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="set-taint"):
    """Put our taint on a node, replacing only our own."""

    node: str
    taint: Taint
    reason: str
    incident: str = ""
    """The incident's name, written as an annotation in the same request."""


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


class Cordon(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="cordon"):
    """Make a node unschedulable and sign it with an annotation, in one request.

    A node that is unschedulable already is left as it is, unsigned: that cordon is somebody else's.
    """

    node: str
    incident: str
    reason: str


class Uncordon(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="uncordon"):
    """Take back our own cordon with its annotation; somebody else's stays."""

    node: str
    reason: str


class Notify(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="notify"):
    """Tell the webhook that a person is needed. At least once; the incident's name makes repeats recognisable."""

    incident: Incident
    reason: str

    @property
    def node(self) -> str:
        """The node it is about."""
        return self.incident.node


class ForgetIncident(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="forget-incident"
):
    """Delete the object of an incident that was closed long ago."""

    node: str
    name: str
    reason: str


Intent = (
    SetTaint
    | RemoveTaint
    | SetCondition
    | RecordEvent
    | SaveIncident
    | Cordon
    | Uncordon
    | Notify
    | ForgetIncident
)


class DrainOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A drain that should be going on now. A drain that no order asks for any more is stopped."""

    node: str
    attempt: str
    """Of the attempt in the node's Incident that it carries out."""
    incident: str
    subjects: tuple[str, ...] = ()
    """Only pods that hold one of these devices; empty: every pod that a drain moves."""
    deadline_seconds: float
    """Unix time; nothing is forced after it, only given up."""
    reason: str


class DirectiveOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A directive whose outcome is waited for: sent again until the agent says that it knows it."""

    node: str
    id: str
    kind: str
    subject: str = ""
    code: str = ""
    expires_seconds: float
    boot_id: str = ""
    reason: str


def kind_of(intent: Intent) -> str:
    """The intent's kind as people and metrics write it: ``set-taint``."""
    tag = intent.__struct_config__.tag
    assert isinstance(tag, str)  # noqa: S101 - every intent is declared with one
    return tag
