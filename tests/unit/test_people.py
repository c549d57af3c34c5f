"""What people decide, and that it holds."""

import msgspec
import pytest

from aggregator.policy.model import RemoveTaint, SetCondition, Taint, Uncordon
from contract.vocabulary import OutcomeState, Phase
from tests.policy_builders import DECISIVE, FATAL, NODE, finding, of, one_node
from tests.ward import config, dead_gpu, ward_with

REBOOT = dead_gpu("reboot-node")


def test_taking_our_taint_off_cancels_and_mutes_the_same_fault() -> None:
    world = one_node(FATAL)
    world.round()
    world.put_taint(NODE, None)
    world.round(1.0)
    (closed,) = world.incidents.values()
    assert closed.phase is Phase.CLOSED
    assert "a person took our taint off" in closed.timeline[-1].text
    assert world.nodes[NODE].quarantined_by == ""
    world.round(world.config.mute_seconds - 10.0)
    assert not world.open_incidents(NODE)
    assert world.conditions(NODE)["GPUHealthy"].status == "False", "it is shown all the same"
    world.round(20.0)
    assert world.taint(NODE) == Taint("xid-79", "NoSchedule")


def test_another_fault_is_not_muted() -> None:
    world = one_node(FATAL)
    world.round()
    world.put_taint(NODE, None)
    world.round(1.0)
    world.report(NODE, FATAL, finding("xid-95"))
    world.round(1.0)
    assert world.taint(NODE) == Taint("xid-95", "NoSchedule")
    assert [each.code for each in world.only_incident(NODE).findings] == ["xid-95"]


def test_uncordoning_a_draining_node_stops_the_drain_and_what_is_ours_goes() -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends = ward.drain_ends.RUNNING
    ward.until("draining")
    ward.play(10.0)
    assert ward.decide().drains
    ward.change_node(NODE, unschedulable=False)
    decision = ward.round(1.0)
    assert not decision.drains
    assert {type(each) for each in decision.intents} >= {Uncordon, RemoveTaint}
    incident = ward.newest()
    assert incident is not None
    assert incident.muted_until_seconds == ward.now + ward.config.mute_seconds
    ward.play(600.0)
    assert ward.taint(NODE) is None
    assert not ward.carried


def test_cancel_also_reaches_a_node_whose_agent_is_silent() -> None:
    world = one_node(FATAL)
    world.round()
    world.report(NODE, FATAL, age_seconds=999.0)
    world.person_edits(NODE, cancel=True)
    world.round(1.0)
    assert world.taint(NODE) is None
    assert not world.open_incidents(NODE)


def test_a_label_opts_a_node_out_for_as_long_as_it_is_there() -> None:
    world = one_node(FATAL)
    world.round()
    world.change_node(NODE, managed=False)
    world.round(1.0)
    assert world.taint(NODE) is None
    for _ in range(3):
        assert {type(each) for each in world.round(600.0).intents} <= {SetCondition}
    world.change_node(NODE, managed=True)
    world.round(1.0)
    assert world.taint(NODE) is not None


def test_a_hold_stops_drains_and_directives_and_lifting_it_goes_on() -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends = ward.drain_ends.RUNNING
    ward.until("draining")
    ward.play(10.0)
    ward.hold(NODE)
    ward.now += 5.0
    decision = ward.decide()
    assert not decision.drains
    assert not of(decision, *DECISIVE)
    ward.hold(NODE, held=False)
    assert ward.decide().drains


def test_the_kill_switch_stops_every_write_and_order() -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends = ward.drain_ends.RUNNING
    ward.until("draining")
    ward.play(10.0)
    ward.stopped = "maintenance"
    ward.report("a003", FATAL)
    decision = ward.round(5.0)
    assert (decision.intents, decision.drains, decision.directives) == ((), (), ())
    ward.stopped = ""
    assert ward.decide().drains


@pytest.mark.parametrize("phase", list(Phase))
def test_a_node_that_left_closes_its_incident_in_any_phase(phase: Phase) -> None:
    if phase is Phase.CLOSED:
        return
    ward = ward_with(REBOOT)
    ward.play(5.0)
    known = ward.only_incident(NODE)
    ward.incidents[known.name] = msgspec.structs.replace(known, phase=phase)
    del ward.nodes[NODE]
    ward.round(1.0)
    assert ward.incidents[known.name].phase is Phase.CLOSED
    assert all(not one.open for one in ward.incidents[known.name].attempts)


def test_closed_incidents_are_forgotten_only_when_nothing_counts_by_them_any_more() -> None:
    ward = ward_with(REBOOT)
    ward.until("closed")
    longest = max(each.window_seconds for each in ward.config.ladder.bounds.values())
    ward.now += longest - 60.0
    ward.round()
    assert ward.incidents
    ward.round(3_600.0)
    assert not ward.incidents


@pytest.mark.parametrize("kept", [1, 2, 3])
@pytest.mark.parametrize("what", ["taint", "cordon"])
def test_what_a_person_took_off_stays_off_whichever_writes_are_lost(what: str, kept: int) -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends = ward.drain_ends.RUNNING
    ward.until("draining")
    ward.play(10.0)
    if what == "taint":
        ward.change_node(NODE, taint=None)
    else:
        ward.change_node(NODE, unschedulable=False)
    ward.now += 5.0
    ward.apply(ward.decide().intents[:kept])
    ward.new_leader()
    ward.play(600.0)
    assert (ward.taint(NODE), ward.nodes[NODE].unschedulable) == (None, False)
    assert not ward.open_incidents(NODE)


def test_a_person_who_says_mended_stops_a_drain_and_no_repair_follows() -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends = ward.drain_ends.RUNNING
    ward.until("draining")
    ward.play(10.0)
    ward.person_edits(NODE, release=True)
    decision = ward.round(5.0)
    assert not decision.drains
    assert ward.only_incident(NODE).phase is Phase.VERIFYING
    assert not ward.decide().drains
    ward.report(NODE)
    ward.until("closed")
    assert ward.kinds() == []


def test_a_person_who_says_mended_while_a_repair_runs_is_believed_once_it_is_over() -> None:
    ward = ward_with(REBOOT)
    ward.agent_ends = None
    ward.until("repairing")
    ward.person_edits(NODE, release=True)
    ward.agent_ends = OutcomeState.FAILED
    ward.play(10.0)
    assert ward.only_incident(NODE).phase is Phase.VERIFYING


def test_a_muted_fault_that_still_shows_keeps_no_other_repair_from_its_release() -> None:
    muted = finding("xid-31")
    ward = ward_with(muted, settings=config(mute_seconds=1e6))
    ward.until("quarantined")
    ward.person_edits(NODE, cancel=True)
    ward.play(10.0)
    ward.report(NODE, muted, REBOOT, clear_seconds=0.0)
    ward.mends = lambda order, each: each.code != muted.code
    ward.until("closed", node=NODE)
    ward.play(1_200.0)
    assert ward.kinds() == ["reboot-node"]
    assert ward.taint(NODE) is None
    assert not ward.open_incidents(NODE)
