"""A pod as the scores see it: what it asks for, where it is, what it is for. Pure, and total.

Which devices of its node a pod holds is written into its annotations by the schedulers that share devices; of a device plugin's
pods only the kubelet knows (``aggregator.scores.device_facts``).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from aggregator.scores.plain import dicts_of, mapping_of, text_of
from aggregator.scores.requests import Ask, ask_of
from contract.vocabulary import ANNOTATION_PREFIX

Kind = Literal["training", "serving", "unknown"]
PodPhase = Literal["pending", "admitted", "running"]
"""``admitted``: the kubelet took it and holds its devices, and not all its containers run: not yet, or not for long."""

WORKLOAD_LABEL = f"{ANNOTATION_PREFIX}/workload"
"""On a pod: ``training`` or ``serving``; people's word comes before ours."""

MAX_POD_DEVICES = 64
"""Devices read from one pod's annotations."""

_ISVC = "serving.kserve.io/inferenceservice"
_SERVING_LABELS = (_ISVC, "serving.knative.dev/service", "leaderworkerset.sigs.k8s.io/name")
_TRAINING_LABELS = (
    "training.kubeflow.org/job-name",
    "jobset.sigs.k8s.io/jobset-name",
    "trainer.kubeflow.org/trainjob-ancestor-step",
    "volcano.sh/job-name",
    "batch.kubernetes.io/job-name",
)
_TRAINING_OWNERS = frozenset(
    {"Job", "JobSet", "TrainJob", "PyTorchJob", "TFJob", "MPIJob", "PaddleJob", "XGBoostJob"}
)
_TEMPLATE_HASH = "pod-template-hash"

_KOORDINATOR = "scheduling.koordinator.sh/device-allocated"
_LISTS = ("hami.io/vgpu-devices-allocated", "volcano.sh/vgpu-ids-new")
_GPUSHARE = "ALIYUN_COM_GPU_MEM_IDX"
_WRITTEN = frozenset({_KOORDINATOR, *_LISTS, _GPUSHARE})


class PlacedPod(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One pod that has not ended."""

    namespace: str
    name: str
    uid: str
    node: str = ""
    """Empty: it waits for one."""
    ask: Ask
    kind: Kind = "unknown"
    workload: str = ""
    """What outlives the pod: ``team-a/Deployment/llm``; its use history goes by this. Empty: it stands alone."""
    priority: int = 0
    phase: PodPhase = "pending"
    created_seconds: float = 0.0
    """Unix time."""
    devices: tuple[str, ...] = ()
    """Those that it holds, by UUID or by index in decimals, as its scheduler wrote; empty: nobody wrote it."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


def placed_pod(pod: Mapping[str, Any], *, created_seconds: float = 0.0) -> PlacedPod:
    """One Pod object, reduced; never raises.

    Args:
        pod: as the API server has it.
        created_seconds: its creation as Unix time.
    """
    metadata, spec, status = (mapping_of(pod.get(part)) for part in ("metadata", "spec", "status"))
    labels = mapping_of(metadata.get("labels"))
    owner = _controller(metadata)
    priority = spec.get("priority")
    return PlacedPod(
        namespace=text_of(metadata.get("namespace")),
        name=text_of(metadata.get("name")),
        uid=text_of(metadata.get("uid")),
        node=text_of(spec.get("nodeName")),
        ask=ask_of(pod),
        kind=_kind(labels, text_of(owner.get("kind"))),
        workload=_workload(text_of(metadata.get("namespace")), labels, owner),
        priority=priority if isinstance(priority, int) else 0,
        phase=_phase(status),
        created_seconds=created_seconds,
        devices=_devices(mapping_of(metadata.get("annotations"))),
    )


def _phase(status: Mapping[str, Any]) -> PodPhase:
    """The kubelet writes ``startTime`` when it takes a pod; a scheduler does not.

    A container that crashes again and again, or cannot be started again, is of a pod that Kubernetes calls ``Running`` all the while.
    """
    if status.get("phase") == "Running":
        return "running" if all(map(_is_up, _containers(status))) else "admitted"
    return "admitted" if status.get("startTime") else "pending"


def _containers(status: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return dicts_of(status.get("containerStatuses"))


def _is_up(container: Mapping[str, Any]) -> bool:
    """It runs, or ended well."""
    state = mapping_of(container.get("state"))
    ended = mapping_of(state.get("terminated"))
    return "waiting" not in state and not ended.get("exitCode")


def _controller(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    owners = dicts_of(metadata.get("ownerReferences"))
    return next((one for one in owners if one.get("controller") is True), {})


def _kind(labels: Mapping[str, Any], owner: str) -> Kind:
    said = labels.get(WORKLOAD_LABEL)
    if said == "training" or said == "serving":
        return "training" if said == "training" else "serving"
    if owner in _TRAINING_OWNERS or not labels.keys().isdisjoint(_TRAINING_LABELS):
        return "training"
    return "unknown" if labels.keys().isdisjoint(_SERVING_LABELS) else "serving"


def _workload(namespace: str, labels: Mapping[str, Any], owner: Mapping[str, Any]) -> str:
    """A ReplicaSet is one version of its Deployment, a Knative revision one of its InferenceService."""
    if service := text_of(labels.get(_ISVC)):
        return f"{namespace}/InferenceService/{service}"
    kind, name = text_of(owner.get("kind")), text_of(owner.get("name"))
    if not kind or not name:
        return ""
    version = f"-{text_of(labels.get(_TEMPLATE_HASH))}"
    if kind == "ReplicaSet" and len(version) > 1 and name.endswith(version):
        kind, name = "Deployment", name.removesuffix(version)
    return f"{namespace}/{kind}/{name}"


def _devices(annotations: Mapping[str, Any]) -> tuple[str, ...]:
    """By the scheduler that placed it; the first that wrote anything."""
    if annotations.keys().isdisjoint(_WRITTEN):
        return ()
    for found in (_of_koordinator(annotations), _of_lists(annotations), _of_gpushare(annotations)):
        devices = tuple(dict.fromkeys(found))[:MAX_POD_DEVICES]
        if devices:
            return devices
    return ()


def _of_koordinator(annotations: Mapping[str, Any]) -> Iterator[str]:
    """``{"gpu": [{"minor": 0, "resources": …}]}``."""
    text = text_of(annotations.get(_KOORDINATOR))
    if not text:
        return
    try:
        written = mapping_of(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError):
        return
    for one in dicts_of(written.get("gpu")):
        minor = one.get("minor")
        if isinstance(minor, int) and not isinstance(minor, bool) and minor >= 0:
            yield str(minor)


def _of_lists(annotations: Mapping[str, Any]) -> Iterator[str]:
    """``GPU-…,NVIDIA,3000,30:;`` — containers end with semicolons, devices with colons; the UUID comes first."""
    for name in _LISTS:
        for one in text_of(annotations.get(name)).replace(";", ":").split(":"):
            device = one.partition(",")[0].strip()
            if device:
                yield device


def _of_gpushare(annotations: Mapping[str, Any]) -> Iterator[str]:
    index = text_of(annotations.get(_GPUSHARE))
    if index.isascii() and index.isdecimal():
        yield str(int(index[:9]))
