"""What the web side needs of the rest: one value, so that tests hand in exactly what they mean."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aggregator.cluster.readers import Refusal
from aggregator.feeds.extender import MAX_BODY_BYTES
from aggregator.feeds.extender_counts import ExtenderCounters
from aggregator.feeds.extender_scale import DEFAULT_SCALE
from aggregator.fleet import Fleet, NodeState
from aggregator.journal import Journal
from aggregator.policy.config import PolicyConfig
from aggregator.policy.model import ClusterNode, ClusterView
from aggregator.policy.pools import pool_of
from aggregator.scores.book import ScoreBook
from aggregator.scores.model import STALE_AFTER_SECONDS, NodeScore
from aggregator.scores.rooms import RoomBook


def pool_shown(cluster: ClusterNode | None, state: NodeState | None) -> str:
    """The pool a node is shown in: the one it is budgeted with."""
    return cluster.pool if cluster else pool_of({}, state.gpu_model if state else "")


@dataclass(frozen=True, kw_only=True)
class WebDeps:
    """Everything the page and the API read. Nothing here is written to but the extender's counters."""

    fleet: Fleet
    view: Callable[[], ClusterView]
    mode: Callable[[], str]
    """``kubernetes``, ``dry-run`` or ``observe``; only the first writes."""
    leading: Callable[[], bool]
    journal: Journal
    stats: ExtenderCounters
    scores: Callable[[], Mapping[str, NodeScore]]
    """The table of the newest tick."""
    metrics: Callable[[], bytes]
    """The exposition in Prometheus' text format."""
    clock: Callable[[], float]
    """Unix time."""
    version: str
    book: ScoreBook = field(default_factory=ScoreBook)
    """Scores per pod and node, and what they are made of; its scores without a pod in hand are ``scores``."""
    rooms: RoomBook = field(default_factory=lambda: RoomBook(pods_known=False))
    """What the nodes have left, and the pods on them."""
    pods_trouble: Callable[[], str] = lambda: ""
    """Why pods cannot be read; empty: they can."""
    extender_scale: int = DEFAULT_SCALE
    """The best number that the scheduler is told of a node."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """What explanations are told by; the engine's own."""
    namespace: str = "fleetmedic"
    """Of the lease and the kill switch."""
    plan: Callable[[str, Sequence[str]], Awaitable[Mapping[str, object]]] | None = None
    """(node, devices) → what a drain would do now; no device: of the whole node. Reads the cluster, writes nothing.
    Raises ``WorkloadError`` where it cannot be read. ``None``: there is no cluster to read."""
    refusal: Callable[[str], Awaitable[Refusal | None]] | None = None
    """Bearer token → why its bearer may not read ``/api/``; ``None``: whoever reaches the port may."""
    pool_of: Callable[[ClusterNode | None, NodeState | None], str] = pool_shown
    stale_after_seconds: float = STALE_AFTER_SECONDS
    max_body_bytes: int = MAX_BODY_BYTES
    """The largest request taken; only the scheduler sends any."""
    heartbeat_seconds: float = 15.0
    """Longest silence on an event stream, so that proxies keep it open."""
    max_queued_events: int = 512
    """Events kept for one slow page before it is cut off and has to start anew."""
