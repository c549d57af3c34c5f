"""Pods as a watch sees them: which are there, and when each was first seen to have a node."""

import asyncio
import time
from collections.abc import Callable

import aiohttp
import msgspec

from tests.controlplane.cluster import ControlPlane

DEADLINE_SECONDS = 300.0
"""For what is waited for."""


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
