"""The pod informer against a script of what the server says: how little it keeps, what it tells, when it is trusted."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aggregator.cluster.client import Json
from aggregator.cluster.errors import Forbidden
from aggregator.cluster.pod_informer import STALE_SECONDS, PodInformer
from aggregator.cluster.reflector import Timings
from tests.unit.test_cluster_reflector import Listing, Script, Watching, page


def pod(name: str, version: int, *, uid: str = "", gpus: int = 1, node: str = "n1") -> Json:
    return {
        "metadata": {
            "namespace": "team",
            "name": name,
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-31T23:59:59Z",
        },
        "spec": {
            "nodeName": node,
            "containers": [{"resources": {"requests": {"cpu": "4", "nvidia.com/gpu": str(gpus)}}}],
        },
        "status": {"phase": "Running"},
    }


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def following(
    lists: list[Listing], watches: list[Watching], clock: Clock | None = None
) -> AsyncIterator[PodInformer]:
    """Running, and at the end of its script."""
    script = Script(lists, watches)
    informer = PodInformer(
        script,
        clock=clock or Clock(),
        random=lambda: 0.0,
        timings=Timings(backoff_seconds=0.0),
    )
    task = asyncio.create_task(informer.run())
    try:
        await script.silent.wait()
        yield informer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_pods_that_are_there_at_the_start_are_new_once() -> None:
    async with following([[page(5, pod("a", 3), pod("b", 4))]], []) as informer:
        assert [(each.key, each.new) for each in informer.take_changes()] == [
            ("team/a", True),
            ("team/b", True),
        ]
        assert informer.take_changes() == []
        assert informer.pods["team/a"].created_seconds == 1769903999.0


async def test_a_pod_that_took_the_name_of_another_is_new() -> None:
    async with following([[page(5, pod("a", 3))]], []) as informer:
        informer.take_changes()
        informer._reflector.put(pod("a", 6, uid="other"))
        (change,) = informer.take_changes()
        assert change.before is not None
        assert (change.before.uid, change.new) == ("uid-a", True)


async def test_a_change_that_scores_do_not_care_about_is_none() -> None:
    touched = pod("a", 6)
    touched["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    async with following([[page(5, pod("a", 3))]], []) as informer:
        informer.take_changes()
        informer._reflector.put(touched)
        assert informer.take_changes() == []


async def test_what_is_refused_is_said_and_not_waited_for() -> None:
    refused: Listing = Forbidden("GET /api/v1/pods: 403 pods is forbidden", status=403)
    script = Script([refused, [page(5, pod("a", 3))]], [])
    informer = PodInformer(
        script, clock=Clock(), random=lambda: 0.0, timings=Timings(backoff_seconds=0.01)
    )
    assert informer.trouble == "pods are not listed yet"
    task = asyncio.create_task(informer.run())
    while not informer.trouble.startswith("pods cannot be followed"):
        await asyncio.sleep(0)
    assert "403" in informer.trouble
    assert not informer.known
    await script.silent.wait()
    assert (informer.known, informer.trouble) == (True, "")
    task.cancel()


async def test_with_the_right_to_list_and_none_to_watch_they_are_known_and_old() -> None:
    refused = Forbidden("GET /api/v1/pods: 403 cannot watch", status=403)
    lists: list[Listing] = [[page(5, pod("a", 3))], [page(7, pod("a", 3), pod("b", 6))]]
    script = Script(lists, [[refused]])
    informer = PodInformer(
        script, clock=Clock(), random=lambda: 0.0, timings=Timings(backoff_seconds=0.01)
    )
    task = asyncio.create_task(informer.run())
    while not informer.trouble.endswith("cannot watch"):
        await asyncio.sleep(0)
    assert informer.known
    await script.silent.wait()
    assert set(informer.pods) == {"team/a", "team/b"}
    task.cancel()


async def test_a_server_that_was_silent_for_long_is_not_believed_any_more() -> None:
    clock = Clock()
    async with following([[page(5, pod("a", 3))]], [], clock) as informer:
        assert informer.known
        clock.now = STALE_SECONDS + 1
        assert (informer.known, informer.trouble) == (False, "the server is silent about pods")


async def test_thousands_of_pods_stay_small() -> None:
    many = [pod(f"llm-serving-{number:05d}", number, gpus=number % 8) for number in range(2_000)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    async with following([[page(9_000, *many)]], []) as informer:
        informer.take_changes()
        del many
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown / 2_000 < 1_000
        asks = {id(each.ask) for each in informer.pods.values()}
        assert len(asks) == 8, "equal shapes are kept once"
