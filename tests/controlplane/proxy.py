"""A reverse proxy in front of the real API server that misbehaves when a test says so, and counts every request.

    async with FaultProxy(plane) as proxy:
        edge = Edge(kubeconfig=proxy.kubeconfig)
        proxy.fail(method="PATCH", path=r"/api/v1/nodes/.*", status=409, times=5)
        proxy.storm(Random(7), share=0.3)
        ...
        proxy.calm()
        assert proxy.count("PATCH", r"/api/v1/nodes/.*") == 6

Bearer tokens pass through; a client certificate does not survive a proxy. The address stays the same while the API
server behind it is killed and started again: until it is back, connections break.

An aiohttp client sends an idempotent request (GET, PUT, DELETE) once more by itself where a connection that it had kept
open breaks without an answer: a rule for those may need to hold twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import web
from yarl import URL

from tests.controlplane import kubeconfig
from tests.controlplane.cluster import ADMIN_TOKEN
from tests.controlplane.faults import (
    STORM,
    Answer,
    Cut,
    Delay,
    Fault,
    Hang,
    Rule,
    Seen,
    expired_event,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from tests.controlplane.cluster import ControlPlane

MAX_BODY_BYTES = 64 << 20
MAX_LINE_BYTES = 4 << 20
UNTIL_S = 30.0
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "upgrade"}


class _Watch:
    """A watch that is passing through: which collection, and how it is told to end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.last_words: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        """What to say before it ends; None: cut it."""


class FaultProxy:
    """Passes everything on, watches included, but for what a rule says. Later rules come first."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._rules: list[Rule] = []
        self._watches: set[_Watch] = set()
        self._changed = asyncio.Condition()
        self._calmed = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self.requests: list[Seen] = []
        """Everything that came by, in the order in which it was answered (a watch: begun)."""

    async def __aenter__(self) -> Self:
        plane = self._plane
        upstream = ssl.create_default_context(cafile=plane.ca_file)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=upstream, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=3),
            auto_decompress=False,
            read_bufsize=MAX_LINE_BYTES,
        )
        ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ours.load_cert_chain(plane.folder / "server.crt", plane.folder / "server.key")
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=ours).start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"
        self.kubeconfig = self.write_kubeconfig("proxied-admin", token=ADMIN_TOKEN)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.calm()
        self.cut_watches()
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    def write_kubeconfig(self, name: str, *, token: str) -> Path:
        """A kubeconfig for this token's bearer that leads here."""
        port = self.url.rpartition(":")[2]
        return kubeconfig.write(
            self._plane.folder / f"{name}-{port}.kubeconfig",
            url=self.url,
            ca=self._plane.ca_file.read_bytes(),
            token=token,
        )

    # --- what goes wrong ----------------------------------------------------------------------

    def fail(
        self,
        *,
        status: int,
        method: str = "",
        path: str = "",
        watch: bool | None = None,
        times: int | None = None,
        retry_after_s: int | None = None,
        cause: str = "",
        message: str = "a test says so",
    ) -> Rule:
        """Answer matching requests with this status; `cause` "DisruptionBudget" makes a 429 an eviction's."""
        answer = Answer(status, retry_after_s, cause, message)
        return self._add(Rule([answer], method, path, watch, times))

    def cut(self, when: Any, *, method: str = "", path: str = "", times: int | None = None) -> Rule:
        """Break the connection "before" or "after" the server did it, or in the "middle" of the answer."""
        return self._add(Rule([Cut(when)], method, path, False, times))

    def delay(
        self, seconds: float, *, method: str = "", path: str = "", times: int | None = None
    ) -> Rule:
        """Hold matching requests back for this long."""
        return self._add(Rule([Delay(seconds)], method, path, None, times))

    def hang(self, *, method: str = "", path: str = "", times: int | None = None) -> Rule:
        """Never answer matching requests; `calm` breaks their connections."""
        return self._add(Rule([Hang()], method, path, None, times))

    def storm(
        self,
        random: Random,
        *,
        share: float = 0.3,
        statuses: tuple[int, ...] = STORM,
        cuts: bool = True,
        method: str = "",
        path: str = "",
        times: int | None = None,
    ) -> Rule:
        """Befall this share of the requests with one of these statuses, or a broken connection."""
        faults: list[Fault] = [
            Answer(status, retry_after_s=1 if status == 429 and number % 2 else None)
            for number, status in enumerate(statuses)
        ]
        if cuts:
            faults += [Cut("before"), Cut("after")]
        return self._add(Rule(faults, method, path, None, times, random, share))

    def cut_watches(self, path: str = "") -> int:
        """Break the connections of the open watches, of this path or all; how many there were."""
        return self._end_watches(path, None)

    def expire_watches(self, path: str = "") -> int:
        """End the open watches with the event that says: too old, list again; how many there were."""
        return self._end_watches(path, expired_event())

    def calm(self) -> None:
        """No more faults; what hangs is cut."""
        self._rules.clear()
        self._calmed.set()
        self._calmed = asyncio.Event()

    # --- what was asked -----------------------------------------------------------------------

    def count(self, method: str = "", path: str = "", *, status: int | None = None) -> int:
        """How many requests were seen with this method, path (a regular expression) and status."""
        return sum(
            1
            for seen in self.requests
            if (not method or seen.method == method)
            and (not path or re.fullmatch(path, seen.path))
            and status in (None, seen.status)
        )

    def open_watches(self, path: str = "") -> int:
        """How many watches pass through now, of this path or all."""
        return sum(1 for each in self._watches if not path or re.fullmatch(path, each.path))

    async def until(self, holds: Callable[[], object], *, timeout_s: float = UNTIL_S) -> None:
        """Wait until something about the requests holds; looked at after each one."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: bool(holds()))

    # --- inside -------------------------------------------------------------------------------

    def _add(self, rule: Rule) -> Rule:
        self._rules.insert(0, rule)
        return rule

    def _end_watches(self, path: str, last_words: bytes | None) -> int:
        ended = [each for each in self._watches if not path or re.fullmatch(path, each.path)]
        for each in ended:
            if not each.last_words.done():
                each.last_words.set_result(last_words)
        return len(ended)

    async def _note(self, request: web.Request, status: int, fault: str = "") -> None:
        self.requests.append(
            Seen(request.method, request.path, request.query_string, status, fault)
        )
        async with self._changed:
            self._changed.notify_all()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") in ("1", "true")
        taken = (rule.take(request.method, request.path, watch=watch) for rule in self._rules)
        fault = next((each for each in taken if each is not None), None)
        name = fault.name if fault is not None else ""
        match fault:
            case Answer():
                await self._note(request, fault.status, name)
                return web.json_response(fault.body(), status=fault.status, headers=fault.headers)
            case Cut(when="before"):
                return await self._break(request, name)
            case Hang():
                calmed = self._calmed
                await self._note(request, 0, name)
                await calmed.wait()
                return await self._break(request, None)
            case Delay():
                await asyncio.sleep(fault.seconds)
        try:
            async with await self._send(request) as answer:
                if watch and answer.status == 200:
                    return await self._stream(request, answer, name)
                return await self._pass(request, answer, fault)
        except (aiohttp.ClientError, OSError):  # the server is away, or went away meanwhile
            return await self._break(request, "server away")

    async def _send(self, request: web.Request) -> aiohttp.ClientResponse:
        assert self._session is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        body = await request.read()
        return await self._session.request(
            request.method,
            URL(self._plane.url + request.raw_path, encoded=True),
            headers=headers,
            data=body or None,
            allow_redirects=False,
        )

    async def _pass(
        self, request: web.Request, answer: aiohttp.ClientResponse, fault: Fault | None
    ) -> web.StreamResponse:
        """Hand over a whole answer, or as much of it as a fault leaves."""
        body = await answer.read()
        name = fault.name if fault is not None else ""
        if isinstance(fault, Cut) and fault.when == "after":
            return await self._break(request, name)
        response = web.StreamResponse(status=answer.status, headers=_end_to_end(answer))
        response.content_length = len(body)
        await self._note(request, answer.status, name)
        with contextlib.suppress(ConnectionError):  # the client left: its own affair
            await response.prepare(request)
            if isinstance(fault, Cut):
                await response.write(body[: len(body) // 2])
                return await self._break(request, None)
            await response.write(body)
            await response.write_eof()
        return response

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, name: str
    ) -> web.StreamResponse:
        """Hand over a watch, line by line, until either side or the test ends it."""
        response = web.StreamResponse(status=answer.status, headers=_end_to_end(answer))
        response.enable_chunked_encoding()
        await response.prepare(request)
        watch = _Watch(request.path)
        self._watches.add(watch)
        await self._note(request, answer.status, name)
        pump = asyncio.create_task(_pump(answer, response))
        try:
            either: set[asyncio.Future[Any]] = {pump, watch.last_words}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if watch.last_words.done():
                pump.cancel()
                words = watch.last_words.result()
                if words is None:
                    return await self._break(request, None)
                await response.write(words)
            else:
                await pump
            await response.write_eof()
        finally:
            self._watches.discard(watch)
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            answer.close()
        return response

    async def _break(self, request: web.Request, name: str | None) -> web.StreamResponse:
        """Cut the client's connection, and note it unless the request was noted before."""
        if name is not None:
            await self._note(request, 0, name)
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=502)  # nobody is there to read it


async def _pump(answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    async for line in answer.content:
        await response.write(line)


def _end_to_end(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
