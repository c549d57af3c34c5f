"""What the policy does for its users, as tables. Time is a number; the cluster is a dictionary."""

import msgspec
import pytest

from aggregator.policy.config import PolicyConfig, budget
from aggregator.policy.decide import Decision
from aggregator.policy.model import (
    ClusterNode,
    Condition,
    Incident,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    Taint,
)
from contract.vocabulary import Domain, Finding, Phase, Severity, SourceState
from tests.policy_builders import (
    CONFIG,
    CRITICAL,
    DECISIVE,
    DEGRADED,
    FATAL,
    INFO,
    NODE,
    START,
    World,
    finding,
    incident,
    nodes,
    of,
    one_node,
    sources,
)


@pytest.mark.parametrize("trouble", [FATAL, CRITICAL])
def test_hard_trouble_is_answered_whole_in_one_round(trouble: Finding) -> None:
    world = one_node(trouble)
    decision = world.round(1.0)
    assert world.taint(NODE) == Taint(trouble.code, "NoSchedule")
    assert world.conditions(NODE)["GPUHealthy"].status == "False"
    assert trouble.evidence in world.conditions(NODE)["GPUHealthy"].message
    assert world.conditions(NODE)["HostHealthy"].status == "True"
    found = world.only_incident(NODE)
    assert (found.phase, found.quarantined_seconds) == (Phase.QUARANTINED, START + 1)
    assert [each.phase for each in found.timeline] == [Phase.SUSPECT, Phase.QUARANTINED]
    assert [(each.type, each.event_reason) for each in world.events] == [("Warning", "Quarantined")]
    kinds = [type(each) for each in of(decision, *DECISIVE)]
    assert kinds == [SetTaint, SaveIncident, RecordEvent]
    assert not world.decide().intents


def test_degraded_is_watched_then_other_nodes_are_preferred() -> None:
    world = one_node(DEGRADED)
    world.round()
    assert world.only_incident(NODE).phase is Phase.SUSPECT
    world.round(CONFIG.degraded_hold_seconds - 0.1)
    assert world.taint(NODE) is None
    world.round(0.1)
    assert world.taint(NODE) == Taint(DEGRADED.code, "PreferNoSchedule")
    assert world.conditions(NODE)["GPUHealthy"].status == "True"
    assert not world.events
    world.report(NODE)
    world.round(1.0)
    assert world.taint(NODE) is not None
    world.round(CONFIG.release_after_seconds)
    assert world.taint(NODE) is None
    assert not world.open_incidents(NODE)


def test_info_is_only_shown() -> None:
    world = one_node(INFO)
    for _ in range(3):
        assert world.round(3_600.0) == Decision()


def test_degraded_that_turns_fatal_is_the_same_incident() -> None:
    world = one_node(DEGRADED)
    world.round()
    first = world.only_incident(NODE)
    world.report(NODE, DEGRADED, FATAL)
    world.round(1.0)
    now = world.only_incident(NODE)
    assert (now.name, now.phase, now.opened_seconds) == (first.name, Phase.QUARANTINED, START)
    assert [each.code for each in now.findings] == [FATAL.code, DEGRADED.code]


def test_released_only_after_clear_for_the_whole_time_and_told_only_then() -> None:
    world = one_node(FATAL)
    world.round()
    world.report(NODE)
    world.round(500.0)
    world.round(CONFIG.release_after_seconds - 0.1)
    assert world.taint(NODE) is not None
    assert not world.events_of("Released")
    assert world.only_incident(NODE).phase is Phase.QUARANTINED
    decision = world.round(0.1)
    kinds = [type(each) for each in of(decision, *DECISIVE)]
    assert kinds == [RemoveTaint, SaveIncident, RecordEvent]
    assert world.taint(NODE) is None
    assert not world.open_incidents(NODE)
    assert [event.type for event in world.events_of("Released")] == ["Normal"]
    assert world.conditions(NODE)["GPUHealthy"].status == "True"
    assert not world.decide().intents


def test_a_relapse_while_waiting_starts_the_wait_anew() -> None:
    world = one_node(FATAL)
    world.round()
    for _ in range(5):
        world.report(NODE)
        world.round(1.0)
        world.round(CONFIG.release_after_seconds - 1.0)
        world.report(NODE, FATAL)
        world.round(0.5)
        assert world.taint(NODE) is not None
    assert len(world.incidents) == 1
    assert len(world.events_of("Quarantined")) == 1


def test_each_flap_doubles_the_wait_up_to_the_bound() -> None:
    config = PolicyConfig(
        release_after_seconds=10, flap_window_seconds=86_400, flap_most_seconds=75
    )
    world = one_node(config=config)
    waits = []
    for _ in range(6):
        world.report(NODE, FATAL)
        world.round(1.0)
        world.report(NODE)
        world.round(1.0)
        cleared = world.now
        while world.open_incidents(NODE):
            world.round(1.0)
        waits.append(world.now - cleared)
    assert waits == [10, 20, 40, 75, 75, 75]
    world.now += config.flap_window_seconds
    world.report(NODE, FATAL)
    world.round()
    assert "released 10 s after" in world.only_incident(NODE).next_step


@pytest.mark.parametrize("findings", [(), (FATAL,), (DEGRADED,)])
@pytest.mark.parametrize("taint", [None, Taint("x", "NoSchedule"), Taint("x", "PreferNoSchedule")])
@pytest.mark.parametrize("open_already", [True, False])
def test_nothing_but_unknown_is_said_of_a_silent_node(
    findings: tuple[Finding, ...], taint: Taint | None, open_already: bool
) -> None:
    there = [incident(NODE, clear_since_seconds=START - 9_999)] if open_already else []
    world = World(nodes(1), incidents=there)
    world.apply(of(world.decide(), SetCondition))
    world.put_taint(NODE, taint)
    world.report(NODE, *findings, age_seconds=CONFIG.silent_after_seconds + 0.1)
    decision = world.round()
    # A node that was relaxed for a quarantine of its bad devices alone is not left so, unseen.
    relaxed = open_already and taint is not None and taint.effect == "PreferNoSchedule"
    also = {SetTaint, SaveIncident} if relaxed else set()
    assert {type(each) for each in decision.intents} == {SetCondition} | also
    assert {each.status for each in world.conditions(NODE).values()} == {"Unknown"}
    assert {each.reason for each in world.conditions(NODE).values()} == {"AgentSilent"}
    assert world.round(9_999.0) == Decision()


def test_a_silent_node_that_never_had_conditions_gets_none() -> None:
    world = World(nodes(1))
    world.report(NODE, age_seconds=31.0)
    assert world.decide() == Decision()


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        (SourceState.STUCK, "Unknown", "SourceStuck"),
        (SourceState.FAILING, "Unknown", "SourceFailing"),
        (SourceState.ABSENT, "Unknown", "SourceAbsent"),
    ],
)
def test_a_source_that_says_nothing_makes_a_condition_unknown_and_no_more(
    state: SourceState, status: str, reason: str
) -> None:
    world = one_node()
    world.report(NODE, sources=sources(nvidia=state))
    decision = world.round()
    assert {type(each) for each in decision.intents} == {SetCondition}
    got = world.conditions(NODE)["GPUHealthy"]
    assert (got.status, got.reason) == (status, reason)
    assert world.conditions(NODE)["HostHealthy"].status == "True"
    assert world.round(9_999.0) == Decision()


def test_hardware_that_a_node_never_had_gets_no_condition() -> None:
    world = World(nodes(1))
    world.report(NODE, sources=sources(rdma=SourceState.ABSENT))
    world.settle()
    assert set(world.conditions(NODE)) == {"GPUHealthy", "HostHealthy", "StorageHealthy"}


def test_a_condition_is_not_rewritten_for_a_changed_message() -> None:
    world = one_node(FATAL)
    world.round()
    before = world.conditions(NODE)
    world.report(NODE, msgspec.structs.replace(FATAL, evidence="the 17th time", count=17))
    assert not of(world.round(5.0), SetCondition)
    assert world.conditions(NODE) == before


@pytest.mark.parametrize("state", [SourceState.STUCK, SourceState.FAILING, SourceState.ABSENT])
def test_a_fault_that_can_no_longer_be_seen_is_not_over(state: SourceState) -> None:
    """An agent that starts anew knows no faults; a stuck NVML then must not release a dead GPU."""
    world = one_node(FATAL)
    world.round()
    world.report(NODE, sources=sources(nvidia=state))
    for _ in range(3):
        world.round(3_600.0)
    assert world.taint(NODE) is not None
    assert f"nvidia is {state.label}" in world.only_incident(NODE).next_step
    world.report(NODE, sources=sources())
    world.round(1.0)
    assert world.taint(NODE) is not None  # from here on it is seen to be well
    world.round(CONFIG.release_after_seconds)
    assert world.taint(NODE) is None


def test_another_parts_blindness_keeps_nobody() -> None:
    world = one_node(FATAL)
    world.round()
    world.report(NODE, sources=sources(rdma=SourceState.STUCK))
    world.round(1.0)
    world.round(CONFIG.release_after_seconds)
    assert world.taint(NODE) is None


def test_time_that_nobody_watched_does_not_count_as_clear() -> None:
    """After a silence, a hold or our own restart, an old ``clear_since`` proves nothing."""
    since = START - 9_999
    world = World(nodes(1), incidents=[incident(NODE, clear_since_seconds=since)])
    world.report(NODE, clear_seconds=0.0)
    world.round()
    assert world.only_incident(NODE).phase is Phase.QUARANTINED
    world.report(NODE, clear_seconds=CONFIG.release_after_seconds - 0.1)
    world.round()
    assert world.taint(NODE) is not None
    world.report(NODE, clear_seconds=CONFIG.release_after_seconds)
    world.round()
    assert world.taint(NODE) is None


def test_a_clock_set_back_does_not_lengthen_the_wait() -> None:
    world = World(nodes(1), incidents=[incident(NODE, clear_since_seconds=START + 86_400)])
    world.round()
    world.round(CONFIG.release_after_seconds)
    assert not world.open_incidents(NODE)


@pytest.mark.parametrize(
    ("size", "percent", "count", "allowed"),
    [
        (1, 10.0, 10, 1),
        (9, 10.0, 10, 1),
        (10, 10.0, 10, 1),
        (19, 10.0, 10, 1),
        (20, 10.0, 10, 2),
        (100, 10.0, 10, 10),
        (1_000, 10.0, 10, 10),
        (1_000, 10.0, 200, 100),
        (100, 0.0, 10, 1),
        (5, 100.0, 3, 3),
    ],
)
def test_the_budget_is_the_smaller_of_percent_and_count_and_at_least_one(
    size: int, percent: float, count: int, allowed: int
) -> None:
    config = PolicyConfig(
        budget_percent=percent, budget_count=count, breaker_nodes=0, quarantines_per_minute=0
    )
    assert budget(size, config) == allowed
    world = World(nodes(size), config)
    for name in world.nodes:
        world.report(name, FATAL)
    for _ in range(3):
        world.round(1.0)
        assert len(world.quarantined("a")) == allowed


def test_pools_do_not_share_a_budget() -> None:
    world = World([*nodes(10, "a"), *nodes(20, "b")], PolicyConfig(breaker_nodes=0))
    for name in world.nodes:
        world.report(name, FATAL)
    world.round()
    assert (len(world.quarantined("a")), len(world.quarantined("b"))) == (1, 2)


def test_the_worst_go_first_then_those_that_suffer_longest() -> None:
    world = World(nodes(30), PolicyConfig(budget_percent=10))
    world.report("a000", finding(severity=Severity.CRITICAL, since=START - 900))
    world.report("a001", finding(since=START - 10))
    world.report("a002", finding(since=START - 30))
    world.report("a003", finding(since=START - 20))
    world.round()
    assert world.quarantined("a") == ["a001", "a002", "a003"]
    assert world.taint("a000") == Taint("xid-79", "PreferNoSchedule")


def test_what_is_declined_is_said_once_and_done_when_there_is_room() -> None:
    world = World(nodes(10))
    world.report("a000", finding(since=START - 1))
    world.report("a001", finding(since=START - 2))
    (declined,) = world.round().declined
    assert declined.node == "a000"
    assert "1 of at most 1" in declined.reason
    assert "budget" in world.only_incident("a000").next_step
    for _ in range(20):
        assert world.round(5.0) == Decision()
    world.report("a001")
    world.round(1.0)
    world.round(CONFIG.release_after_seconds)
    world.round(1.0)
    assert world.quarantined("a") == ["a000"]


def test_a_hard_taint_and_an_open_quarantine_both_count_against_the_budget() -> None:
    for there in (
        {"taint": Taint("x", "NoSchedule")},
        {"taint": Taint("x", "NoExecute")},
        {"incident": incident("a001")},
        {"incident": incident("a001", Phase.NEEDS_HUMAN, quarantined_seconds=START)},
    ):
        known = there.get("incident")
        world = World(nodes(10), incidents=[known] if isinstance(known, Incident) else [])
        del world.health["a001"]  # its agent never came
        if isinstance(taint := there.get("taint"), Taint):
            world.put_taint("a001", taint)
        world.report("a000", FATAL)
        world.round()
        assert world.taint("a000") == Taint("xid-79", "PreferNoSchedule"), there


def test_a_person_s_hold_stops_everything_but_the_plain_facts() -> None:
    world = one_node(FATAL)
    world.round()
    world.hold(NODE)
    world.report(NODE, FATAL, DEGRADED)
    assert world.round(1.0) == Decision()
    world.report(NODE)
    assert {type(each) for each in world.round(9_999.0).intents} == {SetCondition}
    world.hold(NODE, held=False)
    world.round()
    world.round(CONFIG.release_after_seconds)
    assert world.taint(NODE) is None


@pytest.mark.parametrize("findings", [(), (FATAL,)])
def test_an_incident_that_cannot_be_read_is_left_alone(findings: tuple[Finding, ...]) -> None:
    """Never a way around a budget or a cap."""
    stuck = incident(
        NODE,
        Phase.NEEDS_HUMAN,
        findings=(),
        clear_since_seconds=START - 9_999,
        unreadable=True,
    )
    world = World(nodes(1), incidents=[stuck])
    world.report(NODE, *findings)
    assert not of(world.round(), *DECISIVE)


def test_an_unsynced_view_decides_nothing() -> None:
    world = World(nodes(3))
    for name in world.nodes:
        world.report(name, FATAL)
    world.synced = False
    assert world.decide() == Decision()


def test_a_node_that_the_cluster_does_not_know_is_ignored() -> None:
    world = one_node(FATAL)
    world.nodes = {"other": ClusterNode(name="other")}
    assert world.decide() == Decision()


def test_the_same_input_gives_the_same_output_whatever_its_order() -> None:
    world = World(nodes(40))
    for number, name in enumerate(world.nodes):
        world.report(name, *([], [FATAL], [DEGRADED], [CRITICAL])[number % 4])
    first = world.decide()
    world.nodes = dict(reversed(world.nodes.items()))
    world.health = dict(reversed(world.health.items()))
    assert world.decide() == first
    assert len(first.intents) > 40


def test_a_fault_without_a_domain_we_know_shows_on_the_host() -> None:
    world = one_node(finding(domain=Domain.HOST, subject="host"))
    world.round()
    assert world.conditions(NODE)["HostHealthy"] == Condition(
        "False", "Xid79", "host: fallen off the bus"
    )
