"""Which rung of the ladder comes next for a quarantined node. Pure.

A repair that was done, or of which nobody knows whether it was, is not repeated for the same code inside its window: the
fault came back or stayed, so the next rung is due. One that plainly failed may be tried again as often as its bounds say.
"""

from collections.abc import Sequence

import msgspec

from aggregator.policy.case import Case
from aggregator.policy.ladder import DRAINS, REPAIRS, Rung
from aggregator.policy.model import Attempt, AttemptOutcome, Incident
from contract.vocabulary import Finding, Severity

ASKS_A_PERSON = "waits for a person"
"""What the next step of an incident says whose rung needs approval."""


class Start(msgspec.Struct, frozen=True):
    """This rung is due now, as far as the ladder goes."""

    rung: Rung
    finding: Finding


class Wait(msgspec.Struct, frozen=True):
    """Nothing now."""

    why: str
    """One word, for the metric."""
    rung: Rung
    text: str
    """A sentence that does not change while its reason does not."""
    until_seconds: float | None = None


class Human(msgspec.Struct, frozen=True):
    """A person is needed."""

    needs: str


class Exhausted(msgspec.Struct, frozen=True):
    """Nothing is left to do by itself but to wait until the findings clear."""

    passed: str
    """What was passed over and why, in words; empty: nothing was."""


Next = Start | Wait | Human | Exhausted


def device_of(subject: str) -> str:
    """The device that a part belongs to: a MIG instance is reset with its GPU."""
    return subject.partition("/mig:")[0]


def due(incident: Incident, case: Case) -> Next | None:
    """What to do for the hard findings of a quarantined node; ``None``: all were treated, and settle.

    The finding that asks for the strongest action goes first: what mends it mends the lesser ones too.
    """
    hard = case.health.at_least(Severity.CRITICAL)
    untreated = [each for each in hard if not _settles(each, incident, case)]
    if not untreated:
        return None
    worst = max(untreated, key=lambda each: (each.action, each.severity, -each.since_seconds))
    passed: list[str] = []
    for rung in case.config.ladder.rungs(worst):
        if rung is Rung.TAINT:
            continue
        answer = _rung(rung, worst, incident, case)
        if isinstance(answer, str):
            passed += [answer] if answer else []
        else:
            return answer
    return Exhausted("; ".join(passed))


def _settles(finding: Finding, incident: Incident, case: Case) -> bool:
    """Whether it was repaired a moment ago, so that its finding may not have cleared yet."""
    return any(
        each.outcome is AttemptOutcome.DONE
        and each.rung in REPAIRS
        and each.subject in ("", device_of(finding.subject))
        and each.started_seconds >= _quarantined(incident)
        and case.now - (each.finished_seconds or case.now) < case.config.verify_limit_seconds
        for each in incident.attempts
    )


def _rung(rung: Rung, finding: Finding, incident: Incident, case: Case) -> Next | str:
    """This rung's answer; a text: it is passed over, and why (empty: it was done)."""
    config = case.config
    if rung not in config.act:
        return f"{rung} is off"
    if rung is Rung.REPLACE:
        return Human(
            f"repair or replace: {finding.code} on {finding.subject} ({finding.action.label})"
        )
    subject = subject_of(rung, finding)
    bounds = config.ladder.bounds_of(rung)
    tries = [
        each
        for each in (*case.history, *incident.attempts)
        if each.rung == rung
        and each.subject == subject
        and case.now - each.started_seconds < bounds.window_seconds
    ]
    if rung in DRAINS:
        if drained(incident, rung, subject):
            return ""
        if _given_up(tries, incident, bounds.most_attempts):
            last = tries[-1].text if tries else ""
            return Human(f"{rung} does not succeed: {last or 'it was tried often enough'}")
        if len(tries) >= bounds.most_attempts:
            return f"{rung} was done {len(tries)} times already"
    elif passed := _passed(rung, finding, tries, incident, case):
        return passed
    last_start = max((each.started_seconds for each in tries), default=None)
    if last_start is not None and case.now < last_start + bounds.cool_down_seconds:
        until = last_start + bounds.cool_down_seconds
        return Wait("cool-down", rung, f"{rung} again after its cool-down", until)
    if rung in config.needs_approval and rung not in incident.approve:
        text = f"{rung} {ASKS_A_PERSON}: fleetmedic approve {incident.node} {rung}"
        return Wait("approval", rung, text)
    return Start(rung, finding)


def subject_of(rung: Rung, finding: Finding) -> str:
    """The device that a rung is about; empty: the node."""
    by_device = rung in (Rung.DRAIN_DEVICE, Rung.RESET_DEVICE)
    return device_of(finding.subject) if by_device else ""


def drained(incident: Incident, rung: Rung, device: str = "") -> bool:
    """Whether the pods this rung moves were moved since the node takes no new ones: all, or those on the device."""

    def moved_them(attempt: Attempt) -> bool:
        of_device = attempt.rung == Rung.DRAIN_DEVICE and attempt.subject == device
        return attempt.rung == Rung.DRAIN or (rung is not Rung.DRAIN and of_device)

    return any(
        moved_them(each)
        and each.outcome is AttemptOutcome.DONE
        and each.started_seconds >= _quarantined(incident)
        for each in incident.attempts
    )


def _given_up(tries: Sequence[Attempt], incident: Incident, most: int) -> bool:
    """Within one quarantine a drain is only repeated where it did not succeed; those that did are no failure."""
    since = _quarantined(incident)
    failed = [each for each in tries if each.outcome is not AttemptOutcome.DONE]
    stopped = any(
        each.outcome is AttemptOutcome.CANCELLED and each.started_seconds >= since
        for each in failed
    )
    return stopped or len(failed) >= most


def _passed(
    rung: Rung, finding: Finding, tries: Sequence[Attempt], incident: Incident, case: Case
) -> str:
    """Why a repair is passed over; empty: it is not."""
    if rung not in case.health.repairs:
        return f"the node's agent does not allow {rung}"
    device = subject_of(rung, finding)
    if rung is Rung.RESET_DEVICE and not drained(incident, Rung.DRAIN_DEVICE, device):
        return f"{rung} needs a drain before it"
    if rung is Rung.REBOOT_NODE and not drained(incident, Rung.DRAIN):
        return f"{rung} needs a drain of the whole node before it"
    if rung is Rung.REBOOT_NODE and not case.health.boot_id:
        return f"{rung} could not be proven: the node's agent does not tell its boot id"
    over = [
        each
        for each in tries
        if each.code == finding.code and each.outcome is not AttemptOutcome.FAILED
    ]
    if over:
        return f"{rung} was tried already ({over[-1].outcome})"
    if len(tries) >= case.config.ladder.bounds_of(rung).most_attempts:
        return f"{rung} was tried {len(tries)} times already"
    return ""


def _quarantined(incident: Incident) -> float:
    return incident.quarantined_seconds or incident.opened_seconds
