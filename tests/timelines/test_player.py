"""The player itself: it judges as the agent does, and no mistake of an agent or of a scenario passes it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.catalogue.load import shipped
from agent.config import AgentSettings
from agent.runtime import NodeAgent
from agent.sources import Reading, SourceAbsentError, SourceFailingError, SourceStuckError
from agent.stats import AgentStats
from contract.vocabulary import Action, Event, Finding, Severity, SourceState
from tests.support import START, finding
from tests.timelines import scoreboard
from tests.timelines.life import NODE, Life
from tests.timelines.model import Scenario, load
from tests.timelines.outcome import Recorder, Verdict, judged
from tests.timelines.player import play
from tests.timelines.test_timelines import SCENARIOS

GPU = "gpu:0000:13:00.0"


def scenario(*expect: dict[str, Any], **fields: Any) -> Scenario:
    given = {"title": "t", "complaint": "c", "until": 100, "steps": [], "expect": expect, **fields}
    return msgspec.convert(given, type=Scenario)


def verdict(
    raised: Mapping[float, Iterable[Finding]], *expect: dict[str, Any], **fields: Any
) -> Verdict:
    """What is said of findings that stood so from these times on."""
    recorder = Recorder()
    for at, findings in raised.items():
        recorder.note(at, findings)
    outcome = recorder.outcome(
        ended=100, ticks=1, told=fields.pop("told", 0), cpu_seconds=0, health={}
    )
    return judged(scenario(*expect, **fields), outcome)


FATAL = finding(subject=GPU)
INFO = finding("xid-13", Severity.INFO, subject=GPU, action=Action.NONE)
WANTED = {"code": "xid-79", "subject": GPU, "severity": "fatal", "fault": 10, "by": 11}
ENDS = {**WANTED, "recovery": 50, "clears_by": 60}
GOOD: dict[float, list[Finding]] = {11: [FATAL], 60: []}


def test_what_comes_and_goes_in_time_is_fine() -> None:
    said = verdict(GOOD, ENDS)
    assert said.problems == []
    assert (said.delays_seconds, said.clearings_seconds, said.expected) == ([1.0], [10.0], 1)


@pytest.mark.parametrize(
    ("raised", "expect"),
    [
        ({}, WANTED),
        ({12: [FATAL]}, WANTED),
        ({9: [FATAL]}, WANTED),
        ({10: [FATAL]}, {**WANTED, "not_before": 11}),
        ({11: [msgspec.structs.replace(FATAL, severity=Severity.CRITICAL)]}, WANTED),
        ({11: [FATAL]}, {**WANTED, "action": "reset-device"}),
        ({11: [FATAL]}, {**WANTED, "count": 2}),
        ({11: [FATAL], 30: []}, WANTED),
        ({11: [FATAL]}, ENDS),
        ({11: [FATAL], 61: []}, ENDS),
        ({11: [FATAL], 55: []}, {**ENDS, "clears_not_before": 56}),
        ({11: [FATAL], 30: [], 31: [FATAL], 60: []}, ENDS),
        (GOOD, {**ENDS, "times": 2}),
        (GOOD, {"code": "xid-79", "subject": GPU, "never": True}),
        ({11: [INFO]}, {"code": "xid-13", "subject": GPU, "never": True}),
    ],
)
def test_whatever_departs_from_the_expectation_is_told(raised: Any, expect: dict[str, Any]) -> None:
    assert verdict(raised, expect).problems != []


def test_a_finding_that_nobody_expects_is_false_unless_it_is_only_shown() -> None:
    assert len(verdict({5: [FATAL]}).false_findings) == 1
    assert verdict({5: [INFO]}).problems == []


def test_too_many_events_are_told() -> None:
    assert verdict({}, told_at_most=2, told=2).problems == []
    assert verdict({}, told_at_most=2, told=3).problems == ["3 events told, at most 2"]


@pytest.mark.parametrize(
    "expect",
    [
        {"code": "xid-79", "subject": GPU},
        {"code": "xid-79", "subject": GPU, "never": True, "by": 3},
        {"code": "xid-79", "subject": GPU, "by": 3, "clears_by": 9},
    ],
)
def test_an_expectation_that_says_too_little_is_refused(expect: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="xid-79"):
        scenario(expect)


def test_a_file_that_cannot_be_used_names_itself_and_the_field(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("{title: t, complaint: c, until: 1, steps: [{at: 0, kmesg: []}]}")
    with pytest.raises(ValueError, match=r"wrong\.yaml.*kmesg"):
        load(path)


@pytest.mark.parametrize(
    "step",
    [
        {"nvml": {0: {"temperature": 3}}},
        {"nvml": {0: {"temperature_celsius": {"up": 3}}}},
        {"overrides": "overrides: [{code: no-such-code, reason: r, ignore: true}]"},
    ],
)
async def test_a_step_that_means_nothing_is_refused(step: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"field|value|override"):
        await play(scenario(steps=[{"at": 1, **step}]), tmp_path)


def test_every_code_that_a_scenario_names_is_known() -> None:
    named = {each.code for played in SCENARIOS.values() for each in played.expect}
    assert sorted(code for code in named if shipped().find(code).source == "") == []


def test_the_scoreboard_has_one_aligned_line_per_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoreboard, "PLAYED", [verdict(GOOD, ENDS), verdict({5: [FATAL]})])
    heading, first, second, total = scoreboard.lines()
    assert heading.index("asked") == first.index("c", 1) == second.index("c", 1)
    assert first.split()[3:8] == ["1/1", "1", "s", "0", "10"]
    assert "1 of 1 findings, 1 false" in total


class Mirror:
    """A source of a real agent that says what the player's one said."""

    def __init__(self, name: str, life: Life) -> None:
        self.name = name
        self._life = life

    async def read(self) -> Reading:
        shown = self._life.snapshot
        status = shown.source(self.name)
        assert status is not None
        if status.state is not SourceState.OK:
            raise ERRORS[status.state](status.reason)
        parts = {field: getattr(shown, field) for field in FIELDS[self.name]}
        return Reading(**parts)

    async def close(self) -> None:
        pass


ERRORS = {
    SourceState.ABSENT: SourceAbsentError,
    SourceState.FAILING: SourceFailingError,
    SourceState.STUCK: SourceStuckError,
}
FIELDS = {
    "host": ("host",),
    "nvidia": ("driver_version", "gpus"),
    "rdma": ("rdma_ports",),
    "kmsg": (),
    "pods": ("pods",),
    "pci": ("pci_devices",),
}


@pytest.mark.parametrize(
    "name", ["02-reset-of-one-gpu", "12-rdma-flaps", "18-dying-gpu-stalls-the-driver", "21-xid-154"]
)
async def test_the_agent_itself_finds_the_same_at_every_instant(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the player's agent reads and hears, a real ``NodeAgent`` reads and hears too."""
    clock = [START]
    agent = NodeAgent(
        node=NODE,
        boot_id="boot-1",
        settings=AgentSettings(dcgm_names=False),
        stats=AgentStats(),
        clock=lambda: clock[0],
    )
    instants = 0
    tick, listen = Life.tick, Life.listen

    async def also_ticked(life: Life, now: float) -> tuple[Event, ...]:
        told = await tick(life, now)
        agent.sources = agent.sources or [Mirror(each, life) for each in FIELDS]
        clock[0] = START + now
        for event in life.snapshot.events:
            agent.emit(event)
        await agent.tick()
        agree(life)
        return told

    async def also_heard(life: Life, now: float) -> tuple[Event, ...]:
        before = life.snapshot
        told = await listen(life, now)
        if life.snapshot is not before:
            clock[0] = START + now
            for event in life.snapshot.events:
                agent.emit(event)
            agent.drain_events()
            agree(life)
        return told

    def agree(life: Life) -> None:
        nonlocal instants
        instants += 1
        assert agent.findings == life.findings
        assert agent.snapshot == life.snapshot

    monkeypatch.setattr(Life, "tick", also_ticked)
    monkeypatch.setattr(Life, "listen", also_heard)
    played = SCENARIOS[name]
    assert judged(played, await play(played, tmp_path)).problems == []
    assert instants > 100
