"""How much of a Kueue quota is really there: a ClusterQueue's nominal quota follows the nodes that we took out. Pure.

Bounds: only nodes that we quarantined or cordoned ourselves lower a quota, by no more than they hold; never above what the
queue's owner wrote, never below a floor. Reversible: what the owner wrote is kept in an annotation of the ClusterQueue,
written in the same patch, and put back when the nodes are back or the entry is gone. A quota that is not what we wrote
last was edited by a person: it counts as the owner's from then on.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from aggregator.policy.model import ClusterNode, ClusterView

Json = dict[str, Any]

ANNOTATION = "fleetmedic.io/nominal-quota"
"""On a ClusterQueue: JSON, ``{"<flavor>/<resource>": {"original": …, "written": …}}``."""

MAX_ENTRIES = 200


class Slot(NamedTuple):
    """One quota: of a resource in a flavor of a ClusterQueue."""

    queue: str
    flavor: str
    resource: str

    def __str__(self) -> str:
        return f"{self.queue}/{self.flavor}/{self.resource}"

    @property
    def key(self) -> str:
        """Its place in the annotation."""
        return f"{self.flavor}/{self.resource}"


class QuotaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What to keep in step with what, and how carefully."""

    pools: Mapping[Slot, str] = {}
    """The pool whose nodes fill a quota. Quotas of one pool and resource share it by their size."""
    floor_percent: float = 50.0
    """Of what the owner wrote; never less."""
    settle_seconds: float = 60.0
    """How long a difference must stand, unless a whole node or more is missing."""
    pause_seconds: float = 30.0
    """Between two writes to one ClusterQueue."""


class QuotaMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be carried from one look to the next; losing it only costs waiting time."""

    wanted: Mapping[Slot, tuple[int, float]] = {}
    """The quota to write and since when (Unix time) it is that."""
    wrote: Mapping[str, float] = {}
    """By ClusterQueue: when it was last written."""


class QuotaPatch(msgspec.Struct, frozen=True, kw_only=True):
    """One write to one ClusterQueue: a merge patch that the resourceVersion guards."""

    queue: str
    body: Json
    reason: str


class Planned(NamedTuple):
    """What one look leads to."""

    patches: list[QuotaPatch]
    """At most one for each ClusterQueue."""
    memory: QuotaMemory
    words: Mapping[Slot, str]
    """How each quota stands."""
    troubles: Mapping[Slot, str]
    """Why some cannot be followed; in ``words`` too."""


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    original: int | str
    written: int | str


class _Quota(NamedTuple):
    """One slot as it stands."""

    now: int | str
    original: int | str
    kept: _Kept | None
    lending: int

    @property
    def size(self) -> int:
        return int(self.original)


def parse_slots(text: str) -> dict[Slot, str]:
    """Read ``cluster_queue/flavor/resource=pool``, several separated by commas or line ends.

    Raises:
        ValueError: naming the entry and what is wrong with it.
    """
    pools: dict[Slot, str] = {}
    for entry in filter(None, (each.strip() for each in text.replace("\n", ",").split(","))):
        left, _, pool = entry.partition("=")
        parts = tuple(each.strip() for each in left.split("/", 2))
        if len(parts) != 3 or not all(parts) or not pool.strip():
            raise ValueError(f"{entry!r} is not cluster_queue/flavor/resource=pool")
        slot = Slot(*parts)
        if slot in pools:
            raise ValueError(f"{slot} is there twice: a quota follows one pool")
        pools[slot] = pool.strip()
    if len(pools) > MAX_ENTRIES:
        raise ValueError(f"{len(pools)} quotas; at most {MAX_ENTRIES} are kept in step")
    return pools


def taken_out(node: ClusterNode) -> bool:
    """Whether this node is out of service by our own doing: our hard taint, or our cordon."""
    hard = node.taint is not None and node.taint.effect != "PreferNoSchedule"
    return hard or (node.unschedulable and bool(node.cordoned_by))


def plan(
    queues: Mapping[str, Json],
    view: ClusterView,
    settings: QuotaSettings,
    memory: QuotaMemory,
    now: float,
) -> Planned:
    """What to write now.

    Args:
        queues: ClusterQueue objects by name, as read just now; all of them.
        view: the nodes; nothing is decided while it is not synced.
        settings: what to keep in step.
        memory: what the last call gave back.
        now: Unix time.
    """
    if not view.synced:
        return Planned([], memory, {}, {})
    found, troubles = _read(queues, settings)
    targets = _targets(found, view, settings)
    wanted: dict[Slot, tuple[int, float]] = {}
    due: dict[str, dict[Slot, int]] = {}
    words: dict[Slot, str] = {}
    for slot, quota in found.items():
        target, node_size = targets[slot]
        words[slot] = f"{quota.now} of {quota.original}, {target} wanted"
        if slot in settings.pools and not node_size:
            troubles[slot] = f"there is no node with devices in pool {settings.pools[slot]}"
        if str(target) == str(quota.now) and (target < quota.size) == (quota.kept is not None):
            continue
        known, since = memory.wanted.get(slot, (target, now))
        wanted[slot] = (target, since if known == target else now)
        at_once = slot not in settings.pools or int(quota.now) - target >= max(1, node_size)
        paused = now - memory.wrote.get(slot.queue, float("-inf")) < settings.pause_seconds
        if not paused and (at_once or now - wanted[slot][1] >= settings.settle_seconds):
            due.setdefault(slot.queue, {})[slot] = target
    patches = [_patch(queues[name], found, changes) for name, changes in sorted(due.items())]
    wrote = {name: at for name, at in memory.wrote.items() if name in queues}
    wrote |= dict.fromkeys(due, now)
    memory = QuotaMemory(wanted=wanted, wrote=wrote)
    return Planned(patches, memory, words | troubles, troubles)


def _read(
    queues: Mapping[str, Json], settings: QuotaSettings
) -> tuple[dict[Slot, _Quota], dict[Slot, str]]:
    """The quotas that are ours to look after, and what is wrong with the others."""
    found: dict[Slot, _Quota] = {}
    troubles = {
        slot: f"there is no ClusterQueue {slot.queue}"
        for slot in settings.pools
        if slot.queue not in queues
    }
    for name, queue in queues.items():
        asked = {slot for slot in settings.pools if slot.queue == name}
        try:
            kept = _kept(queue)
        except msgspec.DecodeError as error:
            text = f"left alone: its annotation {ANNOTATION} cannot be read ({error}); remove it"
            troubles |= dict.fromkeys(asked, text)
            continue
        there = {Slot(name, *key): resource for key, resource in _resources(queue)}
        for slot in asked | {each for each in there if each.key in kept}:
            if slot not in there:
                troubles[slot] = (
                    f"ClusterQueue {name} has no {slot.resource} in flavor {slot.flavor}"
                )
                continue
            quota = _quota(there[slot], kept.get(slot.key))
            if isinstance(quota, str):
                troubles[slot] = quota
            else:
                found[slot] = quota
    return found, troubles


def _kept(queue: Json) -> dict[str, _Kept]:
    text = (queue["metadata"].get("annotations") or {}).get(ANNOTATION)
    return msgspec.json.decode(text, type=dict[str, _Kept]) if text else {}


def _resources(queue: Json) -> Iterable[tuple[tuple[str, str], Json]]:
    for group in queue.get("spec", {}).get("resourceGroups") or ():
        for flavor in group.get("flavors") or ():
            for resource in flavor.get("resources") or ():
                yield (flavor["name"], resource["name"]), resource


def _quota(resource: Json, kept: _Kept | None) -> _Quota | str:
    """One quota, or why it cannot be followed."""
    now = resource["nominalQuota"]
    if kept is not None and str(now) != str(kept.written):
        kept = msgspec.structs.replace(kept, original=now)  # edited by a person since
    original = now if kept is None else kept.original
    lending = resource.get("lendingLimit", 0)
    for number in (now, original, lending):
        if not str(number).isdecimal():
            return f"left alone: {number!r} is not a whole number"
    if int(original) < int(now):
        return f"left alone: its annotation {ANNOTATION} says less than is there; remove it"
    return _Quota(now, original, kept, int(lending))


def _targets(
    found: Mapping[Slot, _Quota], view: ClusterView, settings: QuotaSettings
) -> dict[Slot, tuple[int, int]]:
    """For each slot what its quota should be, and how much one node of its pool holds."""
    targets: dict[Slot, tuple[int, int]] = {
        slot: (quota.size, 0) for slot, quota in found.items() if slot not in settings.pools
    }
    shared: dict[tuple[str, str], list[Slot]] = {}
    for slot in found.keys() - targets.keys():
        shared.setdefault((settings.pools[slot], slot.resource), []).append(slot)
    for (pool, _), slots in shared.items():
        total = sum(found[slot].size for slot in slots)
        left, node_size = _left(total, [each for each in view.nodes.values() if each.pool == pool])
        for slot in slots:
            quota = found[slot]
            floor = max(-int(-quota.size * settings.floor_percent // 100), quota.lending)
            share = quota.size * left // total if total else 0
            targets[slot] = (min(quota.size, max(floor, share)), node_size)
    return targets


def _left(total: int, nodes: Sequence[ClusterNode]) -> tuple[int, int]:
    """Of quotas of ``total`` what is left, and the size of a node.

    A node taken out counts as large as the largest of its pool: a sick one often tells fewer devices than it has. A pool
    smaller or larger than its quotas (it is scaled up when needed, or there is room to spare) is the owner's decision.
    """
    largest = max((each.gpu_capacity for each in nodes), default=0)
    out = [each for each in nodes if taken_out(each)]
    healthy = sum(each.gpu_capacity for each in nodes) - sum(each.gpu_capacity for each in out)
    return min(total, max(healthy, total - largest * len(out))), largest


def _patch(queue: Json, found: Mapping[Slot, _Quota], changes: Mapping[Slot, int]) -> QuotaPatch:
    """The list of resource groups is one atomic value: the patch repeats it whole."""
    name = queue["metadata"]["name"]
    groups = msgspec.json.decode(msgspec.json.encode(queue["spec"]["resourceGroups"]))
    edited = dict(_resources({"spec": {"resourceGroups": groups}}))
    kept = {key: value for key, value in _kept(queue).items() if tuple(key.split("/", 1)) in edited}
    words = []
    for slot, target in sorted(changes.items()):
        quota = found[slot]
        restored = target == quota.size
        # As the owner wrote it, where it is the owner's: 64 and "64" are different texts.
        value = quota.original if restored else type(quota.original)(target)
        edited[slot.flavor, slot.resource]["nominalQuota"] = value
        if restored:
            kept.pop(slot.key, None)
        else:
            kept[slot.key] = _Kept(quota.original, value)
        words.append(f"{slot.key} {quota.now} → {value} of {quota.original}")
    annotation = msgspec.json.encode(kept, order="sorted").decode() if kept else None
    return QuotaPatch(
        queue=name,
        body={
            "metadata": {
                "resourceVersion": queue["metadata"]["resourceVersion"],
                "annotations": {ANNOTATION: annotation},
            },
            "spec": {"resourceGroups": groups},
        },
        reason=", ".join(words),
    )
