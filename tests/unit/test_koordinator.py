"""NodeMetric as Koordinator reads it; whose an object is; and that nothing is written while our death could close nodes."""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.koordinator import (
    GPU_CORE,
    RunningPod,
    expiry_trouble,
    readings,
    running_pod,
    status,
    status_writer,
)
from aggregator.usage import Usage
from tests.support import START
from tests.usage_builders import GIB, report, steady

NOW = START + 900
AT = "2023-11-14T22:28:15Z"


def written(usage: Usage, pods: Any = (), node: str = "n1") -> dict[str, Any]:
    return status(node, usage.latest[node], readings(usage, NOW, [node]), pods, AT)


def busy(**options: Any) -> Usage:
    usage = Usage()
    steady(usage, "n1", start=START, end=NOW, **options)
    return usage


class TestStatus:
    def test_the_nodes_use_is_told_in_koordinators_units(self) -> None:
        told = written(busy(cpu=0.25, memory=0.5, gpus=(1.0, 0.5, 0.0, 0.5)))
        assert told["updateTime"] == AT
        assert told["nodeMetric"]["nodeUsage"] == {
            "resources": {"cpu": "16000m", "memory": str(256 * GIB), GPU_CORE: "200"}
        }

    def test_each_window_has_its_average_and_percentiles(self) -> None:
        usage = Usage()
        steady(usage, "n1", start=START, end=NOW - 30, cpu=0.25)
        steady(usage, "n1", start=NOW - 30, end=NOW, cpu=1.0)
        windows = {
            each["duration"]: each["usage"]
            for each in written(usage)["nodeMetric"]["aggregatedNodeUsages"]
        }
        assert set(windows) == {"5m0s", "10m0s", "15m0s"}
        assert set(windows["5m0s"]) == {"avg", "p50", "p90", "p95", "p99"}
        cpu = {name: each["resources"]["cpu"] for name, each in windows["5m0s"].items()}
        assert (cpu["p50"], cpu["p95"], cpu["avg"]) == ("16000m", "64000m", "20881m")

    def test_what_was_not_measured_is_not_there(self) -> None:
        told = written(busy(cpu=None, gpus=()))
        assert set(told["nodeMetric"]["nodeUsage"]["resources"]) == {"memory"}

    def test_an_agent_that_claims_too_much_is_kept_within_what_kubernetes_can_reckon(self) -> None:
        usage = Usage()
        usage.take(report(memory=1.0, memory_total_bytes=2**64 - 1), NOW)
        assert written(usage)["nodeMetric"]["nodeUsage"]["resources"]["memory"] == str(2**62)

    def test_every_running_pod_is_there_so_that_none_counts_twice(self) -> None:
        pods = [
            RunningPod(namespace="a", name="x", cpu_milli=8_000, memory_bytes=GIB, gpus=2),
            RunningPod(namespace="a", name="idle", priority="koord-batch", qos="BE"),
        ]
        told = written(busy(cpu=0.25, gpus=(1.0, 0.5, 0.0, 0.5)), pods)["podsMetric"]
        assert told == [
            {
                "namespace": "a",
                "name": "x",
                "podUsage": {"resources": {"cpu": "8000m", "memory": str(GIB), GPU_CORE: "100"}},
            },
            {
                "namespace": "a",
                "name": "idle",
                "priority": "koord-batch",
                "qos": "BE",
                "podUsage": {"resources": {"cpu": "0", "memory": "0"}},
            },
        ]

    @given(
        st.lists(
            st.tuples(st.integers(0, 10**6), st.integers(0, 2**45), st.floats(0, 64)), max_size=20
        ),
        st.floats(0, 1),
        st.floats(0, 1),
    )
    def test_all_pods_together_are_never_more_than_the_node(
        self, asked: list[tuple[int, int, float]], cpu: float, memory: float
    ) -> None:
        pods = [
            RunningPod(namespace="a", name=f"p{i}", cpu_milli=c, memory_bytes=m, gpus=g)
            for i, (c, m, g) in enumerate(asked)
        ]
        usage = Usage()
        usage.take(report(cpu=cpu, memory=memory), NOW)
        told = written(usage, pods)
        node = told["nodeMetric"]["nodeUsage"]["resources"]
        for name in ("cpu", "memory"):
            total = sum(number(each["podUsage"]["resources"][name]) for each in told["podsMetric"])
            assert total <= number(node[name])

    @given(st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=20))
    def test_every_quantity_is_plain(self, shares: list[tuple[float, float]]) -> None:
        usage = Usage()
        for place, (cpu, gpu) in enumerate(shares):
            usage.take(report(cpu=cpu, gpus=(gpu,)), NOW - 100 + place)
        for text in quantities(written(usage, [RunningPod(namespace="a", name="x", gpus=1)])):
            assert re.fullmatch(r"0|[1-9]\d*m?", text)


def number(text: str) -> int:
    return int(text.removesuffix("m"))


def quantities(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value.get("resources", {}).values()
        for each in value.values():
            yield from quantities(each)
    elif isinstance(value, list):
        for each in value:
            yield from quantities(each)


class TestPods:
    def test_requests_and_class_are_read_from_the_object(self) -> None:
        pod = running_pod(
            {
                "metadata": {"namespace": "a", "name": "x"},
                "spec": {
                    "priority": 9500,
                    "containers": [
                        {"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
                        {"resources": {"limits": {"cpu": 2, "nvidia.com/gpu": "4"}}},
                        {"resources": {"requests": {GPU_CORE: "50"}}},
                    ],
                },
                "status": {"phase": "Running"},
            }
        )
        assert pod == RunningPod(
            namespace="a",
            name="x",
            cpu_milli=2_500,
            memory_bytes=GIB,
            gpus=4.5,
            priority="koord-prod",
        )

    @pytest.mark.parametrize(
        "odd",
        [
            {},
            {"metadata": {"name": "x"}, "status": {"phase": "Succeeded"}},
            {
                "metadata": {"name": "x"},
                "spec": {"containers": "no"},
                "status": {"phase": "Pending"},
            },
        ],
    )
    def test_what_does_not_run_is_not_there(self, odd: dict[str, Any]) -> None:
        assert running_pod(odd) is None

    @given(
        st.recursive(
            st.none() | st.text() | st.floats() | st.integers(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(["cpu", "requests", "resources", "limits", "memory"]), inner
                )
            ),
        )
    )
    def test_no_object_is_too_odd(self, odd: Any) -> None:
        pod = running_pod(
            {
                "metadata": {"name": "x"},
                "spec": {"containers": [odd]},
                "status": {"phase": "Running"},
            }
        )
        assert pod
        assert math.isfinite(pod.gpus)


class TestWhoWrites:
    def test_an_object_that_only_we_write_is_ours(self) -> None:
        ours = {"manager": "fleetmedic-nodemetric", "subresource": "status"}
        manager = {"manager": "koord-manager", "fieldsV1": {"f:spec": {}}}
        assert (
            status_writer({"metadata": {"managedFields": [ours, manager]}}, ours["manager"]) == ""
        )
        assert status_writer({"metadata": {}}, ours["manager"]) == ""

    def test_another_writer_is_named(self) -> None:
        theirs = {"manager": "koordlet", "subresource": "status"}
        old = {"manager": "old-koordlet", "fieldsV1": {"f:status": {}}}
        for entry in (theirs, old):
            assert status_writer({"metadata": {"managedFields": [entry]}}, "us") == entry["manager"]


def configuration(**arguments: Any) -> dict[str, str]:
    config = {
        "kind": "KubeSchedulerConfiguration",
        "profiles": [
            {
                "schedulerName": "koord-scheduler",
                "plugins": {"filter": {"enabled": [{"name": "LoadAwareScheduling"}]}},
                "pluginConfig": [{"name": "LoadAwareScheduling", "args": arguments}],
            }
        ],
    }
    return {"koord-scheduler-config": yaml.safe_dump(config)}


class TestExpiry:
    """Whether nodes stay schedulable when nobody updates their objects any more."""

    def test_only_the_arguments_that_let_such_nodes_pass_are_taken(self) -> None:
        assert expiry_trouble(configuration(enableScheduleWhenNodeMetricsExpired=True)) == ""

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({}, "becomes unschedulable"),
            ({"enableScheduleWhenNodeMetricsExpired": False}, "becomes unschedulable"),
            ({"enableScheduleWhenNodeMetricsExpired": "true"}, "becomes unschedulable"),
            # As Koordinator's own manifests have it.
            ({"filterExpiredNodeMetrics": False}, "believed for ever"),
            (
                {"filterExpiredNodeMetrics": False, "enableScheduleWhenNodeMetricsExpired": True},
                "believed for ever",
            ),
        ],
    )
    def test_all_others_are_refused_with_the_remedy(
        self, arguments: dict[str, Any], says: str
    ) -> None:
        trouble = expiry_trouble(configuration(**arguments))
        assert says in trouble
        assert "koord-scheduler" in trouble
        assert "enableScheduleWhenNodeMetricsExpired: true" in trouble

    def test_one_bad_profile_among_good_ones_is_enough(self) -> None:
        good = configuration(enableScheduleWhenNodeMetricsExpired=True)
        assert expiry_trouble({**good, "other": configuration()["koord-scheduler-config"]})

    def test_a_profile_that_enables_the_plugin_without_arguments_has_the_defaults(self) -> None:
        profile = {"plugins": {"multiPoint": {"enabled": [{"name": "LoadAwareScheduling"}]}}}
        config = {"kind": "KubeSchedulerConfiguration", "profiles": [profile]}
        assert "becomes unschedulable" in expiry_trouble({"x": yaml.safe_dump(config)})

    @pytest.mark.parametrize("text", ["", "a: b", "[1, 2]", "kind: KubeSchedulerConfiguration"])
    def test_a_configuration_without_the_plugin_is_no_reason_to_write(self, text: str) -> None:
        assert "nobody would read" in expiry_trouble({"x": text})

    def test_what_cannot_be_read_is_refused(self) -> None:
        assert "cannot be read" in expiry_trouble({"x": "{"})

    @given(st.dictionaries(st.text(max_size=9), st.text(max_size=60), max_size=3))
    def test_no_text_is_too_odd(self, texts: dict[str, str]) -> None:
        assert expiry_trouble(texts)
