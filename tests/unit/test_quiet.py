"""Nodes that a round does not look at: the decision is the one that looking at all of them gives, whatever happens."""

from typing import Literal

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from aggregator.fleet import Fleet, NodeState
from aggregator.policy.config import PolicyConfig
from aggregator.policy.decide import Decision, decide
from aggregator.policy.health import NodeHealth
from aggregator.policy.model import ClusterNode, Condition, Taint
from aggregator.policy.quiet import QuietNodes
from contract import report_pb2 as pb
from contract.codec import finding_to_wire, source_to_wire
from contract.vocabulary import Finding, Severity, SourceState
from tests.policy_builders import World, finding, nodes, sources

CONFIG = PolicyConfig(
    degraded_hold_seconds=7,
    release_after_seconds=12,
    silent_after_seconds=11,
    mute_seconds=60,
    flap_window_seconds=100,
    flap_most_seconds=40,
    keep_closed_seconds=50,
    budget_percent=100,
    quarantines_per_minute=2,
)
NAMES = ["a000", "a001", "a002", "b000"]
NAME = st.sampled_from(NAMES)
STATES = st.sampled_from([SourceState.OK, SourceState.ABSENT, SourceState.STUCK])


class Skipping(RuleBasedStateMachine):
    """Agents, people and time do anything; each decision is made twice, on all nodes and on those that are not quiet."""

    @initialize()
    def begin(self) -> None:
        self.world = World([*nodes(3), *nodes(1, "b")], CONFIG)
        self.fleet = Fleet()
        self.quiet = QuietNodes(CONFIG.silent_after_seconds)
        self.faults: dict[str, list[Finding]] = {name: [] for name in NAMES}
        self.nvidia = dict.fromkeys(NAMES, SourceState.OK)
        self.away: dict[str, ClusterNode] = {}
        self.looked_at = 0
        for name in NAMES:
            self.report(name)
        self.decided(carried_out=True)

    def report(self, name: str) -> None:
        wire = pb.NodeReport(
            node=name,
            findings=[finding_to_wire(each) for each in self.faults[name]],
            sources=[source_to_wire(each) for each in sources(nvidia=self.nvidia[name])],
        )
        silence = CONFIG.silent_after_seconds
        self.fleet.apply(wire, self.world.now, silent_after_seconds=silence)

    def health(self, node: NodeState) -> NodeHealth:
        return NodeHealth(
            name=node.name,
            pool=self.world.nodes[node.name].pool if node.name in self.world.nodes else "",
            findings=node.findings,
            sources=node.sources,
            age_seconds=self.world.now - node.received_seconds,
            clear_seconds=self.world.now - node.clear_since_seconds,
        )

    def decided(self, *, carried_out: bool, busy: frozenset[str] = frozenset()) -> Decision:
        view, now = self.world.view, self.world.now
        self.fleet.not_ahead_of(now)
        others = self.quiet.others(self.fleet, view, now)
        self.looked_at = len(others)
        few = decide(map(self.health, others), view, CONFIG, now, busy=busy)
        every = decide(map(self.health, self.fleet), view, CONFIG, now, busy=busy)
        assert few == every
        if carried_out:
            self.world.apply(every.intents)
        return every

    @rule(
        seconds=st.sampled_from([0.0, 0.5, 6.0, 11.0, 11.5, 30.0, 70.0]),
        reporting=st.sets(NAME),
        carried_out=st.booleans(),
        busy=st.frozensets(NAME, max_size=1),
    )
    def time_passes(
        self, seconds: float, reporting: set[str], carried_out: bool, busy: frozenset[str]
    ) -> None:
        self.world.now += seconds
        for name in sorted(reporting):
            self.report(name)
        self.decided(carried_out=carried_out, busy=busy)

    @rule(name=NAME, well=st.booleans())
    def all_report_for_a_while(self, name: str, well: bool) -> None:
        if well:
            self.faults[name] = []
        for _ in range(4):
            self.world.now += 5.0
            for each in NAMES:
                self.report(each)
            self.decided(carried_out=True)

    @rule(seconds=st.sampled_from([1.0, 40.0]))
    def the_clock_is_set_back(self, seconds: float) -> None:
        self.world.now -= seconds
        self.decided(carried_out=True)

    @rule(name=NAME, severities=st.lists(st.sampled_from(Severity), max_size=2))
    def it_finds(self, name: str, severities: list[Severity]) -> None:
        self.faults[name] = [
            finding(f"c{each}", each, subject=f"gpu:{number}", since=self.world.now)
            for number, each in enumerate(severities)
        ]
        self.report(name)
        self.decided(carried_out=True)

    @rule(name=NAME, state=STATES)
    def its_driver_answers_or_not(self, name: str, state: SourceState) -> None:
        self.nvidia[name] = state
        self.report(name)
        self.decided(carried_out=True)

    @rule(
        name=NAME,
        changes=st.fixed_dictionaries(
            {},
            optional={
                "taint": st.sampled_from([None, Taint("c", "NoSchedule")]),
                "quarantined_by": st.sampled_from(["", "i"]),
                "cordoned_by": st.sampled_from(["", "i"]),
                "unschedulable": st.booleans(),
                "managed": st.booleans(),
                "conditions": st.sampled_from([{}, {"GPUHealthy": Condition("False", "Odd")}]),
                "labels": st.just({"some": "label"}),
            },
        ),
    )
    def somebody_changes_its_object(self, name: str, changes: dict[str, object]) -> None:
        if name in self.world.nodes:
            self.world.change_node(name, **changes)
            self.decided(carried_out=True)

    @rule(name=NAME, effect=st.sampled_from(["NoSchedule", "PreferNoSchedule"]))
    def our_taint_is_left_over(self, name: str, effect: Literal["NoSchedule"]) -> None:
        if name in self.world.nodes:
            self.world.put_taint(name, Taint("by-hand", effect))
            self.decided(carried_out=True)

    @rule(name=NAME)
    def it_leaves_or_comes_back(self, name: str) -> None:
        if name in self.world.nodes:
            self.away[name] = self.world.nodes.pop(name)
        else:
            self.world.nodes[name] = self.away.pop(name)
        self.decided(carried_out=True)

    @rule(name=NAME, spec=st.sampled_from([{"hold": True}, {"hold": False}, {"cancel": True}]))
    def a_person_edits_its_incident(self, name: str, spec: dict[str, object]) -> None:
        for each in self.world.open_incidents(name):
            self.world.incidents[each.name] = msgspec.structs.replace(each, **spec)
        self.decided(carried_out=True)

    @rule(name=NAME)
    def a_person_deletes_its_incident(self, name: str) -> None:
        for each in self.world.open_incidents(name):
            del self.world.incidents[each.name]
        self.decided(carried_out=True)

    def teardown(self) -> None:
        """Once all is well, no node is looked at any more: else nothing would be saved."""
        for name, node in {**self.world.nodes, **self.away}.items():
            self.faults[name], self.nvidia[name] = [], SourceState.OK
            self.world.nodes[name] = msgspec.structs.replace(
                node, managed=True, quarantined_by="", cordoned_by="", taint=None
            )
        self.world.incidents = {
            name: each for name, each in self.world.incidents.items() if not each.open
        }
        for _ in range(2):
            for name in NAMES:
                self.report(name)
            self.decided(carried_out=True)
        assert not self.looked_at


Skipping.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSkipping = Skipping.TestCase


def test_a_healthy_node_is_looked_at_again_only_when_its_object_or_its_sources_change() -> None:
    world, fleet, quiet = World(nodes(2), CONFIG), Fleet(), QuietNodes(CONFIG.silent_after_seconds)
    told = [source_to_wire(each) for each in sources()]

    def looked_at(seconds: float = 0.0) -> list[str]:
        world.now += seconds
        fleet.apply(pb.NodeReport(node="a001", sources=told), world.now)
        return [each.name for each in quiet.others(fleet, world.view, world.now)]

    assert looked_at() == ["a001"], "its conditions were never stated"
    world.settle()
    assert looked_at() == looked_at(5.0) == looked_at(5.0) == []
    world.change_node("a001", conditions={})
    assert looked_at() == ["a001"]


def test_a_node_that_falls_silent_is_not_quiet() -> None:
    world, fleet, quiet = World(nodes(1), CONFIG), Fleet(), QuietNodes(CONFIG.silent_after_seconds)
    told = [source_to_wire(each) for each in sources()]
    fleet.apply(pb.NodeReport(node="a000", sources=told), world.now)
    world.settle()
    assert quiet.others(fleet, world.view, world.now) == []
    assert quiet.others(fleet, world.view, world.now + CONFIG.silent_after_seconds) == []
    later = world.now + CONFIG.silent_after_seconds + 0.1
    assert [each.name for each in quiet.others(fleet, world.view, later)] == ["a000"]
