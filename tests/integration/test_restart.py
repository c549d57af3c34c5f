"""The agent is stopped, killed or upgraded while something is wrong: nothing is forged, nothing is forgotten."""

import json
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.sources import SourceFailingError
from agent.sources.kmsg import UNKNOWN_AFTER_LOSS_SECONDS, KmsgSource
from agent.state_file import StateFile
from agent.stats import AgentStats
from contract.vocabulary import Event
from tests.integration.test_agent_cli import Running, running
from tests.support import START


def record(sequence: int, text: str) -> bytes:
    """One record as /dev/kmsg writes it, a minute into the boot."""
    return f"6,{sequence},{60_000_000 + sequence},-;{text}\n".encode()


def xid(sequence: int, number: int) -> bytes:
    return record(sequence, f"NVRM: Xid (PCI:0000:3b:00): {number}, pid=7, name=python")


class Node:
    """One machine: its kernel log and the folder that outlives the agent's container."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "kmsg"
        self.state = folder / "state"
        self.log.write_bytes(b"")
        self.flags = (
            *("--nvidia", "false", "--sysfs-root", "/nonexistent", "--ascend", "false"),
            *("--kmsg", str(self.log), "--state-dir", str(self.state)),
        )

    def write(self, *lines: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(b"".join(lines))


async def findings(agent: Running, *codes: str) -> dict[str, Any]:
    """Findings by code, once these are there."""

    def wanted(text: str) -> bool:
        return {each["code"] for each in json.loads(text)["findings"]} >= set(codes)

    text = await agent.eventually("/snapshot", wanted)
    return {each["code"]: each for each in json.loads(text)["findings"]}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_keeps_what_is_wrong_and_counts_no_line_twice(
    tmp_path: Path, how: signal.Signals
) -> None:
    node = Node(tmp_path)
    node.write(xid(1, 48), xid(2, 48), record(3, "eth0: link becomes ready"))
    async with running(*node.flags) as agent:
        before = await findings(agent, "xid-48")
        assert before["xid-48"]["count"] == 2
        if how is signal.SIGKILL:
            # What is not saved yet when it is killed is read again from the log.
            await agent.eventually("/metrics", lambda _: (node.state / "agent-state.json").exists())
        await agent.stop(how)
    node.write(xid(4, 95))
    async with running(*node.flags) as agent:
        after = await findings(agent, "xid-48", "xid-95")
    assert after["xid-48"]["since"] == before["xid-48"]["since"]
    assert (after["xid-48"]["count"], after["xid-95"]["count"]) == (2, 1)


async def test_what_a_person_cleared_stays_cleared(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.write(xid(1, 48), xid(2, 95), record(3, "fleetmedic: clear xid-48 gpu:0000:3b:00.0"))
    for _ in range(2):
        async with running(*node.flags) as agent:
            assert set(await findings(agent, "xid-95")) == {"xid-95"}
            await agent.stop()


async def test_a_state_file_that_cannot_be_used_is_set_aside_and_told(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.state.mkdir()
    (node.state / "agent-state.json").write_bytes(b'{"version": 1, "boot')
    node.write(xid(1, 48))
    async with running(*node.flags) as agent:
        await findings(agent, "xid-48")
        await agent.stop()
    assert (node.state / "agent-state.unusable").read_bytes() == b'{"version": 1, "boot'
    assert any("saved state cannot be used" in line for line in agent.log)
    saved = msgspec.json.decode((node.state / "agent-state.json").read_bytes())
    assert saved["kmsg_sequence"] == 1


async def test_a_folder_that_cannot_be_written_is_told_once_and_costs_nothing_else(
    tmp_path: Path,
) -> None:
    node = Node(tmp_path)
    node.state.write_bytes(b"a file where a folder should be")
    node.write(xid(1, 48))
    async with running(*node.flags) as agent:
        await findings(agent, "xid-48")
        assert await agent.stop() == 0
    assert sum("state cannot be saved" in line for line in agent.log) == 1


async def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    file = StateFile(str(tmp_path / "deep" / "folder"))
    assert await file.load() is None
    for content in (b"first", b"2"):
        await file.save(content)
        assert await file.load() == content
    assert [each.name for each in (tmp_path / "deep" / "folder").iterdir()] == ["agent-state.json"]


class Clock:
    now = START

    def __call__(self) -> float:
        return self.now


async def test_what_the_kernel_overwrote_unread_makes_the_log_unknown_for_a_while(
    tmp_path: Path,
) -> None:
    (tmp_path / "kmsg").write_bytes(xid(50, 48) + xid(51, 13))
    events: list[Event] = []
    clock, stats = Clock(), AgentStats()
    source = KmsgSource(
        str(tmp_path / "kmsg"),
        emit=events.append,
        stats=stats,
        clock=clock,
        boot_seconds=START - 100,
        resume_after=9,
    )
    with pytest.raises(SourceFailingError, match="40 records were overwritten"):
        await source.read()
    assert [event.code for event in events] == [48, 13], "what is left is read all the same"
    assert (stats.kmsg_lost, source.sequence) == (40, 51)
    clock.now += UNKNOWN_AFTER_LOSS_SECONDS - 1
    with pytest.raises(SourceFailingError):
        await source.read()
    clock.now += 1
    await source.read()
    await source.close()


async def test_a_first_start_on_a_long_lived_node_misses_nothing_it_could_know(
    tmp_path: Path,
) -> None:
    """The ring never reaches back to the boot of such a node; that alone is no loss."""
    (tmp_path / "kmsg").write_bytes(xid(5_000, 48))
    source = KmsgSource(
        str(tmp_path / "kmsg"),
        emit=lambda event: None,
        stats=AgentStats(),
        clock=Clock(),
        boot_seconds=START - 100,
    )
    await source.read()
    await source.close()
