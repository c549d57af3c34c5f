"""Finds the Kueue Workload that holds a pod's quota: by the pod's word, or up the chain of its owners."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from aggregator.cluster.workloads import Workloads
from aggregator.policy.drain.gangs import POD_GROUP_OF_KUEUE, QUEUE, WORKLOAD_OF_KUEUE
from aggregator.policy.drain.pods import Owner, Pod

JOB_UID = "kueue.x-k8s.io%2Fjob-uid"
VERSIONS = ("v1beta2", "v1beta1")
MOST_OWNERS = 5
"""TrainJob, JobSet, Job, pod is as deep as it gets."""
OWNERS: Mapping[str, frozenset[str]] = {
    "batch": frozenset({"Job"}),
    "jobset.x-k8s.io": frozenset({"JobSet"}),
    "trainer.kubeflow.org": frozenset({"TrainJob"}),
    "kubeflow.org": frozenset(
        {"PyTorchJob", "MPIJob", "TFJob", "XGBoostJob", "PaddleJob", "JAXJob"}
    ),
    "leaderworkerset.x-k8s.io": frozenset({"LeaderWorkerSet"}),
}
"""API group → kinds that Kueue queues and pods name as their owner: those that we may read. About others (a CronJob,
a Katib Trial) nothing is asked, as they stand in no queue."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_VERSION = re.compile(r"[a-z0-9][-a-z0-9.]*/v[a-z0-9]+")


def path_of(namespace: str, owner: Owner) -> str:
    """The API path of an owner. Plurals as all of these kinds have them."""
    root = "apis" if "/" in owner.api_version else "api"
    return f"/{root}/{owner.api_version}/namespaces/{namespace}/{owner.kind.lower()}s/{owner.name}"


def can_be(owner: Owner) -> bool:
    """Whether there can be such an object. The API server takes an owner as whoever makes the pod writes it."""
    return (
        _VERSION.fullmatch(owner.api_version) is not None
        and _NAME.fullmatch(owner.name) is not None
    )


async def workload_of(workloads: Workloads, pod: Pod) -> str:
    """The API path of its Workload; empty: Kueue does not manage it.

    Raises:
        WorkloadError: it cannot be told.
    """
    name = pod.annotations.get(WORKLOAD_OF_KUEUE) or pod.labels.get(POD_GROUP_OF_KUEUE)
    if name and _NAME.fullmatch(name):
        return await _named(workloads, pod.namespace, name)
    owner = await _queued_owner(workloads, pod)
    return await _owned(workloads, pod.namespace, owner) if owner else ""


async def _queued_owner(workloads: Workloads, pod: Pod) -> str:
    """The UID of the outermost owner that stands in a queue; the pod itself where it has none."""
    found = pod.uid if QUEUE in pod.labels and pod.owner is None else ""
    owner = pod.owner
    for _ in range(MOST_OWNERS):
        if owner is None or not _may_stand_in_a_queue(owner):
            break
        read = await workloads.get(path_of(pod.namespace, owner))
        metadata = _mapping(read.get("metadata")) if read else {}
        if metadata.get("uid") != owner.uid:
            break
        if QUEUE in _mapping(metadata.get("labels")):
            found = owner.uid
        owner = _controller(metadata)
    return found


def _may_stand_in_a_queue(owner: Owner) -> bool:
    group = owner.api_version.partition("/")[0]
    return owner.kind in OWNERS.get(group, ()) and can_be(owner)


async def _named(workloads: Workloads, namespace: str, name: str) -> str:
    for version in VERSIONS:
        path = f"{_collection(version, namespace)}/{name}"
        if await workloads.get(path) is not None:
            return path
    return ""


async def _owned(workloads: Workloads, namespace: str, owner: str) -> str:
    """By the label that Kueue puts on it, else by looking through all of the namespace."""
    for version in VERSIONS:
        collection = _collection(version, namespace)
        for query in (f"?labelSelector={JOB_UID}%3D{quote(owner, safe='')}", ""):
            read = await workloads.get(collection + query)
            if read is None:
                break
            for item in _items(read):
                metadata = _mapping(item.get("metadata"))
                if owner in (each.get("uid") for each in _owners(metadata)):
                    return f"{collection}/{metadata['name']}"
    return ""


def _collection(version: str, namespace: str) -> str:
    return f"/apis/kueue.x-k8s.io/{version}/namespaces/{namespace}/workloads"


def _items(read: Mapping[str, object]) -> Sequence[Mapping[str, Any]]:
    items = read.get("items")
    return [each for each in items if isinstance(each, Mapping)] if isinstance(items, list) else []


def _owners(metadata: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    owners = metadata.get("ownerReferences")
    return (
        [each for each in owners if isinstance(each, Mapping)] if isinstance(owners, list) else []
    )


def _controller(metadata: Mapping[str, Any]) -> Owner | None:
    for each in _owners(metadata):
        if each.get("controller"):
            return Owner(
                api_version=str(each.get("apiVersion")),
                kind=str(each.get("kind")),
                name=str(each.get("name")),
                uid=str(each.get("uid")),
            )
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
