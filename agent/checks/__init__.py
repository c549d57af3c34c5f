"""Checks: pure functions from a snapshot and a short memory to observations.

An observation says "this is bad now". Whether it has been bad long enough to be a finding, and when the
finding clears, is decided in one place: ``agent.faults``. Each check module has a ``Memory`` of its own (plain data
that survives a restart as JSON) and ``check(snapshot, memory, context) -> Checked``; ``all.py`` runs them all.
"""

from typing import Generic, TypeVar

import msgspec

from agent.catalogue import Catalogue, Code
from agent.snapshot import Snapshot
from contract.vocabulary import SourceState

M = TypeVar("M")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The thresholds that are settings; all others stand in the catalogue, beside their code."""

    gpu_too_hot_celsius: float = 90.0
    memory_low_ratio: float = 0.03
    disk_low_ratio: float = 0.05
    expected_gpus: int | None = None
    """``None``: learn it from what was seen."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What every check is given beside the snapshot."""

    catalogue: Catalogue
    limits: Limits = Limits()


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """Something is bad now."""

    code: Code
    subject: str
    evidence: str
    source: str
    """The source that must be readable for this to clear."""
    occurrence: bool = False
    """It happened once more (counted), rather than it still is."""


class Checked(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    """What a check saw in one snapshot."""

    observations: tuple[Observation, ...] = ()
    memory: M
    """What to remember for the next snapshot."""
    resets: frozenset[str] = frozenset()
    """Subjects that were reset since the snapshot before: their counters started again."""
    blind: frozenset[str] = frozenset()
    """Subjects that cannot be judged now although their source answers; neither good nor bad."""
    unjudged: frozenset[str] = frozenset()
    """Sources (``Observation.source``) of which a check itself failed: what it would say is not known, so nothing
    of theirs may clear by not being observed."""


def source_is_ok(snapshot: Snapshot, name: str) -> bool:
    """Whether what a snapshot holds (or lacks) of one source means anything."""
    status = snapshot.source(name)
    return status is not None and status.state is SourceState.OK
