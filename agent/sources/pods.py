"""Pods source: which pod holds which device, from the kubelet's pod-resources API on its unix socket."""

import asyncio
import stat
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from agent import podresources_pb2 as pb
from agent.snapshot.pods import PodDevices
from agent.sources import (
    Reading,
    SourceAbsentError,
    SourceError,
    SourceFailingError,
    SourceStuckError,
)
from agent.sources.abandonable import Abandonable

LIST_METHOD = "/v1.PodResourcesLister/List"
MAX_REPLY_BYTES = 16 * 1024 * 1024
"""As much as the kubelet's own client takes."""
FRESH_SECONDS = 1.0
"""A storm of events asks the kubelet no more often than this; it answers a hundred questions a second, for all."""

_CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    # Below the time between two questions after a failure, so that each of them is a real try.
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Else the path is sent as the host's name, which not every server takes.
    ("grpc.default_authority", "localhost"),
)


class PodsSource:
    """Asks the kubelet, and keeps its answer for a while.

    Args:
        socket: path of the kubelet's socket.
        deadline_seconds: how long one question may take.
        every_seconds: how long an answer is kept.
        retry_seconds: how long a failure is kept.
    """

    name = "pods"

    def __init__(
        self,
        *,
        socket: str,
        deadline_seconds: float = 2.0,
        every_seconds: float = 15.0,
        retry_seconds: float = 5.0,
    ) -> None:
        self._socket = Path(socket)
        self._deadline_seconds = deadline_seconds
        self._every_seconds = every_seconds
        self._retry_seconds = retry_seconds
        self._look = Abandonable(
            self._is_there, what=f"stat of {socket}", deadline_seconds=deadline_seconds / 4
        )
        self._channel: grpc.aio.Channel | None = None
        self._lock = asyncio.Lock()
        self._asked_seconds = float("-inf")
        """Times of the loop's clock."""
        self._due_seconds = float("-inf")
        self._answer: Reading | SourceError = SourceAbsentError("not asked yet")
        self._answered_once = False

    async def read(self) -> Reading:
        """The kubelet's answer, asked for anew when it is old.

        Raises:
            SourceAbsentError: no kubelet offers this here.
            SourceFailingError: it answers with an error, or is away for a while.
            SourceStuckError: it does not answer in time.
        """
        if asyncio.get_running_loop().time() >= self._due_seconds:
            return await self.refresh()
        return self._said()

    async def refresh(self) -> Reading:
        """Ask now, unless somebody else has within the last second.

        Raises:
            SourceAbsentError, SourceFailingError, SourceStuckError: as ``read``.
        """
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() - self._asked_seconds >= FRESH_SECONDS:
                try:
                    self._answer = await self._ask()
                    wait_seconds = self._every_seconds
                except SourceError as error:
                    self._answer = error
                    wait_seconds = self._retry_seconds
                self._asked_seconds = loop.time()
                self._due_seconds = self._asked_seconds + wait_seconds
        return self._said()

    async def close(self) -> None:
        """Let the connection go, and whatever is under way on it."""
        self._look.abandon()
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    def _said(self) -> Reading:
        if isinstance(self._answer, SourceError):
            # A new one each time: a raised error keeps the stack that it went through.
            raise type(self._answer)(str(self._answer))
        return self._answer

    async def _ask(self) -> Reading:
        if not await self._look.run():
            if self._answered_once:
                raise SourceFailingError(f"{self._socket} is gone: the kubelet is not running")
            raise SourceAbsentError(f"no kubelet socket at {self._socket}")
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(
                f"unix:{self._socket}", options=_CHANNEL_OPTIONS
            )
        question = pb.ListPodResourcesRequest().SerializeToString()
        try:
            reply = await self._channel.unary_unary(LIST_METHOD)(
                question, timeout=self._deadline_seconds
            )
            pods = _devices(pb.ListPodResourcesResponse.FromString(reply))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise SourceStuckError(
                    f"the kubelet gives no answer for {self._deadline_seconds:g} s"
                ) from None
            raise SourceFailingError(
                f"the kubelet answers {error.code().name}: {error.details()}"
            ) from None
        except DecodeError:
            raise SourceFailingError("the kubelet's answer is no list of pods") from None
        self._answered_once = True
        return Reading(pods=pods)

    def _is_there(self) -> bool:
        try:
            mode = self._socket.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise SourceFailingError(f"{self._socket}: {error.strerror}") from error
        if not stat.S_ISSOCK(mode):
            raise SourceFailingError(f"{self._socket} is no socket")
        return True


def _devices(reply: pb.ListPodResourcesResponse) -> tuple[PodDevices, ...]:
    """One entry per pod and resource, over all containers; pods without devices are left out."""
    held: dict[tuple[str, str, str], dict[str, None]] = {}
    for pod in reply.pod_resources:
        for container in pod.containers:
            for given in container.devices:
                ids = held.setdefault((pod.namespace, pod.name, given.resource_name), {})
                ids.update(dict.fromkeys(given.device_ids))
            for dynamic in container.dynamic_resources:
                for claimed in dynamic.claim_resources:
                    if claimed.device_name:  # older kubelets name only what the runtime is told
                        ids = held.setdefault((pod.namespace, pod.name, claimed.driver_name), {})
                        ids[f"{claimed.pool_name}/{claimed.device_name}"] = None
    return tuple(
        PodDevices(namespace=namespace, pod=pod, resource=resource, device_ids=tuple(ids))
        for (namespace, pod, resource), ids in held.items()
        if ids
    )
