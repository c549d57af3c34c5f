"""The NVIDIA source over the real pynvml and the NVML stand-in: every process, pipe and struct is real."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.snapshot import Gpu
from agent.sources import (
    Reading,
    SourceAbsentError,
    SourceError,
    SourceFailingError,
    SourceStuckError,
)
from agent.sources.nvidia import NvidiaSource, NvmlChild
from contract.vocabulary import Event
from tests.nvml.standin import Scenario, compiler, h100_node

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="the NVML stand-in needs a C compiler"),
    pytest.mark.timeout(30),
]

# pytest-asyncio makes an event loop of its own and never closes it, unless it is told that there is none.
asyncio.set_event_loop(None)

TEMPERATURE = "nvmlDeviceGetTemperatureV"
HANG_SECONDS = 0.15
"""The deadline in tests that wait for it to pass."""

KILL_SECONDS = 1.0
"""How long a child may hang in tests that wait for its end; enough to start one on a busy machine."""

Make = Callable[..., NvidiaSource]


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(tmp_path / "scenario").set(gpus=h100_node(busy=True))


@pytest.fixture
def events() -> asyncio.Queue[Event]:
    return asyncio.Queue()


@pytest.fixture
async def make(scenario: Scenario, events: asyncio.Queue[Event]) -> AsyncIterator[Make]:
    """Sources that are closed at the end, with retries so quick that no test waits for one."""
    sources: list[NvidiaSource] = []

    def build(**options: Any) -> NvidiaSource:
        quick = {"deadline_seconds": 5.0, "backoff_seconds": 0.02, "absent_retry_seconds": 0.02}
        given = {"environment": scenario.env(), **quick, **options}
        sources.append(
            NvidiaSource(
                emit=events.put_nowait, clock=time.time, random=random.Random(7).random, **given
            )
        )
        return sources[-1]

    yield build
    for source in sources:
        pids = source.child_pids
        await source.close()
        assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def until(
    source: NvidiaSource, wanted: Callable[[Reading | SourceError], bool], seconds: float = 20.0
) -> Any:
    """Reads until the outcome is the wanted one, and returns it."""
    outcome: Reading | SourceError | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                try:
                    outcome = await source.read()
                except SourceError as error:
                    outcome = error
                if wanted(outcome):
                    return outcome
                await asyncio.sleep(0.01)
    raise AssertionError(f"not within {seconds} s; last: {outcome}")


async def until_well(source: NvidiaSource) -> Reading:
    outcome = await until(source, lambda outcome: isinstance(outcome, Reading))
    assert isinstance(outcome, Reading)
    return outcome


async def test_eight_healthy_gpus_in_our_units(make: Make) -> None:
    reading = await make().read()
    assert reading.driver_version == "570.124.06"
    assert [gpu.index for gpu in reading.gpus] == list(range(8))
    assert not any(gpu.lost for gpu in reading.gpus)
    first = reading.gpus[0]
    assert first.energy_joules_total == pytest.approx(86_400_000, rel=1e-4)
    assert first == Gpu(
        uuid="GPU-5f1ee700-1d1c-4a7e-8001-ac0ffee00000",
        pci_bus_id="0000:1b:00.0",
        index=0,
        model="NVIDIA H100 80GB HBM3",
        serial="1652923000100",
        temperature_celsius=62,
        memory_temperature_celsius=74,
        slowdown_temperature_celsius=89,
        shutdown_temperature_celsius=92,
        power_watts=612.4,
        power_limit_watts=700.0,
        energy_joules_total=first.energy_joules_total,
        utilization_ratio=0.98,
        memory_utilization_ratio=0.54,
        memory_used_bytes=72 << 30,
        memory_total_bytes=81559 << 20,
        sm_clock_hertz=1.755e9,
        process_count=1,
        ecc_corrected_total=0,
        ecc_uncorrected_total=0,
        recovery_action=0,
        clocks_event_reasons=4,
    )


async def test_values_change_while_it_runs(make: Make, scenario: Scenario) -> None:
    source = make()
    await source.read()
    scenario.update(5, temperature_celsius=91, recovery_action=2, ecc_volatile_uncorrected_dram=3)
    gpu = (await source.read()).gpus[5]
    assert (gpu.temperature_celsius, gpu.recovery_action, gpu.ecc_uncorrected_total) == (91, 2, 3)


@pytest.mark.parametrize("code", ["gpu_is_lost", "reset_required"])
async def test_a_lost_gpu_hides_no_other_and_comes_back(
    make: Make, scenario: Scenario, code: str
) -> None:
    source = make()
    before = (await source.read()).gpus
    scenario.fail("*", code, gpu=3)
    after = (await source.read()).gpus
    assert [gpu.index for gpu in after if gpu.lost] == [3]
    assert (after[3].uuid, after[3].subject) == (before[3].uuid, before[3].subject)
    assert after[3].temperature_celsius is None
    assert [gpu.temperature_celsius for gpu in after if not gpu.lost] == [62] * 7
    scenario.unfail()
    assert not any(gpu.lost for gpu in (await source.read()).gpus)


async def test_a_gpu_that_the_driver_stops_listing_is_lost(make: Make, scenario: Scenario) -> None:
    source = make()
    gone = (await source.read()).gpus[7]
    scenario.count(7)
    after = (await source.read()).gpus
    assert [(gpu.uuid, gpu.subject) for gpu in after if gpu.lost] == [(gone.uuid, gone.subject)]
    scenario.count(None)
    assert not any(gpu.lost for gpu in (await source.read()).gpus)


async def test_a_lost_gpu_is_not_forgotten_with_its_child(make: Make, scenario: Scenario) -> None:
    source = make()
    gone = (await source.read()).gpus[2]
    scenario.vanish(2)
    os.kill(source.child_pids[0], signal.SIGKILL)
    after = (await until_well(source)).gpus
    assert len(after) == 8
    assert [gpu.uuid for gpu in after if gpu.lost] == [gone.uuid]


async def test_an_expected_gpu_that_was_never_there_is_lost(make: Make, scenario: Scenario) -> None:
    scenario.set(gpus=h100_node(7))
    expected = Gpu(uuid="GPU-eighth", pci_bus_id="0000:db:00.0", index=7, model="H100")
    reading = await make(expected=[expected]).read()
    assert [(gpu.uuid, gpu.lost) for gpu in reading.gpus][7:] == [("GPU-eighth", True)]


async def test_a_gpu_lost_before_the_start_is_seen_as_lost(make: Make, scenario: Scenario) -> None:
    scenario.lose(1)
    reading = await make().read()
    assert [(gpu.subject, gpu.lost) for gpu in reading.gpus][1] == ("gpu:index-1", True)
    assert len(reading.gpus) == 8


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


async def test_without_the_library_there_is_nothing_to_watch(make: Make, tmp_path: Path) -> None:
    environment = {"LD_LIBRARY_PATH": str(tmp_path)}
    source = make(environment=environment, absent_retry_seconds=60.0)
    with pytest.raises(SourceAbsentError, match=r"libnvidia-ml\.so\.1 is not found"):
        await source.read()
    assert source.child_pids == ()
    started = time.monotonic()
    with pytest.raises(SourceAbsentError):
        await source.read()
    assert time.monotonic() - started < 0.02


async def test_a_driver_that_is_loaded_later_is_found(make: Make, scenario: Scenario) -> None:
    scenario.set(init="driver_not_loaded")
    source = make()
    with pytest.raises(SourceAbsentError, match="driver is not loaded"):
        await source.read()
    assert source.child_pids == ()
    scenario.set(init="success")
    assert len((await until_well(source)).gpus) == 8


async def test_a_driver_that_goes_away_from_known_gpus_is_a_fault(
    make: Make, scenario: Scenario
) -> None:
    source = make()
    await source.read()
    scenario.set(init="driver_not_loaded").fail("nvmlDeviceGetCount_v2", "driver_not_loaded")
    failure = await until(source, lambda o: not isinstance(o, Reading))
    assert isinstance(failure, SourceFailingError)
    assert "8 known GPUs" in str(failure)


async def test_a_node_with_no_gpu_left_has_lost_them_all(make: Make, scenario: Scenario) -> None:
    source = make()
    await source.read()
    scenario.count(0)
    reading = await source.read()
    assert [gpu.lost for gpu in reading.gpus] == [True] * 8


async def test_a_node_without_gpus_is_absent(make: Make, scenario: Scenario) -> None:
    scenario.set(gpus=[])
    with pytest.raises(SourceAbsentError, match="finds no GPU"):
        await make().read()


async def test_a_version_mismatch_names_its_code_and_what_helps(
    make: Make, scenario: Scenario
) -> None:
    scenario.set(init="lib_rm_version_mismatch")
    with pytest.raises(SourceFailingError, match=r"LIB_RM_VERSION_MISMATCH: .*reboot the node"):
        await make().read()


async def test_what_a_driver_or_a_gpu_does_not_know_is_none(make: Make, scenario: Scenario) -> None:
    scenario.missing(TEMPERATURE, "nvmlDeviceGetCurrentClocksEventReasons")
    scenario.missing("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo_v2")
    scenario.update(1, memory_temperature_celsius=None, ecc_mode=0, serial=None)
    source = make()
    for _ in range(2):
        gpus = (await source.read()).gpus
        assert gpus[0].utilization_ratio is None
        assert gpus[0].temperature_celsius == 62  # by the older call
        assert gpus[0].clocks_event_reasons == 4  # by the older call
        assert gpus[0].memory_total_bytes == 81559 << 20  # by the older call
        assert gpus[1].memory_temperature_celsius is None
        assert gpus[1].serial == ""
        assert gpus[1].energy_joules_total is not None
        assert not gpus[1].lost


async def test_a_reading_that_fails_for_once_is_none_for_once(
    make: Make, scenario: Scenario
) -> None:
    source = make()
    await source.read()
    scenario.fail("nvmlDeviceGetPowerUsage", "unknown", gpu=0)
    gpu = (await source.read()).gpus[0]
    assert (gpu.power_watts, gpu.temperature_celsius, gpu.lost) == (None, 62, False)
    scenario.unfail()
    assert (await source.read()).gpus[0].power_watts == 612.4


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
