"""The words of the design as types. Both sides speak these; the wire form is in ``codec.py``."""

from enum import IntEnum, StrEnum
from typing import Self

import msgspec


class Word(IntEnum):
    """An ordered word of ours. Its numbers are the wire's and leave gaps for words to come."""

    @property
    def label(self) -> str:
        """The word people read and write: ``Action.RESET_DEVICE`` → ``"reset-device"``."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def from_label(cls, text: str) -> Self:
        """The value that a word names.

        Raises:
            ValueError: naming the word and those allowed.
        """
        for value in cls:
            if value.label == text:
                return value
        allowed = ", ".join(value.label for value in cls)
        raise ValueError(f"{text!r} is not a {cls.__name__.lower()}; use one of: {allowed}")

    @classmethod
    def at_most(cls, number: int) -> Self:
        """The nearest known value not above ``number``, else the lowest.

        A newer peer's word so reads as the strongest one we know that it certainly includes.
        """
        known = list(cls)
        return max((value for value in known if value <= number), default=min(known))


class Severity(Word):
    """How bad a finding is."""

    INFO = 10
    """Show it."""
    DEGRADED = 20
    """Prefer other nodes."""
    CRITICAL = 30
    """No new pods."""
    FATAL = 40
    """Pods here are already lost or wrong."""


class Action(Word):
    """What would mend a finding, from least to most intrusive."""

    NONE = 0
    RESTART_WORKLOAD = 10
    RESET_DEVICE = 20
    RESTART_SERVICE = 30
    REBOOT_NODE = 40
    REPLACE_HARDWARE = 50


class Domain(Word):
    """The part of a node that a finding is about; one node condition each."""

    HOST = 10
    GPU = 20
    NPU = 30
    RDMA = 40
    STORAGE = 50


class SourceState(Word):
    """How one source of truth is doing. Only ``OK`` says anything about the hardware."""

    OK = 10
    ABSENT = 20
    """Nothing of this kind on this machine: a plain fact, not an error."""
    FAILING = 30
    """It answers with errors."""
    STUCK = 40
    """It does not answer."""


class Health(StrEnum):
    """How one device is, as far as anybody can tell."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """What would tell cannot be read: neither good nor a reason to act."""


class Phase(StrEnum):
    """Where an incident stands."""

    SUSPECT = "suspect"
    QUARANTINED = "quarantined"
    DRAINING = "draining"
    REPAIRING = "repairing"
    VERIFYING = "verifying"
    CLOSED = "closed"
    NEEDS_HUMAN = "needs-human"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with one device or node."""

    code: str
    """The kind of trouble, as people write it: ``xid-79``, ``gpu-lost``."""
    subject: str
    """What it is about: ``gpu:0000:3b:00.0``, ``rdma:mlx5_0/1``, ``host``, ``mount:/data``."""
    severity: Severity
    action: Action
    domain: Domain
    evidence: str
    """One line a person can read, with the values that decided."""
    since_seconds: float
    """Unix time at which it was first seen."""
    last_seen_seconds: float
    """Unix time at which the evidence was last seen."""
    count: int = 1
    """How often the evidence was seen."""
    clears: str = ""
    """What ends it, in words: ``good for 60 s``, ``reset of the device``."""

    @property
    def key(self) -> tuple[str, str]:
        """What makes two sightings the same finding on one node."""
        return (self.subject, self.code)


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one source is doing, and since when."""

    name: str
    state: SourceState
    reason: str = ""
    since_seconds: float = 0.0
    """Unix time at which it came into this state."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened at one instant, as read from a kernel log or a driver."""

    id: str
    """Unique per node and boot: ``kmsg:8812``, ``nvml:3``."""
    time_seconds: float
    """Unix time."""
    kind: str
    """``xid``, ``sxid``, ``kernel``, ``npu``, ``clear``, ``reset``, or what NVML calls it: ``double-bit-ecc``, ``gpu-unavailable`` …"""
    subject: str
    message: str
    code: int | None = None
    finding: str = ""
    """The code of the finding that it raises (``xid-79``); empty: it raises none."""
    count: int = 1
    """A storm of the same event is told as one, with how many there were."""


class OutcomeState(Word):
    """How a directive went. At the lowest, and of a newer word, nothing is known to be over."""

    RUNNING = 10
    FAILED = 20
    """It ran, and there is no evidence that it helped."""
    REFUSED = 30
    """Never started: not allowed on that node, expired, or not signed for it."""
    DONE = 40
    """With evidence."""


class DirectiveKind(StrEnum):
    """What an agent can be told to do. Everything but ``clear`` is off until its own settings allow it."""

    CLEAR = "clear"
    """Forget a finding that only a person can call over."""
    RESET_DEVICE = "reset-device"
    RESTART_SERVICE = "restart-service"
    REBOOT_NODE = "reboot-node"
    DIAGNOSE = "diagnose"
    """Run the diagnostic hook: a short burn-in that proves a device."""


class Directive(msgspec.Struct, frozen=True, kw_only=True):
    """An instruction from the aggregator to one agent, to be carried out at most once."""

    id: str
    kind: str
    node: str = ""
    """The only node that may carry it out."""
    subject: str = ""
    code: str = ""
    issued_seconds: float = 0.0
    expires_seconds: float = 0.0
    """Unix time after which it must not be started."""
    boot_id: str = ""
    """Void after a reboot; empty: any boot."""
    reason: str = ""


class DirectiveOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a directive went, as its agent tells it in every report from then on."""

    id: str
    kind: str
    state: OutcomeState
    subject: str = ""
    output: str = ""
    """The last lines of what the command printed."""
    evidence: str = ""
    """What proves it: the device answers and its counters restarted, a new boot id."""
    started_seconds: float = 0.0
    finished_seconds: float = 0.0


ANNOTATION_PREFIX = "fleetmedic.io"
"""Labels, taints, annotations and conditions of ours live under this name."""

TAINT_KEY = f"{ANNOTATION_PREFIX}/quarantine"

UNMANAGED_LABEL = f"{ANNOTATION_PREFIX}/managed"
"""A Node with this label set to ``false`` is watched and reported, and otherwise left to people."""

QUARANTINED_BY = f"{ANNOTATION_PREFIX}/quarantined-by"
"""Annotation written together with our taint: the Incident. It is there without the taint only where a person
took the taint off."""

CORDONED_BY = f"{ANNOTATION_PREFIX}/cordoned-by"
"""Annotation written together with our cordon: the Incident. A cordon without it is somebody else's."""

SCORE_BAND_LABEL = f"{ANNOTATION_PREFIX}/score-band"
"""Label of a GPU node for schedulers: ``0`` (sick) to ``10``, larger is the better place for the next GPU pod."""

SCORE_ANNOTATION = f"{ANNOTATION_PREFIX}/score"
"""The same finer, as an annotation: a whole number ``0`` to ``1000``. Always written together with the label."""

CONTROL_CONFIG_MAP = "fleetmedic-control"
"""In the namespace of the lease. ``data.stop`` with any text in it stops every write within a second."""

CONDITIONS = {
    Domain.GPU: "GPUHealthy",
    Domain.NPU: "NPUHealthy",
    Domain.RDMA: "RDMAHealthy",
    Domain.HOST: "HostHealthy",
    Domain.STORAGE: "StorageHealthy",
}
"""Node condition per domain; positive, so ``True`` is good."""


def readable(finding: Finding) -> dict[str, object]:
    """A finding as people and JSON clients see it, words instead of numbers."""
    return {
        "code": finding.code,
        "subject": finding.subject,
        "severity": finding.severity.label,
        "action": finding.action.label,
        "domain": finding.domain.label,
        "evidence": finding.evidence,
        "since": finding.since_seconds,
        "last_seen": finding.last_seen_seconds,
        "count": finding.count,
        "clears": finding.clears,
    }
