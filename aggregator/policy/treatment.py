"""What is done for a quarantined node: drain, repair, verify, release, or hand it to people. Pure.

Every function takes an incident as it is found and says what it becomes. An attempt is on paper, in the cluster, before
the round that orders it: ``_begin`` only writes it down, the next round's ``draining`` or ``repairing`` orders it.
"""

import msgspec

from aggregator.policy.attempts import (
    MAX_ATTEMPTS,
    after_all,
    begin,
    directive_order,
    drain_order,
    end,
    judge,
    open_attempt,
)
from aggregator.policy.case import Case, Declined, Step
from aggregator.policy.climb import Exhausted, Human, Start, Wait, due, subject_of
from aggregator.policy.devices.relax import is_unguarded, kept_by_device
from aggregator.policy.guards import Refusal, under_work
from aggregator.policy.health import unseen
from aggregator.policy.incidents import (
    MAX_TEXT,
    clearing,
    describe,
    moved,
    released_after,
    taint_for,
    then,
)
from aggregator.policy.ladder import DRAINS, REPAIRS, Rung
from aggregator.policy.model import Attempt, AttemptOutcome, Incident, Taint
from contract.vocabulary import DirectiveKind, Phase, Severity

GRACE_SECONDS = 60.0
"""How long after its deadline an attempt on a silent node is given up."""


def quarantined(incident: Incident, case: Case) -> Step:
    """No new pods; the next rung of the ladder, if there is one, or wait until it clears."""
    if not case.health.at_least(Severity.CRITICAL) and not _said_mended(incident):
        return _clearing(incident, case)
    return _treat(msgspec.structs.replace(incident, clear_since_seconds=None), case)


def draining(incident: Incident, case: Case) -> Step:
    """Pods are being moved. While no hard finding is raised nothing more is moved."""
    attempt = open_attempt(incident)
    if attempt is None or attempt.rung not in DRAINS:
        return _treat(incident, case)
    if _said_mended(incident):
        text = "a person says that it is mended"
        return _treat(_ended(incident, attempt, AttemptOutcome.CANCELLED, text, case), case)
    if attempt.rung not in case.config.act:
        text = "it was turned off"
        return _treat(_ended(incident, attempt, AttemptOutcome.FAILED, text, case), case)
    if not case.health.at_least(Severity.CRITICAL):
        return _clearing(incident, case)
    incident = msgspec.structs.replace(incident, clear_since_seconds=None)
    if case.drain is not None and case.drain.attempt == attempt.id:
        incident = msgspec.structs.replace(incident, drain=case.drain)
    outcome, text = judge(attempt, case)
    if outcome is AttemptOutcome.STARTED:
        whole = attempt.rung == Rung.DRAIN
        ready = case.node.unschedulable or not whole
        return Step(
            incident=then(incident, text or "its pods are being moved", attempt.deadline_seconds),
            taint=hard_taint(incident, case),
            why=f"{attempt.rung}: {text or 'under way'}",
            cordon=True if whole else None,
            drain=drain_order(incident, attempt) if ready else None,
        )
    return _treat(_ended(incident, attempt, outcome, text, case), case)


def repairing(incident: Incident, case: Case) -> Step:
    """A directive is out; only its outcome, or its deadline, ends this."""
    attempt = open_attempt(incident)
    if attempt is None:
        return _treat(incident, case)
    outcome, text = judge(attempt, case)
    if outcome is AttemptOutcome.STARTED:
        # Its pods were moved for a quarantine that holds since; pods may have come where it did not.
        stands = attempt.started_seconds >= (incident.quarantined_seconds or 0.0)
        wanted = stands and attempt.rung in case.config.act
        return Step(
            incident=then(incident, f"{attempt.rung}: {text}", attempt.deadline_seconds),
            taint=hard_taint(incident, case),
            why=f"{attempt.rung}: {text}",
            directive=directive_order(incident, attempt) if wanted else None,
        )
    incident = _ended(incident, attempt, outcome, text, case)
    if outcome is AttemptOutcome.DONE:
        return verify(incident, case, f"{attempt.rung} is done; it has to prove itself")
    return _treat(incident, case)


def verify(incident: Incident, case: Case, text: str) -> Step:
    """Begin to verify, whatever came before."""
    began = after_all(incident, case.now)
    incident = msgspec.structs.replace(
        moved(incident, Phase.VERIFYING, text, case.now),
        phase_since_seconds=began,
        clear_since_seconds=None,
        soak_since_seconds=None,
        release_taken_seconds=began if incident.release else incident.release_taken_seconds,
        needs="",
    )
    until = case.now + case.config.verify_limit_seconds
    return Step(
        incident=then(incident, "every check has to be clean", until),
        taint=hard_taint(incident, case),
        why=text,
    )


def back_to_quarantine(incident: Incident, case: Case, text: str) -> Step:
    """The proof failed: quarantined anew, from where the ladder goes on."""
    incident = msgspec.structs.replace(
        moved(incident, Phase.QUARANTINED, text, case.now),
        quarantined_seconds=after_all(incident, case.now)
        if incident.soak_since_seconds is not None
        else incident.quarantined_seconds,
        soak_since_seconds=None,
        clear_since_seconds=None,
    )
    return Step(incident=incident, taint=hard_taint(incident, case), why=text)


def human(incident: Incident, case: Case, needs: str) -> Step:
    """Hand over to people, with everything that was tried."""
    needs = needs[: MAX_TEXT // 2]
    again = incident.needs == needs
    incident = msgspec.structs.replace(
        moved(incident, Phase.NEEDS_HUMAN, f"a person is needed: {needs}", case.now),
        needs=needs,
        told_seconds=incident.told_seconds if again else None,
        soak_since_seconds=None,
        clear_since_seconds=None,
    )
    text = f"{needs}; then: fleetmedic release {incident.node}"
    return Step(incident=then(incident, text), taint=hard_taint(incident, case), why=needs)


def needs_human(incident: Incident, case: Case) -> Step:
    """People have it. It goes on when one says it is mended, or when it is seen to be well."""
    if _said_mended(incident):
        return verify(incident, case, "a person says that it is mended")
    stay = Step(
        incident=msgspec.structs.replace(incident, clear_since_seconds=None),
        taint=hard_taint(incident, case),
        why=incident.needs,
    )
    if _failed_its_proof(incident) or _would_fail(incident, case):
        return stay
    if incident.clear_since_seconds is None:
        seen = msgspec.structs.replace(incident, clear_since_seconds=case.now)
        return msgspec.structs.replace(stay, incident=seen)
    since = min(incident.clear_since_seconds, case.now)
    if case.now - since >= case.release_after_seconds:
        return verify(incident, case, f"its findings are clear for {case.now - since:.0f} s")
    return msgspec.structs.replace(stay, incident=incident)


def unheard(incident: Incident, case: Case) -> Step | None:
    """On a node that does not report: the hard taint, once its device quarantine is not seen any more; ``None``: nothing to do."""
    if not is_unguarded(incident, case):
        return None
    why = "no new pods: its device quarantine is not seen any more, and the node does not report"
    return Step(incident=incident, taint=hard_taint(incident, case), why=why)


def lost(incident: Incident, case: Case) -> Step | None:
    """On a silent node: give an attempt up whose deadline has passed; ``None``: nothing to do."""
    if (step := unheard(incident, case)) is not None:
        return step
    attempt = open_attempt(incident)
    if attempt is None or case.now < attempt.deadline_seconds + GRACE_SECONDS:
        return None
    outcome = AttemptOutcome.FAILED if attempt.rung in DRAINS else AttemptOutcome.UNKNOWN
    text = "its node does not report any more"
    incident = end(incident, attempt, outcome, text, case.now)
    return human(incident, case, f"the node is silent since its {attempt.rung}")


def hard_taint(incident: Incident, case: Case) -> Taint:
    """Ours, named after the worst of what is or was wrong."""
    hard = case.health.at_least(Severity.CRITICAL) or incident.findings
    return taint_for(hard[0].code if hard else "quarantined", "NoSchedule")


def standing_taint(incident: Incident, case: Case, rung: Rung | None = None) -> Taint:
    """The hard taint, or the soft one where every bad device is kept from new pods by itself."""
    taint = hard_taint(incident, case)
    if kept_by_device(incident, case, rung):
        return msgspec.structs.replace(taint, effect="PreferNoSchedule")
    return taint


def _failed_its_proof(incident: Incident) -> bool:
    """A node whose diagnostic failed shows no finding, and is not well for that."""
    last = incident.attempts[-1] if incident.attempts else None
    return last is not None and last.rung == "diagnose" and last.outcome is not AttemptOutcome.DONE


def _would_fail(incident: Incident, case: Case) -> bool:
    """Whether a proof would end where it began: people are told once of what only they can change."""
    unable = case.config.diagnose and DirectiveKind.DIAGNOSE not in case.health.repairs
    hidden = unseen({each.domain for each in incident.findings}, case.health.sources)
    return bool(unable or hidden or case.health.at_least(Severity.DEGRADED))


def _said_mended(incident: Incident) -> bool:
    """Whether a person says so, and it was not acted upon yet."""
    return incident.release and incident.release_taken_seconds is None


def _clearing(incident: Incident, case: Case) -> Step:
    """Wait until it is clear for long enough; what was repaired, or perhaps was, then has to prove itself."""
    step = clearing(incident, case, standing_taint(incident, case))
    tried = any(
        each.rung in (*REPAIRS, DirectiveKind.DIAGNOSE)
        and each.outcome is not AttemptOutcome.REFUSED
        for each in incident.attempts
    )
    if step.incident.open or not tried:
        return step
    if (attempt := open_attempt(incident)) is not None:
        text = "its findings cleared"
        incident = _ended(incident, attempt, AttemptOutcome.FAILED, text, case)
    return verify(incident, case, "its findings are clear; it has to prove itself")


def _treat(incident: Incident, case: Case) -> Step:
    """The next rung."""
    if _said_mended(incident):
        return verify(incident, case, "a person says that it is mended")
    if len(incident.attempts) >= MAX_ATTEMPTS:
        return human(incident, case, f"{len(incident.attempts)} attempts did not mend it")
    match due(incident, case):
        case None:
            return verify(incident, case, "what was raised was repaired; it has to prove itself")
        case Human(needs=needs):
            return human(incident, case, needs)
        case Wait() as wait:
            return _wait(incident, case, wait)
        case Start() as start:
            return _start(incident, case, start)
        case Exhausted(passed=passed):
            return _stay(incident, case, passed)


def _stay(incident: Incident, case: Case, passed: str) -> Step:
    text = released_after(case) + (f"; nothing is done by itself: {passed}" if passed else "")
    return _as_quarantined(incident, case, text)


def _wait(incident: Incident, case: Case, wait: Wait) -> Step:
    step = _as_quarantined(incident, case, wait.text, wait.until_seconds, rung=wait.rung)
    declined = Declined(node=incident.node, reason=wait.text, what=wait.rung.value, why=wait.why)
    return msgspec.structs.replace(step, declined=declined)


def _as_quarantined(
    incident: Incident,
    case: Case,
    text: str,
    at_seconds: float | None = None,
    *,
    rung: Rung | None = None,
) -> Step:
    hard = case.health.at_least(Severity.CRITICAL)
    if incident.phase is not Phase.QUARANTINED:
        incident = moved(incident, Phase.QUARANTINED, text, case.now)
    taint = standing_taint(incident, case, rung)
    kept = "" if taint.effect == "NoSchedule" else " on that device, the others serve on"
    return Step(
        incident=then(incident, text, at_seconds),
        taint=taint,
        why=f"no new pods{kept}: {describe(hard)}",
    )


def _start(incident: Incident, case: Case, start: Start) -> Step:
    rung = start.rung
    code = start.finding.code
    if under_work(incident):
        refusal = case.guards.more_work(code)
    else:
        refusal = case.guards.work(case.health, code)
    if refusal is None and rung is Rung.REBOOT_NODE:
        refusal = case.guards.reboot(case.health)
    if refusal is not None:
        return _refused(incident, case, rung, refusal)
    phase = Phase.DRAINING if rung in DRAINS else Phase.REPAIRING
    finding = start.finding
    text = f"{rung} for {finding.code} on {finding.subject}"
    seconds = case.config.ladder.bounds_of(rung).time_limit_seconds
    begun = begin(
        moved(incident, phase, text, case.now),
        case,
        rung=rung.value,
        seconds=seconds,
        subject=subject_of(rung, finding),
        code=finding.code,
    )
    begun = msgspec.structs.replace(begun, drain=None)
    return Step(
        incident=then(begun, f"{rung} begins", case.now + seconds),
        taint=hard_taint(incident, case),
        why=text,
    )


def _refused(incident: Incident, case: Case, rung: Rung, refusal: Refusal) -> Step:
    text = f"{rung} waits for the {refusal.why}: {refusal.text}"
    step = _as_quarantined(incident, case, text, rung=rung)
    declined = Declined(node=incident.node, reason=text, what=rung.value, why=refusal.why)
    return msgspec.structs.replace(step, declined=declined)


def _ended(
    incident: Incident, attempt: Attempt, outcome: AttemptOutcome, text: str, case: Case
) -> Incident:
    """The attempt closed, with a line in the timeline."""
    said = f"{attempt.rung}: {outcome}" + (f", {text}" if text else "")
    ended = end(incident, attempt, outcome, text, case.now)
    return moved(ended, incident.phase, said, case.now)
