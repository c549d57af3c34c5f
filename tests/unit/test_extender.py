"""The scheduler extender over real HTTP: the protocol's corners, and that nothing breaks it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.extender import FILTER_PATH, PRIORITIZE_PATH, Extender
from aggregator.scores.model import NodeScore
from aggregator.stats import AggregatorStats

GPU_POD = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}]}}
CPU_POD = {"spec": {"containers": [{"resources": {"requests": {"cpu": "4"}}}]}}

SCORES = {
    "full": NodeScore(9, "healthy, 90% of its GPUs in use", "healthy"),
    "weak": NodeScore(1, "degraded: gpu-hot on gpu:1", "degraded"),
    "sick": NodeScore(0, "fatal: gpu-lost on gpu:3", "sick"),
}
NAMES = ["full", "weak", "sick", "stranger"]

Client = TestClient[web.Request, web.Application]


@pytest.fixture
def stats() -> AggregatorStats:
    return AggregatorStats()


@pytest.fixture
async def client(stats: AggregatorStats) -> AsyncIterator[Client]:
    app = web.Application(client_max_size=100_000)
    app.add_routes(Extender(lambda: SCORES, stats).routes())
    async with TestClient(TestServer(app)) as client:
        yield client


async def ask(client: Client, path: str, body: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await client.post(path, data=data)
    assert reply.status == 200
    assert reply.content_type == "application/json"
    return json.loads(await reply.read())


async def test_prioritize_scores_every_name_with_integers(
    client: Client, stats: AggregatorStats
) -> None:
    reply = await ask(client, PRIORITIZE_PATH, {"Pod": GPU_POD, "Nodes": None, "NodeNames": NAMES})
    assert reply == [
        {"Host": "full", "Score": 9},
        {"Host": "weak", "Score": 1},
        {"Host": "sick", "Score": 0},
        {"Host": "stranger", "Score": 5},
    ]
    assert stats.extender_requests == {"prioritize": 1}
    assert stats.extender_unknown_nodes_total == 1
    assert stats.extender_errors_total == 0


async def test_filter_refuses_hard_faults_in_words_and_lets_unknown_nodes_pass(
    client: Client, stats: AggregatorStats
) -> None:
    reply = await ask(client, FILTER_PATH, {"Pod": GPU_POD, "Nodes": None, "NodeNames": NAMES})
    assert reply == {
        "NodeNames": ["full", "weak", "stranger"],
        "FailedAndUnresolvableNodes": {"sick": "fleetmedic: fatal: gpu-lost on gpu:3"},
    }
    assert stats.extender_requests == {"filter": 1}
    assert stats.extender_unknown_nodes_total == 1


async def test_full_nodes_come_back_as_they_were_sent(client: Client) -> None:
    nodes = [
        {"metadata": {"name": name, "labels": {"a": "b"}}, "status": {"x": [1, None]}}
        for name in NAMES
    ]
    body = {"Pod": GPU_POD, "Nodes": {"metadata": {}, "items": nodes}, "NodeNames": None}
    reply = await ask(client, FILTER_PATH, body)
    assert reply["Nodes"] == {"items": [nodes[0], nodes[1], nodes[3]]}
    assert "NodeNames" not in reply
    scores = await ask(client, PRIORITIZE_PATH, body)
    assert [each["Score"] for each in scores] == [9, 1, 0, 5]


@pytest.mark.parametrize("spelling", ["NodeNames", "nodeNames", "nodenames"])
async def test_either_case_of_keys(client: Client, spelling: str) -> None:
    pod = "Pod" if spelling == "NodeNames" else "pod"
    reply = await ask(client, FILTER_PATH, {pod: GPU_POD, spelling: NAMES})
    assert reply["NodeNames"] == ["full", "weak", "stranger"]


async def test_lower_case_nodes(client: Client) -> None:
    body = {"pod": GPU_POD, "nodes": {"items": [{"metadata": {"name": "sick"}}]}}
    reply = await ask(client, FILTER_PATH, body)
    assert list(reply["FailedAndUnresolvableNodes"]) == ["sick"]
    assert reply["Nodes"] == {"items": []}


@pytest.mark.parametrize(
    ("spec", "ours"),
    [
        (GPU_POD["spec"], True),
        (CPU_POD["spec"], False),
        ({"containers": None}, False),
        ({"containers": [{"resources": {"limits": {"nvidia.com/gpu": "0"}}}]}, False),
        ({"containers": [{"resources": {"limits": {"nvidia.com/gpu": 1}}}]}, True),
        ({"containers": [{"resources": {"requests": {"huawei.com/Ascend910": "1"}}}]}, True),
        ({"containers": [{}], "initContainers": [{"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}]}, True),
        ({"containers": [{}], "resources": {"requests": {"koordinator.sh/gpu-core": "50"}}}, True),
        ({"containers": [{}], "resourceClaims": [{"name": "gpu"}]}, True),
    ],
)  # fmt: skip
async def test_only_pods_that_ask_for_an_accelerator_are_judged(
    client: Client, spec: Any, ours: bool
) -> None:
    body = {"Pod": {"spec": spec}, "NodeNames": NAMES}
    reply = await ask(client, FILTER_PATH, body)
    assert ("sick" not in reply["NodeNames"]) is ours
    scores = {each["Score"] for each in await ask(client, PRIORITIZE_PATH, body)}
    assert scores == ({9, 1, 0, 5} if ours else {5})


async def test_no_nodes_is_an_answer_too(client: Client, stats: AggregatorStats) -> None:
    body = {"Pod": GPU_POD, "Nodes": None, "NodeNames": None}
    assert await ask(client, FILTER_PATH, body) == {"NodeNames": []}
    assert await ask(client, PRIORITIZE_PATH, body) == []
    assert stats.extender_errors_total == 0


async def test_an_unreadable_pod_with_readable_names_lets_all_pass(
    client: Client, stats: AggregatorStats
) -> None:
    body = {"Pod": {"spec": {"containers": "many"}}, "NodeNames": NAMES}
    assert (await ask(client, FILTER_PATH, body))["NodeNames"] == NAMES
    assert {each["Score"] for each in await ask(client, PRIORITIZE_PATH, body)} == {5}
    assert stats.extender_errors_total == 2


BROKEN = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"NodeNames": 5}',
    b'{"NodeNames": [1.5]}',
    b'{"Nodes": {"items": [{"metadata": {}}]}}',
    b'{"NodeNames": ["\xff"]}',
    b"[" * 90_000,
    b'{"x":' * 15_000,
    b"x" * 200_000,
]


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:12]))
async def test_what_cannot_be_read_is_answered_in_the_protocols_own_words_and_counted(
    client: Client, stats: AggregatorStats, body: bytes
) -> None:
    reply = await ask(client, FILTER_PATH, body)
    assert list(reply) == ["Error"]
    assert reply["Error"].startswith("fleetmedic")
    assert await ask(client, PRIORITIZE_PATH, body) == []
    assert stats.extender_errors_total == 2
    good = await ask(client, FILTER_PATH, {"Pod": GPU_POD, "NodeNames": ["full"]})
    assert good == {"NodeNames": ["full"]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["Pod", "pod", "spec", "containers", "NodeNames", "Nodes", "items"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.one_of(st.binary(max_size=200), json_values.map(lambda value: json.dumps(value).encode()))
)
def test_no_request_breaks_it_and_no_name_is_invented(body: bytes) -> None:
    stats = AggregatorStats()
    extender = Extender(lambda: SCORES, stats)
    filtered = json.loads(extender.answer_filter(body))
    scores = json.loads(extender.answer_prioritize(body))
    assert all(type(each["Score"]) is int and 0 <= each["Score"] <= 10 for each in scores)
    hosts = {each["Host"] for each in scores}
    assert set(filtered.get("NodeNames", [])) <= hosts
