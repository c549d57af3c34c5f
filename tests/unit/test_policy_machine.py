"""The policy over time: crashes, doubles, leftovers, growth, and a machine that tries to break it."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aggregator.policy.config import PolicyConfig, budget
from aggregator.policy.decide import Decision, decide
from aggregator.policy.health import NodeHealth
from aggregator.policy.incidents import MAX_KEPT_FINDINGS, MAX_TIMELINE, duplicate, incident_name
from aggregator.policy.model import (
    Intent,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    Taint,
)
from contract.vocabulary import Phase, Severity, SourceState
from tests.policy_builders import (
    CONFIG,
    DECISIVE,
    FATAL,
    HARD,
    NODE,
    START,
    Agents,
    World,
    finding,
    incident,
    nodes,
    of,
    one_node,
    sources,
)

REPORT_SECONDS = 5.0
TIMING = PolicyConfig(
    degraded_hold_seconds=10,
    release_after_seconds=20,
    flap_window_seconds=600,
    flap_most_seconds=80,
    silent_after_seconds=12,
    budget_percent=34,
    budget_count=5,
    breaker_nodes=0,
    quarantines_per_minute=0,
)
"""Taints only; ``test_treatment_machine.py`` has the rest of the ladder, people's acts and the breaker."""
POOLS = (("a", 6), ("b", 2))
CLUSTER = [node for pool, count in POOLS for node in nodes(count, pool)]
NAMES = st.sampled_from([*[NODE, "b000"] * 4, *(node.name for node in CLUSTER)])
"""Two nodes most of the time: trouble needs several things to happen to the same one."""
GROUPS = st.sampled_from(
    [[NODE], ["b000"], *([one.name for one in nodes(size, pool)] for pool, size in POOLS)]
)
SUBJECTS = st.sampled_from(["gpu:0", "gpu:1"])
SEVERITIES = st.sampled_from(Severity)


class Policy(RuleBasedStateMachine):
    """Agents report every five seconds to a real Fleet; what the policy wants is done, or partly."""

    @initialize()
    def begin(self) -> None:
        self.world = World(CLUSTER, TIMING)
        self.agents = Agents(self.world)

    @rule(node=NAMES, subject=SUBJECTS, severity=SEVERITIES)
    def a_fault_is_raised(self, node: str, subject: str, severity: Severity) -> None:
        raised = finding(f"c{severity}", severity, subject=subject, since=self.world.now)
        self.agents.faults[node][subject] = raised
        self.agents.report(node)

    @rule(names=GROUPS, steps=st.sampled_from([0, 2, 7, 18]))
    def they_recover(self, names: list[str], steps: int) -> None:
        self.agents.silent.difference_update(names)
        self.agents.blind.difference_update(names)
        for name in names:
            self.agents.faults[name].clear()
            self.agents.report(name)
        self.time_passes(steps)

    @rule(names=GROUPS, severity=SEVERITIES)
    def many_break_at_once(self, names: list[str], severity: Severity) -> None:
        for name in names:
            self.a_fault_is_raised(name, "gpu:0", severity)

    @rule(names=GROUPS)
    def agents_fall_silent(self, names: list[str]) -> None:
        self.agents.silent.update(names)

    @rule(names=GROUPS, restarted=st.booleans())
    def drivers_hang(self, names: list[str], restarted: bool) -> None:
        for name in names:
            self.agents.blind.add(name)
            if restarted:
                self.agents.faults[name].clear()  # an agent that starts anew knows of none
            self.agents.report(name)
        self.time_passes(7)

    @rule()
    def the_aggregator_restarts(self) -> None:
        self.agents.restart_aggregator()

    @rule(steps=st.sampled_from([1, 4, 7]))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.world.now += REPORT_SECONDS
            self.agents.report_all()
            self.whole_round()

    @rule(seconds=st.sampled_from([0.0, 1.0, 7.0]), keep=st.lists(st.booleans(), max_size=8))
    def only_some_writes_succeed(self, seconds: float, keep: list[bool]) -> None:
        self.world.now += seconds
        self.agents.report_all()
        kept = itertools.cycle(keep or [False])
        self.apply(each for each in self.checked().intents if next(kept))

    @rule(held=st.booleans(), place=st.integers(0, 2))
    def a_person_holds_or_lets_go(self, held: bool, place: int) -> None:
        opened = [each.node for each in self.world.incidents.values() if each.open]
        for node in opened[place : place + 1]:
            self.world.hold(node, held)

    @rule(node=NAMES)
    def a_person_puts_our_taint_on(self, node: str) -> None:
        self.world.put_taint(node, Taint("by-hand", "NoSchedule"))

    @rule(node=NAMES)
    def a_person_deletes_the_incident(self, node: str) -> None:
        for each in self.world.open_incidents(node):
            del self.world.incidents[each.name]

    @invariant()
    def incidents_are_one_per_node_and_bounded(self) -> None:
        for name in self.world.nodes:
            assert len(self.world.open_incidents(name)) <= 1
        for each in self.world.incidents.values():
            assert len(each.timeline) <= MAX_TIMELINE
            assert len(each.findings) <= MAX_KEPT_FINDINGS

    def teardown(self) -> None:
        """However it stands: once all is well, everything is released, and stays so."""
        self.agents.silent.clear()
        self.agents.blind.clear()
        for name, faults in self.agents.faults.items():
            faults.clear()
            if self.world.open_incidents(name):
                self.world.hold(name, held=False)
        self.time_passes(int((TIMING.flap_most_seconds + 20) / REPORT_SECONDS))
        assert not [each for each in self.world.incidents.values() if each.open]
        for node in self.world.nodes.values():
            assert node.taint is None
            assert {each.status for each in node.conditions.values()} == {"True"}
        for _ in range(5):
            self.world.now += REPORT_SECONDS
            self.agents.report_all()
            assert self.checked() == Decision()

    def used(self, pool: str) -> set[str]:
        """Nodes that take no new pods, or are about to."""
        wanted = {
            each.node
            for each in self.world.incidents.values()
            if each.phase is Phase.QUARANTINED and self.world.nodes[each.node].pool == pool
        }
        return wanted | set(self.world.quarantined(pool))

    def apply(self, intents: Iterable[Intent]) -> None:
        before = {pool: self.used(pool) for pool in "ab"}
        self.world.apply(intents)
        for pool, count in POOLS:
            allowed = max(budget(count, TIMING), len(before[pool]))
            assert len(self.used(pool)) <= allowed, "over the budget, and by our doing"

    def whole_round(self) -> None:
        done: list[Intent] = []
        for _ in range(4):
            intents = self.checked().intents
            assert not [each for each in intents if each in done], "done, and still wanted"
            done += intents
            self.apply(intents)
        assert not self.checked().intents, "does not settle"
        self.nobody_waits_while_there_is_room()
        for name in self.agents.silent_for(TIMING.silent_after_seconds):
            told = self.world.conditions(name).values()
            assert {each.status for each in told} <= {"Unknown"}, "says what nobody knows"

    def nobody_waits_while_there_is_room(self) -> None:
        for pool, count in POOLS:
            served = self.used(pool) | set(self.agents.silent_for(TIMING.silent_after_seconds))
            served |= {each.node for each in self.world.incidents.values() if each.hold}
            waiting = [
                name
                for name, health in self.agents.health().items()
                if health.pool == pool and health.at_least(Severity.CRITICAL)
            ]
            full = len(self.used(pool)) >= budget(count, TIMING)
            assert full or set(waiting) <= served

    def checked(self) -> Decision:
        """One decision, with everything that must be true of any."""
        known = self.agents.health()
        decision = decide(known.values(), self.world.view, TIMING, self.world.now)
        assert decision == decide(known.values(), self.world.view, TIMING, self.world.now)
        for intent in decision.intents:
            assert intent.reason.strip()
            self.check_one(intent, known[intent.node])
        return decision

    def check_one(self, intent: Intent, health: NodeHealth) -> None:
        if isinstance(intent, SetCondition):
            if health.age_seconds > TIMING.silent_after_seconds:
                assert intent.condition.status == "Unknown"
            return
        there = self.world.open_incidents(intent.node)
        if health.age_seconds > TIMING.silent_after_seconds:
            taint = self.world.taint(intent.node)
            open_to_pods = taint is not None and taint.effect not in HARD
            assert open_to_pods, "decided about a silent node"
            assert any(each.phase is Phase.QUARANTINED for each in there)
            assert isinstance(intent, SaveIncident) or (
                isinstance(intent, SetTaint) and intent.taint.effect in HARD
            )
            return
        assert not any(each.hold for each in there), "decided against a person's hold"
        hard = bool(health.at_least(Severity.CRITICAL))
        if isinstance(intent, SetTaint) and intent.taint.effect in HARD:
            assert hard or any(each.phase is Phase.QUARANTINED for each in there)
        quarantined = any(each.phase is Phase.QUARANTINED for each in there)
        if isinstance(intent, RemoveTaint) and quarantined:
            assert not hard
            assert intent.node not in self.agents.blind, "released what nobody can see"
            assert health.clear_seconds >= TIMING.release_after_seconds


Policy.TestCase.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestPolicy = Policy.TestCase


class TestOrphanedTaint:
    TAINT = Taint("xid-79", "NoSchedule")

    def world(self, **changes: object) -> World:
        world = one_node()
        world.put_taint(NODE, self.TAINT)
        world.report(NODE, **changes)
        return world

    def test_it_is_taken_off_a_healthy_reporting_node(self) -> None:
        world = self.world()
        assert [type(each) for each in world.round().intents] == [RemoveTaint]
        assert not world.decide().intents

    @pytest.mark.parametrize(
        "changes",
        [
            {"age_seconds": 31.0},
            {"sources": sources(nvidia=SourceState.STUCK)},
            {"clear_seconds": CONFIG.release_after_seconds - 1},
        ],
        ids=["silent", "blind", "not watched for long"],
    )
    def test_it_stays_where_nobody_can_know(self, changes: dict[str, object]) -> None:
        world = self.world(**changes)
        assert not of(world.round(), RemoveTaint)

    def test_it_becomes_a_quarantine_where_the_fault_is_still_there(self) -> None:
        world = self.world()
        world.report(NODE, FATAL)
        assert [type(each) for each in of(world.round(), *DECISIVE)] == [SaveIncident, RecordEvent]


def test_of_two_open_incidents_the_one_that_went_further_stays() -> None:
    suspect = incident(NODE, Phase.SUSPECT, name="one", opened_seconds=START - 99)
    later = incident(NODE, name="two")
    for order in itertools.permutations((suspect, later)):
        world = World(nodes(1), incidents=order)
        world.report(NODE, FATAL)
        world.round()
        assert world.only_incident(NODE).name == "two"
        assert "another incident" in world.incidents["one"].timeline[-1].text
        assert not world.events_of("Released")
        assert not world.decide().intents


def test_a_double_does_not_count_as_an_earlier_quarantine() -> None:
    assert duplicate(incident(NODE), START).incident.quarantined_seconds is None


def test_one_hold_holds_the_node_also_beside_a_double() -> None:
    pair = [incident(NODE, name="one"), incident(NODE, Phase.SUSPECT, name="two", hold=True)]
    world = World(nodes(1), incidents=pair)
    world.report(NODE, FATAL)
    assert not of(world.round(), *DECISIVE)


@pytest.mark.parametrize("story", ["quarantine", "release"])
def test_a_crash_between_any_two_writes_comes_to_the_same_end(story: str) -> None:
    """Every subset of one round's writes, in its order, then whole rounds."""
    ends = set()
    count = len(of(_story(story).decide(), *DECISIVE))
    assert count == 3
    for kept in itertools.product([True, False], repeat=count):
        world = _story(story)
        first = of(world.decide(), *DECISIVE)
        world.apply(intent for intent, keep in zip(first, kept, strict=True) if keep)
        for _ in range(3):
            world.round(1.0)
            assert len(world.quarantined("a")) <= 1
        assert not world.round(1.0).intents
        assert len(world.events_of("Quarantined")) <= 2
        assert len(world.open_incidents(NODE)) == (story == "quarantine")
        ends.add((world.taint(NODE), tuple(sorted(world.conditions(NODE).items(), key=str))))
    assert len(ends) == 1


def _story(story: str) -> World:
    world = World(nodes(10))
    world.settle()
    world.report(NODE, FATAL)
    if story == "release":
        world.round()
        world.events.clear()
        world.report(NODE)
        world.round(1.0)
        world.now += CONFIG.release_after_seconds
    else:
        world.report("a001", finding(since=START + 1))
        world.apply(of(world.decide(), SetCondition))
        del world.health["a001"]
    return world


def test_an_incident_stays_small_and_quiet_whatever_a_node_claims() -> None:
    """New subjects with every report, as from a code that carries a process id."""
    world = one_node(FATAL)
    writes = 0
    for number in range(500):
        world.report(
            NODE, *(finding(subject=f"p:{number}.{part}", since=world.now) for part in range(5))
        )
        writes += len(of(world.round(1.0), *DECISIVE))
    found = world.only_incident(NODE)
    assert len(found.findings) == MAX_KEPT_FINDINGS
    assert len(found.timeline) <= MAX_TIMELINE
    assert found.timeline[0].phase is Phase.SUSPECT
    assert writes < 20
    flood = one_node(*(finding(subject=f"q:{part}") for part in range(1_000)))
    flood.round()
    assert len(flood.only_incident(NODE).findings) == MAX_KEPT_FINDINGS


def test_the_timeline_keeps_its_first_entry_and_the_newest() -> None:
    world = one_node(finding("c0", Severity.DEGRADED))
    for number in range(2 * MAX_TIMELINE):
        world.report(NODE, finding(f"c{number}", Severity.DEGRADED, since=START - number))
        world.round(1.0)
    timeline = world.only_incident(NODE).timeline
    assert len(timeline) == MAX_TIMELINE
    assert "c0 " in timeline[0].text
    assert f"c{2 * MAX_TIMELINE - 1} " in timeline[-1].text


@pytest.mark.parametrize("node", ["n", "GPU-Node.example.com", "é漢字", "-._-", "x" * 253, ""])
def test_an_incidents_name_is_a_dns_name(node: str) -> None:
    name = incident_name(node, START)
    assert len(name) <= 63
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert name[0].isalnum()
    assert name[-1].isalnum()
    assert name != incident_name(node, START + 1)


@pytest.mark.parametrize("code", ["", "gpu lost!", "x" * 1_024, "-/-", "日本"])
def test_a_taint_is_one_that_kubernetes_takes(code: str) -> None:
    world = one_node(finding(code))
    world.round()
    taint = world.taint(NODE)
    assert taint is not None
    assert len(taint.code) <= 63
    assert not taint.code or (taint.code[0].isalnum() and taint.code[-1].isalnum())
    assert taint.code.isascii()
    assert " " not in taint.code


def test_a_new_code_alone_is_not_worth_a_taint_write() -> None:
    world = one_node(FATAL)
    world.round()
    world.report(NODE, finding("xid-48"))
    assert not of(world.round(1.0), SetTaint, RemoveTaint)


def test_a_taint_that_left_with_its_node_object_comes_back_without_another_event() -> None:
    """A Node that was created anew has neither our taint nor our signature: nobody decided anything."""
    world = one_node(FATAL)
    world.round()
    world.change_node(NODE, taint=None, quarantined_by="", uid="another")
    assert [type(each) for each in world.round(1.0).intents] == [SetTaint]
