"""1,000 nodes on the real API server, 100 of them faulty at once: until the last taint is seen by a watch.

One real aggregator process with the rights of deploy/, one stream per node. The floor is what any controller needs: 100 bare
PATCHes of Nodes at the same concurrency, seen by the same watch, in turns with the faults on other nodes.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
import psutil

from aggregator.writes import MAX_PARALLEL_WRITES
from bench.figures import report
from bench.fleet import (
    UNBOUNDED,
    Agents,
    Audit,
    NodeWatch,
    following,
    healthy_report,
    make_nodes,
    side_by_side,
)
from contract.vocabulary import TAINT_KEY
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.e2e.rig import Rig

NODES = 1_000
FAULTY = 100
ROUNDS = 3
QUIET_SECONDS = 3.0
IDLE_SECONDS = 10.0
FLOOR_KEY = "bench.example.invalid/floor"
MIB = 1 << 20


class Storm(NamedTuple):
    """One round."""

    floor_seconds: float
    seconds: float
    """From the faults to the last taint seen."""
    first_seconds: float
    cpu_seconds: float
    """The aggregator's, until all was quiet again, without what it uses when nothing happens."""
    calls: Counter[str]
    """Requests to the API server in that time."""


async def main() -> dict[str, bool]:
    """Measure, print, and say which aims were met."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        audit = Audit(folder)
        async with (
            ControlPlane(apiserver_args=audit.apiserver_args) as plane,
            Sandbox(plane) as sandbox,
            Rig(sandbox, folder) as rig,
        ):
            return await _run(rig, audit)


async def _run(rig: Rig, audit: Audit) -> dict[str, bool]:
    names = [f"node-{number:04d}" for number in range(NODES)]
    agents = Agents(names, await healthy_report())
    async with following(rig.plane) as watch:
        print(f"  quarantine storm: making {NODES} nodes", file=sys.stderr, flush=True)
        await make_nodes(rig.plane, names)
        await watch.known(NODES)
        await watch.until(names, "node.kubernetes.io/not-ready", present=False)
        process = await rig.start_aggregator(
            **UNBOUNDED,
            tick_seconds="1",
            lease_duration_seconds="15",
            lease_renew_deadline_seconds="10",
            lease_retry_seconds="2",
        )
        assert process.pid is not None
        aggregator = psutil.Process(process.pid)
        async with agents.reporting(rig.grpc_port):
            started = time.perf_counter()
            await watch.until(names, "GPUHealthy=True")
            await watch.quiet(QUIET_SECONDS)
            print(
                f"  quarantine storm: all known healthy after {time.perf_counter() - started:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            return await _storms(rig.plane, watch, agents, aggregator, audit, names)


async def _storms(
    plane: ControlPlane,
    watch: NodeWatch,
    agents: Agents,
    aggregator: psutil.Process,
    audit: Audit,
    names: Sequence[str],
) -> dict[str, bool]:
    idle_before = _cpu(aggregator)
    await asyncio.sleep(IDLE_SECONDS)
    idle = (_cpu(aggregator) - idle_before) / IDLE_SECONDS
    storms = []
    for turn in range(ROUNDS):
        bad = names[turn * FAULTY : (turn + 1) * FAULTY]
        others = names[-FAULTY:]
        floor = await _bare_patches(plane, watch, others)
        storms.append(await _storm(watch, agents, aggregator, audit, bad, idle, floor))
        print(f"  quarantine storm: round {turn + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    resident = aggregator.memory_info().rss / MIB
    return _tell(storms, idle, resident)


async def _storm(
    watch: NodeWatch,
    agents: Agents,
    aggregator: psutil.Process,
    audit: Audit,
    bad: Sequence[str],
    idle: float,
    floor: float,
) -> Storm:
    calls_before = audit.calls()
    cpu_before, started = _cpu(aggregator), time.perf_counter()
    agents.break_down(bad)
    seen = await watch.until(bad, TAINT_KEY)
    await watch.quiet(QUIET_SECONDS)
    elapsed = time.perf_counter() - started
    return Storm(
        floor_seconds=floor,
        seconds=max(seen) - started,
        first_seconds=min(seen) - started,
        cpu_seconds=_cpu(aggregator) - cpu_before - idle * elapsed,
        calls=audit.calls() - calls_before,
    )


async def _bare_patches(plane: ControlPlane, watch: NodeWatch, nodes: Sequence[str]) -> float:
    """The same number of taints by nothing but PATCHes; taken off again."""
    headers = {"Content-Type": "application/merge-patch+json"}

    async def everywhere(taints: list[Any]) -> None:
        body = msgspec.json.encode({"spec": {"taints": taints}})

        async def one(name: str) -> None:
            path = f"/api/v1/nodes/{name}"
            async with session.patch(path, data=body, headers=headers) as response:
                assert response.status == 200, await response.text()
                await response.read()

        await side_by_side([partial(one, name) for name in nodes], MAX_PARALLEL_WRITES)

    async with plane.api.session() as session:
        await everywhere([])  # its connections are open, as ours are
        started = time.perf_counter()
        await everywhere([{"key": FLOOR_KEY, "value": "x", "effect": "PreferNoSchedule"}])
        took = max(await watch.until(nodes, FLOOR_KEY)) - started
        await everywhere([])
    await watch.until(nodes, FLOOR_KEY, present=False)
    await watch.quiet(QUIET_SECONDS)
    return took


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _tell(storms: Sequence[Storm], idle: float, resident_mib: float) -> dict[str, bool]:
    seconds = median(each.seconds for each in storms)
    floor = median(each.floor_seconds for each in storms)
    ratios = [each.seconds / each.floor_seconds for each in storms]
    writes = Counter[str]()
    for each in storms:
        writes.update(each.calls)
    per_node = {call: count / FAULTY / len(storms) for call, count in writes.most_common()}
    calls = sum(count for call, count in per_node.items() if "leases" not in call)
    cpu = median(each.cpu_seconds for each in storms)
    return report(
        "quarantine-storm",
        text=f"{FAULTY} faulty nodes of {NODES}: all tainted after {seconds:.2f} s, bare PATCHes {floor:.2f} s; "
        f"{calls:.1f} API calls and {cpu / FAULTY * 1e3:.0f} ms of CPU per node, {resident_mib:.0f} MiB resident",
        ratio=median(ratios),
        aims={
            "under 10x the floor": median(ratios) < 10,
            "at most 8 API calls per node": calls <= 8,
        },
        seconds=[round(each.seconds, 3) for each in storms],
        first_seconds=[round(each.first_seconds, 3) for each in storms],
        floor_seconds=[round(each.floor_seconds, 3) for each in storms],
        cpu_seconds=[round(each.cpu_seconds, 2) for each in storms],
        idle_cpu_percent=round(idle * 100, 1),
        resident_mib=round(resident_mib, 1),
        calls_per_node={call: round(count, 2) for call, count in per_node.items()},
    )


if __name__ == "__main__":
    asyncio.run(main())
