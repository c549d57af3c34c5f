"""GPU pods per second through the real kube-scheduler with our extender, against the same scheduler without it.

500 nodes with 8 GPUs each and pods of several sizes, all there before the scheduler starts; from the first binding that a watch sees to
the last. Two figures:

* as shipped: kube-scheduler sends its API server 50 requests a second (100 at once), which is its own default;
* without that limit, as fast as it can, to see what the extender costs. Three arms in turns: no extender; one that answers ``[]`` unread,
  the least that any extender costs; ours, in its own process (``scheduler_listen``).

A real aggregator with an agent's stream for each node; in all arms it follows the pods, so that all share the machine with it. Wall clock on few cores tells of
neighbours too: CPU time per pod stands beside it, by process, and what share of the machine others took. The arm without an extender
alone has the scheduler's opportunistic batching, which it turns off where there is any extender.
"""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import aiohttp
import msgspec
import psutil

from bench.figures import report
from bench.fleet import UNBOUNDED, Agents, following, healthy_report, make_nodes, side_by_side
from bench.placed import Placed
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.manifests import gpu_pod
from tests.controlplane.process import free_port
from tests.controlplane.sandbox import Sandbox
from tests.e2e.rig import Rig

NODES = 500
PODS = 1_500
SHAPES = (1, 1, 1, 2, 4)
"""GPUs that the pods ask for, in turns: two thirds of all GPUs are taken in the end."""
ROUNDS = 8
PARALLEL = 16
UNLIMITED = 5_000
SETTLE_SECONDS = 3.0
PAGE_SECONDS = 60.0
ASKED = 'fleetmedic_aggregator_extender_requests_total{verb="prioritize"}'
JSON = {"Content-Type": "application/json"}

ARMS = ("alone", "empty", "ours")

SHIPPED_ARMS = ("alone", "ours")
SHIPPED_PODS = 600
SHIPPED_ROUNDS = 2


def node_names(count: int) -> list[str]:
    """Of the fleet."""
    return [f"node-{number:04d}" for number in range(count)]


class Run(NamedTuple):
    """One fleet of pods placed."""

    pods_per_second: float
    cpu_ms: dict[str, float]
    """Per pod, by process, from the first binding to the last."""
    neighbours: float
    """Share of the machine's CPU time, in that time, that went to processes which are not ours."""
    nodes_used: int


class Bench(NamedTuple):
    """What all runs share."""

    rig: Rig
    placed: Placed
    path: str
    """Of the pods."""
    ports: dict[str, int]
    """By arm, where its extender listens."""
    processes: dict[str, psutil.Process]
    """All but the scheduler, which is another one in each run."""


async def main() -> dict[str, bool]:
    """Measure, print, and say which aims were met."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            ControlPlane() as plane,
            Sandbox(plane) as sandbox,
            Rig(sandbox, Path(folder)) as rig,
        ):
            names = node_names(NODES)
            print(f"  scheduling: making {NODES} nodes", file=sys.stderr, flush=True)
            async with following(plane) as watch:
                await make_nodes(plane, names)
                await watch.known(NODES)
                await watch.until(names, "node.kubernetes.io/not-ready", present=False)
                ours = free_port()
                aggregator = await rig.start_aggregator(
                    **UNBOUNDED,
                    scheduler_listen=f"127.0.0.1:{ours}",
                    tick_seconds="1",
                    lease_duration_seconds="15",
                    lease_renew_deadline_seconds="10",
                    lease_retry_seconds="2",
                )
                agents = Agents(names, await healthy_report())
                async with agents.reporting(rig.grpc_port):
                    await watch.until(names, "GPUHealthy=True")
                    await watch.quiet(SETTLE_SECONDS)
                    async with _noop() as (noop, ports):
                        return await _rounds(
                            Bench(
                                rig,
                                placed=Placed(),
                                path=sandbox.path("pods"),
                                ports={**ports, "ours": ours},
                                processes={
                                    **_aggregator(aggregator.pid),
                                    "no-op": _process(noop.pid),
                                    **_control_plane(),
                                },
                            )
                        )


async def _rounds(bench: Bench) -> dict[str, bool]:
    async with _following(bench):
        shipped = await _series(bench, SHIPPED_ARMS, SHIPPED_ROUNDS, SHIPPED_PODS, limited=True)
        first = await _asked(bench.rig, SHIPPED_PODS * SHIPPED_ROUNDS)
        runs = await _series(bench, ARMS, ROUNDS, PODS, limited=False)
        asked = await _asked(bench.rig, int(first) + PODS * ROUNDS)
    return {**_tell_shipped(shipped, first), **_tell(runs, asked - first)}


async def _series(
    bench: Bench, arms: Sequence[str], rounds: int, count: int, *, limited: bool
) -> dict[str, list[Run]]:
    """The arms in turns, each round begun by another one."""
    runs: dict[str, list[Run]] = {arm: [] for arm in arms}
    for turn in range(rounds):
        for arm in (*arms[turn % len(arms) :], *arms[: turn % len(arms)]):
            runs[arm].append(await _run(bench, arm, count, limited=limited))
        told = ", ".join(f"{each[-1].pods_per_second:.0f} {arm}" for arm, each in runs.items())
        how = "as shipped, " if limited else ""
        print(
            f"  scheduling: {how}round {turn + 1} of {rounds}: pods/s {told}",
            file=sys.stderr,
            flush=True,
        )
    return runs


async def _asked(rig: Rig, expected: int) -> float:
    """How many times the extender was asked; the page is rendered in the aggregator's own rhythm."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PAGE_SECONDS):
            while await rig.metric(ASKED) < expected:
                await asyncio.sleep(1.0)
    return await rig.metric(ASKED)


async def _run(bench: Bench, arm: str, count: int, *, limited: bool) -> Run:
    """Fresh pods, then a fresh scheduler; gone again afterwards."""
    rig, placed = bench.rig, bench.placed
    pods = [gpu_pod(f"pod-{number:05d}", gpus=SHAPES[number % 5]) for number in range(count)]
    await _post(rig.plane, bench.path, pods)
    await placed.until(there=count, bound=0)
    await asyncio.sleep(SETTLE_SECONDS)  # the aggregator takes them in
    placed.times.clear()
    await rig.plane.start_scheduler(_config(rig, bench.ports.get(arm), limited=limited))
    await placed.begun()
    processes = {**bench.processes, **_control_plane()}
    before = {name: _cpu_seconds(each) for name, each in processes.items()}
    machine = psutil.cpu_times()
    begun = len(placed.times)
    await placed.until(there=count, bound=count)
    spent = {name: _cpu_seconds(each) - before[name] for name, each in processes.items()}
    neighbours = _neighbours(machine, psutil.cpu_times(), sum(spent.values()))
    cpu_ms = {name: each * 1e3 / (count - begun) for name, each in spent.items()}
    nodes_used = len(set(placed.node_of.values()))
    await rig.plane.stop_scheduler()
    await rig.plane.request("DELETE", bench.path, {"gracePeriodSeconds": 0})
    await placed.until(there=0, bound=0)
    seconds = placed.times[-1] - placed.times[0]
    return Run((count - 1) / seconds, cpu_ms, neighbours, nodes_used)


def _config(rig: Rig, port: int | None, *, limited: bool) -> dict[str, Any]:
    """The shipped configuration, its extender at this port, or without one."""
    config = rig.scheduler_config()
    for each in config["extenders"]:
        each["urlPrefix"] = f"http://127.0.0.1:{port}/scheduler"
        each["httpTimeout"] = "200ms"
        each.pop("filterVerb", None)
    if port is None:
        del config["extenders"]
    config["percentageOfNodesToScore"] = 100
    connection: dict[str, Any] = {"kubeconfig": str(rig.plane.folder / "scheduler.kubeconfig")}
    if not limited:
        connection |= {"qps": UNLIMITED, "burst": UNLIMITED}
    config["clientConnection"] = connection
    return config


async def _post(plane: ControlPlane, path: str, bodies: Sequence[dict[str, Any]]) -> None:
    async def one(session: aiohttp.ClientSession, body: bytes) -> None:
        async with session.post(path, data=body, headers=JSON) as response:
            assert response.status == 201, await response.text()
            await response.read()

    async with plane.api.session() as session:
        works = [partial(one, session, msgspec.json.encode(body)) for body in bodies]
        await side_by_side(works, PARALLEL)


@asynccontextmanager
async def _following(bench: Bench) -> AsyncIterator[None]:
    task = asyncio.create_task(bench.placed.run(bench.rig.plane, bench.path))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def _noop() -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, int]]]:
    """The extender that does nothing, and its ports, by arm."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.extender_noop"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield child, {"empty": int(await child.stdout.readline())}
    finally:
        child.stdin.close()
        await child.wait()


def _process(pid: int | None) -> psutil.Process:
    assert pid is not None
    return psutil.Process(pid)


def _aggregator(pid: int | None) -> dict[str, psutil.Process]:
    """It, and the process that answers the scheduler."""
    whole = _process(pid)
    (extender,) = whole.children()
    return {"aggregator": whole, "extender": extender}


def _control_plane() -> dict[str, psutil.Process]:
    """Its processes by name, and this one, which plays the agents."""
    found = {each.name(): each for each in psutil.Process().children()}
    found = {name: each for name, each in found.items() if name.startswith(("kube-", "etcd"))}
    return {**found, "agents": psutil.Process()}


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _neighbours(before: Any, after: Any, ours_seconds: float) -> float:
    """The share of others in all CPU time between two readings of the whole machine."""
    passed = [late - early for early, late in zip(before, after, strict=True)]
    idle = (after.idle - before.idle) + (after.iowait - before.iowait)
    share: float = (sum(passed) - idle - ours_seconds) / sum(passed)
    return max(0.0, share)


def _tell_shipped(runs: dict[str, list[Run]], asked: float) -> dict[str, bool]:
    rates = {arm: [each.pods_per_second for each in found] for arm, found in runs.items()}
    ratio = median(mine / bare for mine, bare in zip(rates["ours"], rates["alone"], strict=True))
    return report(
        "scheduling (as shipped)",
        text=f"{median(rates['ours']):.0f} GPU pods/s by kube-scheduler as shipped, with its own limit on requests, "
        f"{median(rates['alone']):.0f} without the extender; {SHIPPED_PODS} pods over {NODES} nodes",
        ratio=ratio,
        aims={
            "as shipped: at least 90 % of the scheduler alone": ratio >= 0.9,
            "as shipped: the extender was asked for every pod": asked
            >= SHIPPED_PODS * SHIPPED_ROUNDS,
        },
        pods_per_second={arm: [round(each, 1) for each in found] for arm, found in rates.items()},
        asked=asked,
    )


def _tell(runs: dict[str, list[Run]], asked: float) -> dict[str, bool]:
    rates = {arm: [each.pods_per_second for each in runs[arm]] for arm in ARMS}
    ratios = {
        arm: [mine / bare for mine, bare in zip(rates[arm], rates["alone"], strict=True)]
        for arm in ARMS[1:]
    }
    ratio = median(ratios["ours"])
    to_empty = median(
        mine / least for mine, least in zip(rates["ours"], rates["empty"], strict=True)
    )
    middle = {arm: median(each) for arm, each in rates.items()}
    used = {arm: [each.nodes_used for each in runs[arm]] for arm in ARMS}
    return report(
        "scheduling (without a limit)",
        text=f"{middle['ours']:.0f} GPU pods/s by kube-scheduler without its limit over {NODES} nodes with the extender, "
        f"{middle['alone']:.0f} without, {middle['empty']:.0f} with one that answers nothing; "
        f"{PODS} pods on {median(used['ours']):.0f} nodes, on {median(used['alone']):.0f} without",
        ratio=ratio,
        aims={
            "without a limit: at least 90 % of the scheduler alone": ratio >= 0.9,
            "without a limit: the extender was asked for every pod": asked >= PODS * ROUNDS,
        },
        pods_per_second={arm: [round(each, 1) for each in rates[arm]] for arm in ARMS},
        ratios={arm: [round(each, 3) for each in found] for arm, found in ratios.items()},
        ratio_of_means={arm: round(mean(rates[arm]) / mean(rates["alone"]), 3) for arm in ARMS[1:]},
        ratio_empty=round(median(ratios["empty"]), 3),
        ratio_to_empty=round(to_empty, 3),
        cpu_ms_per_pod={arm: _cpu_of(runs[arm]) for arm in ARMS},
        neighbours={arm: [round(each.neighbours, 2) for each in runs[arm]] for arm in ARMS},
        nodes_used=used,
        asked=asked,
    )


def _cpu_of(runs: Sequence[Run]) -> dict[str, float]:
    """By process, the median over the runs, in milliseconds per pod."""
    found = {name: median(each.cpu_ms[name] for each in runs) for name in runs[0].cpu_ms}
    return {name: round(each, 2) for name, each in {**found, "all": sum(found.values())}.items()}


if __name__ == "__main__":
    asyncio.run(main())
