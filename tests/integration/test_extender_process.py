"""The extender in a process of its own: a scheduler is answered while the aggregator is busy, and never by a process without one."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from aggregator.config import ENV_PREFIX
from aggregator.feeds import extender_process
from aggregator.feeds.extender import FILTER_PATH, PRIORITIZE_PATH
from aggregator.feeds.extender_process import ExtenderProcess
from aggregator.feeds.extender_turns import BEHIND
from aggregator.scores.book import ScoreBook
from aggregator.stats import AggregatorStats
from contract.vocabulary import Severity
from tests.controlplane.manifests import extender_args
from tests.controlplane.process import free_port
from tests.score_builders import NOW, facts, put, room

NAMES = [f"n{number}" for number in range(50)]
FOR_EVER = 1e12
"""Scores of these tests are of one moment."""


def fleet(names: list[str]) -> ScoreBook:
    book = ScoreBook()
    for number, name in enumerate(names):
        put(book, facts(name), room(name, [0] * (number % 8) + [1000] * (8 - number % 8)))
    book.settle(NOW)
    return book


class Served:
    """One extender process over one book."""

    def __init__(self, book: ScoreBook, **changes: Any) -> None:
        self.book = book
        self.stats = AggregatorStats()
        self.leading = True
        self.process = ExtenderProcess(
            book,
            self.stats,
            "127.0.0.1:0",
            leading=lambda: self.leading,
            **{"stale_after_seconds": FOR_EVER, **changes},
        )

    async def ask(self, names: list[str] | None = None, **options: Any) -> Any:
        """The reply; asked in a thread, as the loop may have to do something for it."""
        return await asyncio.to_thread(ask, self.process.port, names or NAMES, **options)

    async def again(self, before: int) -> None:
        """Wait until another process serves."""
        async with asyncio.timeout(20):
            while self.process.pid == before:
                await asyncio.sleep(0.01)
            await self.process.started.wait()


def ask(port: int, names: list[str], *, gpus: int = 1, path: str = PRIORITIZE_PATH) -> Any:
    pod = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]}}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", extender_args(pod, names))
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.loads(reply.read())


@asynccontextmanager
async def serving(book: ScoreBook, **changes: Any) -> AsyncIterator[Served]:
    served = Served(book, **changes)
    task = asyncio.create_task(served.process.run())
    try:
        async with asyncio.timeout(20):
            await served.process.started.wait()
        yield served
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_scheduler_is_answered_while_the_aggregators_loop_stands_still() -> None:
    async with serving(fleet(NAMES)) as served:
        await served.ask()  # this kind of pod is known from now on
        found = ask(served.process.port, NAMES)  # the loop waits for it and does nothing else
    assert [each["Host"] for each in found] == NAMES


async def test_the_second_pod_of_a_kind_has_its_answer_ready_as_of_now() -> None:
    names = [f"n{number:03d}" for number in range(200)]
    book = ScoreBook()
    for name in names:
        put(book, facts(name), room(name, [1000] * 8))
    book.settle(NOW)
    async with serving(book) as served:
        for _ in range(3):
            await served.ask(names)
        await until(lambda: served.stats.extender_ready_total == 2)
        put(book, facts("n007", worst=Severity.FATAL), room("n007", [1000] * 8))

        async def told() -> dict[str, int]:
            return {each["Host"]: each["Score"] for each in await served.ask(names)}

        async with asyncio.timeout(20):
            while min((await told()).values()) >= 0:
                await asyncio.sleep(0.01)
        found = await told()
        assert min(found, key=lambda name: found[name]) == "n007"
        asked = served.stats.extender_requests
        await until(lambda: served.stats.extender_ready_total == asked["prioritize"] - 1)


async def test_a_kind_of_pod_never_seen_is_ranked_by_its_own_scores_at_once() -> None:
    async with serving(fleet(NAMES)) as served:
        for gpus in (1, 2, 8):
            found = {each["Host"]: each["Score"] for each in await served.ask(gpus=gpus)}
            room_for_it = [name for place, name in enumerate(NAMES) if 8 - place % 8 >= gpus]
            assert min(found[name] for name in room_for_it) > max(
                (found[name] for name in NAMES if name not in room_for_it), default=0
            )
        await until(lambda: served.stats.extender_answers["pod"] == 3)
    assert served.stats.extender_passed_over == {}


async def test_where_the_aggregator_does_not_answer_in_time_a_typical_pod_decides() -> None:
    async with serving(fleet(NAMES)) as served:
        found = ask(
            served.process.port, NAMES, gpus=3
        )  # never asked for, and the loop stands still
        assert len({each["Score"] for each in found}) > 1
        await until(lambda: served.stats.extender_answers["node"] == 1)
    assert served.stats.extender_passed_over == {"late": 1}
    assert sum(served.stats.extender_seconds.counts) == 1


async def test_five_thousand_names_are_answered_by_differences() -> None:
    names = [f"node-{number:05d}.gpu.cluster.example.org" for number in range(5_000)]
    book = fleet(names)
    put(book, facts(names[7], worst=Severity.FATAL, worst_text="gpu-lost on gpu:3"), None)
    book.settle(NOW)
    async with serving(book) as served:
        found = {each["Host"]: each["Score"] for each in await served.ask(names)}
        assert 0 < len(found) < len(names)
        assert min(found, key=lambda name: found[name]) == names[7]
        assert found[names[7]] < min([0, *(n for name, n in found.items() if name != names[7])])
        kept = await served.ask(names, path=FILTER_PATH)
        assert kept["NodeNames"] == [*names[:7], *names[8:]]
        assert kept["FailedAndUnresolvableNodes"] == {
            names[7]: "fleetmedic: fatal: gpu-lost on gpu:3"
        }


async def test_answers_are_true_while_the_fleet_changes_under_them() -> None:
    book = fleet(NAMES)
    async with serving(book) as served:
        for turn in range(30):
            name = f"new-{turn}"
            put(book, facts(name), room(name, [1000] * 8))
            put(book, facts("n3"), room("n3", [1000] * (1 + turn % 8)))
            book.drop(f"new-{turn - 3}")
            book.settle(NOW + turn)
            found = await served.ask()
            assert [each["Host"] for each in found] == NAMES
            assert all(0 <= each["Score"] <= 100 for each in found)
        await asyncio.sleep(2 * extender_process.PUSH_SECONDS)
        by_mirror = await served.ask([*NAMES, "new-29", "new-0"], gpus=1)
    async with serving(book) as anew:
        assert await anew.ask([*NAMES, "new-29", "new-0"], gpus=1) == by_mirror


async def test_a_process_that_is_killed_is_started_anew_on_the_same_port() -> None:
    async with serving(fleet(NAMES)) as served:
        port, pid = served.process.port, served.process.pid
        before = await served.ask()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await served.again(pid)
        assert served.process.port == port
        assert await served.ask() == before
    assert served.stats.extender_restarts_total == 1


async def test_a_process_that_hangs_is_ended_and_started_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extender_process, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(extender_process, "STOP_SECONDS", 0.1)
    async with serving(fleet(NAMES)) as served:
        pid = served.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await served.again(pid)
        assert len(await served.ask()) == len(NAMES)


async def test_when_the_lead_is_lost_the_schedulers_connection_is_closed_at_once() -> None:
    async with serving(fleet(NAMES)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.process.port)
        request = b"POST /scheduler/prioritize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
        writer.write(request)
        assert b"Connection: close" not in await reader.readuntil(b"[]")
        served.leading = False
        async with asyncio.timeout(10):
            assert await reader.read() == b"", "without being asked anything"
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", served.process.port)
        writer.write(request)
        async with asyncio.timeout(10):
            assert b"Connection: close\r\n" in await reader.read()
        writer.close()


async def test_it_is_given_no_secret_and_no_file_of_the_aggregators(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}WEBHOOK_URL", "https://example.org/hook/of-the-aggregator")
    (tmp_path / "token").write_text("t")
    with (tmp_path / "token").open() as token:
        async with serving(fleet(NAMES)) as served:
            theirs = Path(f"/proc/{served.process.pid}")
            held = [str(each.readlink()) for each in (theirs / "fd").iterdir()]
            assert token.name not in held
            assert b"of-the-aggregator" not in (theirs / "environ").read_bytes()


async def test_it_lets_go_of_its_port_and_leaves_no_process() -> None:
    async with serving(fleet(NAMES)) as served:
        port, pid = served.process.port, served.process.pid
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
    assert served.stats.extender_restarts_total == 0


async def test_an_address_that_is_taken_is_an_error_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = ExtenderProcess(
            fleet(NAMES), AggregatorStats(), f"127.0.0.1:{taken.getsockname()[1]}"
        )
        with pytest.raises(OSError, match="address"):
            await process.run()


async def test_an_aggregator_whose_port_is_taken_says_so_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listen = {"http_listen": "127.0.0.1:0", "grpc_listen": "127.0.0.1:0"}
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "aggregator", "run", "--log-level", "error"],
            env={**os.environ, **environment(scheduler_listen=address, **listen)},
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("fleetmedic-aggregator: ")
    assert "address already in use" in line


async def test_every_counter_comes_home() -> None:
    async with serving(fleet(NAMES)) as served:
        await served.ask([*NAMES, "stranger"])
        await served.ask(path=FILTER_PATH)
        with contextlib.suppress(urllib.error.URLError):
            await asyncio.to_thread(
                urllib.request.urlopen,
                urllib.request.Request(
                    f"http://127.0.0.1:{served.process.port}{FILTER_PATH}", b"{"
                ),
                timeout=10,
            )
        await until(lambda: sum(served.stats.extender_seconds.counts) == 3)
    stats = served.stats
    assert stats.extender_requests == {"prioritize": 1, "filter": 2}
    assert {basis: n for basis, n in stats.extender_answers.items() if n} == {
        "pod": 2,
        "unreadable": 1,
    }
    assert (stats.extender_unknown_nodes_total, stats.extender_errors_total) == (1, 1)
    assert stats.extender_seconds.sum > 0


def environment(**settings: str) -> dict[str, str]:
    """Of an aggregator without a cluster."""
    settings = {"cluster": "observe", **settings}
    return {f"{ENV_PREFIX}{name.upper()}": value for name, value in settings.items()}


@asynccontextmanager
async def aggregator(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A whole aggregator in a process group of its own, without a cluster; the extender's port."""
    port = free_port()
    settings = environment(
        http_listen="127.0.0.1:0", grpc_listen="127.0.0.1:0", scheduler_listen=f"127.0.0.1:{port}"
    )
    with (folder / "aggregator.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aggregator", "run"),
            env={**os.environ, **settings},
            stderr=log,
            start_new_session=True,
        )
    try:
        await until(lambda: listens(port))
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


async def test_when_the_aggregator_is_killed_the_port_is_closed(tmp_path: Path) -> None:
    async with aggregator(tmp_path) as (process, port):
        assert len(await asyncio.to_thread(ask, port, NAMES)) == len(NAMES)
        process.kill()
        await until(lambda: not listens(port))


async def test_the_process_that_a_scheduler_waits_for_goes_before_the_aggregator(
    tmp_path: Path,
) -> None:
    async with aggregator(tmp_path) as (process, _):
        (child,) = psutil.Process(process.pid).children()
        tasks = Path(f"/proc/{process.pid}/task")
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        in_front = int(mine < BEHIND)  # the thread that starts the extender's processes
        await until(
            lambda: sum(nice_of(task.name) < BEHIND for task in tasks.iterdir()) == in_front,
        )
        assert nice_of(str(process.pid)) == max(mine, BEHIND)
        assert child.nice() == mine
        # Nor is an answer interrupted whenever a thread of the aggregator wakes.
        behind = [each for each in names_of(tasks) if nice_of(each) >= BEHIND]
        assert {policy_of(each) for each in behind} == {os.SCHED_BATCH}
        assert policy_of(str(child.pid)) == os.SCHED_OTHER


def names_of(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


def policy_of(thread: str) -> int:
    try:
        return os.sched_getscheduler(int(thread))
    except ProcessLookupError:
        return os.SCHED_BATCH


def nice_of(thread: str) -> int:
    try:
        return os.getpriority(os.PRIO_PROCESS, int(thread))
    except ProcessLookupError:
        return BEHIND


async def test_a_signal_to_the_whole_group_ends_both_cleanly(tmp_path: Path) -> None:
    async with aggregator(tmp_path) as (process, port):
        os.killpg(process.pid, signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
        assert not listens(port)
    said = (tmp_path / "aggregator.log").read_text()
    assert "anew" not in said
    assert "Traceback" not in said


def test_it_carries_nothing_that_it_does_not_need() -> None:
    """It is there once per aggregator, beside it."""
    heavy = {"grpc", "kubernetes", "aiohttp", "prometheus_client", "structlog", "google"}
    code = f"import sys, {extender_process.CHILD}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "msgspec" in done.stdout.split()
    assert not heavy & set(done.stdout.split())
