"""Every scenario, played: what must be found is found in time and goes again, and nothing else is called broken."""

from pathlib import Path

import pytest

from tests.timelines import scoreboard
from tests.timelines.model import load
from tests.timelines.outcome import judged
from tests.timelines.player import play

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))
SCENARIOS = {path.stem: load(path) for path in FILES}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.xfail(reason=scenario.gap)] if scenario.gap else [])
        for name, scenario in SCENARIOS.items()
    ],
)
async def test_scenario(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    verdict = judged(scenario, await play(scenario, tmp_path))
    scoreboard.PLAYED.append(verdict)
    assert not verdict.problems, "\n".join((scenario.title, *verdict.problems))
