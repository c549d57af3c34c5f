"""Koordinator's NodeMetric, for nodes on which no koordlet runs: what to write, and when it is safe to. Pure.

The danger, read in Koordinator v1.6.0 (``pkg/scheduler/plugins/loadaware``): a NodeMetric that was not updated for
``nodeMetricExpirationSeconds`` (180) makes its node unschedulable, unless the plugin's arguments say otherwise; and with
``filterExpiredNodeMetrics: false``, as Koordinator's own manifests have it, the last usage is believed for ever, so a node that
was hot when its writer died stays filtered out. Deleting the object helps only where Koordinator's manager does not create it
anew, empty, which counts as expired. Nothing that a dead process has prepared can help: Kubernetes removes no cluster-scoped
object by age. So the only rule that holds when we are killed and nobody comes is one of the scheduler's own:
``filterExpiredNodeMetrics: true`` with ``enableScheduleWhenNodeMetricsExpired: true`` lets the node pass and scores it 0, like
all the others that we wrote, so that all are equal. ``expiry_trouble`` demands it before each round.

Resource names and units: ``cpu`` in thousandths, ``memory`` in bytes, ``koordinator.sh/gpu-core`` in hundredths of a GPU.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from aggregator.scores.quantity import NANO, parse_nano
from aggregator.usage import Latest, Usage
from contract.vocabulary import ANNOTATION_PREFIX

Json = dict[str, Any]

GPU_CORE = "koordinator.sh/gpu-core"
"""100 for one GPU that computes all the time."""

PLUGIN = "LoadAwareScheduling"

OURS = {"app.kubernetes.io/managed-by": "fleetmedic"}
"""For people, who find with it what is ours; what deletes looks at the signature."""

WINDOWS = {"5m0s": 300.0, "10m0s": 600.0, "15m0s": 900.0}
"""As Go writes durations → seconds."""

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}

REPORT_INTERVAL_SECONDS = 60

FRESH_SECONDS = 60.0
"""A node whose newest report is older is not written: its object expires by itself, and says so."""

LARGEST = 2**62
"""Of an amount: what an agent says is not to be trusted, and Kubernetes reckons in 63 bits."""

MAX_PODS = 500
"""Of one node."""

REMEDY = (
    "set filterExpiredNodeMetrics: true and enableScheduleWhenNodeMetricsExpired: true in its arguments "
    "and restart the scheduler"
)


class RunningPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that runs on a node, as far as its use is concerned."""

    namespace: str
    name: str
    cpu_milli: int = 0
    """Requested, as are the next two."""
    memory_bytes: int = 0
    gpus: float = 0.0
    """Whole GPUs, or a share of one."""
    priority: str = ""
    """Koordinator's class: ``koord-prod``, ``koord-mid``, ``koord-batch``, ``koord-free``; empty: none."""
    qos: str = ""


class Readings(NamedTuple):
    """What is known of some nodes, at one moment."""

    averages: Mapping[str, Mapping[str, Any]]
    """Duration as Go writes it → node → three summaries."""
    percentiles: Mapping[str, Mapping[str, Any]]
    """The same for percentiles, in the order of ``PERCENTILES``."""


def readings(usage: Usage, now: float, names: Sequence[str]) -> Readings:
    """All windows of these nodes; about 0.1 ms for each."""
    wanted = tuple(PERCENTILES.values())
    return Readings(
        {label: usage.window(seconds, now, names) for label, seconds in WINDOWS.items()},
        {
            label: usage.percentiles(seconds, now, wanted, names)
            for label, seconds in WINDOWS.items()
        },
    )


def status(
    node: str, latest: Latest, known: Readings, pods: Sequence[RunningPod], updated: str
) -> Json:
    """The ``status`` of one node's NodeMetric.

    ``podsMetric`` is an estimate, for nobody told what each pod uses: its request, less where all requests together are
    more than the node uses; of a GPU its share of the node's GPU load. It has to be there: the scheduler adds what a
    pod without usage asks for on top of what the node uses, so that it would count twice.

    Args:
        node: its name.
        latest: its newest report.
        known: of the same moment.
        pods: that run there.
        updated: the time of the newest report, as RFC 3339 in whole seconds.
    """
    used = _amounts(latest, (latest.cpu_ratio, latest.memory_ratio, latest.gpu_ratio))
    aggregated = [
        {"duration": label, "usage": usage}
        for label in WINDOWS
        if (usage := _aggregated(latest, known, label, node))
    ]
    return {
        "updateTime": updated,
        "nodeMetric": {
            "nodeUsage": _resources(used),
            "aggregatedNodeUsages": aggregated,
        },
        "podsMetric": _pods(pods[:MAX_PODS], used, latest),
    }


def spec() -> Json:
    """The ``spec`` of one that we create; where Koordinator's manager runs it writes its own over it."""
    return {
        "metricCollectPolicy": {
            "aggregateDurationSeconds": 300,
            "reportIntervalSeconds": REPORT_INTERVAL_SECONDS,
            "nodeAggregatePolicy": {"durations": list(WINDOWS)},
            "nodeMemoryCollectPolicy": "usageWithoutPageCache",
        }
    }


def _amounts(latest: Latest, shares: Sequence[float]) -> dict[str, int]:
    """Shares of CPU, memory and GPU as amounts; what was not measured is not there."""
    whole = (latest.cpu_count * 1000, latest.memory_total_bytes, latest.gpu_count * 100)
    names = ("cpu", "memory", GPU_CORE)
    return {
        name: min(LARGEST, round(share * amount))
        for name, share, amount in zip(names, shares, whole, strict=True)
        if amount and not math.isnan(share)
    }


def _resources(amounts: Mapping[str, int]) -> Json:
    return {"resources": {name: _quantity(name, amount) for name, amount in amounts.items()}}


def _quantity(name: str, amount: int) -> str:
    return f"{amount}m" if name == "cpu" and amount else str(amount)


def _aggregated(latest: Latest, known: Readings, label: str, node: str) -> Json:
    """One window: average and percentiles of what was measured in it."""
    averages = known.averages[label].get(node)
    ranks = known.percentiles[label].get(node)
    if averages is None or ranks is None:
        return {}
    shares = {"avg": [math.nan if each is None else each.average for each in averages]}
    for place, name in enumerate(PERCENTILES):
        shares[name] = [math.nan if each is None else each[place] for each in ranks]
    return {name: _resources(_amounts(latest, three)) for name, three in shares.items()}


def _pods(pods: Sequence[RunningPod], used: Mapping[str, int], latest: Latest) -> list[Json]:
    asked = {
        "cpu": sum(each.cpu_milli for each in pods),
        "memory": sum(each.memory_bytes for each in pods),
    }
    scale = {
        name: min(1.0, used[name] / total)
        for name, total in asked.items()
        if total and name in used
    }
    told = []
    for pod in pods:
        amounts = {"cpu": pod.cpu_milli, "memory": pod.memory_bytes}
        # Rounded down, so that all together are never more than the node.
        share = {name: int(amount * scale.get(name, 1.0)) for name, amount in amounts.items()}
        if pod.gpus and GPU_CORE in used:
            share[GPU_CORE] = int(min(pod.gpus, latest.gpu_count) * 100 * latest.gpu_ratio)
        named = {"namespace": pod.namespace, "name": pod.name, "podUsage": _resources(share)}
        optional = {"priority": pod.priority, "qos": pod.qos}
        told.append({**named, **{key: text for key, text in optional.items() if text}})
    return told


def status_writer(node_metric: Json, manager: str) -> str:
    """Who else writes the status of this object, by its managed fields; empty: nobody but ``manager``."""
    for entry in node_metric.get("metadata", {}).get("managedFields") or ():
        writes = entry.get("subresource") == "status" or "f:status" in (entry.get("fieldsV1") or {})
        if writes and entry.get("manager") != manager:
            return str(entry.get("manager") or "somebody unknown")
    return ""


def writes_status(node_metric: Json, manager: str) -> bool:
    """Whether anything in the status of this object is held by this manager."""
    fields = node_metric.get("metadata", {}).get("managedFields") or ()
    return any(
        each.get("manager") == manager and each.get("subresource") == "status" for each in fields
    )


CREATED_FOR = f"{ANNOTATION_PREFIX}/created-for-node"
"""Annotation that signs an object as made by us: the uid of its node, as in its owner reference."""


def signed_metadata(name: str, uid: str) -> Json:
    """The metadata of one that we create.

    Args:
        name: of the node.
        uid: of the node; empty: not known, so nothing is signed, and the object will not be deleted by us.
    """
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
    signed = {"annotations": {CREATED_FOR: uid}, "ownerReferences": [owner]} if uid else {}
    return {"name": name, "labels": OURS, **signed}


def is_signed(node_metric: Json) -> bool:
    """Whether we made this object.

    The label alone tells nothing, since labels are copied from object to object; the signature names the very node, and so fits on no
    other one's object.
    """
    metadata = node_metric["metadata"]
    uid = (metadata.get("annotations") or {}).get(CREATED_FOR)
    owners = metadata.get("ownerReferences") or ()
    return bool(uid) and any(
        (each.get("kind"), each.get("name"), each.get("uid")) == ("Node", metadata["name"], uid)
        for each in owners
    )


def expiry_trouble(configurations: Mapping[str, str]) -> str:
    """Why nodes might become unschedulable if we die; empty: they will not.

    Args:
        configurations: name → text, as in the ConfigMap of the scheduler; texts that are no
            KubeSchedulerConfiguration are passed over.
    """
    uses = 0
    for name, text in configurations.items():
        try:
            configuration = msgspec.yaml.decode(text.encode())
        except (msgspec.DecodeError, RecursionError) as error:
            return f"{name} cannot be read: {error}"
        if not isinstance(configuration, dict):
            continue
        if configuration.get("kind") != "KubeSchedulerConfiguration":
            continue
        for profile in _dicts(configuration.get("profiles")):
            if not _uses_plugin(profile):
                continue
            uses += 1
            if trouble := _profile_trouble(profile):
                scheduler = profile.get("schedulerName", "default-scheduler")
                return f"{name}, profile {scheduler}: {trouble}; {REMEDY}"
    return "" if uses else f"no profile uses {PLUGIN}: nobody would read what is written"


def _uses_plugin(profile: Json) -> bool:
    plugins = profile.get("plugins")
    points = plugins.values() if isinstance(plugins, dict) else ()
    enabled = (
        each for point in points if isinstance(point, dict) for each in _dicts(point.get("enabled"))
    )
    return any(each.get("name") == PLUGIN for each in enabled) or bool(_arguments(profile))


def _arguments(profile: Json) -> list[Json]:
    return [each for each in _dicts(profile.get("pluginConfig")) if each.get("name") == PLUGIN]


def _profile_trouble(profile: Json) -> str:
    given = next((each.get("args") for each in _arguments(profile)), None)
    arguments = given if isinstance(given, dict) else {}
    if arguments.get("filterExpiredNodeMetrics", True) is not True:
        return (
            "filterExpiredNodeMetrics is false, so the last usage of a node is believed for ever, "
            "and one that was busy stays closed"
        )
    if arguments.get("enableScheduleWhenNodeMetricsExpired", False) is not True:
        return (
            "enableScheduleWhenNodeMetricsExpired is not true, so a node becomes unschedulable "
            "once its NodeMetric is not updated any more"
        )
    return ""


def _dicts(value: object) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def running_pod(obj: Json) -> RunningPod | None:
    """One Pod object of the API; ``None`` for one that does not run, or has no name."""
    metadata, spec_, state = (_dict(obj.get(part)) for part in ("metadata", "spec", "status"))
    if state.get("phase") != "Running" or not metadata.get("name"):
        return None
    labels = _dict(metadata.get("labels"))
    cpu = memory = 0.0
    gpus = 0.0
    for container in _dicts(spec_.get("containers")):
        resources = _dict(container.get("resources"))
        wants = {**_dict(resources.get("limits")), **_dict(resources.get("requests"))}
        cpu += _amount(wants.get("cpu"))
        memory += _amount(wants.get("memory"))
        gpus += _amount(wants.get("nvidia.com/gpu"))
        gpus += _amount(wants.get(GPU_CORE)) / 100
    return RunningPod(
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata["name"]),
        cpu_milli=round(cpu * 1000),
        memory_bytes=round(memory),
        gpus=gpus,
        priority=_priority(labels, spec_.get("priority")),
        qos=str(labels.get("koordinator.sh/qosClass") or ""),
    )


_PRIORITIES = {9: "koord-prod", 7: "koord-mid", 5: "koord-batch", 3: "koord-free"}
"""By the thousands of a pod's priority."""


def _priority(labels: Json, priority: object) -> str:
    if named := labels.get("koordinator.sh/priority-class"):
        return str(named) if named in _PRIORITIES.values() else ""
    return _PRIORITIES.get(priority // 1000, "") if isinstance(priority, int) else ""


def _amount(value: object) -> float:
    """A quantity as a number of at least nothing; what is none reads as nothing."""
    return max(0, parse_nano(value) or 0) / NANO


def _dict(value: object) -> Json:
    return value if isinstance(value, dict) else {}
