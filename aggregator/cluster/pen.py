"""The one hand that writes: asks right before each request whether we may, and says whether it is a dry run.

Everything that changes the cluster for somebody else goes through it. The Lease and the reviews of tokens do not:
they have to go on while everything else is stopped, and are never dry.
"""

from collections.abc import Callable, Mapping
from typing import Any

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api, Json


def permitted(permit: Callable[[], None]) -> bool:
    """Whether we may write now, as ``Pen`` asks right before each request."""
    try:
        permit()
    except EdgeError:
        return False
    return True


class Pen:
    """Writes of one edge.

    Args:
        api: the way to the server.
        permit: raises ``EdgeError`` when we may not write any more.
        dry_run: the server judges each write, validation and admission included, and keeps none.
    """

    def __init__(self, api: Api, *, permit: Callable[[], None], dry_run: bool = False) -> None:
        self._api = api
        self._permit = permit
        self.dry_run = dry_run

    async def create(self, path: str, body: Mapping[str, Any]) -> Json:
        """Create an object in a collection."""
        self._permit()
        return await self._api.create(path, body, dry_run=self.dry_run)

    async def replace(self, path: str, body: Mapping[str, Any]) -> Json:
        """Replace an object of the version that the body names."""
        self._permit()
        return await self._api.replace(path, body, dry_run=self.dry_run)

    async def patch(self, path: str, body: Mapping[str, Any]) -> Json:
        """Merge into an object of the version that the body names, if it names one."""
        self._permit()
        return await self._api.patch(path, body, dry_run=self.dry_run)

    async def apply(self, path: str, body: Mapping[str, Any], *, manager: str) -> Json:
        """Server-side apply."""
        self._permit()
        return await self._api.apply(path, body, manager=manager, dry_run=self.dry_run)

    async def delete(self, path: str, body: Mapping[str, Any]) -> Json:
        """Delete an object under the preconditions in the body."""
        self._permit()
        return await self._api.delete(path, body, dry_run=self.dry_run)
