"""Between the loop that decides and the pure model: brings what fleet and cluster say into the book of scores.

Once per tick, in slices, so that a scheduler's question never waits for the whole fleet. What a pod's coming and going
changes is taken in whenever the cluster says so: the next pod must see the place of the one before as taken.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import islice

from aggregator.cluster import ClusterEdge
from aggregator.fleet import Fleet
from aggregator.policy.model import ClusterView
from aggregator.scores.admitted import room_beside_admitted, speaks_for
from aggregator.scores.book import ScoreBook
from aggregator.scores.device_facts import device_facts
from aggregator.scores.failed_pods import PodFailure
from aggregator.scores.failures import FailureBook, Notice
from aggregator.scores.inputs import FactBook, Silence, known_nodes, open_incidents
from aggregator.scores.loads import Loads
from aggregator.scores.packing import PackingTerms
from aggregator.scores.placed import PlacedPod
from aggregator.scores.rooms import RoomBook
from aggregator.scores.terms import ScoreTerms, Use
from aggregator.scores.typical import Typical, TypicalPods
from aggregator.scores.use import UseBook
from aggregator.scores.values import WHOLE, PodShape

SLICE_SECONDS = 0.001
"""Of work, after which others get their turn."""

READINGS_PER_TICK = 250
"""Nodes whose readings alone are new. With 5,000 nodes each is looked at every twenty seconds, and what is wrong at once; looking at
each report took a fifth of a core at 2,000 of them a second, which the scheduler's questions waited for."""

FAILURES_SECONDS = 5.0
"""Between two looks at nodes where pods fail …"""
FEW_NODES = 50
"""… of which so many are looked at in the tick after each new failure: a look takes up to 2 ms then."""

SAMPLE_SECONDS = 20.0
"""Between two samples of a node's use: a history is of hours."""

USE_SECONDS = 60.0
"""After which scores follow measured use."""

LEARN_SECONDS = 60.0
"""Between two histograms."""

ENOUGH_PODS = 20
"""Pods asking for devices that weigh as much as the assumption; with fewer a histogram is called assumed."""

ASSUMED = Typical.of(
    {
        PodShape(gpu_count=count, gpu_milli=WHOLE): share
        for count, share in ((1, 4), (2, 2), (4, 1), (8, 3))
    }
)
"""Typical pods to begin with: whole devices, single ones and whole nodes most of all."""


class Scoring:
    """One per process. One owner: the event loop."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        edge: ClusterEdge,
        silent_after_seconds: float,
        terms: ScoreTerms | None = None,
        packing: PackingTerms | None = None,
    ) -> None:
        self.book = ScoreBook(terms, packing)
        self.rooms = RoomBook(pods_known=False)
        self.typical = TypicalPods()
        self.failures = FailureBook()
        """Nodes that eat pods."""
        self.tell: Callable[[Notice, float], None] = lambda notice, now: None
        """Called when one is judged, and when that ends; at this Unix time."""
        self._fleet = fleet
        self._edge = edge
        self._silent_after_seconds = silent_after_seconds
        self._facts = FactBook()
        self._news: set[str] = set()
        """Nodes whose newest report says something else is wrong than before, or that it no longer is."""
        self._waiting: dict[str, None] = {}
        """Nodes with new readings and no news, the one that waits longest first."""
        self._failures_looked = -FAILURES_SECONDS
        self._pods_known_since: float | None = None
        """Unix time; what was refused before is not judged: who was there then is not known."""
        self._asking_seen = 0
        self._learned_seconds: float | None = None
        self.uses = UseBook()
        weights = self.book.weights
        loads = Loads(self.book.table, self.rooms, self.uses, weights.max_overload_risk)
        self.book.add_term(Use(loads, weights.max_overload_risk))
        self._use_taken = -USE_SECONDS
        self._sampled: dict[str, float] = {}
        """By node, when its use was taken in last."""
        self.book.learn(ASSUMED, assumed=True)

    def reported(self, node: str, *, news: bool) -> None:
        """A report of this node came in; news: what is wrong there is not what it was."""
        if news:
            self._news.add(node)
        self._waiting.setdefault(node)

    def take_pods(self) -> None:
        """Pods that came and went since last time; cheap where none did."""
        self.rooms.pods_known = self._edge.pods_known
        for change in self._edge.take_pod_changes():
            pod = change.after
            if pod is None:
                self.rooms.drop_pod(change.key)
                continue
            self.rooms.set_pod(pod)
            if change.new and isinstance(pod.ask, PodShape):
                self.typical.saw(pod.ask, pod.namespace, pod.created_seconds)
                self._asking_seen += pod.ask.gpu_count > 0
        self._take_rooms(self.rooms.take_changed())

    async def tick(self, view: ClusterView, now: float) -> None:
        """Bring everything up to date; others get their turn in between."""
        self.rooms.set_nodes(view.nodes)
        if view.device_quarantines is not None:  # not known yet: as it was
            self.rooms.set_quarantined(view.device_quarantines)
        names = known_nodes(self._fleet, view)
        turns = _Turns()
        await self._take_failures(view, now, turns)
        incidents = open_incidents(view)
        silence = Silence(now, self._silent_after_seconds)
        reported = self._due()
        failing = {name: each.reason for name, each in self.failures.judged.items()}
        for name in self._facts.due(
            names, self._fleet, view, incidents, silence, reported=reported, failing=failing
        ):
            looked = self._facts.look(
                name,
                self._fleet,
                view,
                incidents.get(name),
                silence,
                readings=name in reported,
                failing=failing.get(name, ""),
            )
            if looked is not None:
                newcomer = name not in self.book.table.index
                self.book.take_health(*looked)
                if newcomer:
                    self.book.take_room(name, self.rooms.room(name))
            await turns.over()
        for name in self._facts.keep_only(set(names)):
            self.book.drop(name)
            self._sampled.pop(name, None)
        for name in reported:
            self._take_devices(name, now)
            await turns.over()
        self.take_pods()
        self._learn(now)
        self._take_use(now)
        for _ in self.book.settling(now):
            await turns.over()

    async def _take_failures(self, view: ClusterView, now: float, turns: "_Turns") -> None:
        """Pods that failed at once, and which nodes are judged for it."""
        book = self.failures
        news = False
        # Whom a node has taken has to be known before a refusal there is believed.
        if not self._edge.pods_known:
            self._pods_known_since = None
        else:
            self.take_pods()
            since = self._pods_known_since = min(self._pods_known_since or now, now)
            for failure in self._edge.take_pod_failures():
                if failure.refused_devices and not self._had_room(failure, since):
                    book.excuse(failure, now)
                else:
                    news |= book.take(failure, now)
        waited = not 0 <= now - self._failures_looked < FAILURES_SECONDS
        if (news and len(book) <= FEW_NODES) or (book and waited):
            self._failures_looked = now
            nodes = sum(each.gpu_capacity > 0 for each in view.nodes.values())
            for _ in book.looking(now, nodes, self._pods_that_speak):
                await turns.over()
            for notice in book.take_notices():
                self.tell(notice, now)

    def _had_room(self, failure: PodFailure, since: float) -> bool:
        """Whether a pod was refused though its node had room; else the node was full: a race, or a pod bound past the scheduler."""
        room, pods = self.rooms.room(failure.node), self.rooms.pods_on(failure.node)
        wants = failure.refused_devices + failure.left_devices
        whole_seconds = 1.0  # a time of Kubernetes' has no others
        recent = failure.at_seconds + whole_seconds >= since
        return recent and wants <= room_beside_admitted(room, pods)

    def _pods_that_speak(self, node: str) -> list[PlacedPod]:
        room = self.rooms.room(node)
        return [each for each in self.rooms.pods_on(node) if speaks_for(each, room)]

    def _due(self) -> set[str]:
        """The nodes whose newest report is looked at in this tick: all news, and as many readings as there is time for."""
        due, self._news = self._news, set()
        due.update(islice(self._waiting, READINGS_PER_TICK))
        for name in due:
            self._waiting.pop(name, None)
        return due

    def _take_devices(self, name: str, now: float) -> None:
        """What a node's newest report says of its devices and of their use."""
        state = self._fleet.get(name)
        if state is None:
            self.rooms.set_devices(name, None)
            return
        facts = device_facts(state)
        self.rooms.set_devices(name, facts)
        if not state.report.urgent and now >= self._sampled.get(name, 0.0) + SAMPLE_SECONDS:
            self._sampled[name] = now
            self.uses.take_report(state, facts, partial(self._workload_of, name), now)

    def _workload_of(self, node: str, pod: str) -> str:
        """An agent is believed about the pods on its own node alone."""
        found = self.rooms.pods.get(pod)
        return found.workload if found and found.node == node else ""

    def _take_use(self, now: float) -> None:
        """Use changes with every report; scores follow it once in a while."""
        if 0 <= now - self._use_taken < USE_SECONDS:
            return
        self._use_taken = now
        if self.book.weights.use:
            self.book.used(self.book.partly_used())

    def _take_rooms(self, names: frozenset[str]) -> None:
        for name in names:
            room = self.rooms.room(name)
            if room is None and name not in self._facts:
                self.book.drop(
                    name
                )  # a node with shares of devices alone was never judged, and keeps no row
            else:
                self.book.take_room(name, room)

    def _learn(self, now: float) -> None:
        if not self._asking_seen:
            return
        if self._learned_seconds is None or not 0 <= now - self._learned_seconds < LEARN_SECONDS:
            self._learned_seconds = now
            seen = mixed(self.typical.typical(now), self._asking_seen)
            self.book.learn(seen, assumed=self._asking_seen < ENOUGH_PODS)


def mixed(learned: Typical, pods: int) -> Typical:
    """What was learned from so many pods, and the assumption as if it were ``ENOUGH_PODS`` more of them.

    So the first small pods do not make whole nodes worthless before a large one had time to come.
    """
    counts: dict[PodShape, float] = {}
    for typical, weight in ((learned, pods), (ASSUMED, ENOUGH_PODS)):
        for shape, share in zip(typical.shapes, typical.weights.tolist(), strict=True):
            counts[shape] = counts.get(shape, 0.0) + weight * share
    return Typical.of(counts)


class _Turns:
    """Work in slices."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    async def over(self) -> None:
        """Let others have their turn where this slice was long enough."""
        if self._loop.time() - self._began > SLICE_SECONDS:
            await asyncio.sleep(0)
            self._began = self._loop.time()
