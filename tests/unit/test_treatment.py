"""What happens to a node whose findings ask for more than a taint, as stories on a virtual clock."""

import msgspec
import pytest

from aggregator.policy.ladder import Rung
from aggregator.policy.model import AttemptOutcome, DrainProgress, DrainState, SaveIncident, Taint
from contract.vocabulary import DirectiveOutcome, OutcomeState, Phase, Severity, SourceState
from tests.policy_builders import NODE, finding, sources
from tests.ward import EVERY_REPAIR, Ward, config, dead_gpu, ward_with

RESET = dead_gpu("reset-device")
REBOOT = dead_gpu("reboot-node")
REPLACE = dead_gpu("replace-hardware")
FABRIC = dead_gpu("restart-service", code="gpu-fabric-not-ready", subject="host")


def test_a_gpu_is_drained_reset_proven_and_released() -> None:
    ward = ward_with(RESET)
    incident = ward.until("closed")
    assert ward.rungs() == [("drain-device", "done"), ("reset-device", "done")]
    assert [each.subject for each in incident.attempts] == [RESET.subject] * 2
    assert ward.drained[0].subjects == (RESET.subject,)
    assert [each.phase for each in incident.timeline][-1] is Phase.CLOSED
    assert ward.taint(NODE) is None
    assert not ward.nodes[NODE].unschedulable
    assert "probation" in incident.timeline[-1].text
    told = [event.event_reason for event in ward.events]
    assert told == ["Quarantined", "Draining", "Repairing", "Verifying", "Released"]


def test_the_taint_goes_from_hard_to_probation_to_none() -> None:
    ward = ward_with(RESET)
    ward.until("verifying")
    assert ward.taint(NODE) == Taint(RESET.code, "NoSchedule")
    while ward.only_incident(NODE).soak_since_seconds is None:
        ward.play(5.0)
    assert ward.taint(NODE) == Taint("probation", "PreferNoSchedule")
    ward.play(55.0)
    assert ward.taint(NODE) is not None
    ward.until("closed", within_seconds=20.0)
    assert ward.taint(NODE) is None


def test_an_attempt_is_in_the_cluster_before_anything_is_done_for_it() -> None:
    ward = ward_with(REBOOT)
    for _ in range(200):
        decision = ward.decide()
        saved = {one.id for each in ward.incidents.values() for one in each.attempts if one.open}
        assert {each.attempt for each in decision.drains} <= saved
        assert {each.id for each in decision.directives} <= saved
        ward.carry_out(decision)
        ward.now += 5.0
    assert ward.rungs() == [("drain", "done"), ("reboot-node", "done")]


def test_a_whole_drain_cordons_first_and_the_cordon_ends_with_the_proof() -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends = DrainState.RUNNING
    ward.until("draining")
    ward.play(10.0)
    assert ward.nodes[NODE].unschedulable
    assert ward.nodes[NODE].cordoned_by == ward.only_incident(NODE).name
    ward.drain_ends = DrainState.DONE
    ward.until("closed")
    assert not ward.nodes[NODE].unschedulable


def test_a_cordon_of_somebody_else_stays_through_it_all() -> None:
    ward = ward_with(REBOOT)
    ward.change_node(NODE, unschedulable=True)
    ward.until("closed")
    assert ("drain", "done") in ward.rungs()
    assert ward.nodes[NODE].unschedulable
    assert ward.nodes[NODE].cordoned_by == ""


def test_with_every_rung_off_it_waits_and_says_so() -> None:
    ward = ward_with(RESET, settings=config(act=frozenset({Rung.TAINT})))
    ward.play(600.0)
    incident = ward.only_incident(NODE)
    assert (incident.phase, incident.attempts) == (Phase.QUARANTINED, ())
    assert "reset-device is off" in incident.next_step


def test_what_the_agent_does_not_allow_is_passed_over() -> None:
    ward = ward_with(RESET)
    ward.report(NODE, RESET, repairs=EVERY_REPAIR - {"reset-device"})
    ward.until("closed")
    assert [rung for rung, _ in ward.rungs()] == ["drain-device", "drain", "reboot-node"]


@pytest.mark.parametrize("outcome", [OutcomeState.REFUSED, None])
def test_a_repair_that_did_not_happen_or_of_which_nobody_knows_is_never_repeated(
    outcome: OutcomeState | None,
) -> None:
    ward = ward_with(RESET)
    ward.agent_ends = outcome
    ward.until("needs-human")
    tried = [rung for rung, _ in ward.rungs() if rung in ("reset-device", "reboot-node")]
    assert tried == ["reset-device", "reboot-node"]
    assert ward.told[0].incident.needs.startswith("repair or replace")


def test_a_repair_that_plainly_failed_is_tried_as_often_as_its_bounds_say() -> None:
    ward = ward_with(FABRIC)
    ward.agent_ends = OutcomeState.FAILED
    ward.until("needs-human", within_seconds=30_000.0)
    counts = [rung for rung, outcome in ward.rungs() if outcome == "failed"]
    bounds = ward.config.ladder.bounds
    assert counts.count("restart-service") == bounds[Rung.RESTART_SERVICE].most_attempts
    assert counts.count("reboot-node") == bounds[Rung.REBOOT_NODE].most_attempts


def test_between_two_tries_lies_the_cool_down() -> None:
    ward = ward_with(FABRIC)
    ward.agent_ends = OutcomeState.FAILED
    ward.until("needs-human", within_seconds=30_000.0)
    incident = ward.newest()
    assert incident is not None
    starts = [one.started_seconds for one in incident.attempts if one.rung == "reboot-node"]
    assert starts[1] - starts[0] >= ward.config.ladder.bounds[Rung.REBOOT_NODE].cool_down_seconds


def test_a_reboot_counts_only_with_a_new_boot_id() -> None:
    ward = ward_with(REBOOT)
    ward.agent_ends = None
    ward.until("repairing")
    attempt = ward.only_incident(NODE).attempts[-1]
    liar = msgspec.structs.replace(
        ward.health[NODE],
        outcomes=(DirectiveOutcome(id=attempt.id, kind="reboot-node", state=OutcomeState.DONE),),
    )
    ward.health[NODE] = liar
    ward.round(1.0)
    ended = next(one for one in ward.only_incident(NODE).attempts if one.id == attempt.id)
    assert ended.outcome is AttemptOutcome.FAILED
    assert "boot id is the same" in ended.text


def test_a_drain_that_cannot_go_on_is_handed_to_people_and_nothing_is_forced() -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends, ward.drain_text = DrainState.STUCK, "blocked by PDB serving/llm"
    incident = ward.until("needs-human", within_seconds=30_000.0)
    assert "blocked by PDB serving/llm" in incident.needs
    assert not ward.carried
    ward.play(5.0)
    assert len(ward.told) == 1


def test_a_drain_pauses_while_the_node_shows_nothing_and_ends_with_the_release() -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends = DrainState.RUNNING
    ward.until("draining")
    ward.play(10.0)
    assert ward.decide().drains
    ward.report(NODE)
    ward.now += 1.0
    assert not ward.decide().drains
    incident = ward.until("closed")
    assert [one.outcome for one in incident.attempts] == [AttemptOutcome.CANCELLED]
    assert not ward.nodes[NODE].unschedulable


def test_nothing_is_ordered_on_a_silent_node_and_a_lost_one_is_handed_to_people() -> None:
    ward = ward_with(REBOOT)
    ward.agent_ends = None
    ward.until("repairing")
    ward.report(NODE, REBOOT, age_seconds=60.0)
    assert not ward.decide().directives
    incident = ward.until("needs-human")
    assert "silent since its reboot-node" in incident.needs
    assert incident.attempts[-1].outcome is AttemptOutcome.UNKNOWN


def test_a_relapse_on_probation_climbs() -> None:
    ward = ward_with(RESET)
    while (found := ward.newest()) is None or found.soak_since_seconds is None:
        ward.play(5.0)
    ward.report(NODE, RESET)
    ward.mends = lambda order, each: order.kind == "reboot-node"
    ward.until("closed")
    assert [rung for rung, _ in ward.rungs()] == [
        "drain-device", "reset-device", "drain-device", "drain", "reboot-node",
    ]  # fmt: skip


def test_a_finding_that_outlasts_its_repair_is_given_time_and_then_climbs() -> None:
    ward = ward_with(RESET)
    ward.mends = lambda order, each: order.kind == "reboot-node"
    ward.until("verifying")
    ward.play(ward.config.verify_limit_seconds - 60.0)
    assert ward.only_incident(NODE).phase is Phase.VERIFYING
    ward.play(120.0)
    assert ("reboot-node", "done") in ward.rungs()


def test_a_second_bad_gpu_is_treated_beside_the_first() -> None:
    other = dead_gpu("reset-device", subject="gpu:0000:9b:00.0")
    ward = ward_with(RESET, other)
    ward.until("closed")
    assert {each.subject for each in ward.carried} == {RESET.subject, other.subject}
    assert ward.kinds() == ["reset-device"] * 2


def test_the_strongest_action_goes_first() -> None:
    ward = ward_with(RESET, dead_gpu("reboot-node", code="driver", subject="host"))
    ward.until("closed")
    assert ward.kinds() == ["reboot-node"]


def test_an_instance_of_a_gpu_is_reset_with_its_gpu() -> None:
    part = dead_gpu("reset-device", subject="gpu:0000:3b:00.0/mig:1")
    ward = ward_with(part)
    ward.mends = lambda order, each: True
    ward.until("closed")
    assert [each.subject for each in ward.carried] == ["gpu:0000:3b:00.0"]


def test_what_needs_approval_waits_for_it_and_goes_on_with_it() -> None:
    ward = ward_with(REBOOT, settings=config(needs_approval=frozenset({Rung.REBOOT_NODE})))
    ward.play(1_000.0)
    incident = ward.only_incident(NODE)
    assert (incident.phase, ward.kinds()) == (Phase.QUARANTINED, [])
    assert incident.next_step == (
        f"reboot-node waits for a person: fleetmedic approve {NODE} reboot-node"
    )
    ward.person_edits(NODE, approve=("reboot-node",))
    ward.until("closed")
    assert ward.kinds() == ["reboot-node"]


def test_the_diagnostic_has_to_pass() -> None:
    ward = ward_with(RESET, settings=config(diagnose=True))
    ward.until("closed")
    assert ward.kinds() == ["reset-device", "diagnose"]
    assert ward.carried[-1].subject == RESET.subject


def test_a_node_whose_diagnostic_failed_is_not_released_by_looking_well() -> None:
    ward = ward_with(RESET, settings=config(diagnose=True))
    ward.until("verifying")
    ward.agent_ends = OutcomeState.FAILED
    incident = ward.until("needs-human")
    assert "diagnostic did not pass" in incident.needs
    ward.play(7_200.0)
    assert ward.only_incident(NODE).phase is Phase.NEEDS_HUMAN
    ward.agent_ends = OutcomeState.DONE
    ward.person_edits(NODE, release=True)
    ward.until("closed")
    assert ward.kinds().count("diagnose") == 2


def test_people_get_it_back_when_their_repair_shows() -> None:
    ward = ward_with(REPLACE)
    incident = ward.until("needs-human")
    assert ward.rungs() == [("drain", "done")]
    assert "repair or replace: xid-79" in incident.needs
    ward.play(7_200.0)
    assert ward.only_incident(NODE).phase is Phase.NEEDS_HUMAN
    ward.report(NODE)
    ward.until("closed")
    assert not ward.nodes[NODE].unschedulable


def test_release_by_a_person_is_acted_upon_once() -> None:
    ward = ward_with(REPLACE)
    ward.until("needs-human")
    ward.person_edits(NODE, release=True)
    ward.until("verifying")
    ward.until("needs-human")
    ward.play(7_200.0)
    begun = [each for each in ward.only_incident(NODE).timeline if "a person says" in each.text]
    assert len(begun) == 1


def test_the_webhook_is_told_once_and_again_after_a_failure() -> None:
    ward = ward_with(REPLACE)
    ward.until("needs-human")
    assert len(ward.told) == 1
    ward.play(3_600.0)
    assert len(ward.told) == 1


def test_what_the_webhook_did_not_take_is_offered_again() -> None:
    ward = ward_with(REPLACE)
    while (found := ward.newest()) is None or found.phase is not Phase.NEEDS_HUMAN:
        ward.apply(each for each in ward.decide().intents)
        ward.drains = {
            order.node: DrainProgress(attempt=order.attempt, state=DrainState.DONE)
            for order in ward.decide().drains
        }
        ward.now += 5.0
    first = [each for each in ward.decide().intents if not isinstance(each, SaveIncident)]
    again = [each for each in ward.decide().intents if not isinstance(each, SaveIncident)]
    assert [type(each).__name__ for each in first] == ["Notify"]
    assert first == again


def test_degraded_alone_is_never_treated() -> None:
    ward = ward_with(dead_gpu("reset-device", severity=Severity.DEGRADED))
    ward.play(3_600.0)
    assert ward.rungs() == []
    assert ward.taint(NODE) == Taint("xid-79", "PreferNoSchedule")


def test_at_most_so_many_nodes_of_a_pool_are_worked_on_at_once() -> None:
    ward = Ward(40, config(breaker_nodes=0, budget_percent=50, budget_count=40))
    ward.drain_ends = DrainState.RUNNING
    for name in list(ward.nodes)[:10]:
        ward.report(name, REBOOT)
    ward.play(300.0)
    phases = [each.phase for each in ward.incidents.values()]
    assert (phases.count(Phase.DRAINING), phases.count(Phase.QUARANTINED)) == (2, 8)
    waiting = next(each for each in ward.incidents.values() if each.phase is Phase.QUARANTINED)
    assert "drain waits for the budget: at most 2 nodes" in waiting.next_step


def test_the_story_is_told_in_the_timeline() -> None:
    incident = ward_with(RESET).until("closed")
    story = " | ".join(each.text for each in incident.timeline)
    for part in ("first seen", "quarantined for", "drain-device: done", "reset-device: done"):
        assert part in story
    assert finding().code in story


@pytest.mark.parametrize("ends", [OutcomeState.FAILED, None])
def test_what_perhaps_was_repaired_proves_itself_like_what_was(ends: OutcomeState | None) -> None:
    act = frozenset({Rung.TAINT, Rung.DRAIN_DEVICE, Rung.RESET_DEVICE})
    ward = ward_with(RESET, settings=config(act=act, diagnose=True))
    ward.agent_ends = ends
    while not [one for one in ward.rungs() if one[0] == "reset-device" and one[1] != "started"]:
        ward.play(5.0)
    ward.agent_ends = OutcomeState.DONE
    ward.report(NODE)
    incident = ward.until("closed")
    assert ward.kinds()[-1] == "diagnose"
    assert "probation" in incident.timeline[-1].text


def test_a_relapse_on_probation_that_clears_by_itself_is_not_released_unproven() -> None:
    act = frozenset({Rung.TAINT, Rung.DRAIN_DEVICE, Rung.RESET_DEVICE})
    ward = ward_with(RESET, settings=config(act=act))
    while (found := ward.newest()) is None or found.soak_since_seconds is None:
        ward.play(5.0)
    ward.report(NODE, RESET)
    ward.play(10.0)
    ward.report(NODE)
    assert "probation" in ward.until("closed").timeline[-1].text


@pytest.mark.parametrize("lasting", ["a degraded finding", "no diagnostic", "a stuck source"])
def test_people_are_told_once_of_what_only_they_can_change(lasting: str) -> None:
    ward = ward_with(REPLACE, settings=config(diagnose=lasting == "no diagnostic"))
    ward.until("needs-human")
    left = [finding("gpu-too-hot", Severity.DEGRADED)] if lasting == "a degraded finding" else []
    stuck = SourceState.STUCK if lasting == "a stuck source" else SourceState.OK
    repairs = EVERY_REPAIR - {"diagnose"}
    ward.report(NODE, *left, sources=sources(nvidia=stuck), repairs=repairs)
    ward.play(6 * 3_600.0)
    assert len(ward.told) == 1
    assert ward.only_incident(NODE).phase is Phase.NEEDS_HUMAN
    ward.report(NODE, sources=sources(), repairs=EVERY_REPAIR)
    ward.until("closed")


def test_a_rung_that_was_turned_off_is_not_ordered_any_more() -> None:
    ward = ward_with(REBOOT)
    ward.drain_ends = DrainState.RUNNING
    ward.until("draining")
    ward.play(10.0)
    off = msgspec.structs.replace(ward.config, act=frozenset({Rung.TAINT}))
    ward.config = off
    assert not ward.round(1.0).drains
    assert ward.only_incident(NODE).phase is Phase.QUARANTINED
    other = ward_with(REBOOT)
    other.agent_ends = None
    other.until("repairing")
    assert other.decide().directives
    other.config = off
    assert not other.decide().directives


def test_a_reboot_that_could_not_be_proven_is_not_begun() -> None:
    ward = ward_with(REBOOT)
    ward.report(NODE, REBOOT, boot_id="")
    ward.until("needs-human")
    assert ward.kinds() == []
