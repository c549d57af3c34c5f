"""The aggregator's HTTP side: the fleet page, the JSON API, probes, metrics and the scheduler extender."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from aggregator.feeds.extender import Extender
from aggregator.feeds.extender_routes import extender_routes
from aggregator.web.broadcast import Broadcaster, current_summary
from aggregator.web.deps import WebDeps
from aggregator.web.door import door
from aggregator.web.explained import Explained
from aggregator.web.replies import json_reply as _json
from aggregator.web.replies import no_such_node
from aggregator.web.rows import Moment, RowBook
from aggregator.web.shapes import (
    ScoreShape,
    by_urgency,
    incident_shape,
    newest_first,
    node_detail,
)
from aggregator.web.stream import EventStream
from aggregator.web.why import WhyThisNode
from contract.metrics import CONTENT_TYPE

STATIC = Path(__file__).parent / "static"

MAX_LIST = 10_000

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

BROADCASTER = web.AppKey("broadcaster", Broadcaster)
"""Where the runtime finds the ``Broadcaster`` to call once per tick."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(deps: WebDeps, feeds: Sequence[web.RouteDef] = ()) -> web.Application:
    """The application; its one task lives from start-up to clean-up. ``feeds`` are served beside it."""
    rows = RowBook(deps)
    broadcaster = Broadcaster(deps, rows)
    guards = [door(deps.refusal)] if deps.refusal is not None else []
    app = web.Application(
        middlewares=[_errors_as_json, *guards], client_max_size=deps.max_body_bytes
    )
    app[BROADCASTER] = broadcaster
    api = Api(deps, rows)
    app.add_routes(
        [
            web.get("/", _page),
            web.static("/static", STATIC),
            web.get("/healthz", api.healthz),
            web.get("/readyz", api.readyz),
            web.get("/metrics", api.metrics),
            web.get("/api/v1/summary", api.summary),
            web.get("/api/v1/nodes", api.nodes),
            web.get("/api/v1/nodes/{name}", api.node),
            *Explained(deps).routes(),
            *WhyThisNode(deps).routes(),
            web.get("/api/v1/incidents", api.incidents),
            web.get("/api/v1/decisions", api.decisions),
            web.get(
                "/api/v1/events",
                EventStream(deps, rows, broadcaster).handle,
                allow_head=False,  # it would be answered with a body, for ever
            ),
            *_extender(deps),
            *feeds,
        ]
    )
    app.on_response_prepare.append(_add_security_headers)
    app.on_shutdown.append(_end_streams)
    app.cleanup_ctx.append(_run_broadcaster)
    return app


def _extender(deps: WebDeps) -> list[web.RouteDef]:
    extender = Extender(
        deps.book,
        deps.stats,
        clock=deps.clock,
        scale=deps.extender_scale,
        stale_after_seconds=deps.stale_after_seconds,
    )
    return extender_routes(extender, deps.stats, leading=deps.leading)


class Api:
    """Read-only answers. Each is made of what is true at the moment it is asked."""

    def __init__(self, deps: WebDeps, rows: RowBook) -> None:
        self._deps = deps
        self._rows = rows

    async def healthz(self, request: web.Request) -> web.Response:
        """Alive as long as the loop turns."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """Ready when this process may act and knows the cluster; agents are sent only to a ready one."""
        reasons = []
        if not self._deps.leading():
            reasons.append("not the leader: another replica acts")
        if not self._deps.view().synced:
            reasons.append("the cluster's nodes and incidents are not read yet")
        if reasons:
            return web.Response(status=503, text="".join(f"{each}\n" for each in reasons))
        return web.Response(text="ready\n")

    async def metrics(self, request: web.Request) -> web.Response:
        """The exposition for Prometheus."""
        return web.Response(
            body=self._deps.metrics(),
            headers={"Content-Type": CONTENT_TYPE},
        )

    async def summary(self, request: web.Request) -> web.Response:
        """The header line."""
        return _json(current_summary(self._deps, self._rows))

    async def nodes(self, request: web.Request) -> web.Response:
        """All nodes, compact; ``limit`` and ``offset`` cut a page out of them."""
        limit, offset = _number(request, "limit", MAX_LIST), _number(request, "offset", 0)
        moment = Moment(self._deps)
        names = self._rows.names(moment)
        rows = (self._rows.row(name, moment) for name in names[offset : offset + limit])
        return _json(
            {
                "total": len(names),
                "offset": offset,
                "time_seconds": moment.now,
                "nodes": [row for row in rows if row is not None],
            }
        )

    async def node(self, request: web.Request) -> web.Response:
        """Everything known of one node."""
        name = request.match_info["name"]
        moment = Moment(self._deps)
        row = self._rows.row(name, moment)
        if row is None:
            return no_such_node(name)
        score = moment.scores.get(name)
        return _json(
            node_detail(
                row,
                self._deps.fleet.get(name),
                moment.view.nodes.get(name),
                moment.incidents.get(name),
                ScoreShape(score=score.score, reason=score.reason, verdict=score.verdict)
                if score
                else None,
                moment.view.device_words.get(name, {}),
            )
        )

    async def incidents(self, request: web.Request) -> web.Response:
        """Incidents, open and worst first; ``state`` is ``open``, ``closed`` or ``all``."""
        state = request.query.get("state", "all")
        if state not in {"open", "closed", "all"}:
            return _json({"error": f"state={state!r}: use open, closed or all"}, status=400)
        found = [
            each
            for each in self._deps.view().incidents.values()
            if state == "all" or each.open == (state == "open")
        ]
        return _json({"incidents": [incident_shape(each) for each in by_urgency(found)]})

    async def decisions(self, request: web.Request) -> web.Response:
        """What was decided, newest first; ``limit`` of them."""
        limit = _number(request, "limit", 100)
        recent = self._deps.journal.recent(limit) if limit else []
        return _json({"decisions": newest_first(recent)})


async def _page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return min(int(text), MAX_LIST) if name == "limit" else int(text)
    raise web.HTTPBadRequest(text=f"{name}={text!r}: use a whole number from 0")


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400 or not request.path.startswith("/api/"):
            raise
        return _json({"error": error.text or error.reason}, status=error.status)


async def _add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)
    if request.path.startswith("/static/"):
        response.headers["Cache-Control"] = "no-cache"


async def _end_streams(app: web.Application) -> None:
    app[BROADCASTER].close()


async def _run_broadcaster(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(app[BROADCASTER].run(), name="fleet-page-broadcaster")
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
