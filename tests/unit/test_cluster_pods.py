"""Pods and budgets as the server serves them; whatever stands in them, reading never fails."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.cluster.pod_objects import to_budget, to_pod
from aggregator.policy.drain.pods import DisruptionBudget, Owner

TEXT = st.text(max_size=10)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "metadata",
    "spec",
    "status",
    "annotations",
    "ownerReferences",
    "containers",
    "initContainers",
    "resources",
    "limits",
    "requests",
    "nvidia.com/gpu",
    "volumes",
    "conditions",
    "deletionTimestamp",
    "terminationGracePeriodSeconds",
    "selector",
    "matchLabels",
    "matchExpressions",
]
ODD = st.recursive(
    JUNK,
    lambda inner: (
        st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4) | st.lists(inner, max_size=3)
    ),
    max_leaves=25,
)


@given(st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=4))
def test_no_object_is_too_odd_to_be_read(obj: dict[str, Any]) -> None:
    pod = to_pod(obj)
    assert pod.devices >= 0
    assert pod.grace_seconds >= 0
    budget = to_budget(obj)
    assert budget is None or budget.disruptions_allowed >= 0


def container(**resources: dict[str, str]) -> dict[str, Any]:
    return {"name": "c", "resources": resources}


@pytest.mark.parametrize(
    ("spec", "devices"),
    [
        ({}, 0),
        ({"containers": [container(limits={"nvidia.com/gpu": "8"})]}, 8),
        (
            {
                "containers": [
                    container(requests={"nvidia.com/gpu": "2"}, limits={"nvidia.com/gpu": "2"})
                ]
            },
            2,
        ),
        ({"containers": [container(limits={"nvidia.com/gpu": "1"})] * 3}, 3),
        ({"containers": [container(limits={"huawei.com/Ascend910": "4", "amd.com/gpu": "1"})]}, 5),
        ({"containers": [container(limits={"rdma/hca": "8", "cpu": "64"})]}, 0),
        ({"containers": [container(limits={"nvidia.com/gpumem": "4000"})]}, 0),
        (
            {
                "containers": [container(limits={"nvidia.com/gpu": "1"})],
                "initContainers": [container(limits={"nvidia.com/gpu": "4"})],
            },
            4,
        ),
        (
            {
                "containers": [container(limits={"nvidia.com/gpu": "1"})],
                "initContainers": [
                    {**container(limits={"nvidia.com/gpu": "1"}), "restartPolicy": "Always"}
                ],
            },
            2,
        ),
    ],
)
def test_the_devices_of_a_pod_are_counted_as_the_scheduler_does(
    spec: dict[str, Any], devices: int
) -> None:
    assert to_pod({"spec": spec}).devices == devices


def test_a_static_pod_a_deleted_one_and_an_owned_one_are_told_apart() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u"}
    pod = to_pod(
        {
            "metadata": {
                "name": "p",
                "namespace": "a",
                "annotations": {"kubernetes.io/config.mirror": "x"},
                "deletionTimestamp": "1970-01-01T00:01:00Z",
                "deletionGracePeriodSeconds": 5,
                "ownerReferences": [{**owner, "uid": "v"}, {**owner, "controller": True}],
            },
            "spec": {"terminationGracePeriodSeconds": 60},
        }
    )
    assert (pod.mirror, pod.deleting_since_seconds, pod.grace_seconds) == (True, 60.0, 5.0)
    assert pod.owner == Owner("apps/v1", "DaemonSet", "d", "u")


def test_a_budget_that_selects_nobody_is_none_and_one_that_selects_all_is_not() -> None:
    metadata = {"namespace": "a", "name": "b"}
    assert to_budget({"metadata": metadata, "spec": {}}) is None
    assert to_budget({"metadata": metadata, "spec": {"selector": {}}}) == DisruptionBudget(
        namespace="a", name="b"
    )


def test_the_numbers_of_a_budget_are_those_of_its_controller() -> None:
    expression = {"key": "tier", "operator": "In", "values": ["a"]}
    obj = {
        "metadata": {"namespace": "a", "name": "b"},
        "spec": {
            "selector": {"matchLabels": {"app": "llm"}, "matchExpressions": [expression]},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
        "status": {"disruptionsAllowed": 1, "currentHealthy": 4, "desiredHealthy": 3},
    }
    assert to_budget(obj) == DisruptionBudget(
        namespace="a",
        name="b",
        match_labels={"app": "llm"},
        match_expressions=(expression,),
        disruptions_allowed=1,
        current_healthy=4,
        desired_healthy=3,
        always_evicts_unhealthy=True,
    )
