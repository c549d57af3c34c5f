"""What came of a play, held against what was expected. Pure."""

from collections.abc import Iterable, Iterator

import msgspec

from contract.vocabulary import Action, Finding, Health, Severity
from tests.timelines.model import Expected, Scenario

Key = tuple[str, str]


class Spell(msgspec.Struct, kw_only=True):
    """A finding as it stood, from one change of judgement to the next."""

    start: float
    end: float | None = None
    severity: Severity
    action: Action
    count: int
    evidence: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was ever raised in one play."""

    spells: dict[Key, list[Spell]]
    """By (subject, code), oldest first."""
    ended: float
    ticks: int
    told: int
    cpu_seconds: float
    health: dict[int, Health | None]
    """By the place of the expectation in the scenario."""


class Recorder:
    """Watches findings come and go."""

    def __init__(self) -> None:
        self._spells: dict[Key, list[Spell]] = {}
        self._open: dict[Key, Spell] = {}

    def note(self, now: float, findings: Iterable[Finding]) -> None:
        """What is raised at this instant."""
        raised = {each.key: each for each in findings}
        for key in [each for each in self._open if each not in raised]:
            self._open.pop(key).end = now
        for key, finding in raised.items():
            known = self._open.get(key)
            if known and (known.severity, known.action) == (finding.severity, finding.action):
                known.count = finding.count
                continue
            if known:
                known.end = now
            self._open[key] = Spell(
                start=now,
                severity=finding.severity,
                action=finding.action,
                count=finding.count,
                evidence=finding.evidence,
            )
            self._spells.setdefault(key, []).append(self._open[key])

    def outcome(
        self,
        *,
        ended: float,
        ticks: int,
        told: int,
        cpu_seconds: float,
        health: dict[int, Health | None],
    ) -> Outcome:
        """The end."""
        return Outcome(
            spells=self._spells,
            ended=ended,
            ticks=ticks,
            told=told,
            cpu_seconds=cpu_seconds,
            health=health,
        )


class Verdict(msgspec.Struct, kw_only=True):
    """How one scenario went."""

    title: str
    complaint: str
    is_gap: bool
    outcome: Outcome
    expected: int = 0
    """Findings that had to come."""
    delays_seconds: list[float] = []
    """From fault to finding, of those that came."""
    clearings_seconds: list[float] = []
    """From recovery to clear, of those that cleared."""
    false_findings: list[str] = []
    problems: list[str] = []
    """Everything that was not as the scenario says; the false findings too."""


def judged(scenario: Scenario, outcome: Outcome) -> Verdict:
    """Hold an outcome against its scenario."""
    verdict = Verdict(
        title=scenario.title,
        complaint=scenario.complaint,
        is_gap=bool(scenario.gap),
        outcome=outcome,
        expected=sum(not each.never for each in scenario.expect),
    )
    claimed: set[int] = set()
    for expected in scenario.expect:
        verdict.problems += _expected(expected, outcome, verdict, claimed)
    verdict.false_findings = list(_unclaimed(scenario, outcome, claimed))
    verdict.problems += [f"false finding: {each}" for each in verdict.false_findings]
    for number, wanted in enumerate(scenario.health):
        seen = outcome.health.get(number)
        if seen is not wanted.health:
            verdict.problems.append(
                f"{wanted.subject} is {seen.value if seen else 'not there'} at {wanted.at:g} s, not {wanted.health.value}"
            )
    if scenario.told_at_most is not None and outcome.told > scenario.told_at_most:
        verdict.problems.append(f"{outcome.told} events told, at most {scenario.told_at_most}")
    return verdict


def _expected(
    expected: Expected, outcome: Outcome, verdict: Verdict, claimed: set[int]
) -> Iterator[str]:
    name = f"{expected.code} of {expected.subject}"
    runs = _runs(expected, outcome.spells.get((expected.subject, expected.code), []))
    if expected.never:
        for run in runs:
            claimed.update(map(id, run))
            yield f"false finding: {_told(expected.subject, expected.code, run[0])}"
        return
    own = [run for run in runs if run[0].start >= expected.fault][: expected.times]
    if not own:
        came = [_told(expected.subject, expected.code, run[0]) for run in runs]
        yield f"{name} was not raised after {expected.fault:g} s; {came or 'never'}"
        return
    for run in own:
        claimed.update(map(id, run))
    start, last = own[0][0].start, own[-1][-1]
    verdict.delays_seconds.append(start - expected.fault)
    assert expected.by is not None
    if start > expected.by:
        yield f"{name} was raised at {start:g} s, not by {expected.by:g} s"
    if expected.not_before is not None and start < expected.not_before:
        yield f"{name} was raised at {start:g} s, before {expected.not_before:g} s"
    if expected.count is not None and last.count != expected.count:
        yield f"{name} was counted {last.count} times, not {expected.count}"
    if len(own) != expected.times:
        yield f"{name} came {len(own)} times, not {expected.times}"
    elif last.end is not None and expected.recovery is not None:
        verdict.clearings_seconds.append(last.end - expected.recovery)
    yield from _ending(expected, name, last.end)


def _ending(expected: Expected, name: str, end: float | None) -> Iterator[str]:
    if expected.clears_by is None:
        if end is not None:
            yield f"{name} was over at {end:g} s, but should stay"
        return
    if end is None or end > expected.clears_by:
        yield f"{name} was over {'never' if end is None else f'at {end:g} s'}, not by {expected.clears_by:g} s"
    earliest = expected.clears_not_before
    if end is not None and earliest is not None and end < earliest:
        yield f"{name} was over at {end:g} s, before {earliest:g} s"


def _runs(expected: Expected, spells: list[Spell]) -> list[list[Spell]]:
    """The spells meant, those that follow each other without a break together."""
    runs: list[list[Spell]] = []
    for spell in spells:
        if not expected.meets(spell.severity, spell.action):
            continue
        if runs and runs[-1][-1].end == spell.start:
            runs[-1].append(spell)
        else:
            runs.append([spell])
    return runs


def _unclaimed(scenario: Scenario, outcome: Outcome, claimed: set[int]) -> Iterator[str]:
    """Of codes that the scenario speaks of, everything counts; of others what somebody would act on."""
    spoken = {(each.subject, each.code) for each in scenario.expect}
    for key, spells in outcome.spells.items():
        for spell in spells:
            heavy = spell.severity >= Severity.DEGRADED
            if id(spell) not in claimed and (heavy or key in spoken):
                yield _told(*key, spell)


def _told(subject: str, code: str, spell: Spell) -> str:
    return (
        f"{code} of {subject} from {spell.start:g} s to {'the end' if spell.end is None else f'{spell.end:g} s'}: "
        f"{spell.severity.label}, {spell.action.label} ({spell.evidence})"
    )
