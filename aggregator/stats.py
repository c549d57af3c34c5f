"""What the aggregator counts about itself. One owner: the event loop."""

from collections import deque
from collections.abc import Callable, Mapping

from aggregator.feeds.extender_counts import EXTENDER_BOUNDS
from contract.metrics import Buckets, Tally

DETECT_TO_DECISION_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
EXTENDER_BASES = ("pod", "node", "not-ours", "stale", "unreadable")
"""There from the start at zero, or an increase would miss the first."""
RAW_LENGTH = 10_000
"""Observations kept as they came: percentiles of the last ten thousand decisions."""


class Latency(Buckets):
    """A histogram that also keeps its newest values, for exact percentiles."""

    def __init__(self, bounds: tuple[float, ...] = DETECT_TO_DECISION_BOUNDS) -> None:
        super().__init__(bounds)
        self.raw: deque[float] = deque(maxlen=RAW_LENGTH)

    def observe(self, value: float) -> None:
        """Count one value, in seconds."""
        super().observe(value)
        self.raw.append(value)


FeedCounts = Mapping[str, Mapping[str, int]]
"""What was counted (``writes``, ``errors``, ``requests``, ``delayed``, ``suppressed``) → feed → how many."""


class AggregatorStats:
    """Plain numbers since the process started; whoever does a thing counts it."""

    def __init__(self) -> None:
        self.leader = False
        """Whether this process holds the lease, and so acts. Without a cluster it always does."""
        self.reports_total = 0
        self.reports_malformed_total = 0
        self.reports_refused: Tally[str] = Tally(overflow="other")
        """Reason → how many."""
        self.unknown_node_total = 0
        self.events_total = 0
        self.connections = 0
        """Streams open now."""
        self.connections_total = 0
        self.extender_requests: Tally[str] = Tally(overflow="other")
        """Verb (``filter``, ``prioritize``) → how many."""
        self.extender_answers: Tally[str] = Tally(overflow="other")
        """What an answer rests on (``pod``, ``node``, ``not-ours``, ``stale``, ``unreadable``) → how many."""
        for basis in EXTENDER_BASES:
            self.extender_answers.add(basis, 0)
        self.extender_passed_over: Tally[str] = Tally(overflow="other")
        """Why a pod could not be scored by its own wish → how many."""
        self.extender_seconds = Buckets(EXTENDER_BOUNDS)
        """From a request's body to the reply, in seconds."""
        self.extender_unknown_nodes_total = 0
        self.extender_ready_total = 0
        """Answers that were ready before the question (``extender_fleet``)."""
        self.extender_errors_total = 0
        self.extender_restarts_total = 0
        """Times that its process ended and was started anew."""
        self.feeds: Callable[[], FeedCounts] = dict
        """Of the other ways to the schedulers, counted by each of them."""
        self.failing_pods: Callable[[], Mapping[str, int]] = dict
        """Node that is judged because pods fail there at once → how many of them count."""
        self.failing_pods_doubted: Callable[[], int] = int
        """Nodes that would be judged so if there were not too many of them."""
        self.edge_errors_total = 0
        """Writes to the cluster that failed."""
        self.edge_read_errors_total = 0
        """Lists and watches of the cluster that failed."""
        self.view_age_seconds = 0.0
        """Since the cluster last said anything; large where a watch fails or hangs."""
        self.declined: Tally[tuple[str, str]] = Tally(overflow=("other", "other"))
        """(what, why): what the findings ask for and was not done → how often that was decided."""
        self.incidents_opened_total = 0
        self.incidents_closed_total = 0
        self.detect_to_decision = Latency()
        """From the sighting that made a fault a finding (so without its hold time) to its incident, in seconds."""

    def refuse(self, reason: str) -> None:
        """Count one refused report or connection."""
        self.reports_refused.add(reason)

    def reading(self, *, age_seconds: float, errors: int) -> None:
        """Take over how reading the cluster goes, which its edge counts."""
        self.view_age_seconds = age_seconds
        self.edge_read_errors_total = errors
