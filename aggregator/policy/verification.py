"""After a repair: clean checks, a diagnostic, a soak under a probation taint, and only then release. Pure."""

import msgspec

from aggregator.policy.attempts import (
    MAX_ATTEMPTS,
    begin,
    directive_order,
    end,
    judge,
    open_attempt,
)
from aggregator.policy.case import Case, Step
from aggregator.policy.climb import due
from aggregator.policy.health import unseen
from aggregator.policy.incidents import closed, describe, moved, name_of, taint_for, then
from aggregator.policy.model import Attempt, AttemptOutcome, Incident
from aggregator.policy.treatment import back_to_quarantine, hard_taint, human
from contract.vocabulary import DirectiveKind, Phase, Severity

PROBATION = "probation"
"""Value of the taint during the soak."""


def verifying(incident: Incident, case: Case) -> Step:
    """One step of the proof."""
    if incident.soak_since_seconds is not None:
        return _soaking(incident, case, incident.soak_since_seconds)
    if (attempt := open_attempt(incident)) is not None:
        return _diagnosing(incident, attempt, case)
    if _not_mended(incident, case):
        trouble = describe(case.health.at_least(Severity.CRITICAL))
        return back_to_quarantine(incident, case, f"not mended: {trouble}")
    if problem := _problem(incident, case):
        return _unclean(incident, case, problem)
    since = case.now if incident.clear_since_seconds is None else incident.clear_since_seconds
    since = min(since, case.now)
    incident = msgspec.structs.replace(incident, clear_since_seconds=since)
    seen_well = min(case.now - since, case.health.clear_seconds)
    if seen_well < case.config.release_after_seconds:
        until = since + case.config.release_after_seconds
        return _still(then(incident, "every check is clean; it has to stay so", until), case)
    if case.config.diagnose and not _diagnosed(incident):
        return _diagnose(incident, case)
    return _soak(incident, case)


def _not_mended(incident: Incident, case: Case) -> bool:
    """A hard finding that is not just waiting to clear; who says that he mended it is given the time to show."""
    if not case.health.at_least(Severity.CRITICAL):
        return False
    taken = incident.release_taken_seconds
    if taken is not None and taken >= (incident.phase_since_seconds or 0.0):
        return case.now - taken >= case.config.verify_limit_seconds
    return due(incident, case) is not None


def _problem(incident: Incident, case: Case) -> str:
    """Why not every check is clean, in words; empty: every one is."""
    if trouble := case.health.at_least(Severity.DEGRADED):
        return name_of(trouble)
    return _hidden(incident, case)


def _hidden(incident: Incident, case: Case) -> str:
    """What hides whether it is well, in words."""
    return unseen({each.domain for each in incident.findings}, case.health.sources)


def _unclean(incident: Incident, case: Case, problem: str) -> Step:
    began = incident.phase_since_seconds or case.now
    limit = began + case.config.verify_limit_seconds
    if case.now >= limit:
        return human(incident, case, f"not clean after its repair: {problem}")
    incident = msgspec.structs.replace(incident, clear_since_seconds=None)
    text = f"not clean yet: {problem}"
    return _still(then(incident, text, limit), case)


def _diagnosed(incident: Incident) -> bool:
    """Whether a diagnostic passed since this proof began."""
    since = incident.phase_since_seconds or 0.0
    return any(
        each.rung == DirectiveKind.DIAGNOSE
        and each.outcome is AttemptOutcome.DONE
        and each.started_seconds >= since
        for each in incident.attempts
    )


def _diagnose(incident: Incident, case: Case) -> Step:
    if len(incident.attempts) >= MAX_ATTEMPTS:
        return human(incident, case, f"{len(incident.attempts)} attempts did not mend it")
    if DirectiveKind.DIAGNOSE not in case.health.repairs:
        needs = (
            "its agent has no diagnostic: set its diagnostic_command, or turn the aggregator's "
            "diagnose off"
        )
        return human(incident, case, needs)
    repaired = [each for each in incident.attempts if each.rung != DirectiveKind.DIAGNOSE]
    seconds = case.config.diagnose_limit_seconds
    begun = begin(
        incident,
        case,
        rung=DirectiveKind.DIAGNOSE.value,
        seconds=seconds,
        subject=repaired[-1].subject if repaired else "",
        code=repaired[-1].code if repaired else "",
    )
    begun = moved(begun, Phase.VERIFYING, "diagnostic begins", case.now)
    return _still(then(begun, "the diagnostic runs", case.now + seconds), case)


def _diagnosing(incident: Incident, attempt: Attempt, case: Case) -> Step:
    outcome, text = judge(attempt, case)
    if outcome is AttemptOutcome.STARTED:
        step = _still(
            then(incident, f"the diagnostic runs: {text}", attempt.deadline_seconds), case
        )
        return msgspec.structs.replace(step, directive=directive_order(incident, attempt))
    incident = end(incident, attempt, outcome, text, case.now)
    if outcome is not AttemptOutcome.DONE:
        return human(incident, case, f"its diagnostic did not pass ({outcome}): {text}")
    passed = moved(incident, Phase.VERIFYING, f"diagnostic passed: {text}", case.now)
    return _still(then(passed, "the soak begins"), case)


def _soak(incident: Incident, case: Case) -> Step:
    seconds = case.config.soak_seconds
    text = f"clean; on probation for {seconds:g} s"
    incident = msgspec.structs.replace(
        moved(incident, Phase.VERIFYING, text, case.now), soak_since_seconds=case.now
    )
    return _probation(then(incident, "released after its probation", case.now + seconds), text)


def _soaking(incident: Incident, case: Case, since: float) -> Step:
    if hard := case.health.at_least(Severity.CRITICAL):
        return back_to_quarantine(incident, case, f"relapsed on probation: {describe(hard)}")
    waited = case.now - since >= case.config.soak_seconds + case.config.verify_limit_seconds
    only_degraded = waited and not _hidden(incident, case)
    if only_degraded and (trouble := case.health.at_least(Severity.DEGRADED)):
        text = f"released from probation; what is left is only degraded: {name_of(trouble)}"
        return Step(incident=closed(incident, text, case.now), taint=None, why=text, cordon=False)
    if problem := _problem(incident, case):
        text = f"its probation begins anew once it is clean: {problem}"
        return _probation(
            msgspec.structs.replace(then(incident, text), clear_since_seconds=None), text
        )
    unwatched = case.health.clear_seconds < case.now - since
    if incident.clear_since_seconds is None or unwatched:
        since = case.now
        incident = msgspec.structs.replace(
            incident, soak_since_seconds=since, clear_since_seconds=since
        )
    passed = case.now - min(since, case.now)
    seen_well = case.health.clear_seconds >= case.config.release_after_seconds
    if passed < case.config.soak_seconds or not seen_well:
        until = since + case.config.soak_seconds
        return _probation(then(incident, "released after its probation", until), "on probation")
    text = f"released: repaired, clean, and well on probation for {passed:.0f} s"
    return Step(incident=closed(incident, text, case.now), taint=None, why=text, cordon=False)


def _probation(incident: Incident, why: str) -> Step:
    """Other nodes are preferred, no more than that; our cordon is lifted."""
    return Step(
        incident=incident, taint=taint_for(PROBATION, "PreferNoSchedule"), why=why, cordon=False
    )


def _still(incident: Incident, case: Case) -> Step:
    return Step(incident=incident, taint=hard_taint(incident, case), why=incident.next_step)
