"""What one step of an incident is decided on, and what it makes of it. Values only."""

from collections.abc import Sequence

import msgspec

from aggregator.policy.config import PolicyConfig
from aggregator.policy.guards import Guards
from aggregator.policy.health import NodeHealth
from aggregator.policy.model import (
    Attempt,
    ClusterNode,
    DirectiveOrder,
    DrainOrder,
    DrainProgress,
    Incident,
    Taint,
)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One node in one round."""

    health: NodeHealth
    """Its fresh report, without what a person muted."""
    node: ClusterNode
    history: Sequence[Attempt]
    """What was tried on this node in earlier incidents."""
    drain: DrainProgress | None
    """How its drain goes, if one does."""
    guards: Guards
    devices_kept: frozenset[str] | None = frozenset()
    """Devices of the node that are kept from new pods by themselves; ``None``: nobody looked yet."""
    already_hard: bool
    """Whether the node takes no new pods as it is, and so is counted already."""
    release_after_seconds: float
    """How long this node must be clear, flap damping included."""
    config: PolicyConfig
    now: float
    """Unix time."""


class Declined(msgspec.Struct, frozen=True):
    """Something the findings ask for that is not done, and why."""

    node: str
    reason: str
    """A sentence."""
    what: str = "quarantine"
    """The rung that is not taken."""
    why: str = "budget"
    """One word, for the metric: ``budget``, ``rate``, ``breaker``, ``off``, ``approval``, ``cool-down``."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step makes of an incident."""

    incident: Incident
    taint: Taint | None
    """The taint the node should carry now."""
    why: str
    """Why the incident stands where it stands; a sentence."""
    cordon: bool | None = None
    """Whether our cordon should be there; ``None``: as it is."""
    declined: Declined | None = None
    drain: DrainOrder | None = None
    directive: DirectiveOrder | None = None
