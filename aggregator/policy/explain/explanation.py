"""What an explanation rests on, and what it says. Values only."""

from collections.abc import Iterator, Mapping

import msgspec

from aggregator.policy.config import PolicyConfig
from aggregator.policy.health import NodeHealth
from aggregator.policy.model import ClusterNode, Incident


class Line(msgspec.Struct, frozen=True):
    """One sentence, and when what it tells of happened or will."""

    text: str
    time_seconds: float | None = None
    """Unix time."""


class Way(msgspec.Struct, frozen=True):
    """Something a person can do."""

    what: str
    """What comes of it, in words."""
    command: str = ""
    """To be copied into a shell; empty: there is nothing to do."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The five answers about one node, in the order in which people ask."""

    node: str
    time_seconds: float
    """Unix time at which this was so."""
    summary: str
    """All of it in one sentence."""
    incident: str = ""
    """The open one."""
    phase: str = ""
    state: tuple[Line, ...]
    """What state it is in, and by whom."""
    evidence: tuple[Line, ...]
    done: tuple[Line, ...]
    """What was done so far, oldest first."""
    next: tuple[Line, ...]
    """What happens next, when, and what it waits for."""
    stop: tuple[Way, ...]
    """How to stop it; never empty while an incident is open."""
    go_on: tuple[Way, ...] = ()
    """How to let it go on, where it waits for a person or was stopped by one."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that an explanation rests on."""

    name: str
    """Of the node."""
    node: ClusterNode | None = None
    """As the cluster lists it, if it does."""
    incident: Incident | None = None
    """The open one."""
    closed: tuple[Incident, ...] = ()
    """Earlier incidents of this node, in any order."""
    health: NodeHealth | None = None
    """The newest report, however old; ``None``: there never was one."""
    devices: Mapping[str, str] = {}
    """Device → how its own quarantine stands, in words; only of those that should get no new pods."""
    config: PolicyConfig
    stopped: str = ""
    """Why a person stopped everything; empty: nobody did."""
    mode: str = "kubernetes"
    """``kubernetes``, ``dry-run`` or ``observe``; only the first writes."""
    namespace: str = "fleetmedic"
    """Where the kill switch is."""
    now: float
    """Unix time."""

    @property
    def silent(self) -> bool:
        """Whether nothing new is known of the node."""
        return self.health is None or self.health.age_seconds > self.config.silent_after_seconds

    def muted(self) -> Iterator[Incident]:
        """Closed incidents by which a person told us to leave their codes alone, still in force."""
        for each in self.closed:
            if each.muted_until_seconds is not None and each.muted_until_seconds > self.now:
                yield each
