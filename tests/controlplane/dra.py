"""Dynamic resource allocation on the real control plane: a driver's ResourceSlices, claims of pods, DeviceTaintRules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.controlplane.manifests import gpu_pod

if TYPE_CHECKING:
    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

DRA = "/apis/resource.k8s.io/v1"
RULES = "/apis/resource.k8s.io/v1beta2/devicetaintrules"


def gpu(name: str, uuid: str, address: str) -> Json:
    """As NVIDIA's driver publishes one, with its own writing of the address."""
    return {
        "name": name,
        "attributes": {
            "uuid": {"string": uuid},
            "resource.kubernetes.io/pciBusID": {"string": address},
        },
    }


class DraNode:
    """A node whose GPUs are handed out by dynamic resource allocation, by a driver that no other test has."""

    def __init__(self, plane: ControlPlane, sandbox: Sandbox, node: str) -> None:
        self.plane = plane
        self.sandbox = sandbox
        self.node = node
        self.driver = f"{sandbox.namespace}.example.com"

    @property
    def class_name(self) -> str:
        """Of this driver's devices."""
        return self.sandbox.name("gpus")

    async def make_class(self) -> None:
        """The DeviceClass that claims name."""
        expression = f'device.driver == "{self.driver}"'
        body = {
            "metadata": {"name": self.class_name},
            "spec": {"selectors": [{"cel": {"expression": expression}}]},
        }
        await self.sandbox.create(f"{DRA}/deviceclasses", body)

    async def publish(self, devices: list[Json], generation: int = 1) -> None:
        """What the driver says there is; the newest generation replaces the ones before."""
        body = {
            "metadata": {"name": self.sandbox.name(f"slice-{generation}")},
            "spec": {
                "driver": self.driver,
                "nodeName": self.node,
                "pool": {"name": self.node, "generation": generation, "resourceSliceCount": 1},
                "devices": devices,
            },
        }
        await self.sandbox.create(f"{DRA}/resourceslices", body)
        if generation > 1:
            old = self.sandbox.name(f"slice-{generation - 1}")
            status, answer = await self.plane.request("DELETE", f"{DRA}/resourceslices/{old}")
            assert status < 300, answer

    async def rules(self) -> list[Json]:
        """Fleetmedic's DeviceTaintRules about this node."""
        _, listed = await self.plane.request("GET", RULES)
        return [
            each
            for each in listed["items"]
            if each["metadata"]["annotations"]["fleetmedic.io/node"] == self.node
        ]

    async def device_of_a_new_pod(self, name: str, *, uuid: str = "") -> str | None:
        """Which device the scheduler gave to a pod that asks for one; ``None``: it says that none will do.

        Args:
            name: of the pod and of its claim.
            uuid: of the one device that it asks for; empty: any will do.
        """
        exactly: Json = {"deviceClassName": self.class_name}
        if uuid:
            expression = f'device.attributes["{self.driver}"].uuid == "{uuid}"'
            exactly["selectors"] = [{"cel": {"expression": expression}}]
        claim = {
            "metadata": {"name": name},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
        }
        claims = self.sandbox.path("resourceclaims", group="resource.k8s.io/v1")
        await self.sandbox.create(claims, claim)
        pod = gpu_pod(name, gpus=0, resourceClaims=[{"name": "gpu", "resourceClaimName": name}])
        pod["spec"]["containers"][0]["resources"] = {"claims": [{"name": "gpu"}]}
        await self.sandbox.create(self.sandbox.path("pods"), pod)
        seen = await self.plane.until(self.sandbox.path("pods", name), _placed_or_not)
        if not seen["spec"].get("nodeName"):
            return None
        _, placed = await self.plane.request("GET", f"{claims}/{name}")
        (result,) = placed["status"]["allocation"]["devices"]["results"]
        device: str = result["device"]
        return device


def _placed_or_not(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    unschedulable = any(
        each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable"
        for each in conditions
    )
    return bool(pod.get("spec", {}).get("nodeName")) or unschedulable
