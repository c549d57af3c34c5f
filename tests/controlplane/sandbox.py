"""One test's corner of a shared cluster: its own namespace, its own nodes, all removed after it.

Tests share one control plane because starting one takes seconds. They stay apart by names that
nobody else has, and by a label that ties a test's pods to its nodes.
"""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from tests.controlplane.binaries import program
from tests.controlplane.manifests import GPU, gpu_node, gpu_pod, is_ready

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane

LABEL = "fleetmedic.test/sandbox"


class RefusedError(Exception):
    """The API server refused an object that the test takes for granted."""


class Sandbox:
    """A namespace and whatever was created through it; removes it all when left."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.namespace = f"t-{uuid.uuid4().hex[:8]}"
        self._created: list[str] = []

    def name(self, stem: str) -> str:
        """A name that no other test uses, for an object that is in no namespace."""
        return f"{self.namespace}-{stem}"

    def path(self, plural: str, name: str = "", *, group: str = "") -> str:
        """The path of a namespaced resource: `path("pods", "a")`, group "policy/v1" and so on."""
        prefix = f"/apis/{group}" if group else "/api/v1"
        path = f"{prefix}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path

    async def create(self, collection: str, body: Json) -> Json:
        """Create an object and remember it for removal; returns it as the server stored it.

        Raises:
            RefusedError: the server did not answer 201.
        """
        status, created = await self.plane.request("POST", collection, body)
        if status != 201:
            raise RefusedError(f"POST {collection}: {status} {created.get('message', created)}")
        self._created.append(f"{collection}/{created['metadata']['name']}")
        return created

    async def node(
        self,
        stem: str = "node",
        *,
        gpus: int = 8,
        resource: str = GPU,
        kwok: bool = True,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> str:
        """Create a GPU node and wait until it is Ready and untainted; its full name."""
        body = gpu_node(
            self.name(stem),
            gpus=gpus,
            resource=resource,
            kwok=kwok,
            labels={LABEL: self.namespace, **(labels or {})},
            annotations=annotations,
        )
        program(self.plane.binaries, "kwok" if kwok else "kube-controller-manager")  # or it waits
        created = await self.create("/api/v1/nodes", body)
        name: str = created["metadata"]["name"]
        await self.plane.until(f"/api/v1/nodes/{name}", is_ready)
        return name

    async def pod(self, name: str = "pod", **options: Any) -> Json:
        """Create a pod that only this test's nodes take; options as of `manifests.gpu_pod`."""
        options.setdefault("nodeSelector", {LABEL: self.namespace})
        return await self.create(self.path("pods"), gpu_pod(name, **options))

    async def __aenter__(self) -> Self:
        labels = {LABEL: self.namespace}
        body = {"metadata": {"name": self.namespace, "labels": labels}}
        await self.create("/api/v1/namespaces", body)
        # Without it no pod is admitted. The controller manager would make it too, but late when a
        # test before this one took the API server away from it.
        accounts = self.path("serviceaccounts")
        status, answer = await self.plane.api.request(
            "POST", accounts, {"metadata": {"name": "default"}}
        )
        if status not in (201, 409):
            raise AssertionError(f"{accounts}: {status} {answer}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove it all at once; does not wait for the namespace controller.

        A test that killed the API server and failed must fail for its own reason, so an
        unreachable server is no error here.
        """
        now: Json = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        with contextlib.suppress(aiohttp.ClientError):
            await self.plane.request("DELETE", self.path("pods"), now)
            for path in reversed(self._created):
                await self.plane.request("DELETE", path, now)
