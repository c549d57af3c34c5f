"""Pods and PodDisruptionBudgets as the API server serves them, reduced to what a drain cares about.

Reading is total: a field of the wrong kind reads as one that is not there, so that one odd object
never hides the others.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from aggregator.cluster import times
from aggregator.cluster.client import Json
from aggregator.cluster.nodes import GPU_RESOURCES
from aggregator.policy.drain.pods import DisruptionBudget, Owner, Pod

MIRROR = "kubernetes.io/config.mirror"
GRACE_SECONDS = 30.0
"""Kubernetes' own default."""


def to_pod(obj: Json) -> Pod:
    """One Pod object."""
    metadata, spec, status = (_dict(obj.get(part)) for part in ("metadata", "spec", "status"))
    annotations = _texts(metadata.get("annotations"))
    deleting = metadata.get("deletionTimestamp")
    return Pod(
        namespace=_text(metadata.get("namespace")),
        name=_text(metadata.get("name")),
        uid=_text(metadata.get("uid")),
        version=_text(metadata.get("resourceVersion")),
        node=_text(spec.get("nodeName")),
        phase=_text(status.get("phase")) or "Unknown",
        ready=any(
            one.get("type") == "Ready" and one.get("status") == "True"
            for one in _dicts(status.get("conditions"))
        ),
        labels=_texts(metadata.get("labels")),
        annotations=annotations,
        owner=_controller(metadata.get("ownerReferences")),
        mirror=MIRROR in annotations,
        empty_dir=any("emptyDir" in one for one in _dicts(spec.get("volumes"))),
        deleting_since_seconds=None if deleting is None else _seconds(deleting),
        grace_seconds=_grace(metadata, spec),
        devices=_devices(spec),
    )


def to_budget(obj: Json) -> DisruptionBudget | None:
    """One PodDisruptionBudget object; ``None`` for one without a selector, which protects nobody."""
    metadata, spec, status = (_dict(obj.get(part)) for part in ("metadata", "spec", "status"))
    selector = spec.get("selector")
    if not isinstance(selector, dict):
        return None
    return DisruptionBudget(
        namespace=_text(metadata.get("namespace")),
        name=_text(metadata.get("name")),
        match_labels=_texts(selector.get("matchLabels")),
        match_expressions=tuple(_dicts(selector.get("matchExpressions"))),
        disruptions_allowed=_count(status.get("disruptionsAllowed")),
        current_healthy=_count(status.get("currentHealthy")),
        desired_healthy=_count(status.get("desiredHealthy")),
        always_evicts_unhealthy=spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow",
    )


def _controller(references: Any) -> Owner | None:
    for one in _dicts(references):
        if one.get("controller") is True:
            words = (_text(one.get(key)) for key in ("apiVersion", "kind", "name", "uid"))
            return Owner(*words)
    return None


def _grace(metadata: Json, spec: Json) -> float:
    """While it is being deleted, what its deletion gives it."""
    for given in (
        metadata.get("deletionGracePeriodSeconds"),
        spec.get("terminationGracePeriodSeconds"),
    ):
        if isinstance(given, int | float) and not isinstance(given, bool):
            return max(0.0, float(given))
    return GRACE_SECONDS


def _devices(spec: Json) -> int:
    """Whole accelerators: those of all containers together, or of the hungriest one that runs before them."""
    first = _dicts(spec.get("initContainers"))
    sidecars = [one for one in first if one.get("restartPolicy") == "Always"]
    together = sum(_wants(one) for one in [*_dicts(spec.get("containers")), *sidecars])
    return max([together, *(_wants(one) for one in first)])


def _wants(container: Json) -> int:
    """What one container asks for; of a device the request always equals the limit, where both are given."""
    resources = _dict(container.get("resources"))
    asked = {**_dict(resources.get("requests")), **_dict(resources.get("limits"))}
    return sum(_count(count) for name, count in asked.items() if GPU_RESOURCES.fullmatch(str(name)))


def _count(value: Any) -> int:
    """A whole number of at least nothing; the API server writes those of devices as text."""
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _seconds(value: Any) -> float:
    try:
        return times.to_seconds(str(value))
    except (ValueError, OverflowError):
        return 0.0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> dict[str, str]:
    """A map of text to text, of which labels and annotations are."""
    return {key: text for key, text in _dict(value).items() if isinstance(text, str)}


def _dict(value: Any) -> Json:
    return dict(value) if isinstance(value, Mapping) else {}


def _dicts(value: Any) -> list[Json]:
    items: Iterable[Any] = value if isinstance(value, list) else ()
    return [one for one in items if isinstance(one, dict)]
