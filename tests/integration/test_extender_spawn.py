"""The thread that starts the extender's processes: they go first after a restart too, and none is left behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aggregator.feeds import extender_process
from aggregator.feeds.extender_process import ExtenderProcess
from aggregator.feeds.extender_spawn import Spawned, Spawner
from aggregator.feeds.extender_turns import BEHIND
from tests.integration.test_extender_process import NAMES, Served, fleet

READY = b"r"
TIED_TO_ITS_MAKER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.write(0, b"r")
os.read(0, 1)
sys.exit(7)
"""
"""As the extender's process does: it ends with the thread that made it, or with its stdin."""


class Serving(asyncio.Event):
    """In the place of ``started``: the processes that served, one after the other."""

    def __init__(self, process: ExtenderProcess) -> None:
        super().__init__()
        self._process = process
        self.pids: asyncio.Queue[int] = asyncio.Queue()

    def set(self) -> None:
        super().set()
        assert self._process.pid is not None
        self.pids.put_nowait(self._process.pid)


@asynccontextmanager
async def extender(**changes: Any) -> AsyncIterator[tuple[Served, asyncio.Queue[int]]]:
    served = Served(fleet(NAMES), **changes)
    served.process.started = serving = Serving(served.process)
    task = asyncio.create_task(served.process.run())
    try:
        yield served, serving.pids
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def nice_of(task: int | str) -> int:
    return os.getpriority(os.PRIO_PROCESS, int(task))


def own(what: str) -> list[int]:
    """Numbers of this process's open files (``fd``), or of its threads (``task``)."""
    return [int(each.name) for each in Path("/proc/self", what).iterdir()]


def is_there(pid: int) -> bool:
    """Also as a zombie."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def spawners() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "extender-spawner"]


async def print_nice_values_over_restarts() -> None:
    """In a process of its own, as it lowers its priority for good."""
    extender_process.FIRST_PAUSE_SECONDS = 0
    found = []
    async with extender(behind=True) as (_, pids):
        await asyncio.to_thread(threading.get_native_id)  # one more thread than the loop's
        for _ in range(3):
            pid = await pids.get()
            threads = own("task")
            found.append(
                {
                    "process": nice_of(pid),
                    "loop": nice_of(os.getpid()),
                    "in front": [nice_of(each) < BEHIND for each in threads].count(True),
                    "threads": len(threads),
                }
            )
            os.kill(pid, signal.SIGKILL)
    print(json.dumps(found))


async def test_a_process_that_is_started_anew_goes_before_the_aggregator_like_the_first() -> None:
    program = f"import asyncio, {__name__} as m; asyncio.run(m.print_nice_values_over_restarts())"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 3
    for each in found:
        assert each["process"] == nice_of(0)
        assert each["loop"] == max(nice_of(0), BEHIND)
        assert each["in front"] == (nice_of(0) < BEHIND)
        assert each["threads"] >= 3


async def test_restarts_leave_no_process_no_file_and_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extender_process, "FIRST_PAUSE_SECONDS", 0)
    mine = nice_of(0)
    async with extender() as (served, pids):
        pid = await pids.get()
        files, threads = len(own("fd")), spawners()
        for _ in range(5):
            os.kill(pid, signal.SIGKILL)
            before, pid = pid, await pids.get()
            assert not is_there(before)
            assert len(own("fd")) <= files
            assert spawners() == threads
    assert served.stats.extender_restarts_total == 5
    assert nice_of(0) == mine, "nobody asked for it"


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[Spawned]:
    """All processes of the test."""
    made: list[Spawned] = []
    start = Spawner.start

    async def seen(self: Spawner, *args: Any, **options: Any) -> Spawned:
        made.append(await start(self, *args, **options))
        return made[-1]

    monkeypatch.setattr(Spawner, "start", seen)
    return made


async def test_at_shutdown_the_process_ends_in_its_own_way_before_the_thread(
    spawned: list[Spawned],
) -> None:
    async with extender() as (_, pids):
        pid = await pids.get()
        assert len(spawners()) == 1
    assert [(each.pid, each.returncode) for each in spawned] == [(pid, 0)]
    assert not is_there(pid)
    assert spawners() == []


@pytest.fixture
def waited_for(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once a process's end is waited for."""
    asked = asyncio.Event()
    wait = Spawned.wait

    async def seen(self: Spawned) -> None:
        asked.set()
        await wait(self)

    monkeypatch.setattr(Spawned, "wait", seen)
    return asked


async def test_cancelled_again_while_a_process_hangs_it_is_killed_at_once(
    monkeypatch: pytest.MonkeyPatch, spawned: list[Spawned], waited_for: asyncio.Event
) -> None:
    monkeypatch.setattr(extender_process, "STOP_SECONDS", 1e6)
    served = Served(fleet(NAMES))
    task = asyncio.create_task(served.process.run())
    await served.process.started.wait()
    assert served.process.pid is not None
    os.kill(served.process.pid, signal.SIGSTOP)
    task.cancel()
    await waited_for.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [each.returncode for each in spawned] == [-signal.SIGKILL]
    assert spawners() == []


async def test_cancelled_while_a_process_ends_nothing_is_started_anew(
    monkeypatch: pytest.MonkeyPatch, spawned: list[Spawned], waited_for: asyncio.Event
) -> None:
    monkeypatch.setattr(extender_process, "LOOK_SECONDS", 0)  # it seems to stand still at once
    served = Served(fleet(NAMES))
    task = asyncio.create_task(served.process.run())
    await waited_for.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [each.returncode for each in spawned] == [-signal.SIGKILL]
    assert served.stats.extender_restarts_total == 0
    assert spawners() == []


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours:
        yield ours, theirs


async def start(spawner: Spawner, theirs: socket.socket, *command: str) -> Spawned:
    return await spawner.start(
        command or (sys.executable, "-c", TIED_TO_ITS_MAKER),
        stdin=theirs,
        passed=[],
        environment=os.environ,
    )


async def ready(ours: socket.socket) -> None:
    assert await asyncio.get_running_loop().sock_recv(ours, 1) == READY


async def test_the_thread_lives_until_its_process_has_ended() -> None:
    spawner = Spawner()
    await spawner.__aenter__()
    with pair() as (ours, theirs):
        process = await start(spawner, theirs)
        assert theirs.fileno() == -1
        await ready(ours)
        leaving = asyncio.create_task(spawner.__aexit__())
        await asyncio.sleep(0)
        [thread] = spawners()
    await process.wait()
    await leaving
    assert process.returncode == 7
    assert not thread.is_alive()


async def test_killed_twice_it_ends_once() -> None:
    async with Spawner() as spawner:
        with pair() as (_, theirs):
            process = await start(spawner, theirs)
            process.kill()
            await process.wait()
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert process.pid is not None
    assert not is_there(process.pid)


async def test_where_it_cannot_be_started_its_sockets_are_closed_and_the_next_one_can() -> None:
    async with Spawner() as spawner:
        with pair() as (_, theirs):
            with pytest.raises(FileNotFoundError):
                await start(spawner, theirs, "/nonexistent/program")
            assert theirs.fileno() == -1
        with pair() as (ours, theirs):
            process = await start(spawner, theirs)
            await ready(ours)
        await process.wait()
    assert process.returncode == 7


class Gate:
    """``Popen`` that waits, before the process is there or after."""

    def __init__(self, told: Callable[[], object], *, before: bool) -> None:
        self._told = told
        self._before = before
        self._open = threading.Event()
        self.made: list[subprocess.Popen[bytes]] = []
        self._popen = subprocess.Popen

    def __call__(self, *args: Any, **options: Any) -> subprocess.Popen[bytes]:
        if self._before:
            self._wait()
        self.made.append(self._popen(*args, **options))
        if not self._before:
            self._wait()
        return self.made[-1]

    def _wait(self) -> None:
        self._told()
        assert self._open.wait(timeout=60)

    def open(self) -> None:
        self._open.set()


@pytest.mark.parametrize("before", [True, False])
async def test_cancelled_while_it_is_started_it_is_ended(
    monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    inside, loop = asyncio.Event(), asyncio.get_running_loop()
    gate = Gate(lambda: loop.call_soon_threadsafe(inside.set), before=before)
    monkeypatch.setattr(subprocess, "Popen", gate)
    with pair() as (_, theirs):
        async with Spawner() as spawner:
            starting = asyncio.create_task(start(spawner, theirs))
            await inside.wait()
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            assert theirs.fileno() != -1, "the number must not be another file's yet"
            gate.open()
        [process] = gate.made
        assert process.returncode == -signal.SIGKILL
        assert theirs.fileno() == -1
    assert spawners() == []


async def test_cancelled_before_its_turn_it_is_never_started() -> None:
    async with Spawner() as spawner:
        with pair() as (ours, theirs), pair() as (_, never):
            process = await start(spawner, theirs)
            await ready(ours)
            starting = asyncio.create_task(start(spawner, never, "/nonexistent/program"))
            await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
    assert process.returncode == 7
    assert never.fileno() == -1


async def test_where_ended_processes_leave_nothing_it_is_no_error() -> None:
    """Who started the aggregator may have told the kernel that it does not care."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with Spawner() as spawner:
            with pair() as (ours, theirs):
                process = await start(spawner, theirs)
                await ready(ours)
            await process.wait()
            process.kill()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert process.returncode == 0, "nobody knows"
