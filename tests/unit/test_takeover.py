"""Another leader, at a bad moment or with another clock: nothing is done twice, and nothing for what does not hold."""

import msgspec

from aggregator.policy.model import SaveIncident, SetTaint
from contract.vocabulary import Phase
from tests.policy_builders import NODE
from tests.ward import Ward, config, dead_gpu, ward_with

RESET = dead_gpu("reset-device")
REBOOT = dead_gpu("reboot-node")
BEHIND_SECONDS = 3_600.0


def until_probation(ward: Ward) -> None:
    while (found := ward.newest()) is None or found.soak_since_seconds is None:
        ward.play(5.0)


def test_a_probation_that_was_never_written_down_lets_nothing_be_repaired_under_new_pods() -> None:
    """The taint was softened, the leader died, pods came, and the fault came back before another one led."""
    ward = ward_with(REBOOT)
    ward.until("verifying")
    softened = False
    while not softened:
        ward.now += 5.0
        decision = ward.decide()
        softened = any(
            isinstance(each, SetTaint) and each.taint.effect == "PreferNoSchedule"
            for each in decision.intents
        )
        unsaved = [each for each in decision.intents if not isinstance(each, SaveIncident)]
        ward.apply(unsaved if softened else decision.intents)
    ward.new_leader()
    other = dead_gpu("reset-device", code="xid-95", subject="gpu:0000:9b:00.0")
    ward.report(NODE, other)
    before = len(ward.drained)
    ward.mends = lambda order, each: order.kind == "reset-device"
    ward.until("closed")
    assert ward.kinds() == ["reboot-node", "reset-device"]
    assert len(ward.drained) == before + 1


def test_a_directive_is_not_sent_once_its_nodes_taint_was_gone() -> None:
    ward = ward_with(REBOOT)
    ward.agent_ends = None
    ward.until("repairing")
    assert ward.decide().directives
    ward.change_node(NODE, taint=None, quarantined_by="", uid="created anew")
    ward.round(1.0)
    assert ward.taint(NODE) is not None
    assert not ward.decide().directives


def test_a_leader_whose_clock_is_behind_runs_one_diagnostic_per_proof() -> None:
    ward = ward_with(RESET, settings=config(diagnose=True))
    ward.until("verifying")
    ward.now -= BEHIND_SECONDS
    ward.play(1_800.0)
    assert ward.kinds() == ["reset-device", "diagnose"]


def test_a_leader_whose_clock_is_behind_drains_once_and_gives_a_repair_its_time() -> None:
    ward = ward_with(RESET)
    ward.mends = lambda order, each: False
    while (found := ward.newest()) is None or found.quarantined_seconds is None:
        ward.now += 5.0
        ward.apply(ward.decide().intents)
    ward.now -= BEHIND_SECONDS
    ward.play(ward.config.verify_limit_seconds - 60.0)
    assert ward.rungs() == [("drain-device", "done"), ("reset-device", "done")]


def test_a_leader_whose_clock_is_behind_drains_anew_after_a_relapse() -> None:
    ward = ward_with(REBOOT)
    until_probation(ward)
    ward.now -= BEHIND_SECONDS
    ward.report(NODE, dead_gpu("reboot-node", code="another"))
    ward.play(3 * BEHIND_SECONDS)
    assert ward.kinds() == ["reboot-node"] * 2
    assert len(ward.drained) == 2


def test_a_leader_whose_clock_is_behind_gives_a_person_who_mended_it_the_time_to_show() -> None:
    ward = ward_with(dead_gpu("replace-hardware"))
    ward.until("needs-human")
    ward.now -= BEHIND_SECONDS
    ward.person_edits(NODE, release=True)
    ward.play(120.0)
    assert ward.only_incident(NODE).phase is Phase.VERIFYING


def test_a_probation_that_nobody_watched_begins_anew() -> None:
    """Silent for nearly all of it, or no leader: that it went well was never seen."""
    ward = ward_with(RESET, settings=config(soak_seconds=3_600.0))
    until_probation(ward)
    ward.report(NODE, age_seconds=999.0)
    ward.play(3_500.0)
    back = ward.now
    saved = []
    for _ in range(100):
        ward.report(NODE, age_seconds=0.0, clear_seconds=ward.now - back)
        saved += [each for each in ward.round(5.0).intents if isinstance(each, SaveIncident)]
    assert ward.only_incident(NODE).phase is Phase.VERIFYING
    assert len(saved) <= 2, "said once, not in each round"
    for _ in range(700):
        ward.report(NODE, clear_seconds=ward.now - back)
        ward.round(5.0)
    found = ward.newest()
    assert found is not None
    assert found.phase is Phase.CLOSED
    assert found.closed_seconds is not None
    assert found.closed_seconds - back >= 3_600.0


def test_what_was_done_under_the_old_taint_is_not_counted_once_it_was_gone() -> None:
    ward = ward_with(REBOOT)
    ward.agent_ends = None
    ward.until("repairing")
    known = ward.only_incident(NODE)
    ward.change_node(NODE, taint=None, quarantined_by="")
    ward.round(1.0)
    again = ward.only_incident(NODE)
    assert again.quarantined_seconds is not None
    assert known.attempts[-1].started_seconds < again.quarantined_seconds
    assert msgspec.structs.replace(again, quarantined_seconds=None).attempts == known.attempts


def test_the_rate_holds_where_quarantines_cannot_be_written_down() -> None:
    """The server takes taints and refuses Incidents: each round of the next leader would begin to count anew."""
    free = config(breaker_nodes=0, budget_percent=100, budget_count=100, quarantines_per_minute=5)
    ward = Ward(60, free)
    ward.settle()
    for name in list(ward.nodes)[:50]:
        ward.report(name, REBOOT)
    for _ in range(10):
        ward.now += 1.0
        kept = [each for each in ward.decide().intents if not isinstance(each, SaveIncident)]
        ward.apply(kept)
    assert len(ward.quarantined("a")) == 5
    ward.play(120.0)
    assert len(ward.quarantined("a")) > 5, "it goes on once they can be"
