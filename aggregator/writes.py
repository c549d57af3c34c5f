"""Carries out intents, each node by itself: one slow or failing write never holds up the next decision.

While a node's writes are under way nothing new is decided about it, and everybody else's decisions are made
on a view that already shows them, so that budgets hold. A node whose write failed rests until the next tick.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec
import structlog

from aggregator.cluster import ClusterEdge, EdgeError
from aggregator.cluster.overlay import Overlay
from aggregator.journal import Decision, Journal
from aggregator.policy.model import (
    ClusterView,
    Incident,
    Intent,
    Notify,
    SaveIncident,
    SetCondition,
    kind_of,
)
from aggregator.stats import AggregatorStats

log = structlog.get_logger("decision")

MAX_PARALLEL_WRITES = 32
MAX_PARALLEL_CALLS = 8
"""To the webhook, beside the writes: one that hangs must not hold up taints."""

LOUD = frozenset({"set-taint", "remove-taint", "cordon", "uncordon", "notify"})
"""What changes something for pods or people."""


class Writes:
    """What is being written now. One owner: the event loop."""

    def __init__(
        self,
        *,
        edge: ClusterEdge,
        journal: Journal,
        stats: AggregatorStats,
        clock: Callable[[], float],
        on_done: Callable[[str], None],
    ) -> None:
        self._edge = edge
        self._journal = journal
        self._stats = stats
        self._clock = clock
        self._on_done = on_done
        self._under_way: dict[str, Sequence[Intent]] = {}
        self._resting: set[str] = set()
        self._failed: set[str] = set()
        self._slots = asyncio.Semaphore(MAX_PARALLEL_WRITES)
        self._calls = asyncio.Semaphore(MAX_PARALLEL_CALLS)

    def busy(self, node: str) -> bool:
        """Whether this node is to be left alone for now."""
        return node in self._under_way or node in self._resting

    def failed(self, node: str) -> bool:
        """Whether its newest writes did not all succeed, so that the same is decided about it once more."""
        return node in self._failed

    def rested(self) -> None:
        """A tick passed: what failed may be tried again."""
        self._resting.clear()

    def over(self, view: ClusterView) -> ClusterView:
        """The view as if everything under way were done."""
        if not self._under_way:
            return view
        overlay = Overlay()
        for intents in self._under_way.values():
            for intent in intents:
                overlay.record(intent)
        return msgspec.structs.replace(
            view, nodes=overlay.nodes(view.nodes), incidents=overlay.incidents(view.incidents)
        )

    def start(self, tasks: asyncio.TaskGroup, intents: Sequence[Intent], view: ClusterView) -> None:
        """Begin to write, all nodes side by side."""
        by_node: dict[str, list[Intent]] = defaultdict(list)
        for intent in intents:
            if not self.busy(intent.node):
                by_node[intent.node].append(intent)
        for node, listed in by_node.items():
            self._under_way[node] = listed
            tasks.create_task(self._node(node, listed, view), name=f"writes-{node}")

    async def _node(self, node: str, intents: Sequence[Intent], view: ClusterView) -> None:
        """One node's writes one by one, then its conditions side by side, whatever became of the others.

        A condition written beside the taint would change the version that the taint's patch is guarded by.
        """
        conditions = [each for each in intents if isinstance(each, SetCondition)]
        in_order = [each for each in intents if not isinstance(each, SetCondition)]
        try:
            done = await self._apply_in_order(in_order, view)
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(self._apply(each, view)) for each in conditions]
            done = done and all(each.result() for each in others)
        finally:
            del self._under_way[node]
        if done:
            self._failed.discard(node)
        else:
            self._resting.add(node)
            self._failed.add(node)
        self._on_done(node)

    async def _apply_in_order(self, intents: Sequence[Intent], view: ClusterView) -> bool:
        """Up to the first failure: nothing is told of a node that was not also done to it."""
        for intent in intents:
            if not await self._apply(intent, view):
                return False
        return True

    async def _apply(self, intent: Intent, view: ClusterView) -> bool:
        taken, text = True, intent.reason
        async with self._calls if isinstance(intent, Notify) else self._slots:
            try:
                await self._edge.apply(intent)
            except EdgeError as error:
                taken, text = False, str(error)
                self._stats.edge_errors_total += 1
        if taken and isinstance(intent, SaveIncident):
            self._count(intent.incident, view)
        decision = Decision(
            time_seconds=self._clock(),
            node=intent.node,
            kind=kind_of(intent),
            text=text,
            taken=taken,
        )
        self._journal.add(decision)
        _tell(decision)
        return taken

    def _count(self, incident: Incident, view: ClusterView) -> None:
        known = view.incidents.get(incident.name)
        if known is None:
            newest = max((each.last_seen_seconds for each in incident.findings), default=0.0)
            self._stats.incidents_opened_total += 1
            self._stats.detect_to_decision.observe(max(0.0, incident.opened_seconds - newest))
        elif known.open and not incident.open:
            self._stats.incidents_closed_total += 1


def _tell(decision: Decision) -> None:
    """What changes for pods is said aloud; bookkeeping only where somebody asked for it."""
    loud = decision.kind in LOUD
    say = log.warning if not decision.taken else log.info if loud else log.debug
    say(decision.kind, node=decision.node, why=decision.text)
