"""The descheduler's query as its page has it, on a real Prometheus, judged by the descheduler's own rules for an answer."""

import time
from pathlib import Path
from typing import Any

import yaml

from tests.pages import HOW_TO, yaml_block
from tests.prometheus import sample, server


def text() -> str:
    """The policy that the page shows, whole."""
    return yaml_block(HOW_TO / "descheduler.md", "DeschedulerPolicy")


def policy() -> dict[str, Any]:
    """The same, read."""
    return dict(yaml.safe_load(text()))


def arguments() -> dict[str, Any]:
    [profile] = policy()["profiles"]
    [found] = [
        each["args"] for each in profile["pluginConfig"] if each["name"] == "LowNodeUtilization"
    ]
    return dict(found)


def as_descheduler_reads(result: list[dict[str, Any]]) -> dict[str, float]:
    """Node → percent: one sample per node, label ``instance``, value 0..1; anything else ends its run with an error."""
    nodes = {}
    for each in result:
        name, value = each["metric"]["instance"], float(each["value"][1])
        assert 0 <= value <= 1
        assert name not in nodes
        nodes[name] = 100 * value
    return nodes


async def test_the_pages_query_gives_each_node_one_share_under_its_own_name(tmp_path: Path) -> None:
    pages = sample.pages(time.time())
    # Two aggregators that both lead for a moment, as at a takeover, must not give a node two samples.
    pages["/second"] = pages["/aggregator"]
    async with server.serving(pages) as address:
        targets = {f"{address}{path}": f"10.0.0.{n}:8080" for n, path in enumerate(pages)}
        async with server.prometheus(tmp_path, targets) as url:
            seen = "count(count_over_time(fleetmedic_node_utilization_ratio[1m]) >= 2) >= 6"
            await server.until_value(url, seen)
            query = arguments()["metricsUtilization"]["prometheus"]["query"]
            answer = await server.until_value(url, query)
    nodes = as_descheduler_reads(answer)
    assert set(nodes) == {"gpu-a", "gpu-b", "gpu-c"}, "the silent one is not told as idle"
    assert nodes["gpu-a"] == 56.25


def test_the_pages_policy_evicts_little_and_never_training() -> None:
    given = arguments()
    assert set(given["thresholds"]) == set(given["targetThresholds"]) == {"MetricResource"}
    assert given["evictionLimits"]["node"] == 1
    assert policy()["maxNoOfPodsToEvictTotal"] <= 5
    [evictor] = [
        each["args"]
        for each in policy()["profiles"][0]["pluginConfig"]
        if each["name"] == "DefaultEvictor"
    ]
    assert evictor["labelSelector"]["matchLabels"], "only what opted in is moved"
