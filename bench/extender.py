"""How long kube-scheduler waits for the extender: ``prioritize`` over HTTP while a fleet of 5,000 nodes reports.

A real aggregator process on one core, 5,000 streams that bring 2,000 reports a second from another process, and one
connection that is kept open and asks as kube-scheduler does, one pod after the other. Pods come at random times, whether or
not the one before has its answer; what counts is each HTTP request, and beside it stands what a pod waits from when it came.
The extender is a process of its own (``scheduler_listen``) on the same core as the aggregator, and so is the floor: the same
HTTP server, which decodes the request, encodes a number for every name and does nothing between, asked by the same client in turns: once with nothing else on its core, once beside a process that takes (and
drops) the same reports.
"""

import asyncio
import contextlib
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from aggregator.config import ENV_PREFIX
from bench.extender_load import keep_to_core, measure_on_core, node_names
from bench.figures import percentile, report
from tests.controlplane.manifests import extender_args, gpu_pod
from tests.controlplane.process import Process, free_port

NODES = 5_000
FEW = 500
REPORTS_PER_SECOND = 2_000.0
PODS_PER_SECOND = {NODES: 40.0, FEW: 100.0}
TURN_SECONDS = 10.0
TURNS = 3
SETTLE_SECONDS = 5.0
AIM_MS = {NODES: 5.0, FEW: 1.0}
START_SECONDS = 60.0
OPEN_SECONDS = 120.0
"""For all streams."""
STOP_SECONDS = 30.0
"""Until a process that was told to end is killed."""
SERVER_CORE, CLIENT_CORE = 0, 1
SHAPES = (1, 1, 1, 2, 4, 8)
"""GPUs that the pods ask for, in turns."""


class Turn(NamedTuple):
    """One server asked for a while with one number of names."""

    request_ms: list[float]
    """From the request's first byte sent to the reply's last byte received."""
    waited_ms: list[float]
    """From when the pod came: one that comes while another is asked about waits for its turn first."""


class Scheduler:
    """One open connection that asks as Go's client does. Blocks; runs in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, request: bytes) -> bytes:
        """Send one request; the body of its reply, which must be 200."""
        self._socket.sendall(request)
        view, have, need = memoryview(self._buffer), 0, 0
        start = 0
        while not need or have < need:
            got = self._socket.recv_into(view[have:])
            if not got:
                raise AssertionError("the extender hung up")
            have += got
            if not need and (end := self._buffer.find(b"\r\n\r\n", 0, have)) >= 0:
                head = bytes(view[:end])
                assert head.startswith(b"HTTP/1.1 200 "), head
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
                start = end + 4
                need = start + int(length)
        return bytes(view[start:need])

    def take_turn(self, requests: Sequence[bytes], rate: float, seconds: float) -> Turn:
        """Ask for this long; pods come independently of each other, ``rate`` a second."""
        turn = Turn([], [])
        chance = random.Random(7)
        due = time.perf_counter()
        end = due + seconds
        number = 0
        while (due := due + chance.expovariate(rate)) < end:
            if (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            sent = time.perf_counter()
            self.ask(requests[number % len(requests)])
            done = time.perf_counter()
            turn.request_ms.append((done - sent) * 1e3)
            turn.waited_ms.append((done - (sent if left > 0 else due)) * 1e3)
            number += 1
        return turn


def request_of(pod: dict[str, Any], names: Sequence[str]) -> bytes:
    """One ``prioritize`` request, byte by byte as kube-scheduler with nodeCacheCapable sends it."""
    body = extender_args(pod, names)
    head = (
        "POST /scheduler/prioritize HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    return head.encode() + body


def requests_over(names: Sequence[str]) -> list[bytes]:
    """One request per shape of pod, the nodes in another order each time, as the scheduler offers them."""
    made = []
    for number, gpus in enumerate(SHAPES):
        offset = number * len(names) // len(SHAPES)
        made.append(
            request_of(training_pod(number, gpus), [*names[offset:], *names[:offset]]),
        )
    return made


def training_pod(number: int, gpus: int) -> dict[str, Any]:
    """As large as a pod that the API server filled in: 2 kB."""
    pod = gpu_pod(
        f"train-{number}",
        gpus=gpus,
        labels={"training.kubeflow.org/job-name": "train", "app": "train", "team": "vision"},
        annotations={f"example.org/note-{each}": "x" * 100 for each in range(8)},
        schedulerName="default-scheduler",
        serviceAccountName="default",
        tolerations=[
            {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
            for key in ("not-ready", "unreachable")
        ],
    )
    pod["metadata"] |= {"namespace": "team-vision", "uid": f"5f0c1f7e-0000-4000-8000-{number:012d}"}
    resources = pod["spec"]["containers"][0]["resources"]
    resources["requests"] = {**resources["limits"], "cpu": str(8 * gpus), "memory": "64Gi"}
    pod["status"] = {"phase": "Pending", "qosClass": "Burstable"}
    return pod


async def main() -> dict[str, bool]:
    """Measure, print, and say which aims were met."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            _aggregator(Path(folder)) as ours,
            _child("floor", core=SERVER_CORE) as floor,
            _child("drop", core=SERVER_CORE) as drop,
        ):
            floor_port, drop_port = int(await _line(floor)), int(await _line(drop))
            idle = await _turns("floor, idle", floor_port)
            async with _reports(drop_port) as rates:
                busy = await _turns("floor, with reports", floor_port)
                floor_rate = median(rates)
            async with _reports(ours[1]) as rates:
                mine = await _turns("aggregator, with reports", ours[0])
                rate = median(rates)
    return {
        **_tell(NODES, mine[NODES], idle[NODES], busy[NODES], (rate, floor_rate)),
        **_tell(FEW, mine[FEW], idle[FEW], busy[FEW], (rate, floor_rate)),
    }


async def _turns(what: str, port: int) -> dict[int, Turn]:
    """Many names and few, in turns."""
    names = node_names(NODES)
    requests = {count: requests_over(names[:count]) for count in (NODES, FEW)}
    whole = {count: Turn([], []) for count in requests}
    scheduler = Scheduler(port)
    loop = asyncio.get_running_loop()
    try:
        with ThreadPoolExecutor(1, initializer=measure_on_core, initargs=(CLIENT_CORE,)) as thread:
            for number in range(TURNS):
                print(f"  extender: {what}, turn {number + 1} of {TURNS}", file=sys.stderr)
                for count, made in requests.items():
                    rate = PODS_PER_SECOND[count]
                    turn = await loop.run_in_executor(
                        thread, scheduler.take_turn, made, rate, TURN_SECONDS
                    )
                    whole[count].request_ms.extend(turn.request_ms)
                    whole[count].waited_ms.extend(turn.waited_ms)
    finally:
        scheduler.close()
    return whole


@asynccontextmanager
async def _aggregator(folder: Path) -> AsyncIterator[tuple[int, int]]:
    """A real aggregator on one core; the ports of its extender and for reports."""
    http, grpc, scheduler = free_port(), free_port(), free_port()
    settings = {
        "cluster": "observe",
        "http_listen": f"127.0.0.1:{http}",
        "grpc_listen": f"127.0.0.1:{grpc}",
        "scheduler_listen": f"127.0.0.1:{scheduler}",
        "log_level": "error",
    }
    environment = [f"{ENV_PREFIX}{name.upper()}={value}" for name, value in settings.items()]
    runs = ["-m", "aggregator", "run"]
    process = Process(
        "aggregator",
        ["/usr/bin/env", *environment, sys.executable, *runs],
        folder / "aggregator.log",
    )
    # What a thread may run on is inherited by the processes it starts.
    with ThreadPoolExecutor(1, initializer=keep_to_core, initargs=(SERVER_CORE,)) as parent:
        await process.start(parent)
        try:
            await process.ready(lambda: _listens(scheduler), timeout_s=START_SECONDS)
            yield scheduler, grpc
        finally:
            await process.stop()


async def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


@asynccontextmanager
async def _reports(port: int) -> AsyncIterator[list[int]]:
    """The fleet reports to this port until left; the list grows by the reports of each second.

    Raises:
        TimeoutError: not all of its streams could be opened.
        RuntimeError: the process that reports ended by itself.
    """
    arguments = (str(port), str(NODES), str(REPORTS_PER_SECOND))
    rates: list[int] = []

    async def follow() -> None:
        while line := await _line(load):
            rates.append(int(line))

    async with _child("reports", *arguments, core=CLIENT_CORE) as load:
        opened = 0
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                while opened < NODES and (line := await _line(load)):
                    opened = int(line)
        except TimeoutError:
            raise TimeoutError(
                f"{opened:,} of {NODES:,} streams opened within {OPEN_SECONDS:g} s: the machine is too loud"
            ) from None
        if opened < NODES:
            raise RuntimeError("the process that reports ended; its own words stand above")
        follower = asyncio.create_task(follow())
        await asyncio.sleep(SETTLE_SECONDS)
        rates.clear()
        yield rates
    await follower


@asynccontextmanager
async def _child(*arguments: str, core: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of ``bench.extender_load``, told to end by the end of its stdin."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.extender_load", str(core), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
    )
    try:
        yield child
    finally:
        assert child.stdin is not None
        child.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()


async def _line(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    return (await child.stdout.readline()).decode().strip()


def _tell(
    count: int, mine: Turn, idle: Turn, busy: Turn, rates: tuple[float, float]
) -> dict[str, bool]:
    ours, floor, loaded = (_spread(each.request_ms) for each in (mine, idle, busy))
    waited = _spread(mine.waited_ms)
    ratios = {share: ours[share] / floor[share] for share in ("p50", "p99")}
    aim = AIM_MS[count]
    return report(
        f"extender ({count} names)",
        text=f"a request p50 {ours['p50']:.2f} ms, p99 {ours['p99']:.2f} ms while {rates[0]:.0f} reports/s "
        f"arrive (with the wait for its turn {waited['p50']:.2f} and {waited['p99']:.2f} ms); floor p50 {floor['p50']:.2f} ms, "
        f"p99 {floor['p99']:.2f} ms; floor with {rates[1]:.0f} reports/s p50 {loaded['p50']:.2f} ms, p99 {loaded['p99']:.2f} ms",
        ratio=max(ratios.values()),
        aims={
            f"{count} names: p99 under {aim:g} ms": ours["p99"] < aim,
            f"{count} names: p50 and p99 under 3x the floor": max(ratios.values()) < 3,
        },
        requests=len(mine.request_ms),
        reports_per_second=rates[0],
        ratios={share: round(ratio, 2) for share, ratio in ratios.items()},
        ratio_p99_same_load=round(ours["p99"] / loaded["p99"], 2),
        ms=ours,
        waited_ms=waited,
        floor_ms=floor,
        floor_with_reports_ms=loaded,
    )


def _spread(values: Sequence[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    return {name: round(percentile(values, share), 3) for name, share in shares.items()}


if __name__ == "__main__":
    asyncio.run(main())
