"""The loop that decides: reports in, one round of policy, its intents carried out, everybody told.

One round at a time: the next is decided on a view that shows what the last one wrote. News wakes it at
once; without news it runs once per tick, since time alone also releases nodes.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from aggregator import exporter
from aggregator.cluster import ClusterEdge, EdgeError
from aggregator.fleet import Fleet, NodeState
from aggregator.journal import Decision, Journal
from aggregator.policy.config import PolicyConfig
from aggregator.policy.decide import Declined, decide
from aggregator.policy.health import NodeHealth
from aggregator.policy.model import (
    ClusterView,
    Incident,
    Intent,
    SaveIncident,
    SetCondition,
    kind_of,
)
from aggregator.scores.inputs import fleet_facts
from aggregator.scores.model import NodeScore, score_table
from aggregator.stats import AggregatorStats
from contract import report_pb2 as pb

log = structlog.get_logger("decision")

MAX_PARALLEL_WRITES = 32

MAX_RENDER_SHARE = 0.02
"""Most of the loop's time that rendering the metrics page may take."""


class Engine:
    """One per process. One owner: the event loop."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        edge: ClusterEdge,
        policy: PolicyConfig,
        journal: Journal,
        stats: AggregatorStats,
        clock: Callable[[], float],
        tick_seconds: float,
        publish: Callable[[set[str]], None],
    ) -> None:
        self._fleet = fleet
        self._edge = edge
        self._policy = policy
        self._journal = journal
        self._stats = stats
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._publish = publish
        self._wake = asyncio.Event()
        self._changed: set[str] = set()
        self._writes = asyncio.Semaphore(MAX_PARALLEL_WRITES)
        self._leading_since: float | None = None
        self.scores: Mapping[str, NodeScore] = {}
        """By node, as of the newest tick."""
        self._render_due = 0.0
        """Loop time before which the metrics page is not rendered again."""
        self.metrics = b""
        """What a scrape gets, as of the newest tick."""

    def take_report(self, report: pb.NodeReport) -> None:
        """A report of a node whose identity is proven; cheap, called for each one."""
        self._changed.add(report.node)
        silence = self._policy.silent_after_seconds
        if self._fleet.apply(report, self._clock(), silent_after_seconds=silence):
            self._wake.set()

    def node_left(self, node: str) -> None:
        """The node's stream ended."""
        self._fleet.disconnected(node)
        self._changed.add(node)

    def cluster_changed(self) -> None:
        """The cluster's picture is another one now."""
        self._wake.set()

    async def run(self) -> None:
        """Decide until cancelled."""
        loop = asyncio.get_running_loop()
        next_tick = loop.time()
        while True:
            try:
                async with asyncio.timeout_at(next_tick):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._round()
            if loop.time() >= next_tick:
                self._tick()
                next_tick = loop.time() + self._tick_seconds

    async def _round(self) -> None:
        self._stats.leader = self._edge.leading
        if not self._edge.leading:
            self._leading_since = None
            return
        now = self._clock()
        if self._leading_since is None:
            self._leading_since = now
            self._forget([node.name for node in self._fleet if not node.connected])
        view = self._edge.view()
        if view.synced:
            self._forget_departed(view)
        health = [_health(node, view, now) for node in self._fleet]
        health += self._never_heard(view, now - self._leading_since)
        decision = decide(health, view, self._policy, now)
        for declined in decision.declined:
            self._note_declined(declined, now)
        if decision.intents:
            await self._carry_out(decision.intents, view)

    def _forget_departed(self, view: ClusterView) -> None:
        self._forget([node.name for node in self._fleet if node.name not in view.nodes])

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self._fleet.forget(name)
        self._changed.update(names)

    def _never_heard(self, view: ClusterView, waited_seconds: float) -> Iterator[NodeHealth]:
        """Nodes that carry our word from before our start, and whose agent never came back since."""
        if waited_seconds <= self._policy.silent_after_seconds:
            return
        for name, node in view.nodes.items():
            if node.conditions and self._fleet.get(name) is None:
                yield NodeHealth(name=name, pool=node.pool, age_seconds=waited_seconds)

    async def _carry_out(self, intents: Sequence[Intent], view: ClusterView) -> None:
        """All nodes side by side, conditions beside the rest; a node's other writes one by one."""
        by_node: dict[str, list[Intent]] = defaultdict(list)
        for intent in intents:
            by_node[intent.node].append(intent)
        async with asyncio.TaskGroup() as tasks:
            for node, listed in by_node.items():
                self._changed.add(node)
                for intent in listed:
                    if isinstance(intent, SetCondition):
                        tasks.create_task(self._apply(intent, view), name=f"condition-{node}")
                in_order = [each for each in listed if not isinstance(each, SetCondition)]
                tasks.create_task(self._apply_in_order(in_order, view), name=f"writes-{node}")

    async def _apply_in_order(self, intents: Sequence[Intent], view: ClusterView) -> None:
        """Up to the first failure: nothing is told of a node that was not also done to it."""
        for intent in intents:
            if not await self._apply(intent, view):
                return

    async def _apply(self, intent: Intent, view: ClusterView) -> bool:
        taken, text = True, intent.reason
        async with self._writes:
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

    def _note_declined(self, declined: Declined, now: float) -> None:
        self._journal.add(
            Decision(
                time_seconds=now,
                node=declined.node,
                kind="declined",
                text=declined.reason,
                taken=False,
            )
        )
        log.warning("declined", node=declined.node, why=declined.reason)

    def _render(self, view: ClusterView, now: float) -> None:
        """The metrics page, as often as it may cost: it takes 40 ms for a thousand nodes."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        if started < self._render_due:
            return
        self.metrics = exporter.render(self._fleet, view, self._journal, self._stats, now)
        self._render_due = started + (loop.time() - started) / MAX_RENDER_SHARE

    def _tick(self) -> None:
        """Once per tick: scores, the metrics page, and the open fleet pages."""
        now = self._clock()
        view = self._edge.view()
        self.scores = score_table(fleet_facts(self._fleet, view), now)
        self._render(view, now)
        changed, self._changed = self._changed, set()
        self._publish(changed)


def _tell(decision: Decision) -> None:
    """What changes for pods is said aloud; bookkeeping only where somebody asked for it."""
    loud = decision.kind in ("set-taint", "remove-taint")
    say = log.warning if not decision.taken else log.info if loud else log.debug
    say(decision.kind, node=decision.node, why=decision.text)


def _health(node: NodeState, view: ClusterView, now: float) -> NodeHealth:
    cluster = view.nodes.get(node.name)
    return NodeHealth(
        name=node.name,
        pool=cluster.pool if cluster else "",
        findings=node.findings,
        sources=node.sources,
        age_seconds=now - node.received_seconds,
        clear_seconds=now - node.clear_since_seconds,
    )
