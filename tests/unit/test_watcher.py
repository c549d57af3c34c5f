"""load-watcher's wire format, pinned; and what Trimaran's plugins are told when something is missing."""

import json
import math
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.steps import at_once
from aggregator.feeds.watcher import ASSUMED, Watcher, build, encode_in_steps, nothing
from aggregator.usage import Usage
from tests.support import START
from tests.usage_builders import report, steady

NOW = START + 1_000


def fleet() -> Usage:
    """``a`` and ``b`` report since a quarter of an hour; ``quiet`` fell silent five minutes ago, ``gone`` long ago."""
    usage = Usage()
    steady(usage, "gone", start=START - 2_000, end=START - 1_000, cpu=0.9)
    steady(usage, "a", start=START, end=NOW, cpu=0.375, memory=0.25, gpus=(1.0, 0.8))
    steady(usage, "b", start=START, end=NOW, cpu=0.125, memory=0.75, gpus=(0.0,))
    steady(usage, "quiet", start=START, end=NOW - 300, cpu=0.5)
    return usage


NAMES = ["a", "b", "quiet", "gone", "never"]


def told(usage: Usage, **options: Any) -> dict[str, dict[tuple[str, str], float]]:
    payload = build(usage, NAMES, NOW, **options)
    return {
        name: {(each.type, each.operator): each.value for each in node.metrics}
        for name, node in payload.data.nodes.items()
    }


def test_the_wire_format_is_what_load_watcher_really_sends() -> None:
    payload = build(fleet(), ["a"], NOW)
    assert json.loads(msgspec.json.encode(payload)) == {
        "timestamp": int(NOW),
        "window": {"duration": "15m", "start": int(NOW - 5 - 900), "end": int(NOW - 5)},
        "source": "fleetmedic",
        "data": {
            "NodeMetricsMap": {
                "a": {
                    "metrics": [
                        metric("CPU", "Latest", 37.5),
                        metric("CPU", "STD", 0.0),
                        metric("CPU", "AVG", 37.5),
                        metric("Memory", "Latest", 25.0),
                        metric("Memory", "STD", 0.0),
                        metric("Memory", "AVG", 25.0),
                    ],
                    "tags": {},
                    "metadata": {},
                }
            }
        },
    }


def metric(kind: str, operator: str, value: float) -> dict[str, Any]:
    named = {"name": "measured", "type": kind, "operator": operator}
    return {**named, "rollup": "15m", "value": value}


def test_the_average_comes_last_as_one_plugin_takes_whichever_is_last() -> None:
    for node in build(fleet(), NAMES, NOW).data.nodes.values():
        operators = [each.operator for each in node.metrics if each.type == "CPU"]
        assert operators[-1] == "AVG"


def test_a_silent_node_is_told_as_last_known() -> None:
    assert told(fleet())["quiet"]["CPU", "AVG"] == 50.0


def test_a_node_of_which_nothing_is_known_is_neither_preferred_nor_shunned() -> None:
    metrics = told(fleet())
    mean = round((37.5 + 12.5 + 50.0) / 3, 2)
    for name in ("gone", "never"):
        assert metrics[name]["CPU", "AVG"] == pytest.approx(mean, abs=0.01)
        assert ("CPU", "Latest") not in metrics[name]
    [named] = {each.name for each in build(fleet(), ["never"], NOW).data.nodes["never"].metrics}
    assert named == ASSUMED


def test_where_nothing_is_known_of_any_node_all_are_equal() -> None:
    assert told(Usage()) == {}


def test_a_sick_node_is_told_truly_unless_it_is_to_be_left_out() -> None:
    assert told(fleet())["a"]["CPU", "AVG"] == 37.5
    assert "a" not in told(fleet(), leave_out={"a"})


def test_gpus_can_be_told_as_if_they_were_cpus() -> None:
    metrics = told(fleet(), subject="gpu")
    assert metrics["a"]["CPU", "AVG"] == 90.0
    assert metrics["a"]["Memory", "AVG"] == 25.0


def test_the_window_ends_when_the_oldest_of_the_fresh_readings_was_taken() -> None:
    usage = fleet()
    usage.take(report("a"), NOW + 20)
    assert build(usage, NAMES, NOW + 20).window.end == int(NOW - 5)


def test_a_short_history_is_told_as_a_short_window() -> None:
    usage = Usage()
    steady(usage, "a", start=NOW - 60, end=NOW)
    assert build(usage, ["a"], NOW).window.duration == "5m"
    steady(usage, "a", start=NOW, end=NOW + 600)
    assert build(usage, ["a"], NOW + 600).window.duration == "10m"


class Served:
    """A watcher of which the leadership, the sick nodes and the clock are the test's."""

    def __init__(self) -> None:
        self.leading = True
        self.sick: set[str] = set()
        self.now = NOW
        self.watcher = self.make()

    def make(self, **options: Any) -> Watcher:
        return Watcher(
            fleet(),
            nodes=lambda: NAMES,
            sick=lambda: self.sick,
            serving=lambda: self.leading,
            clock=lambda: self.now,
            **options,
        )


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
async def client(served: Served) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    app = web.Application()
    app.add_routes(served.watcher.routes())
    async with TestClient(TestServer(app)) as client:
        yield client


Client = TestClient[web.Request, web.Application]


async def nodes(client: Client, path: str) -> dict[str, Any]:
    reply = await client.get(path)
    assert reply.status == 200
    assert reply.content_type == "application/json"
    return dict(json.loads(await reply.read())["data"]["NodeMetricsMap"])


async def test_cpu_truth_stands_under_both_paths_and_gpu_under_its_own(client: Client) -> None:
    assert await nodes(client, "/watcher") == await nodes(client, "/cpu/watcher")
    gpu = await nodes(client, "/gpu/watcher")
    assert gpu["a"]["metrics"][0]["value"] == 90.0


async def test_one_host_can_be_asked_for(client: Client) -> None:
    assert set(await nodes(client, "/watcher?host=a")) == {"a"}
    unknown = await client.get("/watcher?host=stranger")
    assert unknown.status == 404
    assert "stranger" in await unknown.text()


async def test_who_does_not_lead_or_is_about_to_go_makes_all_nodes_equal(
    client: Client, served: Served
) -> None:
    assert (await client.get("/watcher/health")).status == 200
    served.leading = False
    assert await nodes(client, "/cpu/watcher") == {}
    for path in ("/watcher/health", "/cpu/watcher/health", "/gpu/watcher/health"):
        assert (await client.get(path)).status == 503
    served.leading = True
    assert len(await nodes(client, "/cpu/watcher")) == len(NAMES)


async def test_an_answer_is_made_once_in_five_seconds_however_many_ask(served: Served) -> None:
    first = (await served.watcher.payload("cpu"))[1]
    assert (await served.watcher.payload("cpu"))[1] is first
    served.now += 5
    assert (await served.watcher.payload("cpu"))[1] is not first


async def test_sick_nodes_are_left_out_where_that_is_set(served: Served) -> None:
    served.sick = {"a"}
    assert "a" in (await served.watcher.payload("cpu"))[0].data.nodes
    left_out = served.make(unhealthy="leave-out")
    assert "a" not in (await left_out.payload("cpu"))[0].data.nodes


@given(
    st.lists(st.tuples(st.floats(), st.floats(), st.floats()), max_size=20),
    st.sampled_from(["cpu", "gpu"]),
)
def test_every_number_is_short_plain_and_a_percentage(
    readings: list[tuple[float, float, float]], subject: Any
) -> None:
    usage = Usage()
    for number, (cpu, memory, gpu) in enumerate(readings):
        share = memory if math.isfinite(memory) and 0 <= memory <= 1 else None
        usage.take(report(f"n{number % 3}", cpu=cpu, memory=share, gpus=(gpu,)), NOW - 100 + number)
    payload = build(usage, ["n0", "n1", "n2"], NOW, subject=subject)
    for node in payload.data.nodes.values():
        assert all(0 <= each.value <= 100 for each in node.metrics)
    text = msgspec.json.encode(payload).decode()
    numbers = re.findall(r'"(?:value|start|end|timestamp)":([^,}]+)', text)
    assert all(re.fullmatch(r"\d{1,10}(\.\d{1,2})?", each) for each in numbers), numbers


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 120])
def test_an_answer_in_pieces_is_the_same_answer(count: int) -> None:
    payload = build(fleet(), [f"n{number}" for number in range(count)], NOW)
    assert at_once(encode_in_steps(payload)) == msgspec.json.encode(payload)


def test_the_empty_answer_still_has_its_map() -> None:
    assert at_once(encode_in_steps(nothing(NOW))) == msgspec.json.encode(nothing(NOW))
    assert b'"data":{"NodeMetricsMap":{}}' in msgspec.json.encode(nothing(NOW))
