"""A rig that treats: its aggregator acts on everything it may, and its agents repair with stand-ins for the real commands."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import aiohttp

from contract.signing import generate
from contract.vocabulary import TAINT_KEY
from tests.controlplane.manifests import gpu_pod, is_running
from tests.controlplane.proxy import FaultProxy
from tests.e2e.rig import Rig
from tests.nvml.standin import Rising
from tests.repairs import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox
    from tests.e2e.rig import Node

GPU = 3
INCIDENTS = "/apis/fleetmedic.io/v1alpha1/incidents"
UNTIL_S = 90.0
EVICTION = r"/api/v1/namespaces/{namespace}/pods/(?P<pod>[^/]+)/eviction"
ACTING = {
    "act": "taint,drain-device,drain,reset-device,reboot-node,replace",
    "diagnose": "true",
    "soak_seconds": "1",
    "verify_limit_seconds": "60",
    "breaker_nodes": "0",
    "budget_percent": "100",
    "drain_budget_percent": "100",
    "evictions_per_second": "50",
}
SERVING = ("serve-0", "serve-1")
BARE_PODS = "rules: [{unmanaged: evict}]"
"""Pods without a controller may be moved too: most tests need nobody who starts them again."""


class Ward:
    """A rig whose aggregator acts, and whose agents may reset a GPU with a command that waits to be let go.

    The aggregator reaches the API server through ``proxy``, which counts what it asks for.
    """

    def __init__(self, rig: Rig, proxy: FaultProxy, folder: Path) -> None:
        self.rig, self.proxy, self.folder = rig, proxy, folder
        self.proxies = [proxy]
        """Of all aggregators."""
        self.plane, self.sandbox = rig.plane, rig.sandbox
        self.private, self.public = generate(folder / "keys")
        self.asked = folder / "asked"
        self.go = folder / "go"
        self.reset = script(
            folder / "reset",
            "import pathlib, sys, time\n"
            f"with open({str(self.asked)!r}, 'a') as file: file.write(sys.argv[1] + '\\n')\n"
            f"while not pathlib.Path({str(self.go)!r}).exists(): time.sleep(0.02)\n",
        )

    # --- its parts ----------------------------------------------------------------------------

    async def options(self, proxy: FaultProxy, **settings: str) -> dict[str, str]:
        """The settings of an aggregator that acts, through this proxy."""
        token = await self.rig.aggregator_token()
        return {
            **ACTING,
            "kubeconfig": str(proxy.write_kubeconfig("aggregator", token=token)),
            "directive_key_file": str(self.private),
            "drain_rules_file": self.file("rules.yaml", BARE_PODS),
            **settings,
        }

    async def start(self, **settings: str) -> None:
        await self.rig.start_aggregator(**await self.options(self.proxy, **settings))

    async def add_node(self, stem: str, **settings: str) -> Node:
        usual = {
            "directive_public_key_file": str(self.public),
            "state_dir": str(self.rig.folder / f"state-{stem}"),
            "allow_repairs": "reset-device",
            "reset_command": f"{self.reset} {{device}}",
            "diagnostic_command": "echo burn-in passed on {subject}",
            "evidence_limit_seconds": "20",
        }
        return await self.rig.add_node(stem, **{**usual, **settings})

    def file(self, name: str, text: str) -> str:
        """A file of the user's, by its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    async def pod(
        self,
        name: str,
        node: str,
        *,
        gpus: int = 4,
        labels: Mapping[str, str] | None = None,
        owner: Json | None = None,
    ) -> None:
        """A running pod, bound to a node past the scheduler."""
        body = gpu_pod(name, node=node, gpus=gpus, labels=labels)
        if owner is not None:
            body["metadata"]["ownerReferences"] = [owner]
        await self.sandbox.create(self.sandbox.path("pods"), body)
        await self.plane.until(self.sandbox.path("pods", name), is_running)

    async def serving(self, node: Node, *, needs: int) -> None:
        """Two pods of one service on this node, and a budget that wants so many of them."""
        for name in SERVING:
            await self.pod(name, node.name, labels={"app": "serve"})
        await self.budget("serve", needs=needs)

    async def budget(self, app: str, *, needs: int) -> None:
        """A PodDisruptionBudget over this app's pods, which are counted already."""
        path = self.sandbox.path("poddisruptionbudgets", group="policy/v1")
        spec = {"minAvailable": needs, "selector": {"matchLabels": {"app": app}}}
        await self.sandbox.create(path, {"metadata": {"name": app}, "spec": spec})
        await self.plane.until(
            f"{path}/{app}",
            lambda one: (
                (status := one.get("status") or {}).get("observedGeneration") == 1
                and 0 < status.get("expectedPods", 0) == status.get("currentHealthy")
            ),
        )

    async def loosen(self, app: str) -> None:
        """Take the budget away."""
        path = self.sandbox.path("poddisruptionbudgets", app, group="policy/v1")
        assert (await self.plane.request("DELETE", path))[0] == 200

    # --- what happens -------------------------------------------------------------------------

    def breaks(self, node: Node, *, xid: int = 95) -> None:
        """The kernel tells of a GPU: 95 asks for a reset of it, 79 for a reboot."""
        node.kernel_says(f"NVRM: Xid (PCI:{node.bus(GPU)}): {xid}, pid=1, a test says so")

    async def mend(self, node: Node) -> None:
        """Once the reset command runs, let it end, on a GPU whose counters began anew."""
        await self.resetting()
        node.nvml.update(GPU, energy_millijoules=Rising(50, 100))
        self.go.touch()

    async def resetting(self) -> None:
        """Wait until the reset command runs."""
        async with asyncio.timeout(UNTIL_S):
            while not self.resets():
                await asyncio.sleep(0.02)

    # --- what was done ------------------------------------------------------------------------

    def resets(self) -> list[str]:
        """What the reset command was started for, each time."""
        return self.asked.read_text().splitlines() if self.asked.exists() else []

    def evictions(self, *, status: int = 201) -> Counter[str]:
        """Pod → how many evictions of it the API server answered so."""
        pattern = re.compile(EVICTION.format(namespace=self.sandbox.namespace))
        return Counter(
            found["pod"]
            for proxy in self.proxies
            for seen in proxy.requests
            if seen.status == status and (found := pattern.fullmatch(seen.path))
        )

    async def held_up(self) -> None:
        """Wait until a budget refused an eviction."""
        await self.proxy.until(lambda: self.evictions(status=429), timeout_s=UNTIL_S)

    async def gone(self, *pods: str) -> None:
        """Wait until these pods are no more."""
        for each in pods:
            await self.plane.until(self.sandbox.path("pods", each), lambda seen: not seen)

    async def pods(self) -> set[str]:
        """Names of the sandbox's pods that run and are not being deleted."""
        _, listed = await self.plane.request("GET", self.sandbox.path("pods"))
        return {
            each["metadata"]["name"]
            for each in listed["items"]
            if is_running(each) and not each["metadata"].get("deletionTimestamp")
        }

    async def incidents(self, node: Node) -> list[Json]:
        """All about this node."""
        _, listed = await self.plane.request("GET", INCIDENTS)
        return [each for each in listed["items"] if each["spec"]["node"] == node.name]

    async def incident(self, node: Node, wanted: str | Callable[[Json], object]) -> Json:
        """The node's one incident, once its status is in this phase, or as this says."""

        def holds(seen: Json) -> object:
            status = seen.get("status", {})
            return status.get("phase") == wanted if isinstance(wanted, str) else wanted(status)

        mine: list[Json] = []
        async with asyncio.timeout(UNTIL_S):
            while not mine:
                with suppress(aiohttp.ClientError):
                    mine = await self.incidents(node)
                await asyncio.sleep(0.05)
        assert len(mine) == 1
        path = f"{INCIDENTS}/{mine[0]['metadata']['name']}"
        return await self.plane.until(path, holds, timeout_s=UNTIL_S)

    async def closed(self, node: Node) -> Json:
        """The node's one incident, closed, after everything of ours is off the node."""
        found = await self.incident(node, "closed")
        assert len(await self.incidents(node)) == 1
        _, seen = await self.plane.request("GET", f"/api/v1/nodes/{node.name}")
        assert all(each["key"] != TAINT_KEY for each in seen["spec"].get("taints", ()))
        assert not seen["spec"].get("unschedulable")
        assert not [key for key in seen["metadata"].get("annotations", {}) if "fleetmedic" in key]
        return found

    async def explained(self, node: Node) -> str:
        answer = await self.rig.get(f"/api/v1/nodes/{node.name}/explain")
        text: str = answer["text"]
        return text


def attempts(incident: Json) -> list[tuple[str, str]]:
    """Rung and outcome of each attempt, oldest first."""
    return [(each["rung"], each["outcome"]) for each in incident["status"].get("attempts", ())]


def story(incident: Json) -> str:
    """Its timeline in one line."""
    return " | ".join(each["text"] for each in incident["status"]["timeline"])


@asynccontextmanager
async def treating(plane: ControlPlane, sandbox: Sandbox, folder: Path) -> AsyncIterator[Ward]:
    """A ward without nodes; its aggregator is not started yet."""
    async with Rig(sandbox, folder) as rig, FaultProxy(plane) as proxy:
        yield Ward(rig, proxy, folder)
