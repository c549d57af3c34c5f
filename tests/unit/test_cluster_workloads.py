"""What each answer of the server means for a drain, word by word."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.client import PAGE, WRITE_SECONDS, Api, Json, Query
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.errors import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from aggregator.cluster.kubernetes_workloads import KubernetesWorkloads
from aggregator.cluster.pen import Pen
from aggregator.cluster.requeue import LABEL, Requeues
from aggregator.cluster.workloads import EvictionBlocked, ServerBusy, WorkloadError, Workloads
from aggregator.policy.drain.pods import Pod

POD = Pod(namespace="a", name="p", uid="u1")


class Answers(Api):
    """Gives each kind of request the answers that the test wrote down."""

    def __init__(self) -> None:
        super().__init__(Credentials(None))
        self.on_create: ApiError | None = None
        self.on_get: Json | ApiError = NotFound("GET: 404", status=404)
        self.lists: list[list[Json] | ApiError] = []
        self.created: list[tuple[str, Mapping[str, Any], bool]] = []

    async def create(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        seconds: float = WRITE_SECONDS,
        dry_run: bool = False,
    ) -> Json:
        self.created.append((path, body, dry_run))
        if self.on_create is not None:
            raise self.on_create
        return {}

    async def get(self, path: str, *, seconds: float = WRITE_SECONDS) -> Json:
        if isinstance(self.on_get, ApiError):
            raise self.on_get
        return self.on_get

    async def pages(
        self, path: str, *, limit: int = PAGE, query: Query | None = None
    ) -> AsyncGenerator[Json]:
        answer = self.lists.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        for page in answer:
            yield page


def port(api: Api, *, dry_run: bool = False) -> Workloads:
    pen = Pen(api, permit=lambda: None, dry_run=dry_run)
    return KubernetesWorkloads(api, pen, Requeues(api, pen, clock=lambda: 0.0))


def busy(**causes: str) -> TooManyRequests:
    return TooManyRequests("429", status=429, retry_after_seconds=3.0, causes=tuple(causes.items()))


async def test_an_eviction_names_the_very_pod_and_leaves_the_grace_to_it() -> None:
    api = Answers()
    assert await port(api).evict(POD, reason="r")
    ((path, body, dry_run),) = api.created
    assert path == "/api/v1/namespaces/a/pods/p/eviction"
    assert body["deleteOptions"] == {"preconditions": {"uid": "u1"}}
    assert not dry_run
    assert await port(api, dry_run=True).evict(POD, reason="r")
    assert api.created[-1][2]


async def test_a_budget_and_a_busy_server_are_told_apart() -> None:
    api = Answers()
    api.on_create = busy(DisruptionBudget="The disruption budget x needs 3 healthy pods and has 3")
    with pytest.raises(EvictionBlocked, match="a/p: The disruption budget x needs 3"):
        await port(api).evict(POD, reason="r")
    api.on_create = busy()
    with pytest.raises(ServerBusy) as raised:
        await port(api).evict(POD, reason="r")
    assert raised.value.retry_after_seconds == 3.0


@pytest.mark.parametrize(
    ("answer", "now", "gone"),
    [
        (NotFound("404", status=404), None, True),
        (Conflict("409", status=409), None, True),
        (Conflict("409", status=409), "u2", True),
        (Conflict("409", status=409), "u1", False),
        (Forbidden("403", status=403, causes=(("NamespaceTerminating", ""),)), "u1", True),
        (Forbidden("403 no right", status=403), "u1", False),
        (Unavailable("500 more than one PodDisruptionBudget", status=500), "u1", False),
        (ApiError("422", status=422), "u1", False),
    ],
)
async def test_gone_is_no_error_and_every_other_refusal_is(
    answer: ApiError, now: str | None, gone: bool
) -> None:
    api = Answers()
    api.on_create = answer
    if now is not None:
        api.on_get = {"metadata": {"namespace": "a", "name": "p", "uid": now}}
    if gone:
        assert await port(api).evict(POD, reason="r") is False
    else:
        with pytest.raises(WorkloadError, match=str(answer)):
            await port(api).evict(POD, reason="r")


async def test_a_pod_without_a_uid_is_never_evicted() -> None:
    api = Answers()
    with pytest.raises(WorkloadError, match="no UID"):
        await port(api).evict(Pod(namespace="a", name="p", uid=""), reason="r")
    assert api.created == []


async def test_one_who_may_not_act_sends_nothing() -> None:
    api = Answers()

    def refuse() -> None:
        raise EdgeError("stopped by a person: enough")

    pen = Pen(api, permit=refuse)
    workloads = KubernetesWorkloads(api, pen, Requeues(api, pen, clock=lambda: 0.0))
    with pytest.raises(WorkloadError, match="stopped by a person: enough"):
        await workloads.evict(POD, reason="r")
    assert api.created == []


async def test_a_list_that_the_server_forgets_halfway_is_begun_again_once() -> None:
    api = Answers()
    item = {"metadata": {"namespace": "a", "name": "p"}}
    api.lists = [Gone("410", status=410), [{"items": [item, "odd"]}, {"items": None}]]
    assert [pod.path for pod in await port(api).pods_on("n")] == ["a/p"]
    api.lists = [Gone("410", status=410), Gone("410", status=410)]
    with pytest.raises(WorkloadError, match="410"):
        await port(api).pods_on("n")


async def test_an_api_that_is_not_there_is_no_object() -> None:
    api = Answers()
    for none in (NotFound("404", status=404), ApiError("405", status=405)):
        api.on_get = none
        assert await port(api).get("/apis/x.io/v1/namespaces/a/things/b") is None
    api.on_get = Forbidden("403", status=403)
    with pytest.raises(WorkloadError, match="403"):
        await port(api).get("/apis/x.io/v1/namespaces/a/things/b")


class Contested(Answers):
    """A Workload of ours that somebody else changes before each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.on_get = {
            "metadata": {"resourceVersion": "1", "labels": {LABEL: "true"}},
            "spec": {"active": False},
        }

    async def patch(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        self.writes += 1
        raise Conflict("409", status=409)


@pytest.mark.looptime(start=0)
async def test_a_workload_that_others_keep_changing_is_given_back_in_rhythm() -> None:
    api = Contested()
    pen = Pen(api, permit=lambda: None)
    requeues = Requeues(api, pen, clock=asyncio.get_running_loop().time)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(requeues.run()),
            tasks.create_task(requeues.evict("/apis/kueue.x-k8s.io/w", reason="r")),
        ]
        await asyncio.sleep(60)
        for each in running:
            each.cancel()
    assert 30 <= api.writes <= 61
