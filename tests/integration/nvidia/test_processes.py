"""NVML processes that hang, die, are replaced or closed, over the real pynvml and the NVML stand-in."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from agent.sources import Reading, SourceError, SourceFailingError, SourceStuckError
from agent.sources.nvml_process import NvmlChild
from contract.vocabulary import Event
from tests.integration.nvidia.rig import NEEDS_STANDIN, TEMPERATURE, Make, alive, until, until_well
from tests.nvml.standin import Scenario

pytestmark = NEEDS_STANDIN

HANG_SECONDS = 0.15
"""The deadline in tests that wait for it to pass."""

KILL_SECONDS = 1.0
"""How long a child may hang in tests that wait for its end; enough to start one on a busy machine."""


async def test_a_lost_gpu_is_not_forgotten_with_its_child(make: Make, scenario: Scenario) -> None:
    source = make()
    gone = (await source.read()).gpus[2]
    scenario.vanish(2)
    os.kill(source.child_pids[0], signal.SIGKILL)
    after = (await until_well(source)).gpus
    assert len(after) == 8
    assert [gpu.uuid for gpu in after if gpu.lost] == [gone.uuid]


async def test_while_a_gpu_is_lost_nvml_is_opened_anew_without_a_gap(
    make: Make, scenario: Scenario
) -> None:
    source = make(reopen_seconds=0.0)
    await source.read()
    (pid,) = source.child_pids
    scenario.vanish(4)
    outcomes: list[Reading] = []

    def changed_over(outcome: Reading | SourceError) -> bool:
        assert isinstance(outcome, Reading)
        outcomes.append(outcome)
        return pid not in source.child_pids

    await until(source, changed_over)
    scenario.restore(4)
    await until(source, lambda o: isinstance(o, Reading) and not any(gpu.lost for gpu in o.gpus))
    assert all(len(outcome.gpus) == 8 for outcome in outcomes)


async def test_an_xid_is_pushed_while_a_sample_hangs(
    make: Make, scenario: Scenario, events: asyncio.Queue[Event]
) -> None:
    source = make()
    await until_well(source)
    scenario.hang(TEMPERATURE, gpu=2)
    reading = asyncio.create_task(source.read())
    async with asyncio.timeout(10):
        while events.empty():  # the child asks for events just after it starts to answer
            scenario.event(6, data=79)
            with contextlib.suppress(TimeoutError):
                event = await asyncio.wait_for(events.get(), 0.1)
                events.put_nowait(event)
    assert not reading.done()
    event = await events.get()
    assert (event.kind, event.code, event.subject) == ("xid", 79, "gpu:0000:d1:00.0")
    assert event.time_seconds == pytest.approx(time.time(), abs=10)
    assert "XID 79" in event.message
    ids = [event.id]
    scenario.event(6, "double_bit_ecc")
    while event.kind == "xid":
        event = await asyncio.wait_for(events.get(), 10)
        ids.append(event.id)
    assert (event.kind, event.code) == ("double-bit-ecc", None)
    assert len(set(ids)) == len(ids)
    scenario.unhang()
    assert len((await reading).gpus) == 8


async def test_a_hanging_call_is_named_by_the_deadline_and_recovers_by_itself(
    make: Make, scenario: Scenario
) -> None:
    source = make(deadline_seconds=HANG_SECONDS)
    await until_well(source)
    scenario.hang(TEMPERATURE, gpu=3)
    started = time.monotonic()
    with pytest.raises(SourceStuckError, match=f"{TEMPERATURE} on GPU 3 has not answered for 0"):
        await source.read()
    assert time.monotonic() - started < HANG_SECONDS * 3
    for _ in range(20):
        with pytest.raises(SourceStuckError, match=f"{TEMPERATURE} on GPU 3"):
            await source.read()
    assert time.monotonic() - started < HANG_SECONDS * 4
    with scenario.batch():
        scenario.unhang()
        scenario.update(3, temperature_celsius=99)
    assert (await until_well(source)).gpus[3].temperature_celsius == 99


async def test_a_late_answer_is_not_the_next_one(make: Make, scenario: Scenario) -> None:
    source = make(deadline_seconds=HANG_SECONDS)
    await until_well(source)
    scenario.hang("nvmlDeviceGetFieldValues", gpu=7)
    with pytest.raises(SourceStuckError):
        await source.read()
    with scenario.batch():  # GPU 0 was read as 62 by the request that hangs at GPU 7
        scenario.update(0, temperature_celsius=40)
        scenario.unhang()
    assert (await until_well(source)).gpus[0].temperature_celsius == 40


async def test_a_child_that_hangs_for_long_is_replaced(make: Make, scenario: Scenario) -> None:
    source = make(deadline_seconds=HANG_SECONDS, kill_after_seconds=KILL_SECONDS)
    await until_well(source)
    (pid,) = source.child_pids
    scenario.hang("nvmlDeviceGetPowerUsage")
    await until(source, lambda o: "told to end" in str(o))
    scenario.unhang()
    await until_well(source)
    assert pid not in source.child_pids
    assert not alive(pid)


async def test_no_more_than_two_children_are_left_behind(
    make: Make, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(deadline_seconds=HANG_SECONDS, kill_after_seconds=KILL_SECONDS)
    scenario.hang("nvmlInitWithFlags")
    with monkeypatch.context() as patch:
        patch.setattr(NvmlChild, "kill", lambda _: None)  # as in the kernel: no signal arrives
        await until(source, lambda o: "cannot be killed" in str(o))
        pids = source.child_pids
        assert len(pids) == 2
        with pytest.raises(SourceStuckError, match="reboot the node"):
            await source.read()
        assert source.child_pids == pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    scenario.unhang()
    await until_well(source)


async def test_a_child_that_dies_is_replaced(make: Make) -> None:
    source = make(backoff_seconds=0.2)
    await source.read()
    os.kill(source.child_pids[0], signal.SIGKILL)
    failure = await until(source, lambda o: not isinstance(o, Reading))
    assert isinstance(failure, SourceFailingError)
    assert "was ended by SIGKILL" in str(failure)
    await until_well(source)


async def test_why_a_child_died_is_told(make: Make, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "libnvidia-ml.so.1").write_bytes(b"no library")
    (tmp_path / "broken" / "pynvml.py").write_text("raise ValueError('what a day')")
    source = make()
    source._library_folder = str(tmp_path / "broken")
    with pytest.raises(SourceFailingError, match="ended with status 1: ValueError: what a day"):
        await source.read()


@pytest.mark.parametrize("function", [TEMPERATURE, "nvmlInitWithFlags"])
async def test_close_takes_less_than_a_second_while_a_call_hangs(
    make: Make, scenario: Scenario, function: str
) -> None:
    source = make(deadline_seconds=HANG_SECONDS)
    scenario.hang(function)
    stuck = await until(source, lambda o: function in str(o))
    assert isinstance(stuck, SourceStuckError)
    pids = source.child_pids
    assert pids
    started = time.monotonic()
    await source.close()
    assert time.monotonic() - started < 1.0
    assert not [pid for pid in pids if alive(pid)]
    with pytest.raises(SourceFailingError, match="closed"):
        await source.read()


async def test_a_child_does_not_outlive_its_parent(scenario: Scenario) -> None:
    """Killed without any chance to clean up, while a call hangs."""
    scenario.hang(TEMPERATURE)
    code = """
import asyncio, time
from agent.sources.nvidia import NvidiaSource
async def main():
    source = NvidiaSource(emit=print, clock=time.time, random=lambda: 0.5, deadline_seconds=0.1)
    try:
        await source.read()
    except Exception:
        print(*source.child_pids, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **scenario.env()},
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(5):
        while alive(pid):  # no child of ours, so nobody tells
            await asyncio.sleep(0.01)
