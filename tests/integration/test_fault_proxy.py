"""The fault-injecting proxy: transparent until it is told otherwise, then exactly as bad as it was told."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing, asynccontextmanager, suppress
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.errors import ApiError, Conflict, Gone, TooManyRequests, Unavailable
from aggregator.cluster.reflector import Reflector, Timings
from tests.controlplane.faults import Answer, Rule
from tests.controlplane.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from aggregator.cluster.client import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

pytestmark = pytest.mark.cluster


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(control_plane) as one:
        yield one


@pytest.fixture
async def api(proxy: FaultProxy) -> AsyncIterator[Api]:
    """Our own client, pointed at the proxy."""
    one = Api(Credentials(proxy.kubeconfig))
    yield one
    await one.close()


@pytest.fixture
async def thing(sandbox: Sandbox) -> str:
    """The path of an object to read and write."""
    await sandbox.create(sandbox.path("configmaps"), {"metadata": {"name": "thing"}})
    return sandbox.path("configmaps", "thing")


async def data(plane: ControlPlane, path: str) -> Json:
    """What the server really holds."""
    _, found = await plane.request("GET", path)
    return dict(found.get("data") or {})


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run something beside the test, cancelled at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(changed: asyncio.Event, holds: Callable[[], object]) -> None:
    """Wait until something holds; ``changed`` is set whenever that may have become so."""
    async with asyncio.timeout(30):
        while not holds():
            changed.clear()
            await changed.wait()


async def test_without_a_rule_everything_passes_and_is_counted(
    control_plane: ControlPlane, proxy: FaultProxy, api: Api, thing: str
) -> None:
    await api.patch(thing, {"data": {"a": "1"}})
    assert (await api.get(thing))["data"] == {"a": "1"} == await data(control_plane, thing)
    assert [(each.method, each.path, each.status, each.fault) for each in proxy.requests] == [
        ("PATCH", thing, 200, ""),
        ("GET", thing, 200, ""),
    ]


async def test_the_bearers_own_rights_hold(
    control_plane: ControlPlane, proxy: FaultProxy, sandbox: Sandbox
) -> None:
    _, issued = await control_plane.request(
        "POST", sandbox.path("serviceaccounts", "default") + "/token", {"spec": {}}
    )
    stranger = Api(Credentials(proxy.write_kubeconfig("stranger", token=issued["status"]["token"])))
    with pytest.raises(ApiError, match="403"):
        await stranger.get("/api/v1/nodes")
    await stranger.close()


async def test_a_rule_holds_for_its_method_path_and_number_of_times(
    control_plane: ControlPlane, proxy: FaultProxy, api: Api, thing: str
) -> None:
    rule = proxy.fail(method="PATCH", path=r".*/configmaps/thing", status=409, times=2)
    for _ in range(2):
        with pytest.raises(Conflict):
            await api.patch(thing, {"data": {"a": "1"}})
        await api.get(thing)
    assert await data(control_plane, thing) == {}, "the server never heard of them"
    await api.patch(thing, {"data": {"a": "1"}})
    assert rule.taken == proxy.count("PATCH", status=409) == 2


async def test_a_plea_for_patience_comes_with_and_without_its_seconds_and_cause(
    proxy: FaultProxy, control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    path = sandbox.path("pods", "worker") + "/eviction"
    proxy.fail(status=429)
    message = "The disruption budget gang needs 3 healthy pods and has 3 currently"
    proxy.fail(
        method="POST",
        path=path,
        status=429,
        retry_after_s=7,
        cause="DisruptionBudget",
        message=message,
    )
    api = Api(Credentials(proxy.kubeconfig))
    with pytest.raises(TooManyRequests) as caught:
        await api.create(path, {})
    assert caught.value.retry_after_seconds == 7
    assert message in str(caught.value)
    with pytest.raises(TooManyRequests) as caught:
        await api.get(sandbox.path("pods", "worker"))
    assert caught.value.retry_after_seconds == 1
    await api.close()


async def test_a_cut_before_is_not_done_and_a_cut_after_is_done_unseen(
    control_plane: ControlPlane, proxy: FaultProxy, api: Api, thing: str
) -> None:
    proxy.cut("before", method="PATCH", times=1)
    with pytest.raises(Unavailable):
        await api.patch(thing, {"data": {"a": "1"}})
    assert await data(control_plane, thing) == {}
    proxy.cut("after", method="PATCH", times=1)
    with pytest.raises(Unavailable):
        await api.patch(thing, {"data": {"a": "2"}})
    assert await data(control_plane, thing) == {"a": "2"}


async def test_half_an_answer_is_no_answer(proxy: FaultProxy, api: Api, thing: str) -> None:
    proxy.cut("middle", method="GET", times=1)
    with pytest.raises(Unavailable):
        await api.get(thing)
    assert (await api.get(thing))["metadata"]["name"] == "thing"


async def test_what_hangs_is_cut_when_it_calms_and_what_is_delayed_arrives(
    proxy: FaultProxy, api: Api, thing: str
) -> None:
    proxy.hang(method="PATCH")
    waiting = asyncio.create_task(api.patch(thing, {}))
    await proxy.until(lambda: proxy.count("PATCH", status=0))
    assert not waiting.done()
    proxy.calm()
    with pytest.raises(Unavailable):
        await waiting
    proxy.delay(0.01, method="GET", times=1)
    await api.get(thing)
    assert proxy.requests[-1].fault == "delay"


async def test_a_storm_is_the_same_for_the_same_seed(
    proxy: FaultProxy, api: Api, thing: str
) -> None:
    async def weather(seed: int) -> list[str]:
        proxy.calm()
        proxy.storm(Random(seed), share=0.5, path=thing)
        proxy.requests.clear()
        for _ in range(40):
            try:
                await api.patch(thing, {})
            except ApiError:
                continue
        return [each.fault for each in proxy.requests]

    first = await weather(7)
    kinds = Counter(first)
    assert kinds[""] >= 10
    assert {"409", "410", "429", "500", "503", "cut before", "cut after"} >= kinds.keys() - {""}
    assert len(kinds) >= 5
    assert await weather(7) == first
    assert await weather(8) != first


def test_a_rule_of_chance_without_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"random\.Random"):
        Rule([Answer(500)], share=0.5)


async def watch_nodes(api: Api, version: str) -> list[str]:
    stream = api.watch("/api/v1/nodes", version=version, seconds=60, idle_seconds=30)
    async with aclosing(stream) as events:
        return [event["type"] async for event in events]


@pytest.mark.parametrize("expired", [True, False])
async def test_a_watch_is_expired_or_cut_in_the_middle(
    proxy: FaultProxy, api: Api, *, expired: bool
) -> None:
    version = (await api.get("/api/v1/nodes?limit=1"))["metadata"]["resourceVersion"]
    watching = asyncio.create_task(watch_nodes(api, version))
    await proxy.until(lambda: proxy.open_watches("/api/v1/nodes"))
    end = proxy.expire_watches if expired else proxy.cut_watches
    assert end("/api/v1/nodes") == 1
    with pytest.raises(Gone if expired else Unavailable):
        await watching


async def test_our_reflector_follows_through_expiry_cut_and_a_new_api_server(
    control_plane: ControlPlane, proxy: FaultProxy, api: Api, sandbox: Sandbox
) -> None:
    changed = asyncio.Event()
    path = sandbox.path("configmaps")
    seen = Reflector(
        api,
        path,
        lambda one: one.get("data"),
        on_change=changed.set,
        clock=asyncio.get_running_loop().time,
        random=Random(1).random,
        timings=Timings(backoff_seconds=0.05, backoff_max_seconds=0.5),
    )

    async def shows(name: str) -> None:
        await sandbox.create(path, {"metadata": {"name": name}})
        await until(changed, lambda: name in seen.entries)

    async with background(seen.run()):
        await until(changed, lambda: seen.synced)
        await proxy.until(lambda: proxy.open_watches(path))
        assert proxy.expire_watches(path) == 1
        await shows("after-expiry")
        await proxy.until(lambda: proxy.open_watches(path))
        assert proxy.cut_watches(path) == 1
        await shows("after-cut")
        await control_plane.kill_apiserver()
        await proxy.until(lambda: proxy.requests[-1].fault == "server away")
        await control_plane.start_apiserver()
        await shows("after-restart")
