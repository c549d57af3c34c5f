"""Speak to the API server with plain dicts, as our own code does.

Every call opens its own session: tests run in one event loop each, and a session must not
outlive its loop.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping

Json = dict[str, Any]

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

RETRY_S = 0.1
UNTIL_S = 60.0
"""Kubernetes' own controllers wait up to half a minute before they ask a server again that was away."""


class Api:
    """One identity's way to one API server."""

    def __init__(self, url: str, tls: ssl.SSLContext, token: str | None) -> None:
        self.url = url
        self._tls = tls
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A session whose paths start at the server, for a test that sends many requests."""
        async with aiohttp.ClientSession(
            self.url,
            headers=self._headers,
            connector=aiohttp.TCPConnector(ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=30),
        ) as session:
            yield session

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Json]:
        """Send one request; a dict is encoded, str and bytes go as they are.

        The answer is the status and the decoded object; what is no JSON object comes back as
        `{"text": ...}`.
        """
        async with (
            self.session() as session,
            session.request(
                method,
                path,
                data=_encode(body),
                headers={"Content-Type": content_type, **(headers or {})},
            ) as response,
        ):
            return response.status, _decode(await response.read())

    async def healthy(self, path: str = "/readyz") -> bool:
        """Whether this path answers 200; a refused connection is a no, not an error."""
        try:
            status, _ = await self.request("GET", path)
        except (aiohttp.ClientError, TimeoutError):
            return False
        return status == 200

    async def until(
        self, path: str, predicate: Callable[[Json], object], *, timeout_s: float = UNTIL_S
    ) -> Json:
        """Wait until the object at `path` satisfies `predicate`, by watching it; return it.

        The predicate sees `{}` while there is no such object. It survives an API server that is
        being restarted.

        Raises:
            AssertionError: `timeout_s` passed; the text shows the object as last seen.
        """
        seen: list[Json] = [{}]
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if await self._follow(path, predicate, seen):
                        return seen[-1]
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            text = msgspec.json.format(msgspec.json.encode(seen[-1])).decode()
            raise AssertionError(f"{path} not as wanted after {timeout_s:g} s: {text}") from None

    async def _follow(
        self, path: str, predicate: Callable[[Json], object], seen: list[Json]
    ) -> bool:
        """List and watch one object; True when it is as wanted, False when the stream ended."""
        collection, _, name = path.rpartition("/")
        query = {"fieldSelector": f"metadata.name={name}"}
        try:
            async with self.session() as session:
                async with session.get(collection, params=query) as response:
                    if response.status != 200:
                        return False
                    listed = _decode(await response.read())
                items = listed.get("items") or [{}]
                seen[-1] = items[0]
                if predicate(items[0]):
                    return True
                version = listed["metadata"]["resourceVersion"]
                watch = {**query, "watch": "1", "resourceVersion": version}
                async with session.get(collection, params=watch) as response:
                    try:
                        async for line in response.content:
                            event = msgspec.json.decode(line)
                            if event["type"] == "ERROR":
                                return False
                            seen[-1] = {} if event["type"] == "DELETED" else event["object"]
                            if predicate(seen[-1]):
                                return True
                    finally:
                        # Leaving a response half read says goodbye over TLS, which outlives
                        # a test's event loop; closing the session first cuts the connection.
                        await session.close()
        except (aiohttp.ClientError, TimeoutError):
            return False
        return False


def _encode(body: object) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else msgspec.json.encode(body)


def _decode(raw: bytes) -> Json:
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return {"text": raw.decode(errors="replace")}
    return value if isinstance(value, dict) else {"text": raw.decode(errors="replace")}
