"""What a Node offers: its allocatable amounts, and how many devices stand behind them. Pure, and total.

Layers that share devices list shares in place of devices (HAMi and Volcano ten of each, by default); how many devices there
are stands in an annotation of theirs. The time slices of NVIDIA's own device plugin are left as it lists them, one by one.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from aggregator.policy.model import NodeCapacity
from aggregator.scores.accelerators import ALIYUN, KOORDINATOR, VOLCANO, WHOLE_DEVICES
from aggregator.scores.plain import mapping_of, text_of
from aggregator.scores.quantity import NANO, parse_nano
from aggregator.scores.requests import model_of

MAX_NODE_DEVICES = 256
"""Of one resource on one node, time slices included; more are not looked at."""

_REGISTERS = ("hami.io/node-nvidia-register", "volcano.sh/node-vgpu-register")
_REPLICAS = "nvidia.com/gpu.replicas"
_MIG_MODEL = "-MIG-"
"""In the name of the model where MIG instances go by the name of whole devices (GPU feature discovery, strategy ``single``)."""
_KOORDINATOR_CORES = ("koordinator.sh/gpu-core", "koordinator.sh/gpu")
_ALIYUN_COUNT = "aliyun.com/gpu-count"
_LARGEST = 10**9


def capacity_of(node: Mapping[str, Any]) -> NodeCapacity:
    """Of one Node object; never raises."""
    metadata = mapping_of(node.get("metadata"))
    allocatable = mapping_of(mapping_of(node.get("status")).get("allocatable"))
    labels = {
        name: text
        for name, text in mapping_of(metadata.get("labels")).items()
        if isinstance(text, str)
    }
    model = model_of(labels)
    return NodeCapacity(
        cpu_milli=_amount(allocatable, "cpu", NANO // 1000),
        memory_mib=_amount(allocatable, "memory", NANO * 2**20),
        devices=_devices(allocatable),
        physical_devices=_physical(mapping_of(metadata.get("annotations")), allocatable),
        sliced=labels.get(_REPLICAS, "1") not in ("0", "1") or _MIG_MODEL in model,
        model=model,
    )


def _amount(allocatable: Mapping[str, Any], name: str, unit: int) -> int:
    """In whole units, rounded down: a part of one holds no pod."""
    return min(max(0, parse_nano(allocatable.get(name)) or 0) // unit, _LARGEST)


def _devices(allocatable: Mapping[str, Any]) -> dict[str, int]:
    found = {
        name: _amount(allocatable, name, NANO)
        for name in allocatable
        if name in (VOLCANO, ALIYUN) or WHOLE_DEVICES.fullmatch(name)
    }
    for name in _KOORDINATOR_CORES:
        if name in allocatable:
            found[KOORDINATOR] = _amount(allocatable, name, NANO * 100)
            break
    return {name: min(count, MAX_NODE_DEVICES) for name, count in found.items()}


def _physical(annotations: Mapping[str, Any], allocatable: Mapping[str, Any]) -> int:
    for name in _REGISTERS:
        if count := _registered(text_of(annotations.get(name)).strip()):
            return min(count, MAX_NODE_DEVICES)
    return min(_amount(allocatable, _ALIYUN_COUNT, NANO), MAX_NODE_DEVICES)


def _registered(text: str) -> int:
    """A JSON list of devices, or the older ``GPU-…,10,16384,…:`` with a colon after each."""
    if not text.startswith("["):
        return sum(1 for one in text.split(":") if "," in one)
    try:
        devices = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return 0
    return len(devices) if isinstance(devices, list) else 0
