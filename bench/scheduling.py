"""GPU pods per second through the real kube-scheduler with our extender, against the same scheduler without it.

500 nodes with 8 GPUs each and 1,500 pods of several sizes, all there before the scheduler starts; from the first binding that a
watch sees to the last. Three arms in turns, otherwise in the same configuration (the shipped one, every node scored, and no
limit on requests that would hide what the extender costs): no extender; one that answers ``[]`` unread, the least that any extender
costs; ours, in its own process (``scheduler_listen``). A real aggregator with an
agent's stream for each node; in all arms it follows the pods, so that all share the machine with it. Wall clock on few cores tells of
neighbours too: CPU time per pod stands beside it, by process, and what share of the machine others took. The arm without an extender
alone has the scheduler's opportunistic batching, which it turns off where there is any extender.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
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
DEADLINE_SECONDS = 300.0
UNLIMITED = 5_000
SETTLE_SECONDS = 3.0
PAGE_SECONDS = 60.0
ASKED = 'fleetmedic_aggregator_extender_requests_total{verb="prioritize"}'
JSON = {"Content-Type": "application/json"}


ARMS = ("alone", "empty", "ours")


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
    placed: "Placed"
    path: str
    """Of the pods."""
    ports: dict[str, int]
    """By arm, where its extender listens."""
    processes: dict[str, psutil.Process]
    """All but the scheduler, which is another one in each run."""


class _Named(msgspec.Struct, frozen=True, gc=False):
    name: str = ""


class _Spec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    node_name: str = ""


class _Pod(msgspec.Struct, gc=False):
    """Or the status that ends a watch, which has neither."""

    metadata: _Named = _Named()
    spec: _Spec = _Spec()


class _Change(msgspec.Struct, gc=False):
    type: str
    object: _Pod


class Placed:
    """A watch of a namespace's pods: which are there, and when each was first seen to have a node."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.node_of: dict[str, str] = {}
        self.times: list[float] = []
        self._changed = asyncio.Event()

    async def run(self, plane: ControlPlane, path: str) -> None:
        """Follow until cancelled; begun anew where the server ends it, as it does to who reads too slowly."""
        decode = msgspec.json.Decoder(_Change).decode
        timeout = aiohttp.ClientTimeout(total=None)
        async with plane.api.session() as session:
            while True:
                self.there.clear()
                async with session.get(f"{path}?watch=1", timeout=timeout) as response:
                    async for line in response.content:
                        change = decode(line)
                        if change.type == "ERROR":
                            break
                        self._take(change)

    def _take(self, change: _Change) -> None:
        name, node = change.object.metadata.name, change.object.spec.node_name
        if change.type == "DELETED":
            self.there.discard(name)
            self.node_of.pop(name, None)
        else:
            self.there.add(name)
            if node and name not in self.node_of:
                self.node_of[name] = node
                self.times.append(time.perf_counter())
        self._changed.set()

    async def until(self, *, there: int, bound: int) -> None:
        """Wait until there are so many pods, so many of them with a node."""
        await self._when(lambda: (len(self.there), len(self.node_of)) == (there, bound))

    async def begun(self) -> None:
        """Wait until any pod has a node."""
        await self._when(lambda: bool(self.times))

    async def _when(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not true():
                self._changed.clear()
                await self._changed.wait()


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
    runs: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    async with _following(bench):
        for turn in range(ROUNDS):
            for arm in ARMS[turn % len(ARMS) :] + ARMS[: turn % len(ARMS)]:
                runs[arm].append(await _run(bench, arm))
            told = ", ".join(f"{each[-1].pods_per_second:.0f} {arm}" for arm, each in runs.items())
            print(
                f"  scheduling: round {turn + 1} of {ROUNDS}: pods/s {told}",
                file=sys.stderr,
                flush=True,
            )
    return _tell(runs, await _asked(bench.rig))


async def _asked(rig: Rig) -> float:
    """How many times the extender was asked; the page is rendered in the aggregator's own rhythm."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PAGE_SECONDS):
            while await rig.metric(ASKED) < PODS * ROUNDS:
                await asyncio.sleep(1.0)
    return await rig.metric(ASKED)


async def _run(bench: Bench, arm: str) -> Run:
    """Fresh pods, then a fresh scheduler; gone again afterwards."""
    rig, placed = bench.rig, bench.placed
    pods = [gpu_pod(f"pod-{number:05d}", gpus=SHAPES[number % 5]) for number in range(PODS)]
    await _post(rig.plane, bench.path, pods)
    await placed.until(there=PODS, bound=0)
    await asyncio.sleep(SETTLE_SECONDS)  # the aggregator takes them in
    placed.times.clear()
    await rig.plane.start_scheduler(_config(rig, bench.ports.get(arm)))
    await placed.begun()
    processes = {**bench.processes, **_control_plane()}
    before = {name: _cpu_seconds(each) for name, each in processes.items()}
    machine = psutil.cpu_times()
    begun = len(placed.times)
    await placed.until(there=PODS, bound=PODS)
    spent = {name: _cpu_seconds(each) - before[name] for name, each in processes.items()}
    neighbours = _neighbours(machine, psutil.cpu_times(), sum(spent.values()))
    cpu_ms = {name: each * 1e3 / (PODS - begun) for name, each in spent.items()}
    nodes_used = len(set(placed.node_of.values()))
    await rig.plane.stop_scheduler()
    await rig.plane.request("DELETE", bench.path, {"gracePeriodSeconds": 0})
    await placed.until(there=0, bound=0)
    seconds = placed.times[-1] - placed.times[0]
    return Run((PODS - 1) / seconds, cpu_ms, neighbours, nodes_used)


def _config(rig: Rig, port: int | None) -> dict[str, Any]:
    """The shipped configuration, its extender at this port, or without one."""
    config = rig.scheduler_config()
    for each in config["extenders"]:
        each["urlPrefix"] = f"http://127.0.0.1:{port}/scheduler"
        each["httpTimeout"] = "200ms"
        each.pop("filterVerb", None)
    if port is None:
        del config["extenders"]
    config["percentageOfNodesToScore"] = 100
    config["clientConnection"] = {
        "kubeconfig": str(rig.plane.folder / "scheduler.kubeconfig"),
        "qps": UNLIMITED,
        "burst": UNLIMITED,
    }
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


def _tell(runs: dict[str, list[Run]], asked: float) -> dict[str, bool]:
    rates = {arm: [each.pods_per_second for each in runs[arm]] for arm in ARMS}
    ratios = {
        arm: [mine / bare for mine, bare in zip(rates[arm], rates["alone"], strict=True)]
        for arm in ARMS[1:]
    }
    ratio = median(ratios["ours"])
    middle = {arm: median(each) for arm, each in rates.items()}
    used = {arm: [each.nodes_used for each in runs[arm]] for arm in ARMS}
    return report(
        "scheduling",
        text=f"{middle['ours']:.0f} GPU pods/s by kube-scheduler over {NODES} nodes with the extender, "
        f"{middle['alone']:.0f} without, {middle['empty']:.0f} with one that answers nothing; "
        f"{PODS} pods on {median(used['ours']):.0f} nodes, on {median(used['alone']):.0f} without",
        ratio=ratio,
        aims={
            "at least 90 % of the scheduler alone": ratio >= 0.9,
            "the extender was asked for every pod": asked >= PODS * ROUNDS,
        },
        pods_per_second={arm: [round(each, 1) for each in rates[arm]] for arm in ARMS},
        ratios={arm: [round(each, 3) for each in found] for arm, found in ratios.items()},
        ratio_of_means={arm: round(mean(rates[arm]) / mean(rates["alone"]), 3) for arm in ARMS[1:]},
        ratio_empty=round(median(ratios["empty"]), 3),
        ratio_to_empty=round(
            median(mine / least for mine, least in zip(rates["ours"], rates["empty"], strict=True)),
            3,
        ),
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
