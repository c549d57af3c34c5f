"""Which failed pods may be the node's doing, by what Kubernetes writes into them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.scores.failed_pods import AT_ONCE_SECONDS, MAX_WORDS
from tests.pod_failures import (
    NO_COMMAND,
    NO_SHIM,
    NOW,
    REFUSED,
    Json,
    exited,
    not_started,
    pod,
    read,
    refused,
    stamp,
    tried_again,
)
from tests.unit.test_requests import JUNK, PODS

DISRUPTED = {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}
START_ERROR = {
    "exitCode": 128,
    "reason": "StartError",
    "message": NO_SHIM,
    "finishedAt": stamp(NOW),
}


def test_a_program_that_ends_at_once_is_told_with_its_owner_and_its_end() -> None:
    found = read(pod(status=exited(code=128)))
    assert found is not None
    assert (found.pod, found.node) == ("team-a/train-0", "n1")
    assert (found.workload, found.witness) == ("team-a/Job/train", "team-a")
    assert (found.at_seconds, found.reason) == (NOW, "Error exit code 128")
    assert found.refused_devices == 0


def test_where_workloads_are_heard_each_is_a_witness_and_a_bare_pod_its_own_workload() -> None:
    assert getattr(read(pod(), by_tenant=False), "witness", "") == "team-a/Job/train"
    bare = read(pod("alone", job=""), by_tenant=False)
    assert getattr(bare, "witness", "") == "team-a/Pod/alone"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (not_started(), "StartError exit code 128: nvidia-container-cli: initialization error"),
        (tried_again("RunContainerError", message=NO_SHIM), "RunContainerError: nvidia-container"),
        (tried_again("CreateContainerError", message="no such device"), "CreateContainerError: no"),
        (tried_again("CrashLoopBackOff", last=START_ERROR), "StartError: nvidia-container-cli"),
    ],
    ids=["given up", "run", "create", "crash loop"],
)
def test_what_the_runtime_cannot_start_counts_in_its_own_words(status: Json, words: str) -> None:
    found = read(pod(status=status))
    assert found is not None
    assert found.reason.startswith(words)
    assert len(found.reason) <= MAX_WORDS
    assert found.at_seconds == NOW


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("UnexpectedAdmissionError", refused()["message"]),
        (
            "UnexpectedAdmissionError",
            "Pod was rejected: Allocate failed due to rpc error: code = Unavailable desc = connection error, which is unexpected",
        ),
        (
            "UnexpectedAdmissionError",
            "Update plugin resources failed due to no healthy devices present; cannot allocate unhealthy devices nvidia.com/gpu",
        ),
        (
            "OutOfnvidia.com/gpu",
            "Pod was rejected: Node didn't have enough resource: nvidia.com/gpu, requested: 1, used: 7, capacity: 7",
        ),
    ],
)
def test_the_kubelet_that_does_not_hand_out_devices_says_how_many(
    reason: str, message: str
) -> None:
    found = read(pod(gpus=4, status=refused(reason, message)))
    assert found is not None
    assert found.refused_devices == 4
    assert found.reason.startswith(f"{reason}: ")
    assert "Pod was rejected" not in found.reason
    assert ";" not in found.reason, "sentences are told apart by it"


@pytest.mark.parametrize(
    "status",
    [
        refused("OutOfcpu", "Node didn't have enough resource: cpu"),
        refused("OutOfmemory"),
        refused("OutOfpods"),
        refused("OutOfephemeral-storage"),
        refused("NodeAffinity"),
        refused("TopologyAffinityError", "Resources cannot be allocated with Topology locality"),
        refused("SMTAlignmentError"),
        refused(
            message="Allocate failed due to not enough cpus available to satisfy request: requested=8, available=7, which is unexpected"
        ),
        refused(message="Allocate failed due to [memorymanager] failed to find NUMA nodes"),
        refused("OutOfrdma/hca", "Node didn't have enough resource: rdma/hca"),
        refused(message=REFUSED.replace("nvidia.com/gpu", "rdma/hca")),
        refused(
            message="Allocate failed due to rpc error: code = Unknown desc = invalid request: maximum request size for "
            "shared resources is 1; found 2, which is unexpected"
        ),
        exited() | {"reason": "Evicted"},
        exited() | {"reason": "DeadlineExceeded"},
        exited() | {"reason": "Preempting"},
        exited() | {"reason": "NodeLost"},
        exited() | {"reason": "Terminated"},
        exited() | DISRUPTED,
        exited(reason="OOMKilled", code=137),
        exited(reason="ContainerStatusUnknown", code=137),
        exited(ran=AT_ONCE_SECONDS + 1),
        exited(restarts=3),
        exited(code=0),
        not_started(NO_COMMAND),
        tried_again("RunContainerError", message=NO_COMMAND),
        tried_again("CreateContainerError", message="Error: no command specified"),
        tried_again("CreateContainerConfigError", message='configmap "x" not found'),
        tried_again("ImagePullBackOff"),
        tried_again("CrashLoopBackOff", last={"exitCode": 1, "reason": "Error"}),
        tried_again("CrashLoopBackOff", last=START_ERROR, restarts=4),
        {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]},
        {"phase": "Failed"},
    ],
    ids=lambda each: str(each.get("reason", ""))[:20],
)
def test_what_is_not_the_nodes_doing_is_left_out(status: Json) -> None:
    assert read(pod(status=status)) is None


def test_what_people_delete_is_left_out_whatever_it_ends_with() -> None:
    assert read(pod(deletionTimestamp=stamp(NOW))) is None
    assert read(pod(status=refused(), deletionTimestamp=stamp(NOW))) is None


def test_pods_without_devices_and_without_a_node_are_left_out() -> None:
    assert read(pod(gpus=0)) is None
    assert read(pod(node="")) is None


def test_a_refusal_of_a_share_is_left_out_since_its_scheduler_may_race() -> None:
    shared = pod(status=refused())
    limits = {"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "50"}
    shared["spec"]["containers"][0]["resources"]["limits"] = limits
    assert read(shared) is None


def test_of_several_containers_the_one_that_failed_first_counts() -> None:
    late, early = exited(at=NOW, ran=3.0), exited(at=NOW - 30, ran=3_000.0)
    both = late | {"containerStatuses": late["containerStatuses"] + early["containerStatuses"]}
    assert read(pod(status=both)) is None
    first = exited(at=NOW - 10, code=7)
    init = late | {"initContainerStatuses": first["containerStatuses"]}
    assert getattr(read(pod(status=init)), "reason", "") == "Error exit code 7"


@given(PODS | st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), JUNK))
def test_no_pod_whatever_is_in_it_raises(junk: Json) -> None:
    read(junk)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "phase": st.sampled_from(["Failed", "Pending", "Running"]),
            "reason": JUNK | st.just("UnexpectedAdmissionError"),
            "message": JUNK,
            "startTime": JUNK,
            "conditions": JUNK,
            "containerStatuses": st.lists(
                st.dictionaries(st.sampled_from(["state", "lastState", "restartCount"]), JUNK)
                | st.fixed_dictionaries(
                    {
                        "state": st.dictionaries(
                            st.sampled_from(["terminated", "waiting"]),
                            st.dictionaries(
                                st.sampled_from(
                                    ["exitCode", "reason", "startedAt", "finishedAt", "message"]
                                ),
                                JUNK | st.just("StartError"),
                            ),
                        )
                    }
                ),
                max_size=3,
            ),
        },
    )
)
def test_no_status_whatever_is_in_it_raises(status: dict[str, Any]) -> None:
    found = read(pod(status=status or {"phase": "Failed"}))
    assert found is None or len(found.reason) <= MAX_WORDS
