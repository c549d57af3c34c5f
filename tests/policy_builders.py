"""For tests of policy and engine: findings, nodes, agents, a small world, an edge that can fail."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec

from aggregator.cluster import EdgeError
from aggregator.cluster.observe import ObserveEdge
from aggregator.fleet import Fleet
from aggregator.policy.config import PolicyConfig
from aggregator.policy.decide import Decision, decide
from aggregator.policy.health import NodeHealth
from aggregator.policy.model import (
    ClusterNode,
    ClusterView,
    Condition,
    Cordon,
    DrainProgress,
    ForgetIncident,
    Incident,
    Intent,
    Notify,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    Taint,
    Uncordon,
    kind_of,
)
from contract import report_pb2 as pb
from contract.codec import finding_to_wire, source_to_wire
from contract.vocabulary import (
    Action,
    Domain,
    Finding,
    Phase,
    Severity,
    SourceState,
    SourceStatus,
)

START = 1_700_000_000.0
"""Unix time at which every test begins."""

HARD = ("NoSchedule", "NoExecute")
DECISIVE = (SetTaint, RemoveTaint, SaveIncident, RecordEvent)
"""What a decision is made of; conditions are plain facts."""

NODE = "a000"
CONFIG = PolicyConfig()


def finding(
    code: str = "xid-79",
    severity: Severity = Severity.FATAL,
    *,
    subject: str = "gpu:0000:3b:00.0",
    since: float = START,
    evidence: str = "fallen off the bus",
    domain: Domain = Domain.GPU,
) -> Finding:
    return Finding(
        code=code,
        subject=subject,
        severity=severity,
        action=Action.NONE,
        domain=domain,
        evidence=evidence,
        since_seconds=since,
        last_seen_seconds=since,
    )


FATAL = finding()
CRITICAL = finding("gpu-ecc", Severity.CRITICAL)
DEGRADED = finding("gpu-too-hot", Severity.DEGRADED, evidence="91 C, at most 85 C")
INFO = finding("xid-13", Severity.INFO)


def sources(**states: SourceState) -> tuple[SourceStatus, ...]:
    """A GPU node whose sources all answer, but for those named."""
    known = {
        "nvidia": SourceState.OK,
        "ascend": SourceState.ABSENT,
        "rdma": SourceState.OK,
        "host": SourceState.OK,
    }
    return tuple(
        SourceStatus(name=name, state=state, reason=f"{name} says so")
        for name, state in (known | states).items()
    )


def incident(node: str, phase: Phase = Phase.QUARANTINED, **changes: object) -> Incident:
    """An incident as a former round left it."""
    known = Incident(
        name=f"{node}-incident",
        node=node,
        pool="a",
        phase=phase,
        findings=(FATAL,),
        opened_seconds=START - 10,
        quarantined_seconds=START - 10 if phase is Phase.QUARANTINED else None,
    )
    return msgspec.structs.replace(known, **changes)


def nodes(count: int, pool: str = "a") -> list[ClusterNode]:
    return [ClusterNode(name=f"{pool}{number:03}", pool=pool) for number in range(count)]


class World:
    """A cluster in memory, the newest report of each node, and a clock that only the test moves."""

    def __init__(
        self,
        known: Iterable[ClusterNode],
        config: PolicyConfig | None = None,
        incidents: Iterable[Incident] = (),
    ) -> None:
        self.nodes = {node.name: node for node in known}
        self.incidents = {each.name: each for each in incidents}
        self.config = config or PolicyConfig()
        self.now = START
        self.synced = True
        self.health = {
            name: NodeHealth(name=name, pool=node.pool, sources=sources())
            for name, node in self.nodes.items()
        }
        self.events: list[RecordEvent] = []
        self.told: list[Notify] = []
        self.drains: dict[str, DrainProgress] = {}
        self.device_quarantines: dict[str, frozenset[str]] | None = {}
        self.stopped = ""

    @property
    def view(self) -> ClusterView:
        return ClusterView(
            synced=self.synced,
            nodes=dict(self.nodes),
            incidents=dict(self.incidents),
            stopped=self.stopped,
            drains=dict(self.drains),
            device_quarantines=self.device_quarantines,
        )

    def report(self, name: str, *findings: Finding, **changes: object) -> None:
        """What the node says from now on."""
        worst_first = sorted(findings, key=lambda each: (-each.severity, each.since_seconds))
        self.health[name] = msgspec.structs.replace(
            self.health[name], findings=tuple(worst_first), **changes
        )

    def decide(self) -> Decision:
        return decide(self.health.values(), self.view, self.config, self.now)

    def round(self, after: float = 0.0) -> Decision:
        """Time passes, one decision is made and all of it is carried out."""
        self.now += after
        decision = self.decide()
        self.apply(decision.intents)
        return decision

    def settle(self) -> None:
        """Past the first round, which states the conditions."""
        self.round()
        assert not self.decide().intents

    def apply(self, intents: Iterable[Intent]) -> None:
        for intent in intents:
            match intent:
                case SetTaint():
                    self._change(intent.node, taint=intent.taint, quarantined_by=intent.incident)
                case RemoveTaint():
                    self._change(intent.node, taint=None, quarantined_by="")
                case Cordon():
                    if not self.nodes[intent.node].unschedulable:
                        self._change(intent.node, unschedulable=True, cordoned_by=intent.incident)
                case Uncordon():
                    if self.nodes[intent.node].cordoned_by:
                        self._change(intent.node, unschedulable=False, cordoned_by="")
                case Notify():
                    self.told.append(intent)
                case ForgetIncident():
                    del self.incidents[intent.name]
                case SetCondition():
                    stated = {**self.nodes[intent.node].conditions, intent.type: intent.condition}
                    self._change(intent.node, conditions=stated)
                case SaveIncident():
                    self.incidents[intent.incident.name] = intent.incident
                case RecordEvent():
                    self.events.append(intent)

    def person_edits(self, node: str, **spec: object) -> None:
        """A person edits the spec of the node's open incident."""
        found = self.only_incident(node)
        self.incidents[found.name] = msgspec.structs.replace(found, **spec)

    def change_node(self, node: str, **changes: object) -> None:
        """Somebody, not us, changes the Node object."""
        self._change(node, **changes)

    def _change(self, node: str, **changes: object) -> None:
        self.nodes[node] = msgspec.structs.replace(self.nodes[node], **changes)

    def taint(self, node: str) -> Taint | None:
        return self.nodes[node].taint

    def put_taint(self, node: str, taint: Taint | None) -> None:
        self._change(node, taint=taint)

    def conditions(self, node: str) -> Mapping[str, Condition]:
        return self.nodes[node].conditions

    def open_incidents(self, node: str) -> list[Incident]:
        return [each for each in self.incidents.values() if each.node == node and each.open]

    def only_incident(self, node: str) -> Incident:
        (found,) = self.open_incidents(node)
        return found

    def hold(self, node: str, held: bool = True) -> None:
        """A person edits the spec."""
        self.person_edits(node, hold=held)

    def quarantined(self, pool: str) -> list[str]:
        return [
            node.name
            for node in self.nodes.values()
            if node.pool == pool and node.taint is not None and node.taint.effect in HARD
        ]

    def events_of(self, reason: str) -> list[RecordEvent]:
        return [event for event in self.events if event.event_reason == reason]


def of(decision: Decision, *kinds: type) -> list[Intent]:
    """The intents of these kinds."""
    return [intent for intent in decision.intents if isinstance(intent, kinds)]


def one_node(*findings: Finding, config: PolicyConfig = CONFIG) -> World:
    """A cluster of one node, whose conditions are stated and which now has these findings."""
    world = World(nodes(1), config)
    world.settle()
    world.report(NODE, *findings)
    return world


class Agents:
    """One agent per node of a world, reporting to a real Fleet when told to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._fleet = Fleet()
        self.faults: dict[str, dict[str, Finding]] = {name: {} for name in world.nodes}
        """Per node, by subject."""
        self.silent: set[str] = set()
        self.blind: set[str] = set()
        """Nodes whose driver does not answer."""
        self.report_all()

    def restart_aggregator(self) -> None:
        """Its memory is gone; agents that live connect and say everything again."""
        self._fleet = Fleet()
        self.report_all()

    def report_all(self) -> None:
        for name in self._world.nodes:
            self.report(name)

    def report(self, name: str) -> None:
        if name in self.silent:
            return
        nvidia = SourceState.STUCK if name in self.blind else SourceState.OK
        wire = pb.NodeReport(
            node=name,
            findings=[finding_to_wire(each) for each in self.faults[name].values()],
            sources=[source_to_wire(each) for each in sources(nvidia=nvidia)],
        )
        silence = self._world.config.silent_after_seconds
        self._fleet.apply(wire, self._world.now, silent_after_seconds=silence)

    def silent_for(self, seconds: float) -> list[str]:
        """Nodes whose newest report is older than this."""
        return [name for name, each in self.health().items() if each.age_seconds > seconds]

    def health(self) -> dict[str, NodeHealth]:
        """What the engine would hand to the policy now."""
        now = self._world.now
        return {
            node.name: NodeHealth(
                name=node.name,
                pool=self._world.nodes[node.name].pool,
                findings=node.findings,
                sources=node.sources,
                age_seconds=now - node.received_seconds,
                clear_seconds=now - node.clear_since_seconds,
            )
            for node in self._fleet
        }


class ScriptedEdge(ObserveEdge):
    """Observe mode, with failures, slowness and a lease that a test can take away."""

    def __init__(self) -> None:
        super().__init__()
        self.leading = True
        self.fails: Callable[[Intent], bool] = lambda intent: False
        self.error: Exception = EdgeError("the API server says no")
        self.seconds = 0.0
        self.log: list[tuple[float, Intent]] = []
        self.departed: set[str] = set()
        self.running = self.most_running = 0

    async def apply(self, intent: Intent) -> None:
        self.log.append((asyncio.get_running_loop().time(), intent))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.seconds:
                await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        if self.fails(intent):
            raise self.error
        await super().apply(intent)

    def view(self) -> ClusterView:
        view = super().view()
        if not self.departed:
            return view
        left = {name: node for name, node in view.nodes.items() if name not in self.departed}
        return msgspec.structs.replace(view, nodes=left)

    def kinds(self, *, but_conditions: bool = True) -> list[str]:
        return [
            kind_of(intent)
            for _, intent in self.log
            if not (but_conditions and isinstance(intent, SetCondition))
        ]
