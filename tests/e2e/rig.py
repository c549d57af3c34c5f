"""Fleetmedic for real on a control plane: installed from deploy/, agents over the NVML stand-in, all as processes.

The aggregator runs under the service account and RBAC of deploy/base, and agents prove their node with tokens
bound to their pod, so that an end-to-end test also proves that the shipped rights are enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import yaml

from tests.controlplane.api import MERGE
from tests.controlplane.crds import apply_crds
from tests.controlplane.manifests import gpu_pod
from tests.controlplane.process import Process, free_port
from tests.nvml.standin import Scenario, h100_node

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
NAMESPACE = "fleetmedic"
_ENV = shutil.which("env") or "/usr/bin/env"
QUICK = {
    "FLEETMEDIC_AGENT_SAMPLE_SECONDS": "0.2",
    "FLEETMEDIC_AGENT_REPORT_SECONDS": "1",
    "FLEETMEDIC_AGENT_HOLD_SECONDS": "0.4",
    "FLEETMEDIC_AGENT_CLEAR_SECONDS": "0.6",
}
"""Waits a hundredth as long as in production; what is waited for is the same."""


class Node:
    """One machine of the test: a Node object, a kernel log, GPUs, and the agent that watches them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.kmsg = folder / "kmsg"
        self.token_file = folder / "token"
        self.log = folder / "agent.log"
        folder.mkdir(parents=True)
        os.mkfifo(self.kmsg)
        # Held open for writing and reading, so that neither side ever sees an end of file.
        self._writer = os.open(self.kmsg, os.O_RDWR | os.O_NONBLOCK)
        self.nvml = Scenario(folder / "nvml.scenario").set(gpus=h100_node(8))
        self.agent: Process | None = None
        self._sequence = 0

    def bus(self, gpu: int) -> str:
        """The bus id of a GPU as the kernel log writes it: ``0000:3b:00``."""
        return str(self.nvml.gpus[gpu].pci_bus_id).lower()[4:].rpartition(".")[0]

    def kernel_says(self, text: str) -> None:
        """Write one record as the kernel would."""
        self._sequence += 1
        line = f"3,{self._sequence},{int(time.monotonic() * 1e6)},-;{text}\n"
        os.write(self._writer, line.encode())

    def close(self) -> None:
        """Let go of the kernel log."""
        os.close(self._writer)


class Rig:
    """Aggregator and agents on one sandbox of a control plane; leaving it stops them all."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.plane: ControlPlane = sandbox.plane
        self.sandbox = sandbox
        self.folder = folder
        self.nodes: list[Node] = []
        self.http_port = free_port()
        self.grpc_port = free_port()
        self._parent = ThreadPoolExecutor(1)
        self._aggregators = 0
        self.aggregator: Process | None = None

    async def __aenter__(self) -> Self:
        await install(self.plane)
        return self

    async def __aexit__(self, *exception: object) -> None:
        processes = [each.agent for each in self.nodes if each.agent] + [self.aggregator]
        await asyncio.gather(*(each.stop() for each in processes if each is not None))
        self._parent.shutdown()
        for node in self.nodes:
            node.close()

    async def add_node(self, stem: str, /, **settings: str) -> Node:
        """A new machine with its Node object and a running agent."""
        return await self.machine_of(await self.sandbox.node(stem), **settings)

    async def machine_of(self, name: str, /, **settings: str) -> Node:
        """A new machine for a Node object that is there already, with a running agent."""
        node = Node(name, self.folder / name)
        node.token_file.write_text(await self._token(node.name))
        self.nodes.append(node)
        await self.start_agent(node, **settings)
        return node

    async def start_agent(self, node: Node, /, **settings: str) -> None:
        """Start the node's agent; settings by name win over the quick ones."""
        environment = {
            **os.environ,
            **QUICK,
            **node.nvml.env(),
            "NODE_NAME": node.name,
            "FLEETMEDIC_AGENT_AGGREGATOR": f"127.0.0.1:{self.grpc_port}",
            "FLEETMEDIC_AGENT_TOKEN_FILE": str(node.token_file),
            "FLEETMEDIC_AGENT_KMSG": str(node.kmsg),
            "FLEETMEDIC_AGENT_SYSFS_ROOT": str(self.folder / "no-sysfs"),
            "FLEETMEDIC_AGENT_HTTP_LISTEN": "127.0.0.1:0",
            **{f"FLEETMEDIC_AGENT_{name.upper()}": value for name, value in settings.items()},
        }
        node.agent = await self._start(
            f"agent-{node.name}", ["agent", "run"], environment, node.log
        )

    async def start_aggregator(self, **settings: str) -> Process:
        """Start an aggregator on the rig's ports and wait until it leads and is ready."""
        self._aggregators += 1
        token = await self.aggregator_token()
        kubeconfig = self.plane.write_kubeconfig(token=token, name="aggregator")
        environment = {
            **os.environ,
            "FLEETMEDIC_AGGREGATOR_KUBECONFIG": str(kubeconfig),
            "FLEETMEDIC_AGGREGATOR_HTTP_LISTEN": f"127.0.0.1:{self.http_port}",
            "FLEETMEDIC_AGGREGATOR_GRPC_LISTEN": f"127.0.0.1:{self.grpc_port}",
            "FLEETMEDIC_AGGREGATOR_RELEASE_AFTER_SECONDS": "0.5",
            "FLEETMEDIC_AGGREGATOR_TICK_SECONDS": "0.2",
            "FLEETMEDIC_AGGREGATOR_LEASE_DURATION_SECONDS": "2",
            "FLEETMEDIC_AGGREGATOR_LEASE_RENEW_DEADLINE_SECONDS": "1.5",
            "FLEETMEDIC_AGGREGATOR_LEASE_RETRY_SECONDS": "0.3",
            # Tests share one cluster, where the same fault of many tests would look like a bad release.
            "FLEETMEDIC_AGGREGATOR_BREAKER_NODES": "0",
            "FLEETMEDIC_AGGREGATOR_QUARANTINES_PER_MINUTE": "0",
            "FLEETMEDIC_AGGREGATOR_LOG_LEVEL": "debug",
            **{f"FLEETMEDIC_AGGREGATOR_{name.upper()}": value for name, value in settings.items()},
        }
        log = self.folder / f"aggregator-{self._aggregators}.log"
        process = await self._start("aggregator", ["aggregator", "run"], environment, log)
        self.aggregator = process
        await process.ready(self._is_ready, timeout_s=30)
        return process

    async def aggregator_token(self) -> str:
        """A token of the account that the shipped aggregator runs under."""
        return await _service_account_token(self.plane, "fleetmedic-aggregator")

    async def kill_aggregator(self, sign: signal.Signals) -> None:
        """End the aggregator by this signal."""
        assert self.aggregator is not None
        process, self.aggregator = self.aggregator, None
        await process.stop(sign)

    async def get(self, path: str) -> Any:
        """A JSON answer of the aggregator's API."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.http_port}{path}") as response,
        ):
            return await response.json()

    async def metric(self, name_and_labels: str) -> float:
        """The value of one series on the aggregator's /metrics; 0 where there is none."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.http_port}/metrics") as response,
        ):
            for line in (await response.text()).splitlines():
                series, _, value = line.rpartition(" ")
                if series == name_and_labels:
                    return float(value)
        return 0.0

    async def counted(self, series: str, *, timeout_s: float = 20) -> None:
        """Wait until this counter is above zero; the page is rendered in the aggregator's own rhythm."""
        async with asyncio.timeout(timeout_s):
            while not await self.metric(series):
                await asyncio.sleep(0.05)

    def scheduler_config(self) -> dict[str, Any]:
        """The shipped scheduler configuration, pointed at this rig's aggregator."""
        shipped = ROOT / "deploy" / "scheduler" / "kube-scheduler-config.yaml"
        config: dict[str, Any] = yaml.safe_load(shipped.read_text())
        config.pop("clientConnection")
        for extender in config["extenders"]:
            extender["urlPrefix"] = f"http://127.0.0.1:{self.http_port}/scheduler"
            extender["filterVerb"] = "filter"
            extender["httpTimeout"] = "2s"
        return config

    async def reporting(self, nodes: list[Node], *, timeout_s: float = 30) -> None:
        """Wait until each node is known to be healthy, by its own condition."""
        for node in nodes:
            await self.plane.until(
                f"/api/v1/nodes/{node.name}",
                lambda seen: any(
                    each["type"] == "GPUHealthy" and each["status"] == "True"
                    for each in seen.get("status", {}).get("conditions", ())
                ),
                timeout_s=timeout_s,
            )

    async def _is_ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.http_port}/readyz") as response,
            ):
                return response.status == 200
        return False

    async def _start(
        self, name: str, module: list[str], environment: Mapping[str, str], log: Path
    ) -> Process:
        pairs = [f"{key}={value}" for key, value in environment.items()]
        command = [_ENV, "-i", *pairs, sys.executable, "-m", *module]
        process = Process(name, command, log)
        await process.start(self._parent)
        return process

    async def _token(self, node: str) -> str:
        """A token bound to an agent's pod on this node, as the kubelet would mount it.

        The pod is there for its token alone. It has ended, so that a drain leaves it, as it leaves a real agent's
        because of its DaemonSet.
        """
        pod = f"agent-{node}"
        body = gpu_pod(
            pod,
            gpus=0,
            node=node,
            annotations={"kwok.fleetmedic.io/start-after": "24h"},
            serviceAccountName="fleetmedic-agent",
        )
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        created = await self.sandbox.create(path, body)
        ended = {"status": {"phase": "Succeeded"}}
        status, answer = await self.plane.request("PATCH", f"{path}/{pod}/status", ended, MERGE)
        assert status == 200, answer
        bound = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": pod,
            "uid": created["metadata"]["uid"],
        }
        return await _service_account_token(
            self.plane, "fleetmedic-agent", audiences=["fleetmedic"], bound=bound
        )


async def _service_account_token(
    plane: ControlPlane,
    account: str,
    *,
    audiences: list[str] | None = None,
    bound: Json | None = None,
) -> str:
    spec: Json = {"expirationSeconds": 3600}
    if audiences:
        spec["audiences"] = audiences
    if bound:
        spec["boundObjectRef"] = bound
    status, answer = await plane.request(
        "POST",
        f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
    )
    assert status == 201, answer
    token: str = answer["status"]["token"]
    return token


async def install(plane: ControlPlane) -> None:
    """The CRD, namespace, accounts and rights of deploy/; harmless when they are there already."""
    await apply_crds(plane.api, [ROOT / "deploy" / "crd" / "incidents.yaml"])
    for name in ("namespace.yaml", "rbac.yaml"):
        await plane.kubectl("apply", "-f", str(ROOT / "deploy" / "base" / name))


async def grant(plane: ControlPlane, setting: str) -> None:
    """Apply the shipped rights with those for this setting."""
    await plane.kubectl("apply", "-f", "-", stdin=rights_with(setting))


def rights_with(setting: str) -> str:
    """deploy/base/rbac.yaml with the # taken away from what it has commented out for this setting."""
    text = (ROOT / "deploy" / "base" / "rbac.yaml").read_text()
    head, colon, rest = text.partition(f"({setting})")
    assert colon, f"rbac.yaml says nothing of {setting}"
    remark, *lines = rest.splitlines()
    end = next(n for n, line in enumerate(lines) if not line.startswith(("  # - ", "  #   ")))
    assert end, f"rbac.yaml has no rights for {setting}"
    taken = [line.replace("  # ", "  ", 1) for line in lines[:end]]
    return "\n".join([head + colon + remark, *taken, *lines[end:]])
