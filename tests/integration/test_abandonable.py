"""Reads that never return: a dead mount, an adapter whose firmware died. They cost one thread and nothing else."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.snapshot import Host
from agent.sources import Reading, SourceStuckError
from agent.sources.host import HostSource
from agent.sources.rdma import RdmaSource


async def test_a_dead_disk_costs_one_thread_hides_no_other_and_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = threading.Event()
    statvfs, asked = os.statvfs, []

    def hang(path: str) -> os.statvfs_result:
        if path == "/dead":
            asked.append(path)
            answer.wait(30)
        return statvfs("/")

    monkeypatch.setattr(os, "statvfs", hang)
    source = HostSource(disk_paths=["/dead", "/"], deadline_seconds=0.05)
    stuck = await host_where(source, lambda host: len(host.unreadable_disks) == 1)
    assert [disk.mount_point for disk in stuck.disks] == ["/"]
    assert stuck.memory_total_bytes is not None
    (disk,) = stuck.unreadable_disks
    assert (disk.mount_point, disk.state) == ("/dead", "stuck")
    assert disk.reason.startswith("statfs gives no answer for ")
    started = asyncio.get_running_loop().time()
    for _ in range(20):
        await source.read()
    assert asyncio.get_running_loop().time() - started < 0.5, "nobody waits for what is stuck"
    assert asked == ["/dead"]
    answer.set()
    well = await host_where(source, lambda host: not host.unreadable_disks)
    assert [disk.mount_point for disk in well.disks] == ["/dead", "/"]
    assert asked == ["/dead"], "the late answer is taken, not asked for again"
    await source.close()


async def host_where(source: HostSource, holds: Callable[[Host], bool]) -> Host:
    """The first reading of the machine of which it holds."""
    async with asyncio.timeout(20):
        while True:
            host = (await source.read()).host
            assert host is not None
            if holds(host):
                return host
            await asyncio.sleep(0.005)


async def answers_again(source: RdmaSource) -> Reading:
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
