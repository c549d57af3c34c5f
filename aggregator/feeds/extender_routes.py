"""The extender beside everything else on the main port, over the book itself: for people, and for schedulers that were sent there."""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

from aggregator.feeds.extender import MAX_BODY_BYTES, VERBS, Extender, Verb
from aggregator.feeds.extender_counts import ExtenderCounters

MAX_HELD_BYTES = 128 << 20
"""Of all bodies that are being read; one beyond it is answered like one that is too large."""

BODY_SECONDS = 10.0
"""For a whole body."""


class Bodies:
    """Reads them, and bounds what clients can make us hold."""

    def __init__(self) -> None:
        self.held_bytes = 0

    async def read(self, request: web.Request) -> bytes | None:
        """One; ``None``: it is too large, or too slow, or there are too many at once."""
        length = request.content_length
        cost = MAX_BODY_BYTES if length is None else length
        if self.held_bytes + cost > MAX_HELD_BYTES:
            return None
        self.held_bytes += cost
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await request.read()
        except (web.HTTPRequestEntityTooLarge, TimeoutError):
            return None
        finally:
            self.held_bytes -= cost


def extender_routes(
    extender: Extender, counters: ExtenderCounters, *, leading: Callable[[], bool] = lambda: True
) -> list[web.RouteDef]:
    """The two verbs, as the scheduler's configuration names them.

    Args:
        extender: answers.
        counters: where the time is counted.
        leading: whether agents report to this process. Where they do not, the connection is closed after each answer: a
            scheduler would else keep the one it has and never ask the new leader.
    """
    bodies = Bodies()

    async def answer(verb: Verb, request: web.Request) -> web.Response:
        body = await bodies.read(request)
        started = time.perf_counter()
        reply = extender.reply(extender.read(verb, body))
        counters.extender_seconds.observe(time.perf_counter() - started)
        response = web.Response(body=reply, content_type="application/json")
        if not leading():
            response.force_close()
        return response

    async def filtered(request: web.Request) -> web.Response:
        return await answer("filter", request)

    async def prioritized(request: web.Request) -> web.Response:
        return await answer("prioritize", request)

    handlers = {"filter": filtered, "prioritize": prioritized}
    return [web.post(path, handlers[verb]) for path, verb in VERBS.items()]
