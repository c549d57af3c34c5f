"""What the host source reads rarely: settings and traces that the kernel shows in small files. Blocking: run it in a thread."""

import os
from collections.abc import Iterator
from typing import Any

from agent.snapshot.host import FuseQueue

LARGE_ORDER = 8
"""Free blocks of this order (256 pages: 1 MiB) and above are large: what a driver asks for in one piece."""

MAX_CONNECTIONS = 256
"""FUSE connections looked at; a machine has a handful."""

_PEERMEM = ("nvidia_peermem", "nv_peer_mem")
"""The module that lets an RDMA adapter reach GPU memory without DMA-BUF, by its name of today and before."""


def traces(proc_root: str, sysfs_root: str) -> dict[str, Any]:
    """What may change by itself, as fields of ``agent.snapshot.Host``. What cannot be read is not there."""
    found: dict[str, Any] = {
        "free_large_blocks": free_large_blocks(_text(f"{proc_root}/buddyinfo", 65_536)),
        "fuse_queues": tuple(_fuse_queues(f"{sysfs_root}/fs/fuse/connections")),
        **_crash_records(f"{sysfs_root}/fs/pstore"),
    }
    modules = f"{sysfs_root}/module"
    if os.path.isdir(modules):  # noqa: PTH112 - half the cost
        found["peermem_loaded"] = any(
            os.path.isdir(f"{modules}/{name}")  # noqa: PTH112
            for name in _PEERMEM
        )
    return found


def governors(sysfs_root: str) -> dict[str, int]:
    """How many frequency policies run by which governor; a policy is one processor or a few that share a clock.

    Empty where the machine leaves its clocks to the firmware or, as a virtual one, has none to set. Source: Linux
    kernel documentation, CPU Performance Scaling: ``policy<n>/scaling_governor``.
    """
    folder = f"{sysfs_root}/devices/system/cpu/cpufreq"
    found: dict[str, int] = {}
    for name in _names(folder):
        governor = name.startswith("policy") and _text(f"{folder}/{name}/scaling_governor")
        if governor:
            found[governor] = found.get(governor, 0) + 1
    return found


def is_virtual_machine(proc_root: str) -> bool | None:
    """Whether the first processor says that it is not real; ``None`` where that kind of processor does not say.

    Source: Linux, ``X86_FEATURE_HYPERVISOR`` in the flags of proc_cpuinfo(5).
    """
    for line in _text(f"{proc_root}/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return "hypervisor" in value.split()
    return None


def free_large_blocks(text: str) -> dict[str, int]:
    """The free large blocks of each NUMA node's ordinary memory, from proc_buddyinfo(5).

    A zone without a single free page holds no memory at all, and is left out.

    >>> free_large_blocks("Node 0, zone   Normal  9 0 0 0 0 0 0 0 3 2 1")
    {'node 0': 6}
    """
    found = {}
    for line in text.splitlines():
        words = line.replace(",", " ").split()
        if len(words) > 4 + LARGE_ORDER and words[2:4] == ["zone", "Normal"]:
            blocks = [int(each) for each in words[4:] if each.isdecimal()]
            if any(blocks):
                found[f"node {words[1]}"] = sum(blocks[LARGE_ORDER:])
    return found


def _fuse_queues(folder: str) -> Iterator[FuseQueue]:
    for name in _names(folder)[:MAX_CONNECTIONS]:
        waiting = _number(f"{folder}/{name}/waiting")
        limit = _number(f"{folder}/{name}/max_background")
        if waiting is not None and limit:
            yield FuseQueue(connection=name, waiting=waiting, background_max=limit)


def _crash_records(folder: str) -> dict[str, Any]:
    """Records of panics and oopses that the firmware keeps. Source: Linux kernel ABI, pstore."""
    try:
        with os.scandir(folder) as entries:
            times = [each.stat().st_mtime for each in entries if each.name.startswith("dmesg-")]
    except OSError:
        return {}
    return {"crash_records": len(times), "crash_record_newest_seconds": max(times, default=None)}


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names, and half the cost
    except OSError:
        return []


def _number(path: str) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: str, most: int = 4096) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, most).decode("ascii", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(descriptor)
