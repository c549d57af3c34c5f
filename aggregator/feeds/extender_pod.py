"""What a pod in a scheduler's request means to the scores: its wish, or why it is passed over. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from aggregator.scores.placed import PlacedPod, placed_pod
from aggregator.scores.plain import dicts_of, mapping_of
from aggregator.scores.requests import Ask, ask_of
from aggregator.scores.terms import Newcomer, shared
from aggregator.scores.values import PodShape

ACCELERATOR_PREFIXES = (
    "nvidia.com/",
    "huawei.com/Ascend",
    "huawei.com/npu",
    "koordinator.sh/gpu",
    "koordinator.sh/npu",
    "kubernetes.io/gpu",
    "aliyun.com/gpu",
    "amd.com/gpu",
    "volcano.sh/vgpu",
    "volcano.sh/vnpu",
)
"""Resource names that mean a GPU or NPU, or a share of one."""

REASONS = (
    ("resource claims", "resource-claims"),
    ("makes at once", "several-vendors"),
    ("several ways", "several-ways"),
    ("fixed slice", "mig"),
    ("memory", "memory-share"),
    ("not read here", "unknown-device"),
)
"""Words in a reason → the same as a metric's label; all others are odd amounts."""


FINE_CPU_MILLI, FINE_UP_TO_MILLI, COARSE_CPU_MILLI = 250, 4_000, 1_000


class Wish(msgspec.Struct, frozen=True):
    """What the scores can go by."""

    ours: bool = False
    """Whether it asks for an accelerator."""
    pod: Newcomer | None = None
    """``None``: nodes are told apart without it, or not at all where it is not ours."""
    passed: str = ""
    """Why it cannot be told, as a metric's label; empty: it can."""
    reason: str = ""
    """The same for people."""


def wish_of(pod: Mapping[str, Any]) -> Wish | None:
    """The wish of one Pod object; ``None``: it is none."""
    spec = pod.get("spec")
    if spec is not None and not isinstance(spec, dict):
        return None
    for part in ("containers", "initContainers", "resourceClaims"):
        if not isinstance(mapping_of(spec).get(part), list | None):
            return None
    found = _wish(ask_of(pod), lambda shape: newcomer_of(placed_pod(pod), shape))
    if not found.ours and (name := _named(mapping_of(spec))):
        reason = f"asks for {name} in a way that is not read here"
        return Wish(True, None, "unknown-device", reason)
    return found


def wish_of_placed(placed: PlacedPod) -> Wish:
    """The wish of a pod that the cluster lists."""
    return _wish(placed.ask, lambda shape: newcomer_of(placed, shape))


def _wish(ask: Ask, in_use: Callable[[PodShape], Newcomer]) -> Wish:
    """What an ask means; the second one is asked about shapes that share a device: there it matters whose pod it is."""
    if isinstance(ask, PodShape):
        if not ask.gpu_count:
            return Wish(pod=Newcomer(shape=coarse(ask)) if ask.cpu_milli else None)
        return Wish(True, in_use(ask) if shared(ask) else Newcomer(shape=ask))
    label = next((label for words, label in REASONS if words in ask.reason), "odd-amount")
    return Wish(True, None, label, ask.reason)


def coarse(shape: PodShape) -> PodShape:
    """A shape without devices in round numbers, so that they do not crowd out the others: there are many, and all alike.

    CPU in steps of a quarter core up to four, of one core beyond; memory is left to the scheduler's own filter.
    """
    step = FINE_CPU_MILLI if shape.cpu_milli <= FINE_UP_TO_MILLI else COARSE_CPU_MILLI
    return PodShape(cpu_milli=-(-shape.cpu_milli // step) * step)


def newcomer_of(placed: PlacedPod, shape: PodShape) -> Newcomer:
    """As the terms see it: only pods that share a device are told apart by their use, and training never is."""
    counts = shared(shape) and placed.kind != "training"
    return Newcomer(shape=shape, workload=placed.workload if counts else "")


def _named(spec: Mapping[str, Any]) -> str:
    """The first accelerator that is named anywhere in it, with an amount that is not zero."""
    holders = [spec, *dicts_of(spec.get("containers")), *dicts_of(spec.get("initContainers"))]
    return next((name for each in holders for name in _accelerators(each)), "")


def _accelerators(holder: Mapping[str, Any]) -> Iterable[str]:
    resources = mapping_of(holder.get("resources"))
    for amounts in (mapping_of(resources.get("requests")), mapping_of(resources.get("limits"))):
        for name, amount in amounts.items():
            if name.startswith(ACCELERATOR_PREFIXES) and amount not in (0, "0"):
                yield name[:80]
