"""Reads that never return: a dead mount, an adapter whose firmware died. They cost one thread and nothing else."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from agent.sources import Reading, SourceStuckError
from agent.sources.host import HostSource
from agent.sources.rdma import RdmaSource


async def test_a_dead_mount_is_stuck_collects_no_threads_and_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = threading.Event()
    statvfs, asked = os.statvfs, []

    def hang(path: str) -> os.statvfs_result:
        asked.append(path)
        answer.wait(30)
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", hang)
    source = HostSource(disk_paths=["/"], deadline_seconds=0.05)
    for _ in range(5):
        with pytest.raises(SourceStuckError, match=r"statfs of / gives no answer for 0\.05 s"):
            await source.read()
    assert asked == ["/"]
    answer.set()
    assert (await answers_again(source)).host is not None
    assert asked == ["/"], "the late answer is taken, not asked for again"
    await source.close()


async def answers_again(source: HostSource | RdmaSource) -> Reading:
    """The source's next reading, once it has one."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(SourceStuckError):
                return await source.read()


async def test_an_adapter_that_does_not_answer_is_stuck_and_stops_nothing_else(
    tmp_path: Path,
) -> None:
    port = tmp_path / "class" / "infiniband" / "mlx5_0" / "ports" / "1"
    port.mkdir(parents=True)
    os.mkfifo(port / "state")  # opening it blocks, as a counter of dead firmware does
    source = RdmaSource(sysfs_root=str(tmp_path), deadline_seconds=0.05)
    for _ in range(2):
        with pytest.raises(SourceStuckError, match=r"infiniband gives no answer for 0\.05 s"):
            await source.read()
    await asyncio.to_thread((port / "state").write_text, "4: ACTIVE\n")
    (read,) = (await answers_again(source)).rdma_ports
    assert read.state == "ACTIVE"
    await source.close()


async def test_a_dead_mount_keeps_no_process_from_ending() -> None:
    code = """
import asyncio, os, time
os.statvfs = lambda path: print("asked", flush=True) or time.sleep(3600)
from agent.sources.host import HostSource
from contract.process import run_until_signal
async def work():
    source = HostSource(disk_paths=["/"])
    try:
        await source.read()
    finally:
        await source.close()
asyncio.run(run_until_signal(work()))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"asked\n"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
