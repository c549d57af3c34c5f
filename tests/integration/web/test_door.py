"""Who may read names of pods and jobs over HTTP, by the rights that the real API server knows."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import yaml
from aiohttp import ClientError, web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from aggregator.cluster.client import Api, Json
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.readers import ACCESS_REVIEWS as REVIEWED_AT
from aggregator.cluster.readers import (
    ALLOWED_SECONDS,
    REFUSED_SECONDS,
    WAITING,
    Readers,
    ReaderSettings,
    Refusal,
)
from aggregator.web.api import create_app
from aggregator.web.door import GUARDED, door, is_loopback, is_plain_host
from tests.controlplane.proxy import FaultProxy
from tests.integration.web.client import Events
from tests.integration.web.world import World
from tests.pages import HOW_TO, yaml_block

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

REVIEWS = r"/apis/auth.*reviews"
OPEN = {"/", "/static", "/healthz", "/readyz", "/metrics"}


class Gate:
    """An API whose callers are all strangers, and the API server that is asked about them."""

    def __init__(self, sandbox: Sandbox, proxy: FaultProxy) -> None:
        self.sandbox = sandbox
        self.proxy = proxy
        self.now = 1_000.0
        self.api = Api(Credentials(proxy.kubeconfig))
        self.readers = Readers(
            self.api, ReaderSettings(namespace=sandbox.namespace), clock=lambda: self.now
        )

    async def account(self, name: str, *, may_read: bool = False) -> str:
        """The token of a new service account."""
        sandbox = self.sandbox
        await sandbox.create(sandbox.path("serviceaccounts"), {"metadata": {"name": name}})
        if may_read:
            await self.let_read(name)
        path = f"{sandbox.path('serviceaccounts', name)}/token"
        status, made = await sandbox.plane.request("POST", path, {"spec": {}})
        assert status == 201, made
        token: str = made["status"]["token"]
        return token

    async def let_read(self, name: str) -> None:
        """As docs/how-to/read-access.md says."""
        block = yaml_block(HOW_TO / "read-access.md", "kind: RoleBinding")
        mine = block.replace("namespace: fleetmedic", f"namespace: {self.sandbox.namespace}")
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.sandbox.namespace}"
        role, binding = yaml.safe_load_all(mine.replace("reader", name))
        await self.sandbox.create(f"{rbac}/roles", role)
        await self.sandbox.create(f"{rbac}/rolebindings", binding)

    def reviews(self) -> int:
        return self.proxy.count("POST", REVIEWS)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[TestClient[web.Request, web.Application]]:
        async def secret(_: web.Request) -> web.Response:
            return web.Response(text="names of pods")

        guard = door(self.readers.refusal, is_known=lambda _: False)
        app = web.Application(middlewares=[guard])
        app.add_routes([web.get("/api/v1/why/{pod}", secret), web.get("/healthz", secret)])
        async with TestClient(TestServer(app)) as client:
            yield client


@pytest.fixture
async def gate(control_plane: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Gate]:
    async with FaultProxy(control_plane) as proxy:
        one = Gate(sandbox, proxy)
        yield one
        await one.api.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.cluster
async def test_only_who_may_read_through_the_api_server_may_read_here(gate: Gate) -> None:
    reader, other = await gate.account("reader", may_read=True), await gate.account("other")
    async with gate.serving() as client:
        for token, status, words in (
            (reader, 200, "names of pods"),
            (other, 403, f"system:serviceaccount:{gate.sandbox.namespace}:other may not read"),
            ("made-up", 401, "does not know this token"),
            ("", 401, "no token"),
        ):
            async with client.get("/api/v1/why/a", headers=bearer(token)) as answer:
                assert answer.status == status
                assert words in await answer.text()
                assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        for path in ("/%61pi/v1/why/a", "/api/v1/%77hy/a", "/api/v1/./why/a", "/api%2Fv1/why/a"):
            async with client.get(URL(path, encoded=True)) as answer:
                assert answer.status in (401, 404), path
        assert (await client.get("/healthz")).status == 200


@pytest.mark.cluster
async def test_a_token_is_reviewed_once_a_minute_and_a_right_that_was_granted_counts_soon(
    gate: Gate,
) -> None:
    reader, other = await gate.account("reader", may_read=True), await gate.account("other")
    assert await gate.readers.refusal(reader) is None
    assert await gate.readers.refusal(other)
    before = gate.reviews()
    assert before == 4, "who, and whether"
    assert await gate.readers.refusal(reader) is None
    assert await gate.readers.refusal(other)
    assert gate.reviews() == before
    await gate.let_read("other")
    for _ in range(40):  # the API server learns of roles when it does, and tells nobody
        gate.now += REFUSED_SECONDS
        if await gate.readers.refusal(other) is None:
            break
    assert await gate.readers.refusal(other) is None
    gate.now += ALLOWED_SECONDS
    before = gate.reviews()
    assert await gate.readers.refusal(reader) is None
    assert gate.reviews() == before + 2


@pytest.mark.cluster
async def test_while_the_api_server_cannot_be_asked_strangers_wait(gate: Gate) -> None:
    token = await gate.account("reader", may_read=True)
    gate.proxy.fail(status=503)
    refusal = await gate.readers.refusal(token)
    assert refusal is not None
    assert refusal.status == 503
    gate.proxy.calm()
    gate.proxy.fail(status=403, path=r".*subjectaccessreviews")
    refusal = await gate.readers.refusal(token)
    assert refusal is not None
    assert "deploy/base/rbac.yaml" in refusal.text
    gate.proxy.calm()
    assert await gate.readers.refusal(token) is None, "nothing of that was remembered"


@pytest.mark.cluster
async def test_a_flood_of_made_up_tokens_is_no_flood_of_reviews(gate: Gate) -> None:
    tokens = [f"made-up-{number}" for number in range(3 * WAITING)]
    found = await asyncio.gather(*map(gate.readers.refusal, tokens))
    assert all(found)
    assert gate.reviews() <= WAITING


async def test_a_flood_of_made_up_tokens_locks_nobody_out_who_was_let_in() -> None:
    """The API server is a stand-in that never has time for the flood."""
    unheard = asyncio.Event()

    class Server:
        async def create(self, path: str, body: Json) -> Json:
            if path == REVIEWED_AT:
                return {"status": {"allowed": True}}
            if body["spec"]["token"] != "good":
                await unheard.wait()
            return {"status": {"authenticated": True, "user": {"username": "ada"}}}

    now = 0.0
    readers = Readers(Server(), ReaderSettings(), clock=lambda: now)  # type: ignore[arg-type]
    assert await readers.refusal("good") is None
    flood = [asyncio.create_task(readers.refusal(f"bad-{n}")) for n in range(3 * WAITING)]
    now = ALLOWED_SECONDS + 1
    await asyncio.sleep(0)
    assert await readers.refusal("good") is None
    refused = await readers.refusal("new")
    assert refused is not None
    assert refused.status == 503
    unheard.set()
    await asyncio.gather(*flood)


async def test_a_stream_ends_when_its_reader_loses_the_right(world: World) -> None:
    refusal: Refusal | None = None

    async def refuse(token: str) -> Refusal | None:
        return refusal

    app = create_app(world.deps(heartbeat_seconds=0.01))
    app.middlewares.append(door(refuse, is_known=lambda _: False, again_seconds=0.01))
    async with (
        TestClient(TestServer(app)) as client,
        client.get("/api/v1/events") as reply,
    ):
        events = Events(reply)
        await events.until("synced")
        refusal = Refusal(503, "the API server is away")
        for _ in range(20):
            assert (await events.next())[0] == ""
        refusal = Refusal(403, "not any more")
        with pytest.raises(ClientError):
            await events.until("the end")


async def test_the_api_is_guarded_and_what_machines_need_is_not(world: World) -> None:
    asked: list[str] = []

    async def refuse(token: str) -> Refusal | None:
        asked.append(token)
        return Refusal(401, "who are you")

    app = create_app(world.deps(refusal=refuse))
    paths = {each.resource.canonical for each in app.router.routes() if each.resource}
    assert {each for each in paths if not each.startswith((GUARDED, "/scheduler/"))} == OPEN
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/api/v1/summary")).status == 200, "by port-forward"
        assert not asked
        rebound = {"Host": "evil.example:8080"}
        assert (await client.get("/api/v1/summary", headers=rebound)).status == 401
        assert (await client.get("/healthz", headers=rebound)).status == 200
        assert asked == [""]


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("127.0.0.1", True),
        ("127.0.0.6", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.7", False),
        ("::ffff:10.0.0.7", False),
        ("fe80::1%eth0", False),
        ("", False),
        (None, False),
        ("localhost", False),
    ],
)
def test_only_this_machine_is_let_in_unasked(address: str | None, known: bool) -> None:
    assert is_loopback(address) == known


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("localhost:8080", True),
        ("LOCALHOST", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("10.0.0.7", True),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:8080", False),
        ("fleetmedic-aggregator.fleetmedic.svc:8080", False),
        ("", False),
        ("[", False),
    ],
)
def test_a_name_that_a_name_server_can_turn_is_no_address_of_this_machine(
    host: str, plain: bool
) -> None:
    assert is_plain_host(host) == plain
