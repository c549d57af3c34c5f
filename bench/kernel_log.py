"""The kernel log: how soon a line is a finding, and what a flood of lines costs.

The agent's own reader and judge over a pipe that gives one record per read, as /dev/kmsg does. Records are ordinary kernel
noise with one XID in a hundred. The floor is a program that reads the same records and looks for nothing.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from agent.config import AgentSettings
from agent.runtime import NodeAgent
from agent.snapshot import Snapshot
from agent.sources.kmsg import KmsgSource
from agent.stats import AgentStats
from bench.figures import report
from contract.vocabulary import Event, Finding
from tests.kernel_noise import LINES

LINES_PER_SECOND = 10_000
SECONDS = 10
FAULTS = 200

WRITER = """
import sys, time, os
lines = sys.stdin.buffer.read().splitlines()
descriptor, rate, total = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
start = time.monotonic()
for number in range(total):
    body = b"6,%d,1000000000000000,-;%s\\n" % (number, lines[number % len(lines)])
    os.write(descriptor, body)
    if number % 100 == 99:
        time.sleep(max(0.0, start + (number + 1) / rate - time.monotonic()))
"""

FLOOR = """
import os, sys, resource
descriptor, total = int(sys.argv[1]), int(sys.argv[2])
for _ in range(total):
    os.read(descriptor, 65536)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime)
"""


class Listener:
    """Stands where the uplink does, and knows when each finding came."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], float] = {}
        self.news = asyncio.Event()

    def offer(
        self,
        snapshot: Snapshot,
        findings: tuple[Finding, ...],
        events: Iterable[Event],
        *,
        urgent: bool,
    ) -> None:
        """Take note of the time."""
        now = time.monotonic()
        for finding in findings:
            self.seen.setdefault(finding.key, now)
        self.news.set()


def noise() -> list[str]:
    """A hundred kernel-log texts, one of them an XID."""
    texts = [LINES[number % len(LINES)] for number in range(99)]
    return [*texts, "NVRM: Xid (PCI:0000:3b:00): 31, pid=4242, name=python, Ch 00000008"]


async def main() -> dict[str, bool]:
    """Measure, print, and say which aims were met."""
    delays = await _delays()
    cpu, lines, lost = await _flood()
    floor = await asyncio.to_thread(_floor)
    return report(
        "kernel-log",
        text=f"line to finding p50 {statistics.median(delays) * 1e3:.2f} ms, worst of {FAULTS} "
        f"{max(delays) * 1e3:.1f} ms; {LINES_PER_SECOND} lines/s for {SECONDS} s: {lost} lost, "
        f"{cpu / SECONDS * 100:.0f} % of one core (floor {floor / SECONDS * 100:.0f} %)",
        ratio=cpu / floor,
        aims={
            "a finding within 50 ms": max(delays) < 0.05,
            "no line lost": lost == 0,
            "under one core": cpu / SECONDS < 1,
        },
        finding_p50_ms=round(statistics.median(delays) * 1e3, 3),
        finding_max_ms=round(max(delays) * 1e3, 3),
        lines=lines,
        lines_lost=lost,
        cpu_seconds=round(cpu, 3),
        floor_cpu_seconds=round(floor, 3),
    )


async def _with_agent(work: Callable[[NodeAgent, Listener, int], Any]) -> Any:
    reading, writing = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
    agent = NodeAgent(
        node="bench",
        boot_id="bench",
        settings=AgentSettings(),
        stats=AgentStats(),
        clock=time.time,
    )
    listener = Listener()
    agent.uplink = listener  # type: ignore[assignment]
    agent.sources = [
        KmsgSource(
            f"/proc/self/fd/{reading}",
            emit=agent.emit,
            stats=agent.stats,
            clock=time.time,
            boot_seconds=time.time(),
        )
    ]
    task = asyncio.create_task(agent.run())
    try:
        await asyncio.wait_for(listener.news.wait(), 10)
        return await work(agent, listener, writing)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        os.close(reading)
        os.close(writing)


async def _delays() -> list[float]:
    """Time from a readable line to the finding, one fault at a time."""

    async def work(_: NodeAgent, listener: Listener, descriptor: int) -> list[float]:
        delays = []
        for number in range(FAULTS):
            line = f"6,{number},{int(1e15)},-;NVRM: Xid (PCI:{number:04x}:3b:00): 79, pid=1, GPU is gone\n"
            key = (f"gpu:{number:04x}:3b:00.0", "xid-79")
            started = time.monotonic()
            os.write(descriptor, line.encode())
            while key not in listener.seen:
                listener.news.clear()
                await asyncio.wait_for(listener.news.wait(), 10)
            delays.append(listener.seen[key] - started)
            await asyncio.sleep(0.005)
        return delays

    return list(await _with_agent(work))


async def _flood() -> tuple[float, int, int]:
    """CPU seconds of the agent, lines written, lines lost."""
    total = LINES_PER_SECOND * SECONDS

    async def work(agent: NodeAgent, _: Listener, descriptor: int) -> tuple[float, int, int]:
        before = time.process_time()
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITER, str(descriptor), str(LINES_PER_SECOND), str(total)),
            pass_fds=(descriptor,),
            stdin=subprocess.PIPE,
        )
        await writer.communicate("\n".join(noise()).encode())
        await asyncio.sleep(0.5)
        return time.process_time() - before, total, total - agent.stats.kmsg_lines

    spent, lines, lost = await _with_agent(work)
    return spent, lines, lost


def _floor() -> float:
    """CPU seconds of reading the same records and nothing else."""
    total = LINES_PER_SECOND * SECONDS
    reading, writing = os.pipe2(os.O_DIRECT)
    try:
        reader = subprocess.Popen(
            [sys.executable, "-c", FLOOR, str(reading), str(total)],
            pass_fds=(reading,),
            stdout=subprocess.PIPE,
        )
        subprocess.run(
            [sys.executable, "-c", WRITER, str(writing), str(LINES_PER_SECOND), str(total)],
            pass_fds=(writing,),
            input="\n".join(noise()).encode(),
            check=True,
        )
        return float(reader.communicate()[0])
    finally:
        os.close(reading)
        os.close(writing)


if __name__ == "__main__":
    asyncio.run(main())
