"""What stands beside the extender while it is measured: a fleet that reports, and the floor. Each is a process, until its stdin ends.

``python -m bench.extender_load CORE reports PORT NODES RATE``  agents' streams to an aggregator
``python -m bench.extender_load CORE floor``                 the extender's own server, which decodes, encodes every name, and does nothing between
``python -m bench.extender_load CORE drop``                  takes reports, and does not read them
"""

import asyncio
import contextlib
import itertools
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import msgspec

from aggregator.feeds.extender import MAX_BODY_BYTES, PRIORITIZE_PATH
from aggregator.feeds.extender_http import Reply, Server
from aggregator.intake import Intake, IntakeServer, trust_claim
from aggregator.stats import AggregatorStats
from bench.fleet import healthy_report
from contract import report_pb2 as pb
from contract.process import configure_logging
from contract.wire import CONNECT_METHOD, NODE_METADATA

STREAMS_PER_CONNECTION = 100
OPENING_AT_ONCE = 100
REOPEN_SECONDS = 1.0
SAY_SECONDS = 1.0
BUSY_RATIOS = (0.05, 0.4, 0.95)
"""Utilisation of the GPUs in a node's reports, in turns: what is reported changes, as it does in life."""


def node_names(count: int) -> list[str]:
    """As long as names of real nodes are: with 5,000 a request has 0.2 MB."""
    return [f"node-{number:05d}.gpu.cluster.example.org" for number in range(count)]


class _Host(msgspec.Struct, rename="pascal", gc=False):
    host: str
    score: int


class _Request(msgspec.Struct, rename="pascal"):
    pod: dict[str, object]
    node_names: list[str]


def keep_to_core(core: int) -> None:
    """This thread, and every thread and process that it starts, runs on this core alone (where there are as many)."""
    os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})


def measure_on_core(core: int) -> None:
    """This thread is the clock: where it may, it goes before all others of its core, so that its own waiting is not taken for the server's."""
    keep_to_core(core)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


async def answer_nothing() -> None:
    """Serve ``prioritize`` by decoding and encoding alone: all of the request, and a number for every name."""
    decode = msgspec.json.Decoder(_Request).decode
    encode = msgspec.json.Encoder().encode

    def prioritize(path: str, body: bytes | bytearray | None, reply: Reply) -> None:
        asked = decode(body or b"")
        reply(encode([_Host(name, 5) for name in asked.node_names]))

    server = Server(prioritize, [PRIORITIZE_PATH], max_body_bytes=MAX_BODY_BYTES)
    listening = await asyncio.get_running_loop().create_server(server.accept, "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def drop_reports() -> None:
    """Take reports without reading them."""
    intake = Intake(
        accept=lambda message: None,
        gone=lambda node: None,
        knows=lambda node: True,
        authenticate=trust_claim,
        stats=AggregatorStats(),
    )
    async with IntakeServer(intake, "127.0.0.1:0") as reports:
        print(reports.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


class Streams:
    """One stream per node, each with the same pause between its reports."""

    def __init__(self, names: Sequence[str], reports_per_second: float) -> None:
        self._names = names
        self._pause = len(names) / reports_per_second
        self._opening = asyncio.Semaphore(OPENING_AT_ONCE)
        self.open = 0
        self.full = asyncio.Event()
        """Set once all of them were open."""
        self.acked = 0
        self.lost = 0

    async def run(self, port: int) -> None:
        """Until cancelled."""
        templates = await _templates()
        async with contextlib.AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(
                        f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),)
                    )
                )
                for _ in range(-(-len(self._names) // STREAMS_PER_CONNECTION))
            ]
            async with asyncio.TaskGroup() as tasks:
                for number, name in enumerate(self._names):
                    channel = channels[number // STREAMS_PER_CONNECTION]
                    tasks.create_task(self._stream(channel, name, number, templates))

    async def _stream(
        self, channel: grpc.aio.Channel, name: str, number: int, templates: Sequence[bytes]
    ) -> None:
        """One node's agent. It comes back when the connection is lost, as a real one does."""
        while True:
            call = None
            try:
                async with self._opening:
                    call = channel.stream_stream(CONNECT_METHOD)(metadata=((NODE_METADATA, name),))
                    await self._report(call, name, number, templates)
                self.open += 1
                if self.open == len(self._names):
                    self.full.set()
                await self._keep_reporting(call, name, number, templates)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                self.lost += 1
                await asyncio.sleep(REOPEN_SECONDS)
            finally:
                if call is not None:
                    call.cancel()

    async def _keep_reporting(
        self, call: Any, name: str, number: int, templates: Sequence[bytes]
    ) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._pause * (number / len(self._names))
        try:
            for turn in itertools.count(number + 1):
                await asyncio.sleep(due - loop.time())
                await self._report(call, name, turn, templates)
                self.acked += 1
                due += self._pause
        finally:
            self.open -= 1

    async def _report(self, call: Any, name: str, turn: int, templates: Sequence[bytes]) -> None:
        """Reports are bytes made beforehand: of a field that stands twice, the last one counts."""
        own = pb.NodeReport(node=name).SerializeToString()
        await call.write(templates[turn % len(templates)] + own)
        answer = await call.read()
        if answer is grpc.aio.EOF:
            raise asyncio.InvalidStateError
        down = pb.Downstream.FromString(answer)
        assert not down.ack.refused, down.ack.refused


async def _templates() -> list[bytes]:
    template = await healthy_report()
    made = []
    for ratio in BUSY_RATIOS:
        for gpu in template.gpus:
            gpu.utilization_ratio = ratio
        made.append(template.SerializeToString())
    return made


async def report_for(port: int, nodes: int, rate: float) -> None:
    """Say each second how many nodes have reported, until all have; then each second how many reports were answered in it."""
    os.nice(5)  # the one who asks shares this core, and must not wait for us
    streams = Streams(node_names(nodes), rate)
    end = asyncio.create_task(_end_of_stdin())
    task = asyncio.create_task(streams.run(port))
    full = asyncio.create_task(streams.full.wait())
    with contextlib.suppress(BrokenPipeError):
        while not await _any_of(full, end, task):
            print(f"  load: {streams.open:,} of {nodes:,} streams are open", file=sys.stderr)
            print(streams.open, flush=True)
        if full.done():
            print(nodes, flush=True)
        while not end.done() and not task.done():
            before = streams.acked
            await _any_of(end, task)
            print(streams.acked - before, flush=True)
    if task.done():
        task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _any_of(*tasks: asyncio.Task[Any]) -> bool:
    """Whether one of them is done, at once or within a second."""
    done, _ = await asyncio.wait(tasks, timeout=SAY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)


async def _end_of_stdin() -> None:
    """Read by a thread that may be left behind: for one of asyncio's own a process that fails would wait."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def read() -> None:
        while os.read(sys.stdin.fileno(), 1 << 12):
            pass
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    keep_to_core(int(sys.argv[1]))
    configure_logging("error", "text")
    if sys.argv[2] == "floor":
        asyncio.run(answer_nothing())
    elif sys.argv[2] == "drop":
        asyncio.run(drop_reports())
    else:
        asyncio.run(report_for(int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))
