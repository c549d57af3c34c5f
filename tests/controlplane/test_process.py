"""Processes of the harness end when they should, and say why when they should not have."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.controlplane.process import PORTS, Process, ProcessError, free_port

ROOT = Path(__file__).parents[2]

STARTER = """
import asyncio, pathlib, sys
from concurrent.futures import ThreadPoolExecutor
from tests.controlplane.process import Process

async def main():
    child = Process("sleep", ["/bin/sleep", "600"], pathlib.Path(sys.argv[1]))
    parent = ThreadPoolExecutor(1)
    await child.start(parent)
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def never() -> bool:
    return False


async def ended(pid: int) -> None:
    """Wait until this process, which need not be a child of ours, has ended."""
    gone = asyncio.Event()
    handle = os.pidfd_open(pid)
    asyncio.get_running_loop().add_reader(handle, gone.set)
    try:
        await gone.wait()
    finally:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills orphans for us")
async def test_a_child_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        STARTER,
        str(tmp_path / "log"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert starter.stdout is not None
    pid = int(await starter.stdout.readline())
    starter.kill()
    await starter.communicate()
    await asyncio.wait_for(ended(pid), 10)


async def test_a_process_that_dies_shows_its_status_and_its_last_words(tmp_path: Path) -> None:
    child = Process("crash", ["/bin/sh", "-c", "echo no such flag; exit 3"], tmp_path / "log")
    with ThreadPoolExecutor(1) as parent:
        await child.start(parent)
        with pytest.raises(ProcessError, match=r"crash died \(exit status 3\)[\s\S]*no such flag"):
            await child.ready(never, timeout_s=10)
        await child.stop()


async def test_a_process_that_never_answers_is_given_up_and_killed(tmp_path: Path) -> None:
    deaf = "trap '' TERM; echo started; while :; do sleep 600; done"
    child = Process("deaf", ["/bin/sh", "-c", deaf], tmp_path / "log")
    with ThreadPoolExecutor(1) as parent:
        await child.start(parent)
        with pytest.raises(ProcessError, match=r"deaf is not ready after 0.5 s"):
            await child.ready(never, timeout_s=0.5)
        pid = child.pid
        assert pid is not None
        await child.stop(signal.SIGTERM, grace_s=0.1)
        assert not child.running
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_ports_keep_clear_of_outgoing_connections() -> None:
    assert free_port() in PORTS
