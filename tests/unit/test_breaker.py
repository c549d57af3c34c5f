"""The breaker: many nodes with one code at once are a bad sensor or release; it blocks harm, and only that."""

import itertools

import msgspec

from aggregator.policy.breaker import Breakers, BreakerState
from aggregator.policy.config import PolicyConfig
from aggregator.policy.decide import decide
from aggregator.policy.health import NodeHealth
from aggregator.policy.ladder import Rung
from aggregator.policy.model import DrainState
from contract.vocabulary import Phase, Severity
from tests.policy_builders import FATAL, NODE, START, World, finding, incident, nodes
from tests.ward import ALL, Ward, config, dead_gpu

REBOOT = dead_gpu("reboot-node")

CONFIG = PolicyConfig(
    budget_percent=100,
    budget_count=1_000,
    quarantines_per_minute=0,
    breaker_nodes=5,
    breaker_window_seconds=600,
    breaker_probe_seconds=300,
)


def crowd(count: int, config: PolicyConfig = CONFIG, bad: int = 0) -> World:
    world = World(nodes(count), config)
    world.settle()
    for name in list(world.nodes)[:bad]:
        world.report(name, FATAL)
    return world


def test_fewer_than_that_many_nodes_are_quarantined_as_ever() -> None:
    world = crowd(50, bad=4)
    world.round(1.0)
    assert len(world.quarantined("a")) == 4


def test_all_at_once_opens_it_before_anything_is_done() -> None:
    world = crowd(50, bad=50)
    world.round(1.0)
    assert world.quarantined("a") == []
    assert all(node.taint is not None for node in world.nodes.values()), "only not preferred"
    declined = [
        each for each in world.incidents.values() if "breaker for xid-79 is open" in each.next_step
    ]
    assert len(declined) == 50


def test_one_after_the_other_opens_it_at_the_fifth() -> None:
    world = crowd(50)
    for name in list(world.nodes)[:20]:
        world.report(name, FATAL)
        world.round(10.0)
    assert len(world.quarantined("a")) == 4


def test_far_enough_apart_they_are_no_crowd() -> None:
    world = crowd(50)
    for name in list(world.nodes)[:10]:
        world.report(name, FATAL)
        world.round(200.0)
        world.report(name)
        world.round(1.0)
        world.round(1.0 + CONFIG.release_after_seconds)
        assert not world.open_incidents(name)
    opened = [each for each in world.incidents.values() if each.quarantined_seconds]
    assert len(opened) == 10


def test_another_code_is_not_held_back() -> None:
    world = crowd(50, bad=40)
    world.round(1.0)
    world.report("a045", finding("xid-95"))
    world.report("a001", FATAL, finding("xid-95"))
    world.round(1.0)
    assert world.quarantined("a") == ["a001", "a045"]


def test_release_and_reporting_go_on_while_it_is_open() -> None:
    world = crowd(50, bad=3)
    world.round(1.0)
    for name in list(world.nodes)[10:40]:
        world.report(name, FATAL)
    world.report("a000")
    world.round(1.0)
    assert world.conditions("a020")["GPUHealthy"].status == "False"
    world.round(CONFIG.release_after_seconds)
    assert world.taint("a000") is None
    assert len(world.quarantined("a")) == 2


def test_it_half_opens_by_itself_one_node_per_probe() -> None:
    world = crowd(50, bad=20)
    counts = []
    for _ in range(40):
        world.round(50.0)
        counts.append(len(world.quarantined("a")))
    began = next(at for at, count in enumerate(counts) if count)
    assert began * 50 >= CONFIG.breaker_window_seconds - 50
    steps = [after - before for before, after in itertools.pairwise(counts)]
    assert max(steps) == 1, "a stampede"
    probes = [at for at, step in enumerate(steps) if step]
    assert all(later - earlier >= 6 for earlier, later in itertools.pairwise(probes))


def test_it_closes_when_the_crowd_is_gone() -> None:
    world = crowd(50, bad=20)
    world.round(1.0)
    for name in list(world.nodes)[:20]:
        world.report(name)
    for _ in range(16):
        world.round(50.0)
    world.report("a049", FATAL)
    world.round(1.0)
    assert world.quarantined("a") == ["a049"]


def test_a_restart_or_another_leader_finds_it_as_it_was() -> None:
    world = crowd(50, bad=20)
    world.round(1.0)
    other = World(world.nodes.values(), CONFIG, world.incidents.values())
    other.health = dict(world.health)
    other.now = world.now + 100.0
    assert not [each for each in other.decide().intents if "no new pods" in each.reason]


def test_a_first_start_on_old_faults_does_not_take_them_all() -> None:
    world = crowd(50)
    for name in list(world.nodes)[:20]:
        world.report(name, finding(since=START - 86_400))
    world.round(1.0)
    assert world.quarantined("a") == []


def test_zero_turns_it_off() -> None:
    world = crowd(50, msgspec.structs.replace(CONFIG, breaker_nodes=0), bad=50)
    world.round(1.0)
    assert len(world.quarantined("a")) == 50


def test_silent_nodes_say_nothing() -> None:
    fleet = [
        NodeHealth(name=f"n{number}", pool="a", findings=(FATAL,), age_seconds=99.0)
        for number in range(9)
    ]
    assert Breakers(fleet, (), CONFIG, START).state("xid-79") is BreakerState.CLOSED


def test_a_code_counts_once_per_node_however_often_it_comes_back() -> None:
    old = [
        incident("a000", Phase.CLOSED, name=f"i{number}", noted_seconds={"xid-79": START - number})
        for number in range(9)
    ]
    assert Breakers((), old, CONFIG, START).state("xid-79") is BreakerState.CLOSED


def test_degraded_findings_open_nothing() -> None:
    fleet = [
        NodeHealth(name=f"n{number}", pool="a", findings=(finding(severity=Severity.DEGRADED),))
        for number in range(9)
    ]
    assert Breakers(fleet, (), CONFIG, START).not_closed() == {}


def test_nodes_that_are_left_to_people_do_not_keep_it_open() -> None:
    """Opted out, cancelled or held: they may show a fault for months, and are no news of one."""
    for left in ("opted out", "cancelled", "held"):
        world = crowd(50, msgspec.structs.replace(CONFIG, mute_seconds=1e6))
        for name in list(world.nodes)[:6]:
            world.change_node(name, managed=left != "opted out")
            world.report(name, FATAL if left != "held" else finding("older"))
            world.round(200.0)
            if left != "opted out":
                world.person_edits(name, cancel=left == "cancelled", hold=left == "held")
            world.report(name, FATAL)
        world.round(1.0)
        world.round(7_200.0)
        world.report("a049", FATAL)
        world.round(1.0)
        assert "a049" in world.quarantined("a"), left


def test_a_node_that_is_being_written_to_counts_all_the_same() -> None:
    world = crowd(50, bad=20)
    world.round(1.0)
    world.now += CONFIG.breaker_window_seconds + 1.0
    free = {"a000", "a001", "a002"}
    decision = decide(
        world.health.values(), world.view, CONFIG, world.now, busy=world.health.keys() - free
    )
    assert {each.node for each in decision.intents} <= free
    assert len([each for each in decision.intents if "no new pods" in each.reason]) == 2, (
        "one node, and that it is said"
    )


def test_another_code_of_the_node_lets_nothing_be_done_for_the_one_that_is_held_back() -> None:
    ward = Ward(30, config(budget_percent=100, budget_count=100))
    ward.settle()
    for name in list(ward.nodes)[:12]:
        ward.report(name, REBOOT)
    ward.report("a003", REBOOT, finding("single", subject="gpu:9"))
    ward.play(300.0)
    assert ward.quarantined("a") == ["a003"]
    assert (ward.drained, ward.carried) == ([], [])


def test_while_it_is_open_a_drain_goes_on_and_no_reboot_follows() -> None:
    ward = Ward(30, config(budget_percent=100, budget_count=100))
    ward.settle()
    ward.report(NODE, REBOOT)
    ward.drain_ends = DrainState.RUNNING
    ward.until("draining")
    for name in list(ward.nodes)[1:20]:
        ward.report(name, REBOOT)
    ward.play(20.0)
    assert ward.decide().drains
    ward.drain_ends = DrainState.DONE
    ward.play(60.0)
    assert (ward.rungs(), ward.kinds()) == ([("drain", "done")], [])
    for name in list(ward.nodes)[1:20]:
        ward.report(name)
    ward.play(1_200.0)
    assert ward.kinds() == ["reboot-node"]


def test_half_open_lets_one_node_be_worked_on_per_probe() -> None:
    off = config(budget_percent=100, budget_count=100, act=frozenset({Rung.TAINT}))
    ward = Ward(40, msgspec.structs.replace(off, drain_budget_percent=100, drain_budget_count=40))
    ward.settle()
    for name in list(ward.nodes)[:20]:
        ward.report(name, REBOOT)
        ward.play(5.0)
    assert len(ward.quarantined("a")) == 4
    ward.config = msgspec.structs.replace(ward.config, act=ALL)
    ward.drain_ends = DrainState.RUNNING
    counts = []
    for _ in range(200):
        ward.play(10.0)
        counts.append(len({each.node for each in ward.drained}))
    assert counts[-1] > 1
    assert max(after - before for before, after in itertools.pairwise(counts)) == 1
