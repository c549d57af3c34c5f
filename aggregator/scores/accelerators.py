"""The many ways in which a pod asks for accelerators, as one: so many devices, and how much of each. Pure.

Whole devices are asked for by the names of device plugins. A share of one is asked for in thousandths of its cores or of its
memory, whichever is more keeps others off:

    Koordinator   koordinator.sh/gpu, gpu-core, gpu-memory-ratio: 50 is half a device, 200 are two; gpu.shared: how many
    HAMi          nvidia.com/gpu: how many; nvidia.com/gpucores, gpumem-percentage: percent of each; gpumem: MiB
    Volcano       volcano.sh/vgpu-number: how many; vgpu-cores, vgpu-memory-percentage: percent of each; vgpu-memory: MiB
    gpushare      aliyun.com/gpu-mem: GiB of one; readable once its scheduler has written the device's size beside it

A wish that says nothing of memory gets all of it from HAMi and from Volcano, and so is one for the whole device.
Sources: koordinator ``apis/extension/device_share.go``, HAMi ``docs/config.md``, volcano ``docs/user-guide/how_to_use_vgpu.md``,
gpushare-scheduler-extender ``pkg/utils/const.go``.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from aggregator.scores.quantity import NANO, parse_nano
from aggregator.scores.values import WHOLE

WHOLE_DEVICES = re.compile(r"(nvidia|amd)\.com/gpu|huawei\.com/Ascend[0-9A-Za-z]+")
"""The names by which device plugins offer whole devices."""

VOLCANO = "volcano.sh/vgpu-number"
KOORDINATOR = "koordinator.sh/gpu"
ALIYUN = "aliyun.com/gpu-mem"
_HAMI_SHARES = ("nvidia.com/gpucores", "nvidia.com/gpumem-percentage", "nvidia.com/gpumem")
_VOLCANO_SHARES = (
    "volcano.sh/vgpu-cores",
    "volcano.sh/vgpu-memory-percentage",
    "volcano.sh/vgpu-memory",
)
_KOORDINATOR_SHARES = (
    "koordinator.sh/gpu",
    "koordinator.sh/gpu-core",
    "koordinator.sh/gpu-memory-ratio",
)
_KOORDINATOR_MEMORY = "koordinator.sh/gpu-memory"
_KOORDINATOR_COUNT = "koordinator.sh/gpu.shared"

_SLICES = re.compile(r"nvidia\.com/mig-.+|huawei\.com/Ascend[0-9A-Za-z]+-.+|huawei\.com/npu.+")
_ACCELERATOR = re.compile(r"gpu|mig-|npu|mlu|gaudi|dcu|tpu|ascend|neuron", re.IGNORECASE)
"""Of a resource name after its domain: one of these is an accelerator, ours to read or not."""


MAX_NAME = 317
"""Characters of a resource's name: a domain of 253, a slash, 63 more. None that is longer can be on a node, or is kept here."""


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's wish for devices."""

    count: int = 0
    milli: int = WHOLE
    """Of each; by cores and by percent of memory."""
    memory_mib: int = 0
    """Of each, where it asks by an amount."""
    resource: str = ""
    """As the nodes list it; empty: they list several for the same devices."""
    trouble: str = ""
    """Why it cannot be read; the rest then holds as far as it can."""


def devices_of(amounts: Mapping[str, int], annotations: Mapping[str, Any]) -> Devices:
    """A pod's wish for devices; never raises.

    Args:
        amounts: all that it asks for, in billionths, by resource.
        annotations: of the pod.
    """
    asked = {
        name: amount
        for name, amount in amounts.items()
        if amount and len(name) <= MAX_NAME and _is_device(name)
    }
    if not asked:
        return Devices()
    ways = {_way(name) for name in asked}
    if None in ways:
        return Devices(count=_plain_count(asked), trouble=_unread(asked))
    if len(ways) > 1:
        words = ", ".join(sorted(asked))
        return Devices(
            count=_plain_count(asked), trouble=f"asks for devices in several ways at once: {words}"
        )
    way = ways.pop()
    assert way is not None  # noqa: S101 - seen above
    return way(asked, annotations)


def gpu_resource(resources: Iterable[str]) -> str:
    """Which of a node's resource names stands for its devices; empty: it lists none."""
    names = set(resources)
    whole = sorted(name for name in names if WHOLE_DEVICES.fullmatch(name))
    others = [name for name in (VOLCANO, KOORDINATOR, ALIYUN) if name in names]
    if not others and not names.isdisjoint(_KOORDINATOR_SHARES):
        others = [KOORDINATOR]
    return next(iter([*whole, *others]), "")


_Way = Callable[[Mapping[str, int], Mapping[str, Any]], Devices]


@lru_cache(maxsize=1024)  # a cluster has a few dozen resource names
def _is_device(name: str) -> bool:
    domain, _, rest = name.partition("/")
    return bool(_ACCELERATOR.search(rest)) and not domain.endswith("kubernetes.io")


@lru_cache(maxsize=1024)
def _way(name: str) -> _Way | None:
    if WHOLE_DEVICES.fullmatch(name) or name in _HAMI_SHARES:
        return _by_plugin
    if name in (*_KOORDINATOR_SHARES, _KOORDINATOR_MEMORY, _KOORDINATOR_COUNT):
        return _by_koordinator
    if name == VOLCANO or name in _VOLCANO_SHARES:
        return _by_volcano
    return _by_gpushare if name == ALIYUN else None


def _unread(asked: Mapping[str, int]) -> str:
    name = next(each for each in sorted(asked) if _way(each) is None)
    if _SLICES.fullmatch(name):
        return f"asks for {name}, a fixed slice of a device: those are packed by their own sizes, not scored here"
    return f"asks for {name[:80]}, a kind of device that is not read here"


def _plain_count(asked: Mapping[str, int]) -> int:
    """Devices that it asks for by a device plugin's name."""
    return sum(amount // NANO for name, amount in asked.items() if WHOLE_DEVICES.fullmatch(name))


def _by_plugin(asked: Mapping[str, int], annotations: Mapping[str, Any]) -> Devices:
    """A device plugin's, whole, or HAMi's, which shares them under the same name."""
    whole = [name for name in asked if WHOLE_DEVICES.fullmatch(name)]
    if len(whole) > 1:
        words = ", ".join(sorted(whole))
        return Devices(
            count=_plain_count(asked), trouble=f"asks for devices of several makes at once: {words}"
        )
    name = whole[0] if whole else "nvidia.com/gpu"
    count = _whole(asked[name]) if whole else 1  # HAMi's webhook adds the one
    if count is None:
        return Devices(
            trouble=f"asks for {asked[name] / NANO:g} of {name}: devices are whole numbers"
        )
    shares = {each: asked.get(each, 0) for each in _HAMI_SHARES}
    return (
        _shared(name, count, *shares.values())
        if any(shares.values())
        else Devices(count=count, resource=name)
    )


def _by_volcano(asked: Mapping[str, int], annotations: Mapping[str, Any]) -> Devices:
    count = _whole(asked.get(VOLCANO, NANO))
    if count is None:
        return Devices(
            trouble=f"asks for {asked[VOLCANO] / NANO:g} of {VOLCANO}: devices are whole numbers"
        )
    return _shared(VOLCANO, count, *(asked.get(each, 0) for each in _VOLCANO_SHARES))


def _shared(resource: str, count: int, cores: int, memory_percent: int, memory: int) -> Devices:
    """Percent of cores and of memory of each device, else MiB; of memory unmentioned, all."""
    percent = max(cores, memory_percent if memory_percent or memory else 100 * NANO)
    mib = 0 if memory_percent else _ceil(memory, NANO)
    return Devices(count=count, milli=_ceil(percent * 10, NANO), memory_mib=mib, resource=resource)


def _by_koordinator(asked: Mapping[str, int], annotations: Mapping[str, Any]) -> Devices:
    """Percent over all devices; above a hundred, whole ones unless it says how many."""
    milli = _ceil(max(asked.get(each, 0) for each in _KOORDINATOR_SHARES) * 10, NANO)
    memory = _ceil(asked.get(_KOORDINATOR_MEMORY, 0), NANO * 2**20)
    number = _whole(asked.get(_KOORDINATOR_COUNT, 0))
    if number is None:
        return Devices(
            trouble=f"asks for a part of {_KOORDINATOR_COUNT}: that is a number of devices"
        )
    if not milli and not memory:
        return Devices(trouble=f"asks for {_KOORDINATOR_COUNT} and not for how much of each")
    count = number or max(1, milli // WHOLE)
    if milli % count or (not number and milli > WHOLE and milli % WHOLE):
        return Devices(
            count=-(-milli // WHOLE),
            trouble=f"asks for {milli / 10:g} % of devices: above 100 it has to be a multiple of 100",
        )
    # Koordinator takes memory by the ratio, where there is one.
    by_ratio = any(
        asked.get(each) for each in ("koordinator.sh/gpu", "koordinator.sh/gpu-memory-ratio")
    )
    return Devices(
        count=count, milli=milli // count, memory_mib=0 if by_ratio else -(-memory // count)
    )


def _by_gpushare(asked: Mapping[str, int], annotations: Mapping[str, Any]) -> Devices:
    """GiB, or MiB where its plugin was told so; of one device. The size of the device is known once it has one."""
    size, mine = (
        parse_nano(annotations.get(f"ALIYUN_COM_GPU_MEM_{each}")) for each in ("DEV", "POD")
    )
    if not size or not mine or not 0 < mine <= size:
        return Devices(
            count=1,
            resource=ALIYUN,
            trouble=f"asks for {asked[ALIYUN] / NANO:g} of {ALIYUN}: which share of a device that is, its "
            "scheduler says only once it is placed",
        )
    return Devices(count=1, milli=_ceil(mine * WHOLE, size), resource=ALIYUN)


def _whole(nano: int) -> int | None:
    return nano // NANO if nano % NANO == 0 else None


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)
