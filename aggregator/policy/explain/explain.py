"""Why a node stands as it does, what happens next, and how to stop it: sentences for whoever is awake. Pure.

It only tells what is already decided and written; it decides nothing. Evidence and notes are other people's text and
stand here as they came: whoever shows them has to make them harmless for his medium.
"""

from collections.abc import Iterator

from aggregator.policy.explain.acts import go_on, stop
from aggregator.policy.explain.explanation import Explanation, Facts, Line
from aggregator.policy.explain.state import state
from aggregator.policy.explain.words import clock, lasting, state_of
from aggregator.policy.model import Attempt, AttemptOutcome, DrainState, Incident
from contract.vocabulary import UNMANAGED_LABEL, Action, Finding, Phase, SourceState

MAX_EARLIER = 3
"""Earlier incidents told of."""

MAX_EVIDENCE = 20
"""Findings told of; the worst."""


def explain(facts: Facts) -> Explanation:
    """The explanation of one node as of ``facts.now``; total, whatever state it is found in."""
    incident = facts.incident
    return Explanation(
        node=facts.name,
        time_seconds=facts.now,
        summary=_summary(facts),
        incident=incident.name if incident else "",
        phase=incident.phase.value if incident else "",
        state=tuple(state(facts)),
        evidence=tuple(_evidence(facts)),
        done=tuple(_done(facts)),
        next=tuple(_next(facts)),
        stop=tuple(stop(facts)),
        go_on=tuple(go_on(facts)),
    )


def _summary(facts: Facts) -> str:
    incident = facts.incident
    findings = (incident.findings if incident else ()) or (
        facts.health.findings if facts.health else ()
    )
    because = f": {findings[0].code} on {findings[0].subject}" if findings else ""
    words = f"{facts.name} {state_of(facts.node, incident)}{because}."
    if incident is None:
        muted = any(facts.muted())
        left_alone = " A person had Fleetmedic leave its faults alone." if muted else ""
        return f"{words} No incident is open.{left_alone}"
    if incident.phase is Phase.NEEDS_HUMAN:
        return f"{words} It needs a person."
    if incident.hold:
        return f"{words} It is on hold by a person."
    if facts.stopped:
        return f"{words} Everything is stopped by the kill switch."
    return f"{words} Next: {incident.next_step}" if incident.next_step else words


def _evidence(facts: Facts) -> Iterator[Line]:
    live = facts.health.findings if facts.health else ()
    raised = {each.key for each in live}
    for each in live[:MAX_EVIDENCE]:
        yield Line(_finding(each), each.since_seconds)
    past = [
        each
        for each in (facts.incident.findings if facts.incident else ())
        if each.key not in raised
    ]
    ending = "not seen anew: no fresh report" if facts.silent else "no longer raised"
    for each in past[:MAX_EVIDENCE]:
        yield Line(f"{_finding(each)} ({ending})", each.since_seconds)
    more = len(live[MAX_EVIDENCE:]) + len(past[MAX_EVIDENCE:])
    if more:
        yield Line(f"And {more} more.")
    for source in facts.health.sources if facts.health else ():
        if source.state in (SourceState.FAILING, SourceState.STUCK):
            yield Line(
                f"Not seen: {source.name} is {source.state.label}: {source.reason or 'no reason given'}",
                source.since_seconds or None,
            )
    if not live and not past:
        unknown = facts.silent or facts.health is None
        yield Line(
            "Nothing is known of it now."
            if unknown
            else "Nothing is wrong that Fleetmedic can see."
        )


def _finding(each: Finding) -> str:
    often = f", seen {each.count} times" if each.count > 1 else ""
    clears = f"; ends with: {each.clears}" if each.clears else ""
    no_action = each.action is Action.NONE
    suggested = "no action suggested" if no_action else f"suggested: {each.action.label}"
    return (
        f"{each.code} on {each.subject} ({each.severity.label}{often}): {each.evidence.rstrip('. ')}; "
        f"{suggested}{clears}"
    )


def _done(facts: Facts) -> Iterator[Line]:
    incident = facts.incident
    if incident is not None:
        lines = _story(incident, facts.now)
        yield from lines
        if incident.drain is not None:
            yield _drain(incident)
        elif not lines:
            yield Line("Nothing is written of it yet.")
    earlier = sorted(facts.closed, key=_ended, reverse=True)[:MAX_EARLIER]
    for each in reversed(earlier) if incident is None else ():
        last = each.timeline[-1].text if each.timeline else "closed"
        yield Line(f"Earlier incident {each.name}: {last}", _ended(each))
    if incident is None and earlier:
        yield from _story(earlier[0], facts.now)
    if incident is None and not earlier:
        yield Line("Nothing: no incident of this node is kept.")
    elif incident is not None and earlier:
        yield Line(f"Before this one: {len(facts.closed)} earlier, closed incidents of this node.")


def _story(incident: Incident, now: float) -> list[Line]:
    """The timeline and the attempts, in order; how an attempt ended is told by the attempt alone."""
    ends = tuple(f"{each.rung}: {each.outcome}" for each in incident.attempts)
    lines = [
        Line(f"{each.phase}: {each.text}", each.time_seconds)
        for each in incident.timeline
        if not each.text.startswith(ends)
    ]
    lines += [_attempt(each, now) for each in incident.attempts]
    return sorted(lines, key=lambda each: each.time_seconds or 0.0)


def _attempt(attempt: Attempt, now: float) -> Line:
    where = f" of {attempt.subject}" if attempt.subject else ""
    ended = (
        f" after {lasting(attempt.finished_seconds - attempt.started_seconds)}"
        if attempt.finished_seconds is not None
        else ""
    )
    outcome = {
        AttemptOutcome.STARTED: f"under way, at most until {clock(attempt.deadline_seconds, now)}",
        AttemptOutcome.DONE: f"done{ended}",
        AttemptOutcome.FAILED: f"failed{ended}",
        AttemptOutcome.REFUSED: "refused, nothing was done",
        AttemptOutcome.UNKNOWN: "outcome unknown, so it is not repeated",
        AttemptOutcome.CANCELLED: "stopped by a person",
    }[attempt.outcome]
    text = f": {attempt.text}" if attempt.text else ""
    return Line(f"{attempt.rung}{where}: {outcome}{text}", attempt.started_seconds)


def _drain(incident: Incident) -> Line:
    drain = incident.drain
    assert drain is not None  # noqa: S101 - asked for only where there is one
    word = {
        DrainState.RUNNING: "Drain under way",
        DrainState.DONE: "Drain done",
        DrainState.STUCK: "Drain stuck, nothing was forced",
    }[drain.state]
    text = f": {drain.text}" if drain.text else ""
    return Line(f"{word}, {drain.pods_gone} of {drain.pods_total} pods gone{text}")


def _ended(incident: Incident) -> float:
    return incident.opened_seconds if incident.closed_seconds is None else incident.closed_seconds


def _next(facts: Facts) -> Iterator[Line]:
    incident = facts.incident
    if facts.stopped:
        yield Line("Nothing until a person clears the kill switch.")
    if facts.node is not None and not facts.node.managed:
        yield Line(f"Nothing while its label {UNMANAGED_LABEL}=false is there.")
    if incident is None:
        muted = list(facts.muted())
        for each in muted:
            until = each.muted_until_seconds or 0.0
            yield Line(
                f"Faults that are still there at {clock(until, facts.now)} are acted on again.",
                until,
            )
        if not muted:
            yield Line("Nothing: no incident is open.")
        return
    if incident.needs:
        yield Line(f"A person is needed: {incident.needs}")
    if incident.hold:
        yield Line("Nothing until the hold is taken off.")
    if facts.silent:
        yield Line(
            "Nothing until its agent reports again: nothing is decided about what is not seen."
        )
    prefix = "Then: " if incident.hold or facts.stopped or facts.silent else ""
    if incident.next_step:
        yield Line(prefix + incident.next_step, incident.next_step_seconds)
    for tried in incident.attempts:
        if tried.open and not (incident.hold or facts.stopped):
            yield Line(
                f"Time limit of {tried.rung}: after it nothing is forced, and the next step is looked for.",
                tried.deadline_seconds,
            )
    if not incident.next_step and not incident.needs:
        yield Line(
            f"{prefix}what its phase {incident.phase} asks for; nothing more is written yet."
        )
