"""hccn_tool beside the readings: real processes, killed when they hang, never in the way of a reading."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.snapshot.npu import NpuNetwork
from agent.sources.hccn import QUERIES, HccnTool
from tests.dcmi.standin import Scenario
from tests.integration.ascend.rig import NEEDS_STANDIN, Make, Tool, alive, until
from tests.support import until as until_true
from tests.unit.test_hccn import LINK_STAT, OPTICAL, STAT

LINK = msgspec.structs.replace(QUERIES[0], every_seconds=0.05, soon_seconds=0.01)


@pytest.fixture
async def link(tool: Tool) -> AsyncIterator[HccnTool]:
    """Asks for the link alone, all the time."""
    asking = HccnTool(str(tool.path), queries=(LINK,), deadline_seconds=0.3)
    yield asking
    await asking.close()


@pytest.mark.timeout(30)
async def test_every_answer_reaches_the_chip_it_is_about(tool: Tool) -> None:
    tool.say("-link", "link status: UP\n")
    tool.say("-link", "link status: DOWN\n", chip=1)
    tool.say("-link_stat", LINK_STAT)
    tool.say("-stat", STAT)
    tool.say("-optical", OPTICAL)
    tool.say("-speed", "Speed: 200000 Mb/s\n")
    asking = HccnTool(str(tool.path), spread_seconds=0.01)
    asking.watch([0, 1])
    await until_true(lambda: len(tool.asked()) == 10, what=tool.asked)
    await until_true(lambda: (found := asking.network(1)) and found.speed_bits_per_second)
    network = asking.network(0)
    assert network is not None
    assert (network.link_up, network.link_ups_total, network.speed_bits_per_second) == (
        True,
        2,
        2e11,
    )
    assert network.counters is not None
    assert network.counters["roce_rx_err_pkt_num"] == 3
    assert network.optics is not None
    assert network.optics.present
    other = asking.network(1)
    assert other is not None
    assert other.link_up is False
    assert network.age_seconds < 10
    await asking.close()


@pytest.mark.timeout(30)
async def test_a_run_that_hangs_is_killed_and_the_other_chips_are_asked(
    tool: Tool, link: HccnTool
) -> None:
    tool.say("-link", "link status: UP\n")
    tool.say("-link", "HANG", chip=0)
    link.watch([0, 1])
    await until_true(lambda: tool.asked().count("-i 0 -link -g") >= 2)
    await until_true(lambda: link.network(1))
    assert link.network(0) is None
    assert link.hangs(0) == ""


@pytest.mark.timeout(30)
async def test_a_chip_whose_run_hangs_is_not_asked_everything_else(tool: Tool) -> None:
    tool.say("-link", "HANG")
    asking = HccnTool(str(tool.path), spread_seconds=0.1, deadline_seconds=0.3)
    asking.watch([0])
    await until_true(lambda: asking._chips[0][0].failures)
    assert tool.asked() == ["-i 0 -link -g"]
    now = asyncio.get_running_loop().time()
    assert all(asked.due > now + 20 for asked in asking._chips[0])
    await asking.close()


@pytest.mark.timeout(30)
async def test_while_a_run_cannot_be_killed_no_other_is_started_for_its_chip(
    tool: Tool, link: HccnTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    link._patience_seconds = 0.05
    tool.say("-link", "link status: UP\n")
    tool.say("-link", "HANG", chip=0)
    with monkeypatch.context() as patch:
        patch.setattr("agent.sources.hccn._kill", lambda _: None)  # as in the kernel
        link.watch([0, 1])
        why = await until_true(lambda: link.hangs(0))
    asked = tool.asked()
    await until_true(lambda: len(tool.asked()) >= len(asked) + 5)
    assert tool.asked().count("-i 0 -link -g") == 1
    pid = int(why.rpartition("pid ")[2].strip(")"))
    assert alive(pid)
    tool.say("-link", "link status: DOWN\n", chip=0)
    link._left_behind[0][0].kill()
    await until_true(lambda: (found := link.network(0)) and found.link_up is False)
    assert link.hangs(0) == ""


@pytest.mark.timeout(30)
async def test_a_board_that_answers_with_errors_is_asked_less_and_less(tool: Tool) -> None:
    slower = msgspec.structs.replace(LINK, every_seconds=0.1)
    asking = HccnTool(str(tool.path), queries=(slower,))
    asking.watch([0])
    await until_true(lambda: len(tool.asked()) == 3)
    (only,) = asking._chips[0]
    await until_true(lambda: only.failures == 3)
    assert only.due - asyncio.get_running_loop().time() > 0.2
    assert asking.network(0) is None
    await asking.close()


@pytest.mark.timeout(30)
async def test_an_answer_that_is_too_old_counts_as_not_measured(tool: Tool, link: HccnTool) -> None:
    tool.say("-link", "link status: UP\n")
    link.watch([0])
    await until_true(lambda: link.network(0))
    (only,) = link._chips[0]
    only.due = asyncio.get_running_loop().time() + 3600
    only.answered_at -= LINK.longest_age_seconds - 1
    fresh = link.network(0)
    assert fresh is not None
    assert fresh.age_seconds >= LINK.longest_age_seconds - 1
    only.answered_at -= 2
    assert link.network(0) is None


@pytest.mark.timeout(30)
async def test_a_tool_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    asking = HccnTool(str(tmp_path / "nothing"), queries=(LINK,))
    asking.watch([0])
    (only,) = asking._chips[0]
    await until_true(lambda: only.due > asyncio.get_running_loop().time() + 60)
    assert asking.network(0) is None
    await asking.close()


@pytest.mark.timeout(30)
async def test_close_ends_the_run_that_is_under_way(tool: Tool) -> None:
    tool.say("-link", "HANG")
    asking = HccnTool(str(tool.path), queries=(LINK,), deadline_seconds=60)
    asking.watch([0])
    await until_true(tool.asked)
    started = time.monotonic()
    await asking.close()
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("mark", NEEDS_STANDIN[:1])
@pytest.mark.timeout(30)
async def test_readings_carry_the_network_without_waiting_for_it(
    make: Make, scenario: Scenario, tool: Tool, mark: pytest.MarkDecorator
) -> None:
    if mark.args[0]:
        pytest.skip(mark.kwargs["reason"])
    tool.say("-link", "HANG", chip=7)
    tool.say("-link", "link status: DOWN\n", chip=1)
    tool.say("-link", "link status: UP\n")
    tool.say("-net_health", "net health status: Fault\n")
    scenario.update(0, physical_id=1).update(1, physical_id=0, network_health=None)
    scenario.fail("*", -8008, chip=2)
    source = make(hccn_tool=str(tool.path))
    started = time.monotonic()
    await source.read()
    assert time.monotonic() - started < 5
    reading = await until(
        source, lambda o: o.npus[1].network_health is not None and o.npus[3].network
    )
    assert isinstance(reading.npus[3].network, NpuNetwork)
    assert reading.npus[3].network.link_up
    assert reading.npus[1].network_health == 5
    assert isinstance(reading.npus[0].network, NpuNetwork)
    assert reading.npus[0].network.link_up is False
    assert reading.npus[2].network is None
    assert reading.npus[7].network is None
    assert not [line for line in tool.asked() if line.startswith("-i 2 ")]


@pytest.mark.timeout(30)
async def test_only_new_trouble_is_asked_for_sooner(tool: Tool) -> None:
    slow = msgspec.structs.replace(LINK, every_seconds=3600.0, soon_seconds=0.01)
    tool.say("-link", "link status: UP\n", chip=0)
    tool.say("-link", "link status: DOWN\n", chip=1)
    asking = HccnTool(str(tool.path), queries=(slow,))
    asking.watch([0, 1])
    await until_true(lambda: asking.network(0) and asking.network(1))
    tool.say("-link", "link status: DOWN\n", chip=0)
    asking._chips[0][0].due = 0
    asking._changed.set()
    await until_true(lambda: tool.asked().count("-i 0 -link -g") >= 4)
    assert tool.asked().count("-i 1 -link -g") == 1
    await asking.close()
