"""The client against a server that misbehaves: every answer has a type, and no secret in it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aggregator.cluster import credentials as credentials_module
from aggregator.cluster.client import TEXT, Api
from aggregator.cluster.credentials import Credentials, CredentialsError
from aggregator.cluster.errors import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    TooManyRequests,
    Unavailable,
)
from aggregator.cluster.tokens import NODE_NAME, TokenReviewer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[Api]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts a server with one handler; gives an Api that speaks to it."""
    servers: list[TestServer] = []
    apis: list[Api] = []

    async def start(handler: Handler) -> Api:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        file = tmp_path / "kubeconfig"
        file.write_text(kubeconfig(str(server.make_url("")).rstrip("/")))
        api = Api(Credentials(file))
        apis.append(api)
        return api

    yield start
    for api in apis:
        await api.close()
    for server in servers:
        await server.close()


def kubeconfig(url: str) -> str:
    return f"""
apiVersion: v1
kind: Config
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "{url}"}}}}]
users: [{{name: u, user: {{token: secret-token}}}}]
"""


def status(code: int, message: str, **headers: str) -> web.Response:
    body = {"kind": "Status", "code": code, "message": message}
    return web.json_response(body, status=code, headers=headers)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(401, Forbidden), (403, Forbidden), (409, Conflict), (410, Gone), (503, Unavailable)],
)
async def test_a_refusal_has_the_type_of_its_code(
    serve: Serve, code: int, kind: type[ApiError]
) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret-token"
        return status(code, "x" * 10_000)

    api = await serve(handler)
    with pytest.raises(kind) as caught:
        await api.patch("/thing", {"a": 1})
    assert caught.value.status == code
    assert "PATCH /thing" in str(caught.value)
    assert len(str(caught.value)) < TEXT + 100
    assert "secret-token" not in str(caught.value)


@pytest.mark.parametrize(("asked", "seconds"), [("7", 7.0), ("soon", 1.0), ("86400", 60.0)])
async def test_a_plea_for_patience_says_how_long_within_reason(
    serve: Serve, asked: str, seconds: float
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return status(429, "later", **{"Retry-After": asked})

    with pytest.raises(TooManyRequests) as caught:
        await (await serve(handler)).get("/thing")
    assert caught.value.retry_after_seconds == seconds


async def test_a_body_that_is_no_status_is_not_repeated(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>the proxy's own secrets</html>")

    with pytest.raises(Unavailable, match="502 Bad Gateway") as caught:
        await (await serve(handler)).get("/thing")
    assert "secrets" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "<html>", '"\ud800"'])
async def test_an_answer_without_sense_is_unavailable(serve: Serve, text: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=text.encode(errors="surrogatepass"))

    with pytest.raises(Unavailable):
        await (await serve(handler)).get("/thing")


async def test_no_answer_in_time_is_unavailable(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(Unavailable):
        await (await serve(handler)).get("/thing", seconds=0.05)


async def watch(api: Api, idle_seconds: float = 5.0) -> list[Any]:
    stream = api.watch("/things", version="5", seconds=30, idle_seconds=idle_seconds)
    async with aclosing(stream) as events:
        return [event async for event in events]


def speak(*lines: str, then_wait: bool = False) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.query["watch"] == "1"
        assert request.query["allowWatchBookmarks"] == "true"
        assert request.query["resourceVersion"] == "5"
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line.encode())
        if then_wait:
            await asyncio.Event().wait()
        return response

    return handler


async def test_a_watch_yields_each_line_however_it_is_cut(serve: Serve) -> None:
    api = await serve(speak('{"type":"ADDED",', '"object":{}}\n{"type":"MOD', 'IFIED"}\n'))
    assert [event["type"] for event in await watch(api)] == ["ADDED", "MODIFIED"]


async def test_a_silent_watch_is_given_up(serve: Serve) -> None:
    with pytest.raises(Unavailable):
        await watch(await serve(speak(then_wait=True)), idle_seconds=0.05)


async def test_an_error_within_a_watch_has_a_type(serve: Serve) -> None:
    line = '{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n'
    with pytest.raises(Gone, match="too old"):
        await watch(await serve(speak(line)))


async def test_a_watch_cut_within_a_line_is_unavailable(serve: Serve) -> None:
    with pytest.raises(Unavailable):
        await watch(await serve(speak('{"type":"ADD')))


async def test_a_pod_reads_its_token_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first")
    ca.write_text("any")
    monkeypatch.setattr(credentials_module, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(credentials_module, "SERVICE_CERT_FILENAME", str(ca))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    credentials = Credentials(None)
    await credentials.load()
    assert credentials.configuration.host == "https://10.0.0.1:443"
    assert credentials.headers() == {"Authorization": "bearer first"}
    token.write_text("second")
    await credentials.load()
    assert credentials.headers() == {"Authorization": "bearer second"}


async def test_outside_of_a_cluster_there_is_no_service_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(CredentialsError, match="service account"):
        await Credentials(None).load()


async def test_a_verdict_on_a_token_is_remembered_for_a_while(serve: Serve) -> None:
    asked = 0
    now = 0.0

    async def handler(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        spec = (await request.json())["spec"]
        assert spec["audiences"] == ["fleetmedic"]
        user = {"username": "system:serviceaccount:a:b", "extra": {NODE_NAME: ["gpu-1"]}}
        good = {"authenticated": True, "audiences": ["fleetmedic"], "user": user}
        return web.json_response({"status": good if spec["token"] == "good" else {}})

    reviewer = TokenReviewer(await serve(handler), "a/b", clock=lambda: now)
    for moment, count in ((0.0, 1), (59.0, 1), (61.0, 2)):
        now = moment
        assert await reviewer.review("good") == "gpu-1"
        assert asked == count
    for moment, count in ((61.0, 3), (65.0, 3), (67.0, 4)):
        now = moment
        assert await reviewer.review("bad") is None
        assert asked == count


async def test_a_server_that_cannot_be_asked_gives_no_verdict(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        return status(503, "not now")

    reviewer = TokenReviewer(await serve(handler), "a/b", clock=lambda: 0.0)
    for _ in range(2):  # and none is remembered
        with pytest.raises(Unavailable):
            await reviewer.review("good")


@pytest.mark.parametrize("text", ["", "agent", "/agent", "fleetmedic/"])
def test_a_service_account_without_a_namespace_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="namespace/name"):
        TokenReviewer(Api(Credentials(None)), text, clock=lambda: 0.0)
