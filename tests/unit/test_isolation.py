"""A mistake in one check costs what that check would have said, and nothing else."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.unit.test_every_code as every_code
from agent.catalogue.load import shipped
from agent.checks import Context, Limits
from agent.checks.all import MODULES, SOURCES, Memory, forget, run
from agent.config import AgentSettings
from agent.runtime import NodeAgent
from agent.sources import Reading
from agent.stats import AgentStats
from contract.vocabulary import Event
from tests.support import START, gpu, port, snapshot, source

CONTEXT = Context(catalogue=shipped(), limits=Limits(expected_gpus=8))
TEXT: Any = "warm"


def break_down(*_: Any) -> Any:
    raise ZeroDivisionError("float division by zero")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """One module of the checks, which fails now."""
    name: str = request.param
    monkeypatch.setitem(MODULES, name, SimpleNamespace(check=break_down, forget=break_down))
    return name


all_modules = pytest.mark.parametrize("broken", sorted(MODULES), indirect=True)
SHOT = snapshot(
    gpus=(gpu(temperature_celsius=40.0), gpu(1)),
    rdma_ports=(port(),),
    sources=(*snapshot().sources, source("ascend")),
)
LEARNED = run(SHOT, Memory(), CONTEXT).memory


@all_modules
def test_it_is_told_with_what_and_where(broken: str) -> None:
    checked = run(SHOT, Memory(), CONTEXT)
    (told,) = (each for each in checked.observations if each.code.code == "check-failed")
    assert told.subject == f"check:{broken}"
    assert told.evidence.startswith("ZeroDivisionError: float division by zero (test_isolation.py:")
    assert told.code.severity.label == "info"


@all_modules
def test_what_it_knew_is_kept_and_its_devices_are_neither_good_nor_bad(broken: str) -> None:
    checked = run(SHOT, LEARNED, CONTEXT)
    assert getattr(checked.memory, broken) is getattr(LEARNED, broken)
    assert checked.unjudged == SOURCES[broken]
    devices = {"gpu": {gpu(0).subject, gpu(1).subject}, "rdma": {port().subject}}
    assert checked.blind >= devices.get(broken, set())


@all_modules
def test_the_others_say_what_they_always_say(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_failure = run(SHOT, Memory(), CONTEXT)
    monkeypatch.undo()
    usual = run(SHOT, Memory(), CONTEXT)
    assert usual.unjudged == frozenset()
    for name in MODULES.keys() - {broken}:
        assert getattr(with_failure.memory, name) == getattr(usual.memory, name)
    said = [each for each in with_failure.observations if each.code.code != "check-failed"]
    assert all(each in usual.observations for each in said)


@all_modules
def test_a_person_clears_all_the_same(broken: str) -> None:
    assert forget(Memory(), gpu().subject) == Memory()


def test_the_sources_of_each_module_are_all_listed() -> None:
    """Over every example there is: a source that is not listed would clear while its check is broken."""
    named: dict[str, set[str]] = {name: set() for name in MODULES}
    for shots in every_code.SNAPSHOTS.values():
        memory = Memory()
        for shot in shots:
            for name, module in MODULES.items():
                try:
                    checked = module.check(shot, getattr(memory, name), CONTEXT)
                except TypeError:
                    continue  # the example of `check-failed` itself
                named[name] |= {each.source for each in checked.observations}
            memory = run(shot, memory, CONTEXT).memory
    assert named == {name: set(sources) for name, sources in SOURCES.items()}


@given(st.sampled_from(["temperature_celsius", "ecc_corrected_total", "pci_bus_id", "model"]))
def test_no_reading_ends_the_checks(field: str) -> None:
    run(snapshot(gpus=(gpu(**{field: TEXT}),)), Memory(), CONTEXT)


class Fixed:
    """A source that always reads this."""

    name = "nvidia"

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def read(self) -> Reading:
        return self._reading

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("broken", ["gpu"], indirect=True)
async def test_the_agent_goes_on_sampling_and_listening(broken: str) -> None:
    agent = NodeAgent(
        node="n",
        boot_id="b",
        settings=AgentSettings(sample_seconds=0.01),
        stats=AgentStats(),
        clock=lambda: START,
    )
    agent.sources = [Fixed(Reading(gpus=(gpu(),)))]
    running = asyncio.create_task(agent.run())
    try:
        async with asyncio.timeout(10):
            while "check-failed" not in {each.code for each in agent.findings}:
                await asyncio.sleep(0)
            agent.emit(
                Event(
                    id="kmsg:1",
                    time_seconds=START,
                    kind="xid",
                    subject=gpu().subject,
                    message="Xid 95",
                    code=95,
                    finding="xid-95",
                )
            )
            while "xid-95" not in {each.code for each in agent.findings}:
                await asyncio.sleep(0)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})
