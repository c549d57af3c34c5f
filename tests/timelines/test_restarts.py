"""An agent that restarts at any moment of any scenario neither forges nor forgets (node-problem-detector#304)."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.catalogue.load import shipped
from tests.timelines.model import Expected, Restart, Scenario, Step
from tests.timelines.outcome import judged
from tests.timelines.player import play
from tests.timelines.test_timelines import SCENARIOS

QUICK = [
    *("02-reset-of-one-gpu", "04-sticky-findings-end", "07-replay-without-duplicates"),
    *("15-off-the-bus-without-a-number", "17-reset-required-left-over", "20-mig-instance"),
    *("21-xid-154", "24-recovery-action", "30-library-mismatch", "13-saturated-counters"),
]
AWAY_SECONDS = 2.0
LATER_SECONDS = 15.0
"""Away, one tick, and the hold time that begins anew."""


def later(expected: Expected) -> Expected:
    """Time in which nobody looks is neither bad nor good time: holding and clearing may begin anew."""
    clear_seconds = shipped().find(expected.code).clear_seconds
    anew = LATER_SECONDS + (60.0 if clear_seconds is None else clear_seconds)
    return replace(
        expected,
        by=None if expected.by is None else expected.by + anew,
        clears_by=None if expected.clears_by is None else expected.clears_by + anew,
    )


def moments(scenario: Scenario) -> list[float]:
    """Just after each step, and a little later; not where the scenario itself has no agent."""
    restarts = [
        (each.at, each.at + each.restart.away_seconds)
        for each in scenario.steps
        if each.restart is not None
    ]
    return [
        moment
        for step in scenario.steps
        for moment in (step.at + 0.1, step.at + 0.9, step.at + 7, step.at + 45)
        if 1 < moment < scenario.until - 120
        and not any(start - 4 < moment < end + 4 for start, end in restarts)
    ]


@st.composite
def interrupted(draw: st.DrawFn) -> Scenario:
    """A scenario with one restart more, somewhere."""
    scenario = SCENARIOS[draw(st.sampled_from(QUICK))]
    restart = Step(
        at=draw(st.sampled_from(moments(scenario))),
        restart=Restart(
            kind="crash" if draw(st.booleans()) else "orderly", away_seconds=AWAY_SECONDS
        ),
    )
    return replace(
        scenario,
        steps=(*scenario.steps, restart),
        expect=tuple(map(later, scenario.expect)),
        health=(),
        told_at_most=None,
    )


@given(scenario=interrupted())
@settings(max_examples=10)
async def test_a_restart_at_any_moment_changes_nothing(scenario: Scenario) -> None:
    with tempfile.TemporaryDirectory() as folder:
        verdict = judged(scenario, await play(scenario, Path(folder)))
    assert not verdict.problems, "\n".join((scenario.title, *verdict.problems))
