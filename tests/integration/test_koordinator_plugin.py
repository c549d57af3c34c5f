"""Koordinator's own LoadAwareScheduling plugin (v1.6.0) reads what we write, and says what our death does to a node."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from aggregator.cluster import times
from aggregator.feeds.koordinator import (
    GPU_CORE,
    RunningPod,
    expiry_trouble,
    readings,
    spec,
    status,
)
from aggregator.feeds.koordinator_thresholds import ANNOTATION, ThresholdSettings, annotation
from aggregator.usage import Usage
from tests import consumers
from tests.pages import HOW_TO, yaml_block
from tests.usage_builders import steady

NEUTRAL = {"filterExpiredNodeMetrics": True, "enableScheduleWhenNodeMetricsExpired": True}
HOUR = 3_600.0


@pytest.fixture(scope="module")
def program() -> Path:
    return consumers.need("koordinator")


pytestmark = pytest.mark.consumer("koordinator")


def from_the_page() -> dict[str, Any]:
    """The plugin's arguments as the page shows them."""
    [found] = yaml.safe_load(yaml_block(HOW_TO / "koordinator.md", "LoadAwareSchedulingArgs"))
    return dict(found["args"])


def node(**annotations: str) -> dict[str, Any]:
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", GPU_CORE: "800"}
    return {
        "metadata": {"name": "n1", "annotations": annotations},
        "status": {"allocatable": amounts, "capacity": amounts},
    }


def pod(name: str, cpu: str = "16") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "a", "uid": name},
        "spec": {
            "nodeName": "n1",
            "containers": [
                {"name": "main", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}
            ],
        },
        "status": {"phase": "Running"},
    }


def written(*, ago: float = 5.0, pods: tuple[RunningPod, ...] = (), **load: Any) -> dict[str, Any]:
    """Our NodeMetric, updated so many seconds ago; the plugin looks at the real clock."""
    taken = time.time() - ago
    usage = Usage()
    steady(usage, "n1", start=taken - 900, end=taken, **load)
    known = readings(usage, taken, ["n1"])
    return {
        "metadata": {"name": "n1"},
        "spec": spec(),
        "status": status("n1", usage.latest["n1"], known, pods, times.whole(taken)),
    }


async def ask(program: Path, node_metric: Any, **question: Any) -> tuple[str, int]:
    """Why a small pod is refused, if it is, and the node's score."""
    given = {
        "args": {},
        "node": node(),
        "pods": [],
        "nodeMetric": node_metric,
        "pod": pod("new", "1"),
    }
    child = await asyncio.create_subprocess_exec(
        program,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await child.communicate(json.dumps({**given, **question}).encode())
    assert child.returncode == 0, errors.decode()
    answer = json.loads(output)
    return answer["refused"], answer["score"]


class TestDeath:
    """Nobody updates the objects any more."""

    async def test_with_the_arguments_that_we_demand_every_node_passes_and_all_are_equal(
        self, program: Path
    ) -> None:
        arguments = from_the_page()
        assert not refuses(arguments)
        for cpu in (1.0, 0.0):
            assert await ask(program, written(ago=HOUR, cpu=cpu), args=arguments) == ("", 0)
        assert await ask(program, None, args=arguments) == ("", 0)

    async def test_with_its_defaults_the_node_is_closed_which_is_why_we_refuse_them(
        self, program: Path
    ) -> None:
        refused, _ = await ask(program, written(ago=HOUR, cpu=0.0))
        assert "expired" in refused
        assert refuses({})

    async def test_as_koordinators_manifests_have_it_a_busy_node_stays_closed_for_ever(
        self, program: Path
    ) -> None:
        arguments = {"filterExpiredNodeMetrics": False}
        refused, _ = await ask(program, written(ago=HOUR, cpu=1.0), args=arguments)
        assert "usage exceed" in refused
        assert refuses(arguments)

    async def test_an_empty_object_of_its_manager_counts_as_expired(self, program: Path) -> None:
        empty = {"metadata": {"name": "n1"}, "spec": spec()}
        assert "expired" in (await ask(program, empty))[0]
        assert await ask(program, empty, args=NEUTRAL) == ("", 0)


def refuses(arguments: dict[str, Any]) -> bool:
    profile = {"pluginConfig": [{"name": "LoadAwareScheduling", "args": arguments}]}
    config = {"kind": "KubeSchedulerConfiguration", "profiles": [profile]}
    return bool(expiry_trouble({"x": yaml.safe_dump(config)}))


async def test_the_plugin_scores_and_filters_by_what_we_write(program: Path) -> None:
    idle, busy, hot = [
        await ask(program, written(cpu=cpu), args=from_the_page()) for cpu in (0.1, 0.6, 0.9)
    ]
    assert idle[0] == busy[0] == ""
    assert idle[1] > busy[1] > 0
    assert "usage exceed threshold" in hot[0]


async def test_it_scores_by_gpu_load_where_that_has_a_weight(program: Path) -> None:
    page = from_the_page()
    assert GPU_CORE in page["resourceWeights"]
    weights = {**page, "resourceWeights": {GPU_CORE: 1}}
    scores = [
        (await ask(program, written(gpus=(share,) * 8), args=weights))[1]
        for share in (0.0, 0.5, 1.0)
    ]
    assert scores == [100, 50, 0]


async def test_it_reads_our_percentiles(program: Path) -> None:
    aggregated = {"scoreAggregationType": "p95", "scoreAggregatedDuration": "5m0s"}
    arguments = {**NEUTRAL, "aggregated": aggregated}
    assert (await ask(program, written(cpu=0.1), args=arguments))[1] > 50


async def test_a_pod_that_we_tell_of_does_not_count_twice(program: Path) -> None:
    there = [{**pod("job"), "metadata": {**pod("job")["metadata"]}}]
    told = RunningPod(namespace="a", name="job", cpu_milli=16_000, memory_bytes=1 << 30)
    alone = await ask(program, written(cpu=0.25), args=NEUTRAL)
    with_it = await ask(program, written(cpu=0.25, pods=(told,)), args=NEUTRAL, pods=there)
    without = await ask(program, written(cpu=0.25), args=NEUTRAL, pods=there)
    assert with_it[1] >= alone[1] - 1
    assert without[1] < with_it[1]


async def test_our_usage_thresholds_close_a_node_earlier(program: Path) -> None:
    tight = node(**{ANNOTATION: annotation(ThresholdSettings())})
    load = written(cpu=0.6)
    assert (await ask(program, load, args=NEUTRAL))[0] == ""
    assert "cpu usage exceed" in (await ask(program, load, args=NEUTRAL, node=tight))[0]
    idle = written(cpu=0.1)
    assert (await ask(program, idle, args=NEUTRAL, node=tight))[0] == ""


async def test_where_its_limits_are_on_percentiles_ours_are_too(program: Path) -> None:
    limits = {"usageThresholds": {"cpu": 95}, "usageAggregationType": "p95"}
    arguments = {**NEUTRAL, "aggregated": {**limits, "usageAggregatedDuration": "5m0s"}}
    plain = node(**{ANNOTATION: annotation(ThresholdSettings())})
    same = node(**{ANNOTATION: annotation(ThresholdSettings(aggregation="p95"))})
    load = written(cpu=0.6)
    assert (await ask(program, load, args=arguments, node=plain))[0] == "", "not read then"
    assert "aggregated usage" in (await ask(program, load, args=arguments, node=same))[0]
