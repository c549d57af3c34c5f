"""Who is let in to ``/api/``: names of pods and jobs of all tenants stand there.

Off unless ``WebDeps.refusal`` says whom to ask. What machines need stays open and names no pod: the probes, ``/metrics``, the
scheduler's feeds, and the page's own files, which are nothing without ``/api/``.

From the loopback everybody is let in: inside a pod that is ``kubectl port-forward``, for which the API server has asked for rights
already. (A mesh's sidecar comes from there too, so with one the mesh has to do this work.) It has to call us by an address or as localhost: a
foreign page in the browser of somebody who forwards a port, whose own name was made to point there, calls us by that name.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from aggregator.cluster.readers import Refusal
from aggregator.web.replies import json_reply

GUARDED = "/api/"

AGAIN_SECONDS = 5.0
"""Between two looks whether the reader of a stream, which lasts for hours, may still read."""

Refuse = Callable[[str], Awaitable[Refusal | None]]
"""Bearer token (empty: none was sent) → why its bearer may not read."""


def is_loopback(address: str | None) -> bool:
    """Whether a peer's address is this machine's own."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def is_plain_host(host: str) -> bool:
    """Whether a Host header names this machine so that no name server can have a say in it: ``localhost``, or an address."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def door(
    refuse: Refuse,
    *,
    is_known: Callable[[str | None], bool] = is_loopback,
    again_seconds: float = AGAIN_SECONDS,
) -> Middleware:
    """The middleware.

    Args:
        refuse: whom to ask; it remembers what it was told.
        is_known: by a peer's address, whether it is let in unasked.
        again_seconds: between two questions about the reader of an answer that is not at its end.
    """

    @web.middleware
    async def look(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_guarded(request) or (is_known(request.remote) and is_plain_host(request.host)):
            return await handler(request)
        token = _token(request)
        refusal = await refuse(token)
        if refusal is None:
            answering = asyncio.ensure_future(handler(request))
            try:
                while not (await asyncio.wait({answering}, timeout=again_seconds))[0]:
                    lost = await refuse(token)
                    if lost is not None and lost.status != 503 and request.transport is not None:
                        request.transport.abort()
                return answering.result()
            finally:
                answering.cancel()
        reply = json_reply({"error": refusal.text}, status=refusal.status)
        if refusal.status == 401:
            reply.headers["WWW-Authenticate"] = "Bearer"
        return reply

    return look


def _is_guarded(request: web.Request) -> bool:
    """By the route that was found, not by the path as it was written: that may be written in many ways."""
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical.startswith(GUARDED)


def _token(request: web.Request) -> str:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""
