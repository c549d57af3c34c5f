"""Volcano's code, and a Prometheus that knows what its page says it should; for ``test_volcano.py``."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.exporter import render
from agent.health import health_of
from agent.stats import AgentStats
from tests import consumers
from tests.controlplane.api import MERGE
from tests.controlplane.gotool import find_go, required_go
from tests.controlplane.manifests import gpu_node, is_ready
from tests.controlplane.sandbox import LABEL, Sandbox
from tests.pages import HOW_TO, yaml_block
from tests.prometheus import sample, server, tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "volcano-rules.yaml"
GO_MOD = consumers.MODULE / "volcano" / "go.mod"
GROUP = "scheduling.volcano.sh/v1beta1"

STEP_SECONDS = 30
HISTORY_SECONDS = 1_800
SILENCE_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Load:
    """The shares of a node's CPU and memory that are in use."""

    cpu: float
    memory: float


TOTAL_BYTES = 1 << 40


def page_of(node: str, load: Load, now: float) -> bytes:
    """What the agent of this node answers to a scrape."""
    shot = sample.snapshot(node, now)
    assert shot.host is not None
    host = msgspec.structs.replace(
        shot.host,
        cpu_utilization_ratio=load.cpu,
        memory_total_bytes=TOTAL_BYTES,
        memory_available_bytes=round(TOTAL_BYTES * (1 - load.memory)),
    )
    shot = msgspec.structs.replace(shot, host=host)
    return render(shot, (), AgentStats(), health=health_of(shot, ()))


def history(loads: dict[str, Load], silent: frozenset[str], now: float, seconds: int) -> str:
    """So many seconds of what was scraped, and of what our rules made of it, as OpenMetrics.

    The rules' arithmetic is judged by promtool, in ``tests/prometheus/volcano-rules.test.yaml``. Here they go on from this.
    """
    series: dict[str, list[str]] = {}
    start = now - seconds
    for node, load in loads.items():
        available = TOTAL_BYTES * (1 - load.memory)
        mine, told = f'{{node="{node}"}}', f'{{instance="{node}",source="fleetmedic"}}'
        idle = f'{{instance="{node}",mode="idle",cpu="all",source="fleetmedic"}}'
        for step in range(seconds // STEP_SECONDS):
            at = start + STEP_SECONDS * step
            values = {
                f"node_cpu_seconds_total{idle}": STEP_SECONDS * (1 - load.cpu) * (step + 1),
                f"node_memory_MemAvailable_bytes{told}": available,
                f"node_memory_MemTotal_bytes{told}": TOTAL_BYTES,
            }
            if node not in silent or at < now - SILENCE_SECONDS:
                values |= {
                    f"fleetmedic_host_cpu_utilization_ratio{mine}": load.cpu,
                    f"fleetmedic_host_memory_available_bytes{mine}": available,
                    f"fleetmedic_host_memory_size_bytes{mine}": TOTAL_BYTES,
                }
            for name, value in values.items():
                series.setdefault(name, []).append(f"{name} {value} {at:.0f}")
    lines = [line for name in sorted(series) for line in series[name]]
    return "\n".join([*lines, "# EOF\n"])


@asynccontextmanager
async def prometheus(
    folder: Path,
    loads: dict[str, Load],
    silent: frozenset[str] = frozenset(),
    seconds: int = HISTORY_SECONDS,
) -> AsyncIterator[str]:
    """A Prometheus with our rules as they are shipped, with some history, and agents that it scrapes."""
    now = time.time()
    if loads:
        past = folder / "history.txt"
        past.write_text(history(loads, silent, now - 1, seconds))
        made = await asyncio.to_thread(
            tools.run,
            "promtool",
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            past,
            folder / "data",
        )
        assert made.returncode == 0, made.stdout + made.stderr
    pages = {f"/{node}": page_of(node, load, now) for node, load in loads.items()}
    for node in silent:
        del pages[f"/{node}"]
    async with server.serving(pages) as address:
        targets = {f"{address}{path}": f"10.0.0.{n}:9402" for n, path in enumerate(pages)}
        async with server.prometheus(folder, targets, RULES) as url:
            yield url


def configuration(address: str, *, predicate: bool = False) -> str:
    """The page's configuration of Volcano; Prometheus' address and the interval are the test's own."""
    text = yaml_block(HOW_TO / "volcano.md", "usage.weight")
    changes = {"http://prometheus.monitoring.svc:9090": address, "interval: 30s": "interval: 1s"}
    if predicate:
        changes["enablePredicate: false"] = "enablePredicate: true"
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def asking(
    program: Path, plane: ControlPlane, metrics: Json, *nodes: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The code that the scheduler asks with, ready for rounds of questions about these nodes."""
    child = await asyncio.create_subprocess_exec(
        program,
        plane.kubeconfig,
        json.dumps(metrics),
        *nodes,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def round_of(child: asyncio.subprocess.Process) -> Any:
    """The answer to one round."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"\n")
    return json.loads(await child.stdout.readline())


async def ask(program: Path, plane: ControlPlane, metrics: Json, *nodes: str) -> Any:
    async with asking(program, plane, metrics, *nodes) as child:
        return await round_of(child)


async def connections(url: str) -> int:
    """How many are open to this Prometheus, by its own count; ours among them."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    lines = re.findall(r"^net_conntrack_listener_conn_(\w+)_total.* (\d+)$", text, re.MULTILINE)
    count = {name: int(value) for name, value in lines}
    return count["accepted"] - count["closed"]


async def open_queue(plane: ControlPlane) -> None:
    """Volcano's controller would open the queue; it does not run here."""
    body: Json = {
        "apiVersion": GROUP,
        "kind": "Queue",
        "metadata": {"name": "default"},
        "spec": {"weight": 1, "reclaimable": True},
    }
    path = f"/apis/{GROUP}/queues"
    status, answer = await plane.request("POST", path, body)
    assert status == 201, answer
    opened = {"status": {"state": "Open", "reservation": {}, "allocated": {}}}
    status, answer = await plane.request("PATCH", f"{path}/default/status", opened, MERGE)
    assert status == 200, answer


class Door:
    """Volcano's way to Prometheus: passes every query on, and knows which have been answered."""

    def __init__(self, prometheus: str) -> None:
        self.answered: Counter[str] = Counter()
        self._prometheus = prometheus
        self._news = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        app = web.Application()
        app.add_routes([web.post("/api/v1/query", self._query)])
        async with aiohttp.ClientSession() as self._session, TestServer(app) as at:
            yield f"http://127.0.0.1:{at.port}"

    async def _query(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        async with self._session.post(self._prometheus + request.path, data=form) as found:
            answer = web.Response(body=await found.read(), content_type="application/json")
        self.answered[str(form["query"])] += 1
        self._news.set()
        return answer

    async def rounds(self, nodes: list[str], count: int = 3) -> None:
        """Until a whole round about these nodes has been asked and its answers are believed.

        The first of three may have begun before this call; when the third ends, the second is certainly in use.
        """
        before = self.answered.copy()
        while True:
            new = self.answered - before
            asked = [sum(n for query, n in new.items() if f'"{node}"' in query) for node in nodes]
            if min(asked) >= 2 * count:  # one for CPU, one for memory
                return
            self._news.clear()
            await self._news.wait()


class Corner:
    """Some nodes, and pods that a vc-scheduler places on them."""

    def __init__(self, sandbox: Sandbox, names: list[str]) -> None:
        self.sandbox = sandbox
        self.names = names

    async def pod(self, name: str, **spec: Any) -> Json:
        """A new pod, in a group of its own as Volcano's controller would make it."""
        group: Json = {
            "apiVersion": GROUP,
            "kind": "PodGroup",
            "metadata": {"name": name},
            "spec": {"minMember": 1, "queue": "default"},
        }
        await self.sandbox.create(self.sandbox.path("podgroups", group=GROUP), group)
        annotations = {"scheduling.k8s.io/group-name": name}
        return await self.sandbox.pod(
            name, annotations=annotations, schedulerName="volcano", **spec
        )

    async def place(self, *pods: str, **spec: Any) -> list[str]:
        """The node of each of these new pods, one after the other."""
        found = []
        for name in pods:
            await self.pod(name, **spec)
            path = self.sandbox.path("pods", name)
            pod = await self.sandbox.plane.until(path, lambda seen: seen["spec"].get("nodeName"))
            found.append(pod["spec"]["nodeName"])
        return found

    async def refused(self, name: str, because: str, **spec: Any) -> None:
        """Until this new pod has no node for this reason."""
        await self.pod(name, **spec)
        path = self.sandbox.path("pods", name)
        await self.sandbox.plane.until(path, lambda pod: because in _reason(pod))


def _reason(pod: Json) -> str:
    conditions = pod.get("status", {}).get("conditions") or ()
    said = [each for each in conditions if each["type"] == "PodScheduled"]
    return "".join(each.get("message", "") for each in said if each["status"] == "False")


@asynccontextmanager
async def scheduling(
    plane: ControlPlane,
    scheduler_program: Path,
    folder: Path,
    loads: dict[str, Load],
    unknown: tuple[str, ...] = (),
    *,
    predicate: bool = False,
) -> AsyncIterator[Corner]:
    """A vc-scheduler that has asked about every one of these nodes."""
    async with Sandbox(plane) as sandbox, prometheus(folder, loads) as url:
        names = [*loads, *unknown]
        for name in names:
            labels = {LABEL: sandbox.namespace}
            await sandbox.create("/api/v1/nodes", gpu_node(name, kwok=False, labels=labels))
            await plane.until(f"/api/v1/nodes/{name}", is_ready)
        door = Door(url)
        async with door.open() as address:
            settings = folder / "volcano" / "volcano-scheduler.conf"
            settings.parent.mkdir()
            settings.write_text(configuration(address, predicate=predicate))
            with (folder / "vc-scheduler.log").open("wb") as log:
                child = await asyncio.create_subprocess_exec(
                    scheduler_program,
                    f"--kubeconfig={plane.kubeconfig}",
                    f"--scheduler-conf={settings}",
                    "--leader-elect=false",
                    "--cache-dumper=false",
                    "--schedule-period=200ms",
                    stdout=log,
                    stderr=log,
                )
            try:
                async with asyncio.timeout(60):
                    await door.rounds(names)
                yield Corner(sandbox, names)
            finally:
                if child.returncode is None:
                    child.kill()
                await child.wait()


def definitions(program: Path) -> Path:
    """Volcano's own, in the module that the program is built from."""
    done = subprocess.run(
        [
            find_go(required_go(GO_MOD), program.parent),
            "list",
            "-m",
            "-f",
            "{{.Dir}}",
            "volcano.sh/volcano",
        ],
        cwd=GO_MOD.parent,
        env={**os.environ, **consumers.ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    folder = Path(done.stdout.strip() or "nowhere") / "config" / "crd" / "volcano" / "bases"
    if done.returncode != 0 or not folder.is_dir():
        pytest.skip(f"Volcano's definitions are not to be had: {done.stderr.strip()}")
    return folder
