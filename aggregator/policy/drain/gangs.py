"""Which pods only make progress together, and what their user calls the job. Read off the pod alone."""

from collections.abc import Mapping

import msgspec

from aggregator.policy.drain.pods import Pod

QUEUE = "kueue.x-k8s.io/queue-name"
POD_GROUP_OF_KUEUE = "kueue.x-k8s.io/pod-group-name"
WORKLOAD_OF_KUEUE = "kueue.x-k8s.io/workload"
INFERENCE_SERVICE = "serving.kserve.io/inferenceservice"

_JOB_SET = "jobset.sigs.k8s.io/jobset-name"
_TRAIN_JOB_STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
_TRAINING_JOB = "training.kubeflow.org/job-name"
_TRAINING_OPERATOR = "training.kubeflow.org/operator-name"
_LEGACY_JOBS = {
    "pytorch-job-name": "PyTorchJob",
    "tf-job-name": "TFJob",
    "mpi-job-name": "MPIJob",
    "mpi_job_name": "MPIJob",
}
_KINDS_BY_WORD = {"pytorch": "PyTorchJob", "tf": "TFJob", "mpi": "MPIJob", "xgboost": "XGBoostJob"}
_VOLCANO_JOB = "volcano.sh/job-name"
_VOLCANO_GROUP = "scheduling.k8s.io/group-name"
_GROUP_LABELS = (
    "pod-group.scheduling.sigs.k8s.io/name",
    "pod-group.scheduling.sigs.k8s.io",
    "scheduling.x-k8s.io/pod-group",
)
_KOORDINATOR_GANG = "gang.scheduling.koordinator.sh/name"
_LEADER_WORKER_SET = "leaderworkerset.sigs.k8s.io/name"
_LEADER_WORKER_GROUP = "leaderworkerset.sigs.k8s.io/group-index"
_JOB_NAMES = ("batch.kubernetes.io/job-name", "job-name")
_COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
_LOOSE_OWNERS = frozenset({"ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController"})
"""Their pods work one without the other, even where a scheduler put them into a group."""
_ARENA_APPS = frozenset(
    {
        "tfjob",
        "pytorchjob",
        "mpijob",
        "etjob",
        "horovodjob",
        "sparkjob",
        "volcanojob",
        "deepspeedjob",
    }
)


class Gang(msgspec.Struct, frozen=True, kw_only=True):
    """Pods that only make progress together."""

    kind: str
    """``PyTorchJob``, ``JobSet`` … as people know it."""
    namespace: str
    name: str
    told_by: str
    """The label or annotation that says so. All members have it, also those whose kind cannot be read off."""
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    """That all its pods carry, to find them by; empty: only their annotations tell."""

    @property
    def key(self) -> str:
        """Unique in the cluster, the same for each member."""
        return f"{self.told_by} {self.namespace}/{self.name}"

    @property
    def title(self) -> str:
        """For people: ``PyTorchJob team-a/bert``."""
        return f"{self.kind} {self.namespace}/{self.name}"


def gang_of(pod: Pod) -> Gang | None:
    """The gang that a pod belongs to, the outermost where several would fit; ``None``: it stands for itself."""
    for look in (_job_set, _training_job, _volcano, _pod_group, _leader_worker, _job):
        if (gang := look(pod)) is not None:
            return gang
    return None


def job_of(pod: Pod) -> str:
    """What the pod is part of, as its user knows it: ``PyTorchJob bert (Arena)``, ``Deployment web``."""
    gang = gang_of(pod)
    if _from_arena(pod):
        kind = gang.kind if gang else _kind_of_app(pod)
        return f"{kind} {pod.labels['release']} (Arena)"
    if service := pod.labels.get(INFERENCE_SERVICE):
        return f"InferenceService {service}"
    if gang is not None:
        return f"{gang.kind} {gang.name}"
    if pod.owner is None:
        return f"Pod {pod.name}"
    template = pod.labels.get("pod-template-hash")
    if pod.owner.kind == "ReplicaSet" and template and pod.owner.name.endswith(f"-{template}"):
        return f"Deployment {pod.owner.name.removesuffix(f'-{template}')}"
    return f"{pod.owner.kind} {pod.owner.name}"


def told_by_kueue(pod: Pod) -> bool:
    """Whether the pod itself shows that Kueue let it in."""
    return any(key.startswith("kueue.x-k8s.io/") for key in (*pod.labels, *pod.annotations))


def _from_arena(pod: Pod) -> bool:
    """Charts of others use ``release`` too; Arena's also say who made them, or that this is one of its kinds."""
    if not pod.labels.get("release"):
        return False
    if any(key.startswith("arena.kubeflow.org/") for key in (*pod.labels, *pod.annotations)):
        return True
    maker = pod.labels.get("createdBy") or pod.annotations.get("createdBy")
    return bool(maker) or pod.labels.get("app", "").lower() in _ARENA_APPS


def _kind_of_app(pod: Pod) -> str:
    app = pod.labels.get("app", "").lower()
    return next((kind for word, kind in _KINDS_BY_WORD.items() if app == f"{word}job"), "job")


def _job_set(pod: Pod) -> Gang | None:
    name = pod.labels.get(_JOB_SET) or pod.annotations.get(_JOB_SET)
    if not name:
        return None
    kind = "TrainJob" if _TRAIN_JOB_STEP in pod.labels else "JobSet"
    return _gang(pod, kind, name, _JOB_SET)


def _training_job(pod: Pod) -> Gang | None:
    """Kubeflow's training operator, newer labels first."""
    if name := pod.labels.get(_TRAINING_JOB):
        return _gang(pod, _training_kind(pod), name, _TRAINING_JOB)
    for label, kind in _LEGACY_JOBS.items():
        if name := pod.labels.get(label):
            return _gang(pod, kind, name, label)
    if pod.labels.get("group-name") == "kubeflow.org" and (name := pod.labels.get("job-name")):
        return _gang(pod, _training_kind(pod), name, "job-name")
    return None


def _training_kind(pod: Pod) -> str:
    if pod.owner is not None and pod.owner.api_version.startswith("kubeflow.org/"):
        return pod.owner.kind
    word = pod.labels.get(_TRAINING_OPERATOR, "").partition("job")[0].partition("-")[0]
    return _KINDS_BY_WORD.get(word, "training job")


def _volcano(pod: Pod) -> Gang | None:
    name = pod.labels.get(_VOLCANO_JOB) or pod.annotations.get(_VOLCANO_JOB)
    if name:
        return _gang(pod, "Volcano Job", name, _VOLCANO_JOB)
    name = pod.annotations.get(_VOLCANO_GROUP) or pod.labels.get(_VOLCANO_GROUP)
    if name and not _loose(pod):
        return _gang(pod, "PodGroup", name, _VOLCANO_GROUP)
    return None


def _pod_group(pod: Pod) -> Gang | None:
    """Coscheduling's and Koordinator's groups, and plain pods that Kueue admits together."""
    if name := pod.labels.get(POD_GROUP_OF_KUEUE):
        return _gang(pod, "pod group", name, POD_GROUP_OF_KUEUE)
    if _loose(pod):
        return None
    for label in _GROUP_LABELS:
        if name := pod.labels.get(label):
            return _gang(pod, "PodGroup", name, label)
    if name := pod.annotations.get(_KOORDINATOR_GANG) or pod.labels.get(_KOORDINATOR_GANG):
        return _gang(pod, "gang", name, _KOORDINATOR_GANG)
    return None


def _leader_worker(pod: Pod) -> Gang | None:
    """One group of a LeaderWorkerSet: a leader and its workers."""
    name, group = pod.labels.get(_LEADER_WORKER_SET), pod.labels.get(_LEADER_WORKER_GROUP)
    if not (name and group):
        return None
    return Gang(
        kind="LeaderWorkerSet group",
        namespace=pod.namespace,
        name=f"{name}-{group}",
        told_by=_LEADER_WORKER_GROUP,
        labels={_LEADER_WORKER_SET: name, _LEADER_WORKER_GROUP: group},
    )


def _job(pod: Pod) -> Gang | None:
    """An indexed Job; or any Job that Kueue let in, since Kueue takes back a Job as a whole."""
    indexed = _COMPLETION_INDEX in pod.annotations or _COMPLETION_INDEX in pod.labels
    if not indexed and not told_by_kueue(pod):
        return None
    for label in _JOB_NAMES:
        if name := pod.labels.get(label):
            return _gang(pod, "Job", name, label)
    return None


def _loose(pod: Pod) -> bool:
    return pod.owner is not None and pod.owner.kind in _LOOSE_OWNERS


def _gang(pod: Pod, kind: str, name: str, label: str) -> Gang:
    labels = {label: name} if pod.labels.get(label) == name else {}
    return Gang(kind=kind, namespace=pod.namespace, name=name, told_by=label, labels=labels)
