"""A kubelet's pod-resources API: a real gRPC server on a real unix socket, answering from a list."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from agent import podresources_pb2 as pb

SERVICE, METHOD = "v1.PodResourcesLister", "List"
Held = Mapping[str, Mapping[str, list[str]]]
"""``namespace/pod`` → resource → device ids."""


class Kubelet:
    """What it answers can be changed at any time."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.asked = 0
        self.reply = b""
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.answers = asyncio.Event()
        """Cleared: questions wait."""
        self.answers.set()

    def gives(self, held: Held) -> None:
        """Each resource in a container of its own."""
        self.says(
            pb.ListPodResourcesResponse(
                pod_resources=[
                    pb.PodResources(
                        namespace=name.partition("/")[0],
                        name=name.partition("/")[2],
                        containers=[
                            pb.ContainerResources(
                                devices=[
                                    pb.ContainerDevices(resource_name=resource, device_ids=ids)
                                ]
                            )
                            for resource, ids in resources.items()
                        ],
                    )
                    for name, resources in held.items()
                ]
            )
        )

    def says(self, reply: pb.ListPodResourcesResponse) -> None:
        self.reply = reply.SerializeToString()

    async def _list(self, _: bytes, context: Any) -> bytes:
        self.asked += 1
        await self.answers.wait()
        if self.refusal is not None:
            await context.abort(*self.refusal)
        return self.reply

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Kubelet"]:
        """Serve until the block ends; then the socket is gone, as when a kubelet stops."""
        server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
        handler = grpc.unary_unary_rpc_method_handler(self._list)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )
        assert server.add_insecure_port(f"unix:{self.socket}")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)
            self.socket.unlink(missing_ok=True)
