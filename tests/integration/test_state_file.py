"""The saved state on disks that are damaged, hang or are shared: the agent starts, and nothing is torn."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent import state_file
from agent.assembly import remembered
from agent.state import Restored
from agent.state_file import NAME, StateFile
from tests.integration.test_agent_cli import running
from tests.integration.test_restart import Node, findings, xid


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"\xff\xfe{",
        b'{"boot_id":"\xff\xff","saved_seconds":1}',
        b'{"boot_id":"b","saved_seconds":1,"memory":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
        b"[" * 100_000,
        b'{"boot_id":"b","saved_seconds":1,"memory":{"a":' + b"9" * 5000 + b"}}",
        b'{"boot_id":"b","saved_seconds":1,"memory":{"gpu":[1],"rdma":{"ports":7}}}',
    ],
)
async def test_no_content_keeps_the_agent_down(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    file = StateFile(str(tmp_path))
    restored = await remembered(file)
    assert restored.book.faults == {}
    if restored == Restored():
        aside = tmp_path / "agent-state.unusable"
        assert not aside.exists() or aside.read_bytes() == content
    await file.save(b"new")
    assert (tmp_path / NAME).read_bytes() == b"new"
    file.close()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("put", [fifo, folder])
async def test_what_is_no_file_is_told_kept_aside_and_replaced(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    node = Node(tmp_path)
    node.state.mkdir()
    put(node.state / NAME)
    node.write(xid(1, 48))
    async with running(*node.flags) as agent:
        await findings(agent, "xid-48")
        assert await agent.stop() == 0
    assert any("cannot be read" in line and "starting without it" in line for line in agent.log)
    assert b"xid-48" in (node.state / NAME).read_bytes()
    assert not (node.state / "agent-state.unusable").is_file()


class Disk:
    """A disk that does not answer until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hangs = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        os_open = os.open

        def slow_open(path: str | Path, *rest: int, **named: int) -> int:
            if "agent-state" in str(path) and not self.answers.is_set():
                self.hangs.set()
                self.answers.wait(20)
            return os_open(path, *rest, **named)

        monkeypatch.setattr(os, "open", slow_open)

    def hang(self) -> None:
        self.hangs.clear()
        self.answers.clear()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.answers.set()


async def test_a_disk_that_hangs_delays_the_start_so_long_and_no_longer(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "LOAD_DEADLINE_SECONDS", 0.05)
    (tmp_path / NAME).write_bytes(b"what was known")
    file = StateFile(str(tmp_path))
    disk.hang()
    with capture_logs() as told:
        assert await file.load() is None
    assert "gives no answer for 0.05 s; starting without it" in told[0]["event"]
    disk.answers.set()
    await file.save(b"new")
    assert (tmp_path / NAME).read_bytes() == b"new"
    kept = (tmp_path / "agent-state.unusable").read_bytes()
    assert kept == b"what was known", "what nobody read is not written over"
    file.close()


async def test_the_last_save_is_the_newest_also_where_an_older_one_is_under_way(
    tmp_path: Path, disk: Disk
) -> None:
    file = StateFile(str(tmp_path))
    disk.hang()
    older = asyncio.create_task(file.save(b"old"))
    while not disk.hangs.is_set():
        await asyncio.sleep(0.001)
    older.cancel()
    await asyncio.wait({older})
    newest = asyncio.create_task(file.save(b"new"))
    await asyncio.sleep(0)
    disk.answers.set()
    with capture_logs() as told:
        await newest
    assert told == []
    assert (tmp_path / NAME).read_bytes() == b"new"
    file.close()


async def test_a_save_that_comes_too_late_is_told_in_time(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "SAVE_DEADLINE_SECONDS", 0.1)
    file = StateFile(str(tmp_path))
    disk.hang()
    started = time.monotonic()
    with capture_logs() as told:
        await file.save(b"new")
        await file.save(b"newer")
    assert time.monotonic() - started < 2
    assert all("state cannot be saved" in each["event"] for each in told)
    assert told
    file.close()


async def test_of_two_agents_in_one_folder_one_saves_and_the_other_says_so(tmp_path: Path) -> None:
    first, second = StateFile(str(tmp_path)), StateFile(str(tmp_path))
    await first.save(b"first")
    with capture_logs() as told:
        await second.save(b"second")
        await second.save(b"second")
    (line,) = told
    assert "another agent saves in" in line["event"]
    assert (tmp_path / NAME).read_bytes() == b"first"
    first.close()
    await second.save(b"second")
    assert (tmp_path / NAME).read_bytes() == b"second"
    second.close()


async def test_what_a_killed_agent_left_half_written_is_removed(tmp_path: Path) -> None:
    half = tmp_path / "agent-state.0123.new"
    half.write_bytes(b"half")
    file = StateFile(str(tmp_path))
    await file.save(b"whole")
    assert not half.exists()
    file.close()
