"""Requests to the API server: kubernetes.aio's settings and TLS, plain dicts in and out.

Generated models never appear: one odd object would abort a whole list, and a list of 2,000 nodes
would stop the event loop for more than a second. What goes wrong is told by ``errors.py``.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio.client.rest import RESTClientObject

from aggregator.cluster.credentials import RELOAD_SECONDS, Credentials, CredentialsError
from aggregator.cluster.errors import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    TooManyRequests,
    Unavailable,
)

Json = dict[str, Any]
Query = Mapping[str, str]

JSON = "application/json"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"

READ_SECONDS = 30.0
WRITE_SECONDS = 4.0
"""Shorter than the time between a leader's renew deadline and the end of its lease, so that no
write of a leader that lost its lease can land after another one took over."""
DRY_RUN = {"dryRun": "All"}
CONNECT_SECONDS = 3.0
PAGE = 500
TEXT = 256
"""Characters kept of a text that the server sent, so that no blob reaches a log."""
RETRY_AFTER_SECONDS = 60.0
"""Most of what a server may ask for: a longer sleep would be blindness."""
CAUSES = 8
"""Of one refusal."""


class Api:
    """One identity's way to one API server. Connects with the first request."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._rest: RESTClientObject | None = None
        self._connecting = asyncio.Lock()

    async def get(self, path: str, *, seconds: float = READ_SECONDS) -> Json:
        """Read one object."""
        return _object(await self._send("GET", path, seconds=seconds))

    async def pages(
        self, path: str, *, limit: int = PAGE, query: Query | None = None
    ) -> AsyncGenerator[Json]:
        """Read a collection, consistent as of the first page, page by page; ``query`` narrows it."""
        asked: dict[str, str | int] = {**(query or {}), "limit": limit}
        while True:
            page = _object(await self._send("GET", path, query=asked, seconds=READ_SECONDS))
            yield page
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            asked["continue"] = token

    async def create(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        seconds: float = WRITE_SECONDS,
        dry_run: bool = False,
    ) -> Json:
        """Create an object in a collection. Of any write, a dry run is judged by the server and not kept."""
        query = DRY_RUN if dry_run else None
        return _object(await self._send("POST", path, body, query=query, seconds=seconds))

    async def replace(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        seconds: float = WRITE_SECONDS,
        dry_run: bool = False,
    ) -> Json:
        """Replace an object; its ``metadata.resourceVersion`` guards against a lost update."""
        query = DRY_RUN if dry_run else None
        return _object(await self._send("PUT", path, body, query=query, seconds=seconds))

    async def patch(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Merge into an object; a ``metadata.resourceVersion`` in the body guards it."""
        return _object(
            await self._send(
                "PATCH",
                path,
                body,
                query=DRY_RUN if dry_run else None,
                content_type=MERGE,
                seconds=WRITE_SECONDS,
            )
        )

    async def apply(
        self, path: str, body: Mapping[str, Any], *, manager: str, dry_run: bool = False
    ) -> Json:
        """Server-side apply by this field manager, taking over what others hold of it."""
        return _object(
            await self._send(
                "PATCH",
                path,
                body,
                query={"fieldManager": manager, "force": "true", **(DRY_RUN if dry_run else {})},
                content_type=APPLY,
                seconds=WRITE_SECONDS,
            )
        )

    async def delete(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Delete an object; ``body`` is the DeleteOptions, whose preconditions guard it."""
        query = DRY_RUN if dry_run else None
        return _object(await self._send("DELETE", path, body, query=query, seconds=WRITE_SECONDS))

    async def watch(
        self,
        path: str,
        *,
        version: str,
        seconds: float,
        idle_seconds: float,
        query: Query | None = None,
    ) -> AsyncGenerator[Json]:
        """Yield ``{"type": …, "object": …}`` for each change after ``version``, and bookmarks.

        Ends when the server ends it, after about ``seconds``.

        Raises:
            Gone: ``version`` is too old.
            Unavailable: also when nothing came for ``idle_seconds``.
        """
        asked: dict[str, str | int] = {
            **(query or {}),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": int(seconds),
        }
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=idle_seconds)
        try:
            response = await self._open("GET", path, query=asked, timeout=timeout)
            try:
                async for line in response.content:
                    event = _object(line)
                    if event.get("type") == "ERROR":
                        raise _refusal("watch", path, event.get("object"))
                    yield event
            finally:
                response.close()
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            raise Unavailable(f"watch {path}: {_words(error)}") from error

    async def keep_fresh(self) -> None:
        """Read tokens anew, for ever; a failure keeps the old one, which the server judges."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                await self._credentials.load()
            except CredentialsError:
                continue

    async def close(self) -> None:
        """Let go of all connections."""
        if self._rest is not None:
            rest, self._rest = self._rest, None
            await rest.close()

    async def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str | int] | None = None,
        content_type: str = JSON,
        seconds: float,
    ) -> bytes:
        """One request and its whole answer."""
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, CONNECT_SECONDS))
        try:
            response = await self._open(
                method, path, body, query=query, content_type=content_type, timeout=timeout
            )
            return await response.read()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"{method} {path}: {_words(error)}") from error

    async def _open(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str | int] | None = None,
        content_type: str = JSON,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send one request; the answer's body is still to be read."""
        rest = self._rest or await self._connect()
        headers = {"Content-Type": content_type, "Accept": JSON, "User-Agent": "fleetmedic"}
        url = self._credentials.configuration.host + path
        if query:
            url = f"{url}?{urlencode(query)}"
        answer = await rest.request(  # type: ignore[no-untyped-call]
            method,
            url,
            headers=headers | self._credentials.headers(),
            body=body,
            _request_timeout=timeout,
        )
        response: aiohttp.ClientResponse = answer.response
        if response.status >= 400:
            raise _refusal(method, path, _maybe(await response.read()), response)
        return response

    async def _connect(self) -> RESTClientObject:
        async with self._connecting:
            if self._rest is None:
                try:
                    await self._credentials.load()
                    configuration = self._credentials.configuration
                    # With trust_env every request would pass through a thread twice.
                    configuration.client_session_kwargs = {"trust_env": False}
                    self._rest = await asyncio.to_thread(RESTClientObject, configuration)
                except (CredentialsError, OSError) as error:
                    raise Unavailable(str(error)[:TEXT]) from error
            return self._rest


def _object(raw: bytes) -> Json:
    value = _maybe(raw)
    if not isinstance(value, dict):
        raise Unavailable("the answer is not a JSON object")
    return value


def _maybe(raw: bytes) -> object:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:TEXT]


_KINDS: dict[int, type[ApiError]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
}


def _refusal(
    method: str, path: str, body: object, response: aiohttp.ClientResponse | None = None
) -> ApiError:
    """The error that a ``Status`` object tells of; any other body is not repeated."""
    status: Json = body if isinstance(body, dict) and body.get("kind") == "Status" else {}
    code = response.status if response is not None else int(status.get("code") or 500)
    message = str(status.get("message") or (response.reason if response is not None else "failed"))
    text = f"{method} {path}: {code} {message[:TEXT]}"
    causes = _causes(status)
    if code == 429:
        asked = response.headers.get("Retry-After", "") if response is not None else ""
        seconds = min(float(asked), RETRY_AFTER_SECONDS) if asked.isdecimal() else 1.0
        return TooManyRequests(text, status=code, retry_after_seconds=seconds, causes=causes)
    if code >= 500:
        return Unavailable(text, status=code, causes=causes)
    return _KINDS.get(code, ApiError)(text, status=code, causes=causes)


def _causes(status: Json) -> tuple[tuple[str, str], ...]:
    """``details.causes`` of a ``Status``, a few of them; whatever else stands there is passed over."""
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    named = (
        [one for one in causes or () if isinstance(one, dict)] if isinstance(causes, list) else []
    )
    return tuple(
        (str(one.get("reason") or "")[:TEXT], str(one.get("message") or "")[:TEXT])
        for one in named[:CAUSES]
    )
