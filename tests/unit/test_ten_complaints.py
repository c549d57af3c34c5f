"""What users of other systems complain about, each as a test of the policy by its name.

The list is section 4 of our research on remediation. What can only be seen on a real cluster has its
tests beside the part that does it: transition times in ``integration/kubernetes_edge/test_conditions.py`` (4), evictions on the
wrong node in ``integration/drain`` (9), dead lock holders in ``integration/test_lease.py`` (10).
"""

import itertools

import msgspec
import pytest

from aggregator.ladder_file import parse
from aggregator.policy.config import budget
from aggregator.policy.ladder import Rung
from aggregator.policy.model import DrainState, SetTaint, Taint
from contract.vocabulary import OutcomeState, Phase, Severity, SourceState
from tests.policy_builders import FATAL, NODE, START, World, finding, nodes, of, sources
from tests.ward import Ward, config, dead_gpu, ward_with

RESET = dead_gpu("reset-device")
REBOOT = dead_gpu("reboot-node")


def test_1_reboot_and_reset_loops() -> None:
    """A fault that comes back after each repair: a handful of attempts in a week, then a person."""
    ward = ward_with(RESET)
    ward.mends = lambda order, each: True
    for _ in range(40):
        ward.report(NODE, RESET)
        ward.play(3_600.0)
    kinds = ward.kinds()
    assert kinds.count("reset-device") <= 2, "one per day"
    assert kinds.count("reboot-node") <= 1
    assert ward.only_incident(NODE).phase is Phase.NEEDS_HUMAN


def test_1_drains_that_succeed_have_a_cap_too() -> None:
    fault = dead_gpu("restart-workload", severity=Severity.CRITICAL)
    ward = ward_with(fault)
    began = ward.now
    while ward.now - began < 12 * 3_600.0:
        ward.report(NODE, fault)
        ward.play(400.0)
        ward.report(NODE)
        ward.play(200.0)
    bounds = ward.config.ladder.bounds[Rung.DRAIN_DEVICE]
    assert ward.rungs().count(("drain-device", "done")) == bounds.most_attempts


def test_1_a_corrupt_record_stops_and_never_resets_the_budget() -> None:
    ward = ward_with(REBOOT)
    ward.until("repairing")
    known = ward.only_incident(NODE)
    broken = msgspec.structs.replace(known, phase=Phase.NEEDS_HUMAN, attempts=(), unreadable=True)
    ward.incidents[known.name] = broken
    before = len(ward.carried)
    ward.play(7_200.0)
    assert len(ward.carried) == before
    assert ward.taint(NODE) is not None


def test_2_a_breaker_blocks_harm_only_and_never_stampedes() -> None:
    settings = config(budget_percent=100, budget_count=100)
    ward = Ward(30, settings)
    ward.settle()
    ward.report(NODE, RESET)
    ward.until("draining")
    for name in list(ward.nodes)[1:]:
        ward.report(name, finding("sensor"))
    ward.play(60.0)
    assert ward.quarantined("a") == [] or ward.quarantined("a") == [NODE]
    assert ward.rungs()[-1][1] == "done", "what is under way goes on"
    counts = []
    for _ in range(30):
        ward.play(120.0)
        counts.append(len(ward.quarantined("a")))
    assert max(after - before for before, after in itertools.pairwise(counts)) <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_2_budgets_work_in_small_pools(size: int) -> None:
    world = World(nodes(size))
    for name in world.nodes:
        world.report(name, FATAL)
    world.round()
    assert len(world.quarantined("a")) == budget(size, world.config) == 1


@pytest.mark.parametrize("state", [SourceState.STUCK, SourceState.FAILING, SourceState.ABSENT])
def test_3_a_monitor_that_fails_is_unknown_and_never_unhealthy(state: SourceState) -> None:
    ward = Ward(10)
    ward.settle()
    for name in ward.nodes:
        ward.report(name, sources=sources(nvidia=state))
    ward.play(3_600.0)
    assert not ward.incidents
    assert {each.taint for each in ward.nodes.values()} == {None}
    assert ward.conditions(NODE)["GPUHealthy"].status == "Unknown"


def test_3_a_bad_detector_does_not_take_the_fleet_out() -> None:
    ward = Ward(100, config(budget_percent=100, budget_count=1_000))
    ward.settle()
    for name in ward.nodes:
        ward.report(name, dead_gpu("replace-hardware", code="bad-sensor"))
    ward.play(3_600.0)
    assert len(ward.quarantined("a")) <= 12, "one probe in five minutes"


def test_4_conditions_do_not_latch() -> None:
    ward = ward_with(FATAL)
    ward.play(60.0)
    ward.report(NODE, sources=sources(nvidia=SourceState.STUCK))
    ward.play(90.0)
    assert ward.conditions(NODE)["GPUHealthy"].status == "Unknown"
    ward.report(NODE, sources=sources())
    ward.play(5.0)
    assert ward.conditions(NODE)["GPUHealthy"].status == "True"


def test_5_no_node_stays_cordoned() -> None:
    """Whatever a crash left behind on a healthy node is taken off."""
    ward = Ward(10)
    ward.settle()
    ward.change_node(
        NODE,
        taint=Taint("x", "NoSchedule"),
        quarantined_by="gone",
        unschedulable=True,
        cordoned_by="gone",
    )
    ward.play(10.0)
    assert ward.taint(NODE) is None
    assert not ward.nodes[NODE].unschedulable


def test_6_what_somebody_else_cordoned_stays_cordoned() -> None:
    ward = ward_with(REBOOT)
    ward.change_node(NODE, unschedulable=True)
    ward.until("closed")
    assert ward.nodes[NODE].unschedulable


def test_6_a_persons_uncordon_is_final() -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends = DrainState.RUNNING
    ward.until("draining")
    ward.play(5.0)
    ward.change_node(NODE, unschedulable=False)
    ward.play(3_600.0)
    assert not ward.carried, "rebooted a node whose drain a person had cancelled"
    assert ward.taint(NODE) is None


def test_7_a_later_and_worse_fault_counts() -> None:
    ward = ward_with(RESET)
    ward.drain_ends = DrainState.RUNNING
    ward.until("draining")
    ward.report(NODE, RESET, dead_gpu("replace-hardware", code="xid-140"))
    ward.drain_ends = DrainState.DONE
    incident = ward.until("needs-human")
    assert "xid-140" in incident.needs
    assert ward.kinds() == []


def test_8_a_restart_replays_nothing() -> None:
    """At every moment of the story another leader takes over, and first has to look how drains stand."""
    plain = ward_with(REBOOT)
    plain.until("closed")
    ward = ward_with(REBOOT)
    for _ in range(400):
        ward.new_leader()
        ward.carry_out(ward.decide())
        ward.carry_out(ward.decide())
        ward.now += 5.0
    assert ward.kinds() == plain.kinds() == ["reboot-node"]
    assert ward.newest() is not None
    assert len({each.attempt for each in ward.drained}) == 1


def test_9_a_blocked_drain_says_by_what() -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends = DrainState.RUNNING
    ward.drain_text = "1 of 3 pods gone; blocked by PDB serving/llm: needs 3 healthy, has 3"
    ward.until("draining")
    ward.play(5.0)
    assert "PDB serving/llm" in ward.only_incident(NODE).next_step
    assert ward.only_incident(NODE).next_step_seconds is not None


def test_10_a_reset_never_runs_under_pods_and_never_stays_in_progress() -> None:
    ward = ward_with(RESET, settings=config(act=frozenset({Rung.TAINT, Rung.RESET_DEVICE})))
    ward.play(3_600.0)
    assert ward.kinds() == []
    other = ward_with(RESET)
    other.agent_ends = OutcomeState.RUNNING
    other.until("needs-human")
    assert ("reset-device", "unknown") in other.rungs()


def test_10_what_a_code_asks_for_is_yours_to_say() -> None:
    ladder = parse(
        b"bounds: {}\nby_action: {reset-device: [taint, drain, reboot-node]}\nby_code: {xid-79: [taint]}\n",
        "mine.yaml",
    )
    ward = ward_with(RESET, settings=config(ladder=ladder))
    ward.play(3_600.0)
    assert ward.rungs() == []
    assert ward.taint(NODE) == Taint("xid-79", "NoSchedule")


def test_no_hard_taint_without_a_hard_finding_that_is_seen_now() -> None:
    ward = Ward(10)
    ward.settle()
    ward.report(NODE, FATAL, age_seconds=31.0)
    assert not of(ward.round(1.0), SetTaint)
    assert ward.now > START
