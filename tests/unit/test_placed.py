"""A pod as the scores see it, and what an agent's report says of devices."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.fleet import Fleet
from aggregator.scores.device_facts import DeviceFacts, device_facts
from aggregator.scores.placed import MAX_POD_DEVICES, PlacedPod, placed_pod
from aggregator.scores.requests import Passed
from aggregator.scores.values import PodShape
from contract import report_pb2 as pb
from tests.unit.test_requests import JUNK, PODS

Json = dict[str, Any]


def owned(kind: str, name: str, **labels: str) -> PlacedPod:
    owner = {"kind": kind, "name": name, "controller": True}
    return placed_pod(
        {"metadata": {"namespace": "team", "labels": labels, "ownerReferences": [owner]}}
    )


def labelled(**labels: str) -> PlacedPod:
    named = {key.replace("__", "/").replace("_", "."): text for key, text in labels.items()}
    return placed_pod({"metadata": {"namespace": "team", "labels": named}})


def annotated(**annotations: str) -> tuple[str, ...]:
    return placed_pod({"metadata": {"annotations": annotations}}).devices


def test_a_pod_is_kept_by_what_scores_need() -> None:
    obj = {
        "metadata": {"namespace": "team", "name": "a", "uid": "u"},
        "spec": {
            "nodeName": "n1",
            "priority": 1000,
            "containers": [{"resources": {"requests": {"nvidia.com/gpu": "1"}}}],
        },
        "status": {"phase": "Running"},
    }
    assert placed_pod(obj, created_seconds=7.0) == PlacedPod(
        namespace="team",
        name="a",
        uid="u",
        node="n1",
        ask=PodShape(gpu_count=1, gpu_milli=1000, resource="nvidia.com/gpu"),
        priority=1000,
        phase="running",
        created_seconds=7.0,
    )


def test_a_pod_that_the_kubelet_took_is_told_from_one_that_is_only_bound() -> None:
    for status, phase in (
        ({"phase": "Pending"}, "pending"),
        ({"phase": "Pending", "startTime": "2026-01-31T23:59:59Z"}, "admitted"),
        ({"phase": "Running", "startTime": "2026-01-31T23:59:59Z"}, "running"),
    ):
        assert placed_pod({"status": status}).phase == phase


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ({"running": {}}, "running"),
        ({"terminated": {"exitCode": 0}}, "running"),
        ({"terminated": {"exitCode": 1}}, "admitted"),
        ({"waiting": {"reason": "CrashLoopBackOff"}}, "admitted"),
    ],
)
def test_a_pod_that_crashes_again_and_again_does_not_run_though_kubernetes_says_so(
    state: dict[str, object], phase: str
) -> None:
    containers = [{"state": {"running": {}}}, {"state": state}]
    status = {"phase": "Running", "startTime": "2026-01-31T23:59:59Z"}
    assert placed_pod({"status": status | {"containerStatuses": containers}}).phase == phase


class TestWhatItIsFor:
    @pytest.mark.parametrize("kind", ["Job", "PyTorchJob", "MPIJob", "TFJob", "JobSet"])
    def test_jobs_train(self, kind: str) -> None:
        assert owned(kind, "x").kind == "training"

    def test_kserve_and_knative_serve(self) -> None:
        assert labelled(serving_kserve_io__inferenceservice="llm").kind == "serving"
        assert labelled(serving_knative_dev__service="llm").kind == "serving"

    def test_a_deployment_may_be_anything(self) -> None:
        assert owned("ReplicaSet", "x").kind == "unknown"

    def test_peoples_word_comes_first(self) -> None:
        said = {"fleetmedic.io/workload": "serving"}
        assert owned("Job", "x", **said).kind == "serving"
        assert owned("Job", "x", **{"fleetmedic.io/workload": "nonsense"}).kind == "training"

    def test_what_outlives_it_names_its_history(self) -> None:
        web = owned("ReplicaSet", "web-7d9f", **{"pod-template-hash": "7d9f"})
        assert web.workload == "team/Deployment/web"
        assert owned("ReplicaSet", "web-7d9f").workload == "team/ReplicaSet/web-7d9f"
        assert owned("StatefulSet", "db").workload == "team/StatefulSet/db"
        served = labelled(serving_kserve_io__inferenceservice="llm")
        assert served.workload == "team/InferenceService/llm"
        assert placed_pod({}).workload == ""


class TestWhichDevices:
    @pytest.mark.parametrize(
        ("name", "text", "devices"),
        [
            (
                "hami.io/vgpu-devices-allocated",
                "GPU-a,NVIDIA,3000,30:GPU-b,NVIDIA,3000,30:;GPU-a,NVIDIA,1,1:;",
                ("GPU-a", "GPU-b"),
            ),
            ("volcano.sh/vgpu-ids-new", "GPU-a,NVIDIA,3000,30:;", ("GPU-a",)),
            (
                "scheduling.koordinator.sh/device-allocated",
                '{"gpu": [{"minor": 2, "resources": {"koordinator.sh/gpu-core": "50"}}, {"minor": 3}]}',
                ("2", "3"),
            ),
            ("ALIYUN_COM_GPU_MEM_IDX", "1", ("1",)),
            ("ALIYUN_COM_GPU_MEM_IDX", "-1", ()),
            ("scheduling.koordinator.sh/device-allocated", "[" * 100_000, ()),
            ("scheduling.koordinator.sh/device-allocated", "{not json", ()),
            ("scheduling.koordinator.sh/device-allocated", '{"gpu": [{"minor": true}, 7]}', ()),
            ("hami.io/vgpu-devices-allocated", ";:;", ()),
        ],
    )
    def test_as_the_scheduler_wrote(self, name: str, text: str, devices: tuple[str, ...]) -> None:
        assert annotated(**{name: text}) == devices

    def test_a_long_list_is_cut(self) -> None:
        text = "".join(f"GPU-{each}," + ":" for each in range(999))
        assert len(annotated(**{"hami.io/vgpu-devices-allocated": text})) == MAX_POD_DEVICES


@given(PODS | st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), JUNK))
def test_no_pod_whatever_is_in_it_raises(junk: Json) -> None:
    pod = placed_pod(junk)
    assert isinstance(pod.ask, PodShape | Passed)
    assert pod.phase in ("pending", "admitted", "running")


class TestReports:
    def facts(self, **report: Any) -> DeviceFacts:
        fleet = Fleet()
        fleet.apply(pb.NodeReport(node="n1", sequence=1, **report), 1000.0)
        state = fleet.get("n1")
        assert state is not None
        return device_facts(state)

    def gpu(self, index: int, **more: Any) -> pb.Gpu:
        bus = f"0000:{index}b:00.0"
        return pb.Gpu(uuid=f"GPU-{index}", index=index, pci_bus_id=bus, model="Tesla T4", **more)

    def finding(self, subject: str, severity: int) -> pb.Finding:
        return pb.Finding(code="xid-79", subject=subject, severity=severity)  # type: ignore[arg-type]

    def test_gpus_are_told_in_the_order_of_their_indexes(self) -> None:
        told = self.facts(
            gpus=[self.gpu(1, process_count=2), self.gpu(0, memory_total_bytes=16 << 30)],
            holders=[pb.Holders(subject="gpu:0000:1b:00.0", pods=["team/a"])],
            host=pb.Host(cpu_count=8, memory_total_bytes=64 << 30),
        )
        assert told == DeviceFacts(
            resource="nvidia.com/gpu",
            model="Tesla-T4",
            ids=("GPU-0", "GPU-1"),
            subjects=("gpu:0000:0b:00.0", "gpu:0000:1b:00.0"),
            sick=(False, False),
            busy=(False, True),
            memory_mib=(16_384, 0),
            holders={"GPU-1": ("team/a",)},
            cpu_milli=8000,
            host_memory_mib=65_536,
        )

    def test_lost_ones_and_those_with_critical_findings_are_sick(self) -> None:
        told = self.facts(
            gpus=[self.gpu(0, lost=True), self.gpu(1), self.gpu(2), self.gpu(3)],
            findings=[
                self.finding("gpu:0000:1b:00.0", pb.SEVERITY_DEGRADED),
                self.finding("gpu:0000:2b:00.0/nvlink:3", pb.SEVERITY_CRITICAL),
                self.finding("host", pb.SEVERITY_FATAL),
            ],
        )
        assert told.sick == (True, False, True, False)

    def test_npus_go_by_index(self) -> None:
        told = self.facts(
            npus=[pb.Npu(index=1, model="910B3"), pb.Npu(index=0, model="910B3")],
            findings=[self.finding("npu:1", pb.SEVERITY_FATAL)],
        )
        assert (told.resource, told.ids) == ("huawei.com/Ascend910", ("0", "1"))
        assert told.sick == (False, True)

    def test_a_node_without_devices_has_none(self) -> None:
        assert self.facts() == DeviceFacts()
