"""What becomes of the Ascend source's child when calls hang or it dies."""

import os
import signal
import time
from pathlib import Path

import pytest

from agent.sources import Reading, SourceFailingError, SourceStuckError
from agent.sources.dcmi_process import DcmiChild
from tests.dcmi.standin import Scenario
from tests.integration.ascend.rig import HEALTH, NEEDS_STANDIN, Make, alive, until, until_well

pytestmark = NEEDS_STANDIN

HANG_SECONDS = 0.15
"""The deadline in tests that wait for it to pass."""

KILL_SECONDS = 1.0
"""How long a child may hang in tests that wait for its end; enough to start one on a busy machine."""


async def test_a_hanging_call_is_named_by_the_deadline_and_recovers_by_itself(
    make: Make, scenario: Scenario
) -> None:
    source = make(deadline_seconds=HANG_SECONDS)
    await until_well(source)
    scenario.hang(HEALTH, chip=3)
    started = time.monotonic()
    with pytest.raises(SourceStuckError, match=f"{HEALTH} on NPU 3 has not answered for 0"):
        await source.read()
    assert time.monotonic() - started < HANG_SECONDS * 3
    scenario.unhang().update(3, utilization_percent=7)
    assert (await until_well(source)).npus[3].state == "ok"


async def test_a_chip_that_hangs_for_long_is_left_alone_so_that_the_others_are_seen(
    make: Make, scenario: Scenario
) -> None:
    source = make(
        deadline_seconds=HANG_SECONDS, kill_after_seconds=KILL_SECONDS, avoid_seconds=3600.0
    )
    await until_well(source)
    (pid,) = source.child_pids
    scenario.hang("dcmi_get_device_errorcode_v2", chip=5)
    await until(source, lambda o: "told to end" in str(o))
    npus = (await until_well(source)).npus
    assert not alive(pid)
    assert [npu.index for npu in npus if npu.state == "unresponsive"] == [5]
    assert npus[5].state_reason == "dcmi_get_device_errorcode_v2 did not return for 1 s"
    assert (npus[5].subject, npus[5].pci_bus_id) == ("npu:5", "0000:41:00.0")
    assert [npu.temperature_celsius for npu in npus if npu.state == "ok"] == [51] * 7


async def test_a_chip_left_alone_is_tried_again(make: Make, scenario: Scenario) -> None:
    source = make(deadline_seconds=HANG_SECONDS, kill_after_seconds=KILL_SECONDS, avoid_seconds=0.3)
    await until_well(source)
    scenario.hang(HEALTH, chip=5)
    await until(source, lambda o: isinstance(o, Reading) and o.npus[5].state == "unresponsive")
    scenario.unhang()
    await until(source, lambda o: isinstance(o, Reading) and o.npus[5].state == "ok")


async def test_a_hang_from_the_start_does_not_hide_the_others(
    make: Make, scenario: Scenario
) -> None:
    scenario.hang(HEALTH, chip=0)
    source = make(
        deadline_seconds=HANG_SECONDS, kill_after_seconds=KILL_SECONDS, avoid_seconds=3600.0
    )
    npus = (await until_well(source)).npus
    assert [npu.state for npu in npus] == ["unresponsive"] + ["ok"] * 7


async def test_no_more_than_two_children_are_left_behind(
    make: Make, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(deadline_seconds=HANG_SECONDS, kill_after_seconds=KILL_SECONDS)
    scenario.hang("dcmi_init")
    with monkeypatch.context() as patch:
        patch.setattr(DcmiChild, "kill", lambda _: None)  # as in the kernel: no signal arrives
        await until(source, lambda o: "cannot be killed" in str(o))
        pids = source.child_pids
        assert len(pids) == 2
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


async def test_a_driver_that_goes_away_from_known_npus_is_a_fault(
    make: Make, scenario: Scenario, tmp_path: Path
) -> None:
    source = make()
    await source.read()
    Scenario(tmp_path / "scenario", init=-8008)
    os.kill(source.child_pids[0], signal.SIGKILL)
    failure = await until(source, lambda o: "dcmi_init answers -8008" in str(o))
    assert isinstance(failure, SourceFailingError)


@pytest.mark.parametrize("function", [HEALTH, "dcmi_init"])
async def test_close_takes_less_than_a_second_while_a_call_hangs(
    make: Make, scenario: Scenario, function: str
) -> None:
    source = make(deadline_seconds=HANG_SECONDS)
    scenario.hang(function)
    await until(source, lambda o: function in str(o))
    pids = source.child_pids
    assert pids
    started = time.monotonic()
    await source.close()
    assert time.monotonic() - started < 1.0
    assert not [pid for pid in pids if alive(pid)]
    with pytest.raises(SourceFailingError, match="closed"):
        await source.read()
