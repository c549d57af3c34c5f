"""The proof after a repair: what keeps a node on probation, what ends it, and what is not believed."""

import msgspec
import pytest

from aggregator.policy.attempts import MAX_ATTEMPTS
from aggregator.policy.model import AttemptOutcome, Taint
from contract.vocabulary import DirectiveOutcome, OutcomeState, Phase, Severity, SourceState
from tests.policy_builders import NODE, finding, sources
from tests.ward import Ward, config, dead_gpu, ward_with

RESET = dead_gpu("reset-device")
WARM = finding("gpu-too-hot", Severity.DEGRADED)


def on_probation() -> Ward:
    ward = ward_with(RESET)
    while (found := ward.newest()) is None or found.soak_since_seconds is None:
        ward.play(5.0)
    return ward


def test_a_degraded_finding_begins_the_probation_anew() -> None:
    ward = on_probation()
    ward.play(40.0)
    ward.report(NODE, WARM)
    ward.play(5.0)
    ward.report(NODE)
    ward.play(45.0)
    assert ward.only_incident(NODE).phase is Phase.VERIFYING
    ward.until("closed", within_seconds=60.0)


def test_one_that_lasts_does_not_keep_the_node_on_probation_for_good() -> None:
    ward = on_probation()
    ward.report(NODE, WARM)
    ward.play(ward.config.soak_seconds + ward.config.verify_limit_seconds + 10.0)
    first = next(each for each in ward.incidents.values() if each.attempts)
    assert first.phase is Phase.CLOSED
    assert "only degraded" in first.timeline[-1].text
    ward.play(60.0)
    assert ward.taint(NODE) == Taint("gpu-too-hot", "PreferNoSchedule")


@pytest.mark.parametrize("state", [SourceState.STUCK, SourceState.FAILING])
def test_a_kernel_log_that_cannot_be_read_is_no_proof(state: SourceState) -> None:
    ward = on_probation()
    ward.report(NODE, sources=sources(kmsg=state))
    ward.play(ward.config.soak_seconds + ward.config.verify_limit_seconds + 60.0)
    incident = ward.only_incident(NODE)
    assert f"kmsg is {state.label}" in incident.next_step
    ward.report(NODE, sources=sources(kmsg=SourceState.OK))
    ward.until("closed", within_seconds=180.0)


def test_a_machine_without_a_kernel_log_is_released_all_the_same() -> None:
    ward = on_probation()
    ward.report(NODE, sources=sources(kmsg=SourceState.ABSENT))
    ward.until("closed", within_seconds=180.0)


def test_an_outcome_of_another_kind_is_not_this_attempt_s() -> None:
    ward = ward_with(RESET)
    ward.agent_ends = None
    attempt = ward.until("repairing").attempts[-1]
    lie = DirectiveOutcome(id=attempt.id, kind="clear", state=OutcomeState.DONE)
    ward.health[NODE] = msgspec.structs.replace(ward.health[NODE], outcomes=(lie,))
    ward.play(10.0)
    assert ward.only_incident(NODE).attempts[-1].outcome is AttemptOutcome.STARTED


def test_attempts_have_an_end_whatever_people_ask_for() -> None:
    ward = ward_with(RESET, settings=config(diagnose=True))
    ward.until("verifying")
    ward.agent_ends = OutcomeState.FAILED
    for _ in range(2 * MAX_ATTEMPTS):
        ward.play(90.0)
        if (found := ward.newest()) is not None and found.phase is Phase.NEEDS_HUMAN:
            ward.person_edits(NODE, release=False)
            ward.play(5.0)
            ward.person_edits(NODE, release=True)
    incident = ward.only_incident(NODE)
    assert len(incident.attempts) <= MAX_ATTEMPTS
    assert len({each.id for each in incident.attempts}) == len(incident.attempts)
