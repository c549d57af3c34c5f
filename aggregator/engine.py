"""The loop that decides: reports in, one round of policy, its intents handed to be written, everybody told.

News wakes it at once; without news it runs once per tick, since time alone also releases nodes. It never
waits for a write: ``aggregator.writes`` does, node by node.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import structlog

from aggregator import exporter
from aggregator.cluster import ClusterEdge
from aggregator.feeds.steps import gently
from aggregator.fleet import Fleet, NodeState
from aggregator.journal import Decision, Journal
from aggregator.orders import Carriers, Orders
from aggregator.policy.case import Declined
from aggregator.policy.config import PolicyConfig
from aggregator.policy.decide import decide
from aggregator.policy.health import NodeHealth
from aggregator.policy.model import ClusterView, RecordEvent
from aggregator.policy.notices import device_notices, notices
from aggregator.policy.quiet import QuietNodes
from aggregator.readings import utilizations
from aggregator.scores.model import NodeScore
from aggregator.scores.terms import ScoreTerms
from aggregator.scoring import Scoring
from aggregator.stats import AggregatorStats
from aggregator.usage import Usage
from aggregator.writes import Writes
from contract import report_pb2 as pb

log = structlog.get_logger("decision")

MAX_DECIDING_SHARE = 0.3
"""Most of the loop's time that rounds may take: with thousands of nodes one takes tens of milliseconds."""

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
        carriers: Carriers | None = None,
        score_terms: ScoreTerms | None = None,
        usage: Usage | None = None,
    ) -> None:
        self._fleet = fleet
        self._edge = edge
        self._policy = policy
        self._journal = journal
        self._stats = stats
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._publish = publish
        self._carriers = carriers
        self._usage = usage or Usage()
        self._orders = Orders()
        self._wake = asyncio.Event()
        self._changed: set[str] = set()
        self._writes = Writes(
            edge=edge, journal=journal, stats=stats, clock=clock, on_done=self._written
        )
        self._notices: list[RecordEvent] = []
        self._devices_kept: Mapping[str, frozenset[str]] | None = None
        """By node: what the newest round saw kept from new pods by itself."""
        self._declined: dict[str, tuple[str, str]] = {}
        """By node, what was declined last, and why."""
        self._leading_since: float | None = None
        self._quiet = QuietNodes(policy.silent_after_seconds)
        self.scoring = Scoring(
            fleet=fleet,
            edge=edge,
            silent_after_seconds=policy.silent_after_seconds,
            terms=score_terms,
        )
        self._render_due = 0.0
        """Loop time before which the metrics page is not rendered again."""
        self.metrics = b""
        """What a scrape gets, as of the newest tick."""

    @property
    def scores(self) -> Mapping[str, NodeScore]:
        """By node, without a pod in hand, as of the newest tick; 0..1000."""
        return self.scoring.book.scores

    def take_report(self, report: pb.NodeReport) -> None:
        """A report of a node whose identity is proven; cheap, called for each one."""
        name = report.node
        self._changed.add(name)
        silence = self._policy.silent_after_seconds
        known = self._fleet.get(name)
        before = known.findings if known else None
        now = self._clock()
        measured = utilizations(report.gpus)
        self._usage.take(report, now, measured)
        changed = self._fleet.apply(report, now, silent_after_seconds=silence, measured=measured)
        self.scoring.reported(name, news=changed)
        if changed:
            after = self._fleet.get(name)
            self._notices += notices(name, before, after.findings if after else ())
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
        async with asyncio.TaskGroup() as tasks:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(next_tick):
                        await self._wake.wait()
                self._wake.clear()
                tick_is_due = loop.time() >= next_tick
                if tick_is_due:
                    self._writes.rested()
                started = loop.time()
                self._round(tasks)
                self.scoring.take_pods()
                spent = loop.time() - started
                if tick_is_due:
                    await self._tick()
                    next_tick = loop.time() + self._tick_seconds
                # In a storm every report and every finished write wakes this loop: what came meanwhile goes together.
                await asyncio.sleep(spent * (1 / MAX_DECIDING_SHARE - 1))

    def _written(self, node: str) -> None:
        self._changed.add(node)
        self._wake.set()

    def _round(self, tasks: asyncio.TaskGroup) -> None:
        self._stats.leader = self._edge.leading
        if not self._edge.leading:
            self._leading_since = None
            self._notices, self._devices_kept = [], None
            self._order(Orders())
            return
        now = self._clock()
        if self._leading_since is None:
            self._leading_since = now
            self._forget([node.name for node in self._fleet if not node.connected])
        view = self._edge.view()
        if view.synced:
            self._forget_departed(view)
        self._notices += device_notices(self._devices_kept, view)
        self._devices_kept = view.device_quarantines
        self._fleet.not_ahead_of(now)
        drains = self._carriers.drains.progress() if self._carriers else {}
        over = msgspec.structs.replace(self._writes.over(view), drains=drains)
        health = [
            self._health(node, view, now) for node in self._quiet.others(self._fleet, over, now)
        ]
        health += self._never_heard(view, now - self._leading_since)
        busy = {each.name for each in health if self._writes.busy(each.name)}
        decision = decide(health, over, self._policy, now, busy=busy)
        for declined in decision.declined:
            self._note_declined(declined, now)
        orders = Orders(decision.drains, decision.directives)
        if not view.stopped:
            # About a node that is being written to nothing new is known: what goes on there goes on.
            orders = orders.keeping(self._orders, self._writes.busy)
        self._order(orders)
        intents = [*decision.intents, *self._due_notices(view)]
        self._changed.update(intent.node for intent in intents)
        self._writes.start(tasks, intents, view)

    def _order(self, orders: Orders) -> None:
        self._orders = orders
        if self._carriers is not None:
            self._carriers.carry(orders)

    def _health(self, node: NodeState, view: ClusterView, now: float) -> NodeHealth:
        cluster = view.nodes.get(node.name)
        beside = self._carriers.directives.outcomes(node.name) if self._carriers else ()
        return NodeHealth(
            name=node.name,
            pool=cluster.pool if cluster else "",
            findings=node.findings,
            sources=node.sources,
            age_seconds=now - node.received_seconds,
            clear_seconds=now - node.clear_since_seconds,
            boot_id=node.boot_id,
            outcomes=(*node.outcomes, *beside),
            repairs=node.repairs,
            holders=node.holders,
        )

    def _due_notices(self, view: ClusterView) -> list[RecordEvent]:
        """Those about nodes that can be written to now; of nodes that left, none."""
        waiting = [each for each in self._notices if each.node in view.nodes]
        due = [each for each in waiting if not self._writes.busy(each.node)]
        self._notices = [each for each in waiting if self._writes.busy(each.node)]
        return due

    def _forget_departed(self, view: ClusterView) -> None:
        self._forget(sorted(self._fleet.names() - view.nodes.keys()))

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self._fleet.forget(name)
            self._usage.forget(name)
            self._declined.pop(name, None)
        self._changed.update(names)

    def _never_heard(self, view: ClusterView, waited_seconds: float) -> Iterator[NodeHealth]:
        """Nodes that carry our word from before our start, and whose agent never came back since."""
        if waited_seconds <= self._policy.silent_after_seconds:
            return
        for name, node in view.nodes.items():
            if node.conditions and self._fleet.get(name) is None:
                yield NodeHealth(name=name, pool=node.pool, age_seconds=waited_seconds)

    def _note_declined(self, declined: Declined, now: float) -> None:
        said = (declined.what, declined.why)
        if self._writes.failed(declined.node) and self._declined.get(declined.node) == said:
            return  # it could not be written down, and so is declined again in each round
        self._declined[declined.node] = said
        self._journal.add(
            Decision(
                time_seconds=now,
                node=declined.node,
                kind="declined",
                text=declined.reason,
                taken=False,
            )
        )
        self._stats.declined.add((declined.what, declined.why))
        log.warning("declined", node=declined.node, what=declined.what, why=declined.reason)

    async def _render(self, view: ClusterView, now: float) -> None:
        """The metrics page, as often as it may cost: it takes 40 ms for a thousand nodes. Reports come in meanwhile."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        if started < self._render_due:
            return
        self.metrics = await gently(
            exporter.rendering(self._fleet, view, self._journal, self._stats, now)
        )
        self._render_due = started + (loop.time() - started) / MAX_RENDER_SHARE

    async def _tick(self) -> None:
        """Once per tick: scores, the metrics page, and the open fleet pages."""
        now = self._clock()
        view = self._edge.view()
        self._stats.reading(age_seconds=self._edge.view_age_seconds, errors=self._edge.read_errors)
        await self.scoring.tick(view, now)
        await self._render(view, now)
        changed, self._changed = self._changed, set()
        self._publish(changed)
