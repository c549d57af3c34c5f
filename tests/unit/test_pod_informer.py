"""The pod informer against a script of what the server says: how little it keeps, what it tells, when it is trusted."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aggregator.cluster.client import Json
from aggregator.cluster.errors import Forbidden
from aggregator.cluster.pod_informer import (
    HELD_SECONDS,
    STALE_SECONDS,
    FailingPods,
    PodInformer,
)
from aggregator.cluster.reflector import Timings
from aggregator.scores.failed_pods import PodFailure
from tests import pod_failures
from tests.unit.test_cluster_reflector import Listing, Script, Watching, event, page


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


def broken(name: str, version: int, *, at: float = 0.0, **status: object) -> Json:
    """A pod that failed at once, at this time after ``NOW``."""
    ended = pod_failures.exited(at=pod_failures.NOW + at) | status
    return pod_failures.pod(name, status=ended, resourceVersion=str(version))


async def failures_of(script: Script, *, failures: FailingPods = "by-tenant") -> list[PodFailure]:
    """What is told until the script ends; the pods that have not failed are told first."""
    clock = Clock()
    informer = PodInformer(
        script,
        clock=clock,
        random=lambda: 0.0,
        timings=Timings(backoff_seconds=0.0),
        failures=failures,
        wall=lambda: pod_failures.NOW + 60,
    )
    task = asyncio.create_task(informer.run())
    while script.lists or script.watches:
        await asyncio.sleep(0)
    await script.silent.wait()
    task.cancel()
    at_once = list(informer.take_failures())
    assert not any(each.refused_devices for each in at_once)
    clock.now += HELD_SECONDS
    return [*at_once, *informer.take_failures()]


async def test_pods_that_had_failed_before_are_told_by_their_own_time_if_it_was_lately() -> None:
    old, new = broken("old", 3, at=-9_999), broken("new", 4, at=-300)
    told = await failures_of(Script([[page(5)], [page(5, old, new)]], []))
    assert [(each.pod, each.at_seconds) for each in told] == [
        ("team-a/new", pod_failures.NOW - 300)
    ]


async def test_pods_that_fail_and_pods_that_cannot_start_are_told_as_they_do() -> None:
    stuck = pod_failures.pod(
        "stuck",
        status=pod_failures.tried_again("RunContainerError", message=pod_failures.NO_SHIM),
        resourceVersion="7",
    )
    watches: list[Watching] = [[event("ADDED", stuck)], [event("ADDED", broken("a", 8))]]
    told = await failures_of(Script([[page(5)], [page(5)]], watches))
    assert sorted(each.pod for each in told) == ["team-a/a", "team-a/stuck"]


async def test_a_refusal_is_told_with_what_left_the_node_a_moment_before() -> None:
    """Others that came and went, seen by nobody between two looks; not those that were refused as well."""
    refused = [
        pod_failures.pod(name, status=pod_failures.refused(), resourceVersion=version)
        for name, version in (("b", "8"), ("c", "9"))
    ]
    holder = pod("holder", 6, gpus=3)
    gone: Watching = [
        event("ADDED", holder),
        event("DELETED", holder),
        event("ADDED", pod("elsewhere", 6, gpus=5, node="n2")),
        event("DELETED", pod("elsewhere", 6, gpus=5, node="n2")),
        *(event(kind, each | {"status": {}}) for each in refused for kind in ("ADDED", "DELETED")),
    ]
    watches: list[Watching] = [gone, [event("ADDED", each) for each in refused]]
    told = await failures_of(Script([[page(5)], [page(5)]], watches))
    assert [(each.pod, each.left_devices) for each in told] == [("team-a/b", 3), ("team-a/c", 3)]


async def test_switched_off_nobody_asks_for_failed_pods() -> None:
    script = Script([[page(5)]], [])
    assert await failures_of(script, failures="off") == []
    assert script.asked == ["list", "watch 5"]


async def test_of_pods_that_have_failed_little_is_kept() -> None:
    many = [broken(f"train-{number:05d}", number, at=-9_999) for number in range(2_000)]
    script = Script([[page(5)], [page(9_000, *many)]], [])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    informer = PodInformer(
        script, clock=Clock(), random=lambda: 0.0, timings=Timings(), failures="by-tenant"
    )
    task = asyncio.create_task(informer.run())
    while script.lists:
        await asyncio.sleep(0)
    await script.silent.wait()
    del many
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    task.cancel()
    assert grown / 2_000 < 400


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
