"""Nothing is judged before the overrides are in force: a restart must not tell for a moment what is known noise."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from agent import runtime
from agent.catalogue.load import shipped
from agent.config import AgentSettings
from agent.runtime import NodeAgent
from agent.sources import Reading, SourceAbsentError, SourceStuckError
from agent.sources.overrides import OverridesSource
from agent.state import Restored
from agent.stats import AgentStats
from contract.vocabulary import Finding
from tests.support import START, gpu, xid

H100 = gpu(model="NVIDIA H100")
FOR_ALL = "overrides:\n- {code: xid-74, ignore: true, reason: known noise}\n"
FOR_H100 = "overrides:\n- {code: xid-74, models: ['*H100*'], ignore: true, reason: known noise}\n"


class Driver:
    """A source whose answers come one after the other; the last one stays."""

    name = "nvidia"

    def __init__(self, *answers: Reading | Exception) -> None:
        self._answers = list(answers)

    async def read(self) -> Reading:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        pass


class Uplink:
    """What the aggregator would be told."""

    def __init__(self) -> None:
        self.offered: list[tuple[str, ...]] = []

    def offer(self, _: Any, found: tuple[Finding, ...], *__: Any, **___: Any) -> None:
        self.offered.append(tuple(each.code for each in found))


class Bench:
    """An agent with an overrides file, that has heard of an XID 74 and an XID 79 of before its start."""

    def __init__(self, path: Path, driver: Driver, restored: Restored | None = None) -> None:
        self.agent = NodeAgent(
            node="n",
            boot_id="b",
            settings=AgentSettings(),
            stats=AgentStats(),
            clock=lambda: START,
            restored=restored,
        )
        self.overrides = OverridesSource(str(path), catalogue=shipped(), pool="", node="n")
        self.agent.overrides = self.overrides
        self.agent.sources = [driver, self.overrides]
        self.uplink = Uplink()
        self.agent.uplink = cast("Any", self.uplink)
        self.agent.emit(xid(74, origin="kmsg:1"))
        self.agent.emit(xid(48, origin="kmsg:2"))

    async def tick_until_judging(self, limit: int = 200) -> int:
        for number in range(1, limit):
            await self.agent.tick()
            if self.agent.judging:
                return number
        raise AssertionError("it never judges")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "overrides.yaml"


def write(path: Path, content: str) -> None:
    path.write_text(content)


def known(bench: Bench) -> set[str]:
    return {each.code for each in bench.agent.findings} & {"xid-74", "xid-48"}


async def test_a_slow_file_is_waited_for(path: Path) -> None:
    write(path, FOR_ALL)
    bench = Bench(path, Driver(Reading(gpus=(H100,))))
    let_go = slow(bench.overrides)
    await bench.agent.tick()
    assert (bench.agent.judging, bench.agent.findings, bench.uplink.offered) == (False, (), [])
    let_go()
    await bench.tick_until_judging()
    assert known(bench) == {"xid-48"}, "what came meanwhile is judged now, by the overrides"
    assert not any("xid-74" in codes for codes in bench.uplink.offered)
    await bench.overrides.close()


def slow(overrides: OverridesSource) -> Callable[[], None]:
    """The file answers when this is called."""
    reading = overrides._file._reading
    answers, work = threading.Event(), reading._work

    def late() -> bytes:
        answers.wait(20)
        return work()

    reading._work = late
    return answers.set


async def test_the_model_is_waited_for_where_an_entry_names_one(path: Path) -> None:
    write(path, FOR_H100)
    bench = Bench(path, Driver(SourceStuckError("no answer yet"), Reading(gpus=(H100,))))
    assert await bench.tick_until_judging() >= 2
    assert known(bench) == {"xid-48"}
    await bench.overrides.close()


@pytest.mark.parametrize(
    ("content", "driver", "restored"),
    [
        (FOR_ALL, Driver(SourceStuckError("no answer yet")), None),
        (FOR_H100, Driver(SourceStuckError("no answer yet")), Restored(gpus=(H100,))),
        (FOR_H100, Driver(SourceAbsentError("no driver here")), None),
        ("overrides: [", Driver(Reading(gpus=(H100,))), None),
        (None, Driver(Reading(gpus=(H100,))), None),
    ],
)
async def test_what_cannot_change_is_not_waited_for(
    path: Path, content: str | None, driver: Driver, restored: Restored | None
) -> None:
    if content is not None:
        write(path, content)
    bench = Bench(path, driver, restored)
    bench.overrides._file._reading._deadline_seconds = 10  # a slow test machine is no slow file
    assert await bench.tick_until_judging() == 1
    await bench.overrides.close()


async def test_it_goes_on_without_them_after_a_while_and_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "WAIT_FOR_OVERRIDES_SECONDS", 0.2)
    write(path, FOR_ALL)
    bench = Bench(path, Driver(Reading(gpus=(H100,))))
    let_go = slow(bench.overrides)
    with capture_logs() as told:
        await bench.tick_until_judging()
    assert known(bench) == {"xid-48", "xid-74"}
    (line,) = (each for each in told if each["event"].startswith("judging before"))
    assert line["why"] == "the overrides file has not been read"
    let_go()
    await bench.overrides.close()
