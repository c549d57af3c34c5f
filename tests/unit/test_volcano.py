"""Volcano's two metrics as the custom metrics API answers them, and what a gap in the data looks like there."""

import json
import math
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.steps import at_once
from aggregator.feeds.volcano import METRICS, CustomMetrics, quantity, values_in_steps
from aggregator.usage import Usage
from tests.support import START
from tests.usage_builders import report, steady

NOW = START + 600
BASE = "/apis/custom.metrics.k8s.io"

Client = TestClient[web.Request, web.Application]


class Served:
    def __init__(self) -> None:
        self.leading = True
        self.usage = Usage()
        steady(self.usage, "a", start=START, end=NOW, cpu=0.375, memory=0.25)
        steady(self.usage, "quiet", start=START, end=NOW - 300, cpu=0.5)
        self.feed = CustomMetrics(self.usage, serving=lambda: self.leading, clock=lambda: NOW)


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Client]:
    app = web.Application()
    app.add_routes(served.feed.routes())
    async with TestClient(TestServer(app)) as client:
        yield client


async def get(client: Client, path: str, status: int = 200) -> Any:
    reply = await client.get(path)
    assert reply.status == status
    assert reply.content_type == "application/json"
    return json.loads(await reply.read())


async def test_all_nodes_are_told_with_the_time_of_their_own_newest_report(client: Client) -> None:
    answer = await get(client, f"{BASE}/v1beta2/nodes/*/node_cpu_usage_avg")
    assert answer["kind"] == "MetricValueList"
    assert answer["apiVersion"] == "custom.metrics.k8s.io/v1beta2"
    first, second = answer["items"]
    assert first == {
        "describedObject": {"kind": "Node", "name": "a", "apiVersion": "/v1"},
        "metric": {"name": "node_cpu_usage_avg", "selector": None},
        "timestamp": "2023-11-14T22:23:15Z",
        "windowSeconds": 600,
        "value": "375m",
    }
    assert (second["describedObject"]["name"], second["timestamp"]) == (
        "quiet",
        "2023-11-14T22:18:15Z",
    )


async def test_memory_is_told_in_the_older_version_too(client: Client) -> None:
    [value] = (await get(client, f"{BASE}/v1beta1/nodes/a/node_memory_usage_avg"))["items"]
    assert (value["metricName"], value["value"], value["window"]) == (
        "node_memory_usage_avg",
        "250m",
        600,
    )


async def test_discovery_says_what_there_is(client: Client) -> None:
    [group] = (await get(client, "/apis"))["groups"]
    assert group == await get(client, BASE)
    assert group["preferredVersion"]["version"] == "v1beta2"
    for version in ("v1beta2", "v1beta1"):
        listed = await get(client, f"{BASE}/{version}")
        assert {each["name"] for each in listed["resources"]} == {
            f"nodes/{each}" for each in METRICS
        }


async def test_who_does_not_lead_tells_of_no_node_and_is_still_discovered(
    client: Client, served: Served
) -> None:
    served.leading = False
    assert (await get(client, f"{BASE}/v1beta2/nodes/*/node_cpu_usage_avg"))["items"] == []
    assert (await get(client, f"{BASE}/v1beta2"))["resources"]


@pytest.mark.parametrize(
    ("path", "status", "names"),
    [
        ("/v1beta2/nodes/*/node_gpu_usage_avg", 404, "node_cpu_usage_avg"),
        ("/v3", 404, "v1beta2"),
        ("/v1beta2/nodes/stranger/node_cpu_usage_avg", 404, "stranger"),
        ("/v1beta2/nodes/*/node_cpu_usage_avg?labelSelector=a%3Db", 400, "labelSelector"),
    ],
)
async def test_what_is_not_there_is_said_in_a_status(
    client: Client, path: str, status: int, names: str
) -> None:
    answer = await get(client, BASE + path, status)
    assert (answer["kind"], answer["code"]) == ("Status", status)
    assert names in answer["message"]


@given(st.floats())
def test_a_quantity_is_whole_thousandths_between_none_and_all(share: float) -> None:
    text = quantity(share)
    assert re.fullmatch(r"0|[1-9]\d{0,2}m|1000m", text)
    if 0 <= share <= 1:
        assert abs(int(text.rstrip("m")) / 1000 - share) <= 0.0005


@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_no_reading_makes_an_odd_value(readings: list[float]) -> None:
    usage = Usage()
    for number, share in enumerate(readings):
        usage.take(report("n", cpu=share), START + 5 * number)
    steps = values_in_steps(usage, "node_cpu_usage_avg", "v1beta2", START + 100)
    told = at_once(steps)["items"]
    assert bool(told) == any(math.isfinite(each) and 0 <= each <= 1 for each in readings)
    assert all(re.fullmatch(r"0|\d{1,4}m", each["value"]) for each in told)
