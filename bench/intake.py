"""Reports per second through intake into the fleet picture, against a bare grpc.aio echo of the same bytes.

Server and client are two processes. The client keeps the same number of streams and of unanswered reports
open against both servers, in turns, so that the two rates come from the same machine in the same minute.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from statistics import median
from typing import Any

import grpc
import grpc.aio

from agent.assembly import simulated_agent
from agent.config import AgentSettings
from agent.report import encode
from agent.sources.replay import Scenario
from aggregator.fleet import Fleet
from aggregator.intake import Intake, IntakeServer, trust_claim
from aggregator.stats import AggregatorStats
from bench.figures import report
from contract.wire import CONNECT_METHOD, NODE_METADATA

STREAMS = 32
IN_FLIGHT = 8
ROUND_SECONDS = 3.0
ROUNDS = 5
ECHO_METHOD = "/bench.Echo/Connect"


async def serve() -> None:
    """Both servers in one process on two ports, printed; ends when stdin does."""
    fleet = Fleet()
    intake = Intake(
        accept=lambda message: (fleet.apply(message, time.time()), None)[1],
        gone=fleet.disconnected,
        knows=lambda node: True,
        authenticate=trust_claim,
        stats=AggregatorStats(),
        max_reports_per_second=float("inf"),
    )
    echo = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(_echo)
    echo.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench.Echo", {"Connect": handler}),)
    )
    echo_port = echo.add_insecure_port("127.0.0.1:0")
    await echo.start()
    async with IntakeServer(intake, "127.0.0.1:0") as server:
        print(server.port, echo_port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await echo.stop(0)


async def _echo(requests: AsyncIterator[bytes], context: Any) -> None:
    async for message in requests:
        await context.write(message)


async def _reports() -> list[bytes]:
    """One healthy 8-GPU, 8-port report per stream, as an agent encodes it."""
    scenario = Scenario(rows=("a",), nodes_per_row=STREAMS)
    made = []
    for name in scenario.node_names():
        agent = simulated_agent(AgentSettings(), scenario, name, start=time.time())
        await agent.tick()
        made.append(
            encode(
                agent.snapshot,
                (),
                (),
                sequence=1,
                urgent=False,
                events_dropped_total=0,
                agent_version="bench",
            )
        )
    return made


async def _rate(port: int, method: str, messages: list[bytes]) -> float:
    """Answers per second over all streams."""
    end = time.perf_counter() + ROUND_SECONDS
    names = Scenario(rows=("a",), nodes_per_row=STREAMS).node_names()

    async def stream(name: str, message: bytes) -> int:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),)
        ) as channel:
            call = channel.stream_stream(method)(metadata=((NODE_METADATA, name),))
            for _ in range(IN_FLIGHT):
                await call.write(message)
            answered = 0
            while time.perf_counter() < end:
                await call.read()
                answered += 1
                await call.write(message)
            call.cancel()
            return answered

    started = time.perf_counter()
    counts = await asyncio.gather(*(stream(n, m) for n, m in zip(names, messages, strict=True)))
    return sum(counts) / (time.perf_counter() - started)


async def main() -> dict[str, bool]:
    """Measure, print, and say which aims were met."""
    messages = await _reports()
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.intake",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdin is not None
    ports = (await server.stdout.readline()).split()
    ours, floor = [], []
    try:
        for turn in range(ROUNDS):
            print(f"  intake: round {turn + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            ours.append(await _rate(int(ports[0]), CONNECT_METHOD, messages))
            floor.append(await _rate(int(ports[1]), ECHO_METHOD, messages))
    finally:
        server.stdin.close()
        await server.wait()
    ratios = [mine / bare for mine, bare in zip(ours, floor, strict=True)]
    return report(
        "intake",
        text=f"{median(ours):.0f} reports/s of {len(messages[0])} bytes through intake into the fleet "
        f"picture, bare echo {median(floor):.0f}/s",
        ratio=median(ratios),
        aims={"at least half the floor": median(ratios) >= 0.5},
        reports_per_second=round(median(ours)),
        echo_per_second=round(median(floor)),
        report_bytes=len(messages[0]),
        ratios=[round(each, 3) for each in ratios],
    )


if __name__ == "__main__":
    asyncio.run(serve())
