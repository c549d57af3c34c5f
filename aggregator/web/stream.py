"""``GET /api/v1/events``: the whole picture once, then changes, as server-sent events.

``hello`` (summary, incidents, decisions) · ``node`` (slices of all nodes) · ``synced`` · then, as they come:
``summary`` · ``node`` · ``incident`` · ``decision``. A comment is sent after each silence. Every event carries
whole objects, so applying one twice, or late, does no harm; a page that lost its connection just starts again.
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from aggregator.web.broadcast import (
    RECENT_DECISIONS,
    Broadcaster,
    Subscriber,
    event,
    slices,
)
from aggregator.web.deps import WebDeps
from aggregator.web.rows import Moment, RowBook
from aggregator.web.shapes import by_urgency, incident_shape, newest_first
from aggregator.web.summary import summarize

HEARTBEAT = b": still here\n\n"

RETRY = b"retry: 2000\n\n"
"""How long a browser waits before it connects again, in milliseconds."""


class EventStream:
    """Serves one page per request until either side ends it."""

    def __init__(self, deps: WebDeps, rows: RowBook, broadcaster: Broadcaster) -> None:
        self._deps = deps
        self._rows = rows
        self._broadcaster = broadcaster

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The whole life of one page's connection."""
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )

        def cut_off() -> None:
            if request.transport is not None:
                request.transport.abort()

        subscriber = self._broadcaster.subscribe(cut_off)
        try:
            await response.prepare(request)
            async for message in self._messages(subscriber):
                await response.write(message)
            await response.write_eof()
        except ConnectionError:
            pass  # the page left, or was cut off; nothing is owed to it
        finally:
            self._broadcaster.unsubscribe(subscriber)
        return response

    async def _messages(self, subscriber: Subscriber) -> AsyncIterator[bytes]:
        yield RETRY
        async for message in self._picture():
            yield message
        while not subscriber.dropped:
            try:
                async with asyncio.timeout(self._deps.heartbeat_seconds):
                    message_or_end = await subscriber.get()
            except TimeoutError:
                yield HEARTBEAT
                continue
            if message_or_end is None:
                return
            yield message_or_end

    async def _picture(self) -> AsyncIterator[bytes]:
        moment = Moment(self._deps)
        yield event(
            "hello",
            {
                "summary": summarize(self._deps, self._rows.all(moment), moment),
                "incidents": [
                    incident_shape(each)
                    for each in by_urgency(list(moment.view.incidents.values()))
                ],
                "decisions": newest_first(self._deps.journal.recent(RECENT_DECISIONS)),
            },
        )
        for names in slices(self._rows.names(moment)):
            fresh = Moment(self._deps)
            rows = [row for name in names if (row := self._rows.row(name, fresh))]
            yield event("node", {"nodes": rows, "gone": []})
            await asyncio.sleep(0)
        yield event("synced", {})
