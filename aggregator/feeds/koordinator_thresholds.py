"""Koordinator's ``usage-thresholds`` on hot and sick nodes: a tighter limit for new pods, and nothing else. Pure.

``LoadAwareScheduling`` reads the annotation in place of its own ``usageThresholds``, node by node (Koordinator v1.6.0,
``apis/extension/load_aware.go``): a node that uses more than so many percent takes no new pods. What is written is
signed by a label that holds a digest of it. So people's own annotation is told from ours: it is never written over and never removed.

Bounds: at most so many percent of all nodes, and at most so many writes in one look. A node of which nothing is known
is not hot. If we die what is written stays, on those few nodes; it closes none that is below the limit.
"""

import hashlib
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import msgspec

Json = dict[str, Any]

ANNOTATION = "scheduling.koordinator.sh/usage-thresholds"

MARK = "fleetmedic.io/usage-thresholds"
"""A label on the Node: a digest of the annotation as we wrote it."""

MAX_WRITES = 20
"""In one look."""


class ThresholdSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When a node is hot, and what is then written. All in percent of the node."""

    enabled: bool = False
    hot_percent: float = 85.0
    """A node is hot while the 95th percentile of ten minutes, of CPU or memory, is at least this …"""
    calm_percent: float = 70.0
    """… until it is below this."""
    cpu_percent: int = 50
    """Written: the most that the node may use and still take pods."""
    memory_percent: int = 70
    aggregation: str = ""
    """``p95`` or another of Koordinator's types, where its arguments have ``aggregated`` usage thresholds: only those are
    read then. Empty: they do not."""
    duration: str = "5m0s"
    """Of the aggregation."""
    most_percent: float = 10.0
    """Of all nodes; one is always allowed."""

    def __post_init__(self) -> None:
        if not 0 < self.calm_percent <= self.hot_percent <= 100:
            raise ValueError(
                f"a node is hot from {self.hot_percent:g} % to {self.calm_percent:g} %: the second "
                "must be lower, and both within 0..100"
            )
        for name in ("cpu_percent", "memory_percent"):
            if not 1 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} is {getattr(self, name)}: 1..100, for 0 means no limit")


class Edit(NamedTuple):
    """What to do to one Node."""

    patch: Json | None
    """To merge, guarded by the version that it was computed from; ``None``: nothing."""
    words: str
    """What that is, or why nothing is done; empty: all is as it should be."""


def annotation(settings: ThresholdSettings) -> str:
    """The annotation's text."""
    limits = {"cpu": settings.cpu_percent, "memory": settings.memory_percent}
    value: Json = {"usageThresholds": limits}
    if settings.aggregation:
        value["aggregatedUsage"] = {
            "usageThresholds": limits,
            "usageAggregationType": settings.aggregation,
            "usageAggregatedDuration": settings.duration,
        }
    return msgspec.json.encode(value).decode()


def wanted(
    marked: Set[str],
    use: Mapping[str, float],
    sick: Mapping[str, str],
    nodes: Set[str],
    settings: ThresholdSettings,
    *,
    whole: bool = True,
) -> dict[str, str]:
    """The nodes that should have tighter thresholds, and why.

    Args:
        marked: nodes that carry ours now; they go before others, so that a full budget does not make them flap.
        use: node → the larger of its 95th percentiles of CPU and memory, 0..1; nodes without data are not there.
        sick: node → why it should rather get no new pods.
        nodes: all that may be written to.
        settings: the limits.
        whole: ten minutes are known. Before, as after another leader's death, nobody turns hot, and nobody calm either.
    """
    found: dict[str, tuple[float, str]] = {}
    for name in nodes:
        percent = 100.0 * use.get(name, 0.0)
        limit = settings.calm_percent if name in marked else settings.hot_percent
        if name in sick:
            found[name] = (200.0, sick[name])
        elif not whole:
            if name in marked:
                found[name] = (percent, "tightened before, and ten minutes are not known yet")
        elif name in use and percent >= limit:
            found[name] = (percent, f"used to {percent:.0f} % (p95 of ten minutes)")
    room = max(1, int(len(nodes) * settings.most_percent // 100))
    order = sorted(found, key=lambda name: (name not in marked, -found[name][0], name))
    return {name: found[name][1] for name in order[:room]}


def edit(node: Json, reason: str, settings: ThresholdSettings) -> Edit:
    """What to write on one Node.

    Args:
        node: the object as read just now.
        reason: why it should carry our thresholds; empty: it should not.
        settings: what they are.
    """
    metadata = node["metadata"]
    text = (metadata.get("annotations") or {}).get(ANNOTATION)
    mark = (metadata.get("labels") or {}).get(MARK)
    ours = text is not None and mark == digest(text)
    unmark: Json = {"labels": {MARK: None}}
    if text is not None and not ours:
        if mark:
            return _patch(
                metadata, unmark, "people changed its usage thresholds: theirs from now on"
            )
        return Edit(None, "people set its usage thresholds themselves" if reason else "")
    if not reason:
        if ours:
            gone: Json = {"annotations": {ANNOTATION: None}, **unmark}
            return _patch(metadata, gone, "usage thresholds taken off: it is well again")
        return _patch(metadata, unmark, "signature taken off") if mark else Edit(None, "")
    if mark and text is None:
        return Edit(None, "people took its usage thresholds off: not put back while this lasts")
    new = annotation(settings)
    if text == new:
        return Edit(None, "")
    change: Json = {"annotations": {ANNOTATION: new}, "labels": {MARK: digest(new)}}
    return _patch(metadata, change, f"usage thresholds {new}: {reason}")


def digest(text: str) -> str:
    """A label value that stands for this text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _patch(metadata: Json, change: Json, words: str) -> Edit:
    return Edit({"metadata": {**change, "resourceVersion": metadata["resourceVersion"]}}, words)
