"""One try of one rung: begun on paper, ordered while it is open, judged by what is known of it. Pure.

An attempt is saved in the Incident before anything is done for it. From then on it is ordered in every round until its
outcome is known or its deadline has passed; drains and directives are carried out so that a repeated order is none.
"""

import math

import msgspec

from aggregator.policy.case import Case
from aggregator.policy.ladder import DRAINS, Rung
from aggregator.policy.model import (
    Attempt,
    AttemptOutcome,
    DirectiveOrder,
    DrainOrder,
    DrainState,
    Incident,
)
from contract.vocabulary import DirectiveKind, DirectiveOutcome, OutcomeState

MAX_ATTEMPTS = 64
"""Of one incident; beyond it a person is asked."""

START_WITHIN_SECONDS = 120.0
"""A directive that its agent did not begin by then is void: time for a change of leader."""

MAX_EVIDENCE = 512
"""Characters kept of what an agent says about an attempt."""


def begin(
    incident: Incident, case: Case, *, rung: str, seconds: float, subject: str = "", code: str = ""
) -> Incident:
    """The incident with one more attempt, not saved yet.

    Args:
        incident: whose it is.
        case: the round.
        rung: of the ladder, or ``diagnose``.
        seconds: how long it may take.
        subject: the device; empty: the node.
        code: of the finding that it is for.
    """
    attempt = Attempt(
        id=f"{incident.name}-{len(incident.attempts) + 1}",
        rung=rung,
        subject=subject,
        code=code,
        started_seconds=_no_earlier(incident, case.now),
        deadline_seconds=case.now + seconds,
        boot_id=case.health.boot_id,
    )
    return msgspec.structs.replace(incident, attempts=(*incident.attempts, attempt))


def _no_earlier(incident: Incident, now: float) -> float:
    """Now, but not before what this incident stands on: a leader's clock may be behind the one before it."""
    began = (incident.quarantined_seconds, incident.phase_since_seconds)
    return max([now, *(each for each in began if each is not None)])


def after_all(incident: Incident, now: float) -> float:
    """Now, but after the start of every attempt: what was done before must not count for what begins now."""
    newest = max((each.started_seconds for each in incident.attempts), default=now)
    return now if newest < now else math.nextafter(newest, math.inf)


def open_attempt(incident: Incident) -> Attempt | None:
    """The one that is under way."""
    return next((each for each in incident.attempts if each.open), None)


def end(
    incident: Incident, attempt: Attempt, outcome: AttemptOutcome, text: str, now: float
) -> Incident:
    """The incident with this attempt over."""
    ended = msgspec.structs.replace(
        attempt, outcome=outcome, finished_seconds=now, text=_one_line(text)
    )
    return msgspec.structs.replace(
        incident,
        attempts=tuple(ended if each.id == attempt.id else each for each in incident.attempts),
    )


def judge(attempt: Attempt, case: Case) -> tuple[AttemptOutcome, str]:
    """How an open attempt stands, and the evidence in words."""
    if attempt.rung in DRAINS:
        return _judge_drain(attempt, case)
    told = next(
        (
            each
            for each in case.health.outcomes
            if each.id == attempt.id and each.kind == attempt.rung
        ),
        None,
    )
    if told is not None and told.state is not OutcomeState.RUNNING:
        return _told(attempt, told, case)
    if case.now < attempt.deadline_seconds:
        return AttemptOutcome.STARTED, "its agent works on it" if told else "sent to its agent"
    if told is None:
        return AttemptOutcome.UNKNOWN, "its agent never said anything about it"
    return AttemptOutcome.UNKNOWN, "no outcome in time"


def _judge_drain(attempt: Attempt, case: Case) -> tuple[AttemptOutcome, str]:
    progress = case.drain
    mine = progress is not None and progress.attempt == attempt.id
    if progress is not None and mine and progress.state is DrainState.DONE:
        moved = f"{progress.pods_gone} of {progress.pods_total} pods gone"
        return AttemptOutcome.DONE, progress.text or moved
    if progress is not None and mine and progress.state is DrainState.STUCK:
        return AttemptOutcome.FAILED, progress.text
    if case.now >= attempt.deadline_seconds:
        held_up = progress.text if progress is not None and mine else ""
        return AttemptOutcome.FAILED, f"not done in time; nothing was forced. {held_up}"
    return AttemptOutcome.STARTED, progress.text if progress is not None and mine else ""


def _told(attempt: Attempt, told: DirectiveOutcome, case: Case) -> tuple[AttemptOutcome, str]:
    """What the agent says, believed as far as the boot id bears it out."""
    text = told.evidence or told.output
    if told.state is OutcomeState.REFUSED:
        return AttemptOutcome.REFUSED, text
    if told.state is not OutcomeState.DONE:
        return AttemptOutcome.FAILED, text
    if attempt.rung == Rung.REBOOT_NODE and case.health.boot_id in ("", attempt.boot_id):
        return AttemptOutcome.FAILED, "its agent calls it done, but the boot id is the same"
    return AttemptOutcome.DONE, text


def drain_order(incident: Incident, attempt: Attempt) -> DrainOrder:
    """Its order while a drain is open."""
    by_device = attempt.rung == Rung.DRAIN_DEVICE and attempt.subject
    return DrainOrder(
        node=incident.node,
        attempt=attempt.id,
        incident=incident.name,
        subjects=(attempt.subject,) if by_device else (),
        deadline_seconds=attempt.deadline_seconds,
        reason=f"{attempt.code} (incident {incident.name})",
    )


def directive_order(incident: Incident, attempt: Attempt) -> DirectiveOrder:
    """Its order while a repair or a diagnostic is open."""
    any_boot = attempt.rung == DirectiveKind.DIAGNOSE
    return DirectiveOrder(
        node=incident.node,
        id=attempt.id,
        kind=attempt.rung,
        subject=attempt.subject,
        code=attempt.code,
        expires_seconds=min(
            attempt.deadline_seconds, attempt.started_seconds + START_WITHIN_SECONDS
        ),
        boot_id="" if any_boot else attempt.boot_id,
        reason=f"{attempt.code or 'verification'} (incident {incident.name})",
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_EVIDENCE]
