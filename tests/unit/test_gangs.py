"""Which pods only make progress together, and what their user calls the job: read off real labels."""

from typing import Any

import pytest

from aggregator.policy.drain.gangs import gang_of, job_of
from aggregator.policy.drain.pods import Owner
from tests.fake_workloads import JOB, WEB, pod

TORCH = Owner("kubeflow.org/v1", "PyTorchJob", "bert", "u1")
MEMBERS: dict[str, tuple[dict[str, Any], str]] = {
    "PyTorchJob": (
        {
            "owner": TORCH,
            "labels": {
                "training.kubeflow.org/job-name": "bert",
                "training.kubeflow.org/operator-name": "pytorchjob-controller",
                "training.kubeflow.org/replica-type": "worker",
                "training.kubeflow.org/replica-index": "0",
            },
        },
        "PyTorchJob team-a/bert",
    ),
    "TFJob": (
        {
            "owner": None,
            "labels": {
                "training.kubeflow.org/job-name": "bert",
                "training.kubeflow.org/operator-name": "tfjob-controller",
            },
        },
        "TFJob team-a/bert",
    ),
    "the launcher of an MPIJob, whose owner is a Job": (
        {
            "owner": JOB,
            "labels": {
                "training.kubeflow.org/job-name": "bert",
                "training.kubeflow.org/operator-name": "mpi-operator",
                "job-name": "bert-launcher",
            },
        },
        "MPIJob team-a/bert",
    ),
    "legacy labels": (
        {"owner": TORCH, "labels": {"group-name": "kubeflow.org", "job-name": "bert"}},
        "PyTorchJob team-a/bert",
    ),
    "older legacy labels": ({"labels": {"tf-job-name": "bert"}}, "TFJob team-a/bert"),
    "TrainJob": (
        {
            "owner": JOB,
            "labels": {
                "jobset.sigs.k8s.io/jobset-name": "bert",
                "trainer.kubeflow.org/trainjob-ancestor-step": "trainer",
                "batch.kubernetes.io/job-name": "bert-node-0",
            },
            "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
        },
        "TrainJob team-a/bert",
    ),
    "JobSet": (
        {"owner": JOB, "labels": {"jobset.sigs.k8s.io/jobset-name": "bert"}},
        "JobSet team-a/bert",
    ),
    "Volcano Job": (
        {
            "owner": Owner("batch.volcano.sh/v1alpha1", "Job", "bert", "u2"),
            "labels": {"volcano.sh/job-name": "bert"},
            "annotations": {"scheduling.k8s.io/group-name": "bert-1234"},
        },
        "Volcano Job team-a/bert",
    ),
    "Volcano PodGroup": (
        {"owner": JOB, "annotations": {"scheduling.k8s.io/group-name": "bert"}},
        "PodGroup team-a/bert",
    ),
    "Koordinator or coscheduling": (
        {"owner": JOB, "labels": {"pod-group.scheduling.sigs.k8s.io": "bert"}},
        "PodGroup team-a/bert",
    ),
    "Koordinator's annotation": (
        {"owner": JOB, "annotations": {"gang.scheduling.koordinator.sh/name": "bert"}},
        "gang team-a/bert",
    ),
    "indexed Job": (
        {
            "owner": JOB,
            "labels": {"batch.kubernetes.io/job-name": "bert"},
            "annotations": {"batch.kubernetes.io/job-completion-index": "3"},
        },
        "Job team-a/bert",
    ),
    "Job in a queue of Kueue": (
        {"owner": JOB, "labels": {"job-name": "bert", "kueue.x-k8s.io/podset": "main"}},
        "Job team-a/bert",
    ),
    "plain pods in a group of Kueue": (
        {"owner": None, "labels": {"kueue.x-k8s.io/pod-group-name": "bert"}},
        "pod group team-a/bert",
    ),
    "group of a LeaderWorkerSet": (
        {
            "owner": Owner("apps/v1", "StatefulSet", "bert", "u3"),
            "labels": {
                "leaderworkerset.sigs.k8s.io/name": "bert",
                "leaderworkerset.sigs.k8s.io/group-index": "1",
            },
        },
        "LeaderWorkerSet group team-a/bert-1",
    ),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_members_are_recognised(name: str) -> None:
    fields, title = MEMBERS[name]
    one, other = gang_of(pod("a", **fields)), gang_of(pod("b", node="n2", **fields))
    assert one is not None
    assert one.title == title
    assert other is not None
    assert one.key == other.key


@pytest.mark.parametrize(
    "fields",
    [
        {"owner": WEB, "labels": {"app": "web"}},
        {"owner": WEB, "annotations": {"scheduling.k8s.io/group-name": "podgroup-rs-uid"}},
        {"owner": JOB, "labels": {"job-name": "sweep"}},
        {"owner": None},
    ],
    ids=["replica", "replica that Volcano schedules", "Job of independent pods", "bare pod"],
)
def test_pods_that_work_alone_are_no_gang(fields: dict[str, Any]) -> None:
    assert gang_of(pod(**fields)) is None


def test_gangs_of_the_same_name_in_two_namespaces_are_two() -> None:
    labels = {"jobset.sigs.k8s.io/jobset-name": "bert"}
    one, other = gang_of(pod(labels=labels)), gang_of(pod(labels=labels, namespace="team-b"))
    assert one is not None
    assert other is not None
    assert one.key != other.key


def test_launcher_and_worker_are_one_gang_even_where_only_one_tells_its_kind() -> None:
    labels = {"training.kubeflow.org/job-name": "bert"}
    worker = gang_of(pod(owner=Owner("kubeflow.org/v2beta1", "MPIJob", "bert", "u"), labels=labels))
    launcher = gang_of(pod(owner=JOB, labels=labels))
    assert worker is not None
    assert launcher is not None
    assert worker.key == launcher.key


@pytest.mark.parametrize(
    ("fields", "job"),
    [
        (
            {
                "owner": TORCH,
                "labels": {
                    "release": "my-bert",
                    "app": "pytorchjob",
                    "training.kubeflow.org/job-name": "my-bert",
                },
            },
            "PyTorchJob my-bert (Arena)",
        ),
        ({"labels": {"release": "eval", "createdBy": "TFJob"}}, "job eval (Arena)"),
        (
            {
                "labels": {"release": "mpi1", "app": "mpijob"},
                "annotations": {"arena.kubeflow.org/username": "li"},
            },
            "MPIJob mpi1 (Arena)",
        ),
        (
            {
                "owner": Owner("apps/v1", "ReplicaSet", "grafana-abc", "u"),
                "labels": {"release": "monitoring", "app": "grafana", "pod-template-hash": "abc"},
            },
            "Deployment grafana",
        ),
        ({"labels": {"serving.kserve.io/inferenceservice": "llm"}}, "InferenceService llm"),
        ({"owner": TORCH, "labels": {"training.kubeflow.org/job-name": "bert"}}, "PyTorchJob bert"),
        ({"owner": Owner("apps/v1", "StatefulSet", "db", "u")}, "StatefulSet db"),
        ({"owner": None}, "Pod p"),
    ],
)
def test_a_job_is_called_what_its_user_calls_it(fields: dict[str, Any], job: str) -> None:
    assert job_of(pod(**fields)) == job
