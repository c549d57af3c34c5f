"""The scheduler extender over real HTTP: the protocol's corners, and that nothing breaks it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds import extender_routes as extender_routes_module
from aggregator.feeds.extender import (
    FILTER_PATH,
    MAX_PARTS,
    MAX_POD_BYTES,
    PRIORITIZE_PATH,
    Extender,
)
from aggregator.feeds.extender_pod import coarse
from aggregator.feeds.extender_routes import extender_routes
from aggregator.feeds.extender_scale import favour, spread
from aggregator.scores import accelerators, quantity
from aggregator.scores.book import ScoreBook
from aggregator.scores.placed import placed_pod
from aggregator.scores.typical import Typical
from aggregator.scores.values import PodShape
from aggregator.stats import AggregatorStats
from contract.vocabulary import Severity
from tests.score_builders import NOW, book_of, facts, put, room

USUAL = Typical.of({PodShape(cpu_milli=32_000, gpu_count=8, gpu_milli=1000): 1.0})
GPU_POD = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}]}}
CPU_POD = {"spec": {"containers": [{"resources": {"requests": {"cpu": "4"}}}]}}

NAMES = ["full", "weak", "sick", "stranger"]
RANKED = [95, 9, 0, 50]
"""What they get without a word about rooms: by health and use."""


def answered(stats: AggregatorStats) -> dict[str, int]:
    """What answers rested on, without what none did."""
    return {basis: count for basis, count in stats.extender_answers.items() if count}


def book() -> ScoreBook:
    """A full node, a degraded one, a sick one."""
    known = ScoreBook()
    put(known, facts("full", use_ratio=0.9))
    put(known, facts("weak", use_ratio=0.9, worst=Severity.DEGRADED, worst_text="gpu-hot on gpu:1"))
    put(known, facts("sick", worst=Severity.FATAL, worst_text="gpu-lost on gpu:3"))
    known.settle(NOW)
    return known


def extender(known: ScoreBook, stats: AggregatorStats, **changes: Any) -> Extender:
    return Extender(known, stats, **{"clock": lambda: NOW, **changes})


Client = TestClient[web.Request, web.Application]


@pytest.fixture
def stats() -> AggregatorStats:
    return AggregatorStats()


@pytest.fixture
async def client(stats: AggregatorStats) -> AsyncIterator[Client]:
    app = web.Application(client_max_size=100_000)
    app.add_routes(extender_routes(extender(book(), stats), stats))
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
        {"Host": "full", "Score": 95},
        {"Host": "weak", "Score": 9},
        {"Host": "sick", "Score": 0},
        {"Host": "stranger", "Score": 50},
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
    assert [each["Score"] for each in scores] == RANKED


async def test_bodies_that_are_sent_slowly_cannot_fill_memory(
    client: Client, stats: AggregatorStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extender_routes_module, "MAX_HELD_BYTES", 1_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(f"POST {FILTER_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n".encode())
    writer.write(b" " * 898)
    while "larger" not in (await ask(client, FILTER_PATH, {"NodeNames": ["a" * 200]})).get(
        "Error", ""
    ):
        await asyncio.sleep(0.01)
    assert await ask(client, FILTER_PATH, {"NodeNames": ["a"]})
    writer.write(b"{}")
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    writer.close()
    found = await ask(client, FILTER_PATH, {"NodeNames": ["a" * 200]})
    assert found["NodeNames"] == ["a" * 200]


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
    assert scores == (set(RANKED) if ours else {50})


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
    assert {each["Score"] for each in await ask(client, PRIORITIZE_PATH, body)} == {50}
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


BOOK = book()

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
    asked = extender(BOOK, stats)
    filtered = json.loads(asked.answer_filter(body))
    scores = json.loads(asked.answer_prioritize(body))
    assert all(type(each["Score"]) is int and 0 <= each["Score"] <= 100 for each in scores)
    hosts = {each["Host"] for each in scores}
    assert set(filtered.get("NodeNames", [])) <= hosts


def gpu_pod(**limits: Any) -> Any:
    return {"spec": {"containers": [{"resources": {"limits": limits}}]}}


async def ranked(client: Client, pod: Any, names: list[str]) -> list[int]:
    reply = await ask(client, PRIORITIZE_PATH, {"Pod": pod, "NodeNames": names})
    return [each["Score"] for each in reply]


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        (gpu_pod(**{"nvidia.com/gpu": "1.5"}), "odd-amount"),
        (gpu_pod(**{"nvidia.com/gpu": "-1"}), "odd-amount"),
        (gpu_pod(**{"nvidia.com/gpu": "lots"}), "odd-amount"),
        (gpu_pod(**{"nvidia.com/gpu": "1", "amd.com/gpu": "1"}), "several-vendors"),
        (gpu_pod(**{"nvidia.com/mig-1g.10gb": "1"}), "mig"),
        ({"spec": {"containers": [{}], "resourceClaims": [{"name": "gpu"}]}}, "resource-claims"),
    ],
    ids=["half-a-gpu", "less-than-none", "no-number", "two-vendors", "mig", "claims"],
)
async def test_a_pod_that_asks_oddly_is_passed_over_with_its_reason_counted(
    client: Client, stats: AggregatorStats, pod: Any, reason: str
) -> None:
    assert await ranked(client, pod, NAMES) == RANKED
    assert stats.extender_passed_over == {reason: 1}
    assert answered(stats) == {"node": 1}


async def test_a_pod_that_asks_for_nothing_leaves_all_equal(
    client: Client, stats: AggregatorStats
) -> None:
    assert await ranked(client, {"spec": {"containers": [{}]}}, NAMES) == [50] * 4
    assert answered(stats) == {"not-ours": 1}
    assert stats.extender_passed_over == {}


async def test_a_pod_without_a_gpu_goes_where_cpu_is_to_spare_beside_the_gpus(
    stats: AggregatorStats,
) -> None:
    known = book_of(
        room("gpus-free", [1000] * 8, cpu_milli=96_000, cpu_free_milli=34_000),
        room("gpus-taken", [0] * 8, cpu_milli=96_000, cpu_free_milli=34_000),
    )
    known.learn(USUAL)
    known.settle(NOW)
    names = ["gpus-free", "gpus-taken"]
    body = json.dumps({"Pod": CPU_POD, "NodeNames": names}).encode()
    told = {
        each["Host"]: each["Score"]
        for each in json.loads(extender(known, stats).answer_prioritize(body))
    }
    assert told["gpus-taken"] > told["gpus-free"]
    assert json.loads(extender(known, stats).answer_filter(body))["NodeNames"] == names


async def test_a_sick_node_is_never_refused_to_a_pod_without_a_gpu(client: Client) -> None:
    reply = await ask(client, FILTER_PATH, {"Pod": CPU_POD, "NodeNames": NAMES})
    assert reply["NodeNames"] == NAMES


def test_pods_without_a_gpu_are_told_apart_by_whole_steps_of_cpu() -> None:
    asked = [1, 250, 251, 3_999, 4_000, 4_001, 12_500]
    got = [coarse(PodShape(cpu_milli=each, memory_mib=each)) for each in asked]
    assert [each.cpu_milli for each in got] == [250, 250, 500, 4_000, 4_000, 5_000, 13_000]
    assert {each.memory_mib for each in got} == {0}


async def test_what_was_asked_and_answered_is_counted_with_its_time(
    client: Client, stats: AggregatorStats
) -> None:
    await ranked(client, GPU_POD, NAMES)
    await ask(client, PRIORITIZE_PATH, b"{")
    assert stats.extender_requests == {"prioritize": 2}
    assert answered(stats) == {"pod": 1, "unreadable": 1}
    assert sum(stats.extender_seconds.counts) == 2


def prioritized(known: ScoreBook, names: list[str], **changes: Any) -> dict[str, int]:
    body = json.dumps({"Pod": gpu_pod(**{"nvidia.com/gpu": "1"}), "NodeNames": names}).encode()
    reply = json.loads(extender(known, AggregatorStats(), **changes).answer_prioritize(body))
    return {each["Host"]: each["Score"] for each in reply}


@pytest.mark.parametrize(
    ("pod", "names", "words"),
    [
        (b"{}", b",".join([b'""'] * (MAX_PARTS + 2)), "more parts"),
        (b'{"spec":{"containers":[' + b",".join([b"{}"] * (MAX_POD_BYTES // 3)) + b"]}}", b'"a"', ""),
        (b'{"metadata":{"name":"' + b"x" * MAX_POD_BYTES + b'"}}', b'"a"', ""),
    ],
    ids=["names", "containers", "name"],
)  # fmt: skip
def test_one_request_cannot_take_all_time_or_memory(pod: bytes, names: bytes, words: str) -> None:
    stats = AggregatorStats()
    asked = extender(book(), stats)
    found = asked.read("filter", b'{"Pod":' + pod + b',"NodeNames":[' + names + b"]}")
    assert words in found.unreadable
    assert bool(found.unreadable) is bool(words)
    assert len(found.names) == (0 if words else 1)
    asked.reply(found)
    assert stats.extender_errors_total == 1


def test_nothing_that_a_client_makes_up_is_kept() -> None:
    before = [each.cache_info().currsize for each in (quantity._parse, accelerators._is_device)]
    for number in range(10):
        pod = gpu_pod(**{"nvidia.com/gpu": f"{number}" * 200, f"a/gpu-{number}" + "x" * 400: "1"})
        placed_pod(pod)
    after = [each.cache_info().currsize for each in (quantity._parse, accelerators._is_device)]
    assert [late - early <= 2 for early, late in zip(before, after, strict=True)] == [True, True]


def test_scores_from_a_time_that_has_not_come_are_not_trusted_either() -> None:
    """The clock was set back while nobody renewed them."""
    assert prioritized(book(), NAMES, clock=lambda: NOW - 31) == dict.fromkeys(NAMES, 50)


def test_scores_that_nobody_renews_are_not_trusted() -> None:
    names = ["full", "sick"]
    assert prioritized(book(), names, clock=lambda: NOW + 30) == {"full": 95, "sick": 0}
    assert prioritized(book(), names, clock=lambda: NOW + 31) == {"full": 50, "sick": 50}
    assert prioritized(ScoreBook(), names) == {"full": 50, "sick": 50}
    body = json.dumps({"Pod": GPU_POD, "NodeNames": names}).encode()
    late = extender(book(), AggregatorStats(), clock=lambda: NOW + 31)
    assert json.loads(late.answer_filter(body)) == {"NodeNames": names}


def test_a_used_node_is_better_than_breaking_into_an_empty_one_for_one_gpu() -> None:
    known = book_of(room("used", [0] * 7 + [1000]), room("empty", [1000] * 8))
    found = prioritized(known, ["empty", "used"])
    assert found["used"] > found["empty"] > 0


def test_a_node_that_does_not_fit_by_our_books_is_low_and_not_zero() -> None:
    known = book_of(room("taken", [0] * 8), room("free", [1000] * 8))
    found = prioritized(known, ["taken", "free"])
    assert 0 < found["taken"] < found["free"]


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 1000))
def test_the_whole_ranking_is_kept_where_there_is_room(scores: list[int], scale: int) -> None:
    array = np.array(scores, dtype=np.int64)
    numbers = spread(array, scale)
    assert np.all((numbers >= 0) & (numbers <= scale))
    assert np.all((numbers == 0) == (array == 0))
    better = array[:, None] > array[None, :]
    assert np.all((numbers[:, None] >= numbers[None, :])[better])
    if len({*scores} - {0}) <= scale:
        assert np.all((numbers[:, None] > numbers[None, :])[better])


def test_numbers_stay_at_the_rounded_ones_where_those_differ() -> None:
    assert spread(np.array([0, 500, 1000, 104])).tolist() == [0, 50, 100, 10]
    assert spread(np.array([998, 999, 1000])).tolist() == [98, 99, 100]
    assert spread(np.array([1, 2, 3])).tolist() == [1, 2, 3]


def test_equals_are_filled_one_after_the_other_whatever_the_order_of_the_question() -> None:
    known = ScoreBook()
    for name in ("first", "second", "third"):
        put(known, facts(name, use_ratio=0.5))
    known.settle(NOW)
    equals = ["third", "first", "second"]
    found = prioritized(known, [*equals, "stranger"])
    assert sorted(found.values()) == [50, 75, 75, 76]
    assert found.pop("stranger") == 50
    filled = max(found, key=lambda name: found[name])
    for again in (sorted(equals), equals[::-1]):
        assert prioritized(known, again) == found
    rest = [name for name in equals if name != filled]
    assert prioritized(known, rest) == prioritized(known, rest[::-1])
    assert sorted(prioritized(known, rest).values()) == [75, 76]


def test_nodes_alike_are_all_but_equal_and_never_quite() -> None:
    known = book_of(*(room(f"n{number}", [0] * 4 + [1000] * 4) for number in range(10)))
    found = sorted(prioritized(known, [f"n{number}" for number in range(10)]).values())
    assert found[-1] > found[-2]
    assert found[-1] - found[0] <= 3


def test_nodes_nobody_knows_stay_equal() -> None:
    assert set(prioritized(book(), ["x", "y", "z"]).values()) == {50}


def test_a_favourite_at_the_top_of_the_scale_is_told_by_lowering_its_equals() -> None:
    def favoured(*numbers: int) -> tuple[int, list[int]]:
        number, beside = favour(np.array(numbers))
        return number, beside.tolist()

    assert favoured(100, 50) == (100, [99, 50])
    assert favoured(100, 99) == (100, [100, 99])
    assert favoured(70, 69) == (71, [70, 69])
