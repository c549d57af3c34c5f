"""Checks: pure functions from a snapshot and a short memory to observations.

An observation says "this is bad now". Whether it has been bad long enough to be a finding, and when the
finding clears, is decided in one place: ``agent.faults``.
"""

import msgspec

from agent.catalogue import Code
from agent.snapshot import Snapshot


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The thresholds that people set."""

    gpu_too_hot_celsius: float = 90.0
    memory_low_ratio: float = 0.03
    disk_low_ratio: float = 0.05
    expected_gpus: int | None = None
    """``None``: learn it from what was seen."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks remember from one snapshot to the next."""

    link_downed_total: dict[str, int] = {}
    """Port subject → counter at the last reading."""
    active_ports: frozenset[str] = frozenset()
    """Subjects of ports ever seen active: only those can be *down*; an unwired port is not."""


def forget(memory: Memory, subject: str) -> Memory:
    """A person said that this is over: a port that was taken out on purpose is not missing."""
    return msgspec.structs.replace(memory, active_ports=memory.active_ports - {subject})


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """Something is bad now."""

    code: Code
    subject: str
    evidence: str
    source: str
    """The source that must be readable for this to clear."""
    occurrence: bool = False
    """It happened once more (counted), rather than it still is."""


class Checked(msgspec.Struct, frozen=True):
    """What all checks saw in one snapshot."""

    observations: tuple[Observation, ...]
    memory: Memory


def source_is_ok(snapshot: Snapshot, name: str) -> bool:
    """Whether what a snapshot holds (or lacks) of one source means anything."""
    status = snapshot.source(name)
    return status is not None and status.state.label == "ok"
