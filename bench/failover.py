"""From the death of the leader to the next decision of the other aggregator, seen as a taint by a watch.

Two real aggregators on one Lease, agents with their real uplink through one address that leads to whoever is ready, as a
Service does. The leader is killed, and as soon as it is gone a GPU of one node fails: until the taint is seen the Lease
has to expire, the other one has to take it and to read anew, the agents have to find it. The floor of a kill is the
Lease itself: nobody may act before it has expired. A leader that is told to stop gives its Lease back; the floor then is the time
between two looks at it.
"""

import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

import msgspec

from agent.assembly import simulated_agent
from agent.config import AgentSettings
from agent.snapshot import Snapshot
from agent.sources.replay import Scenario
from agent.stats import AgentStats
from agent.uplink import Uplink, UplinkSettings
from bench.figures import report
from bench.fleet import UNBOUNDED, NodeWatch, following, gpu_lost, make_nodes
from contract.vocabulary import TAINT_KEY
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.e2e.door import Door, status
from tests.e2e.rig import Rig


class Lease(NamedTuple):
    """One setting of the election, and how often a leader ends under it."""

    duration: float
    renew_deadline: float
    retry: float
    kills: int
    goodbyes: int

    @property
    def settings(self) -> dict[str, str]:
        return {
            "lease_duration_seconds": f"{self.duration:g}",
            "lease_renew_deadline_seconds": f"{self.renew_deadline:g}",
            "lease_retry_seconds": f"{self.retry:g}",
        }


DEFAULT = Lease(15, 10, 2, kills=5, goodbyes=5)
FAST = Lease(2, 1.5, 0.3, kills=10, goodbyes=10)
STANDBY_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = UplinkSettings(node="", target="").backoff_most_seconds
"""Of an agent between two tries to reach the aggregator."""


class Machine:
    """One node's agent: the real uplink, and what it says."""

    def __init__(self, name: str, shot: Snapshot, target: str, seed: int) -> None:
        self.name = name
        self._shot = shot
        settings = UplinkSettings(node=name, target=target, agent_version="bench")
        self.uplink = Uplink(
            settings,
            stats=AgentStats(),
            random=Random(seed).random,
            on_directive=lambda directive: None,
        )
        self.uplink.offer(shot, (), (), urgent=False)

    def break_down(self) -> None:
        """A GPU falls off the bus, now; it is reported as soon as somebody listens."""
        self.uplink.offer(self._shot, (gpu_lost(),), (), urgent=True)


class Pair:
    """Two aggregators that take turns."""

    def __init__(self, rigs: tuple[Rig, Rig], lease: Lease) -> None:
        self.rigs = rigs
        self._lease = lease
        self.leader = 0

    async def ready_port(self) -> int | None:
        """Where a Service would lead to now."""
        for rig in self.rigs:
            if await status(rig, "/readyz") == 200:
                return rig.grpc_port
        return None

    async def start(self) -> asyncio.Task[object]:
        """Start the leader, then the other one; the task ends when that one leads in its turn."""
        await self._start(self.leader)
        return await self.start_standby()

    async def start_standby(self) -> asyncio.Task[object]:
        """Start the one that does not lead, and wait until it serves and has had time to see the Lease."""
        rig = self.rigs[1 - self.leader]
        task: asyncio.Task[object] = asyncio.create_task(self._start(1 - self.leader))
        async with asyncio.timeout(STANDBY_SECONDS):
            while await status(rig, "/healthz") != 200:
                await asyncio.sleep(0.05)
        await asyncio.sleep(self._lease.retry * 2)
        return task

    async def end_leader(self, sign: signal.Signals) -> None:
        """Send the signal, and wait until it is gone."""
        process = self.rigs[self.leader].aggregator
        assert process is not None
        assert process.pid is not None
        self.leader = 1 - self.leader
        await process.stop(sign)

    async def _start(self, number: int) -> None:
        await self.rigs[number].start_aggregator(
            **UNBOUNDED, **self._lease.settings, tick_seconds="1"
        )


async def main() -> dict[str, bool]:
    """Measure, print, and say which aims were met."""
    with tempfile.TemporaryDirectory() as name:
        async with ControlPlane() as plane, following(plane) as watch:
            aims: dict[str, bool] = {}
            for title, lease in (("fast lease", FAST), ("default lease", DEFAULT)):
                folder = Path(name) / title.partition(" ")[0]
                folder.mkdir()
                async with Sandbox(plane) as sandbox:
                    aims |= await _measure(sandbox, folder, watch, title, lease)
            return aims


async def _measure(
    sandbox: Sandbox, folder: Path, watch: NodeWatch, title: str, lease: Lease
) -> dict[str, bool]:
    names = [sandbox.name(f"n{number:02d}") for number in range(lease.kills + lease.goodbyes)]
    await make_nodes(sandbox.plane, names)
    for sub in ("1", "2"):
        (folder / sub).mkdir()
    first, second = Rig(sandbox, folder / "1"), Rig(sandbox, folder / "2")
    async with first, second:
        pair = Pair((first, second), lease)
        async with Door(pair.ready_port) as service, _agents(names, service.port) as machines:
            takeover = await pair.start()
            await watch.until(names, "GPUHealthy=True")
            times: dict[signal.Signals, list[float]] = {signal.SIGKILL: [], signal.SIGTERM: []}
            turns = [signal.SIGKILL] * lease.kills + [signal.SIGTERM] * lease.goodbyes
            for machine, sign in zip(machines, turns, strict=True):
                times[sign].append(await _once(pair, machine, watch, sign))
                await takeover
                takeover = await pair.start_standby()
                await watch.until(names, "GPUHealthy=Unknown", present=False)
                print(
                    f"  failover, {title}: {sign.name} {times[sign][-1]:.2f} s",
                    file=sys.stderr,
                    flush=True,
                )
            takeover.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await takeover
    return _tell(title, lease, times[signal.SIGKILL], times[signal.SIGTERM])


async def _once(pair: Pair, machine: Machine, watch: NodeWatch, sign: signal.Signals) -> float:
    started = time.perf_counter()
    await pair.end_leader(sign)
    machine.break_down()  # not before: the old leader could still act on it
    [seen] = await watch.until([machine.name], TAINT_KEY)
    return seen - started


@asynccontextmanager
async def _agents(names: Sequence[str], port: int) -> AsyncIterator[list[Machine]]:
    scenario = Scenario(rows=("a",), nodes_per_row=1)
    agent = simulated_agent(AgentSettings(), scenario, "sim-a-01", start=time.time())
    await agent.tick()
    machines = [
        Machine(name, msgspec.structs.replace(agent.snapshot, node=name), f"127.0.0.1:{port}", seed)
        for seed, name in enumerate(names)
    ]
    tasks = [asyncio.create_task(each.uplink.run()) for each in machines]
    try:
        yield machines
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell(
    title: str, lease: Lease, kills: Sequence[float], goodbyes: Sequence[float]
) -> dict[str, bool]:
    killed, left = median(kills), median(goodbyes)
    return report(
        f"failover ({title})",
        text=f"leader killed: next decision after {killed:.1f} s (worst {max(kills):.1f}) of a lease of "
        f"{lease.duration:g} s; leader told to stop: {left:.1f} s (worst {max(goodbyes):.1f}), "
        f"looks at the lease {lease.retry:g} s apart",
        ratio=killed / lease.duration,
        aims={
            f"{title}: killed, within the lease, two looks and an agent's longest pause": max(kills)
            < lease.duration + 2.4 * lease.retry + LONGEST_PAUSE_SECONDS,
            f"{title}: told to stop, within two looks and 5 s": max(goodbyes)
            < 2.4 * lease.retry + 5,
        },
        killed_seconds=[round(each, 2) for each in kills],
        stopped_seconds=[round(each, 2) for each in goodbyes],
        lease_seconds=lease.duration,
        retry_seconds=lease.retry,
        ratio_stopped_to_retry=round(left / lease.retry, 2),
    )


if __name__ == "__main__":
    asyncio.run(main())
