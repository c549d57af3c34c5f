"""What one RDMA adapter is: its PCI function, its firmware, its network interfaces. Read seldom."""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from agent.sources.rdma_files import SysfsFiles

_TRANSFERS = re.compile(r"([\d.]+) ?GT/s")
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_REPRESENTOR = re.compile(r"(c\d+)?pf\d+(vf|sf)\d+")
"""``phys_port_name`` of an interface that stands for somebody else's function (switchdev mode)."""


class Interface(NamedTuple):
    """One network interface of an adapter."""

    name: str
    folder: str
    port: int
    """The port that it runs over, from 1."""
    bond_member: bool


class Adapter(NamedTuple):
    """One adapter."""

    fields: dict[str, Any]
    """Fields of ``agent.snapshot.RdmaPort`` that all its ports share."""
    interfaces: tuple[Interface, ...]


def read_adapter(files: SysfsFiles, folder: str, sysfs_root: str) -> Adapter:
    """Read one adapter.

    Args:
        files: how.
        folder: ``…/class/infiniband/mlx5_0``.
        sysfs_root: of this machine.
    """
    function = os.path.realpath(f"{folder}/device")
    interfaces = tuple(_interfaces(files, folder, function, f"{sysfs_root}/class/net"))
    shared = files.text(f"{sysfs_root}/module/ib_core/parameters/netns_mode")
    fields: dict[str, Any] = {
        "firmware": files.text(f"{folder}/fw_ver") or "",
        "adapter_type": files.text(f"{folder}/hca_type") or "",
        "board": files.text(f"{folder}/board_id") or "",
        "is_virtual_function": os.path.exists(f"{function}/physfn"),  # noqa: PTH110
        "may_leave": shared == "N",
        "is_bond": any(each.bond_member for each in interfaces),
    }
    return Adapter(fields | _pci(files, function), interfaces)


def _pci(files: SysfsFiles, function: str) -> dict[str, Any]:
    above, _, address = function.rpartition("/")
    if not _PCI_ADDRESS.fullmatch(address):
        return {}
    # An adapter in a slower or narrower slot than its own is as it was built: both ends count.
    both_ends = (function, above)
    return {
        "pci_address": address,
        "numa_node": files.number(f"{function}/numa_node"),  # -1: this machine does not say
        "pcie_transfers_per_second": parse_transfers(files.text(f"{function}/current_link_speed")),
        "pcie_transfers_per_second_max": _least(
            parse_transfers(files.text(f"{each}/max_link_speed")) for each in both_ends
        ),
        "pcie_width": files.number(f"{function}/current_link_width") or None,
        "pcie_width_max": _least(
            files.number(f"{each}/max_link_width") or None for each in both_ends
        ),
    }


def _least(values: Iterable[Any]) -> Any:
    return min((each for each in values if each is not None), default=None)


def parse_transfers(text: str | None) -> float | None:
    """``"32.0 GT/s PCIe"`` → 3.2e10 transfers per second; ``None`` for ``Unknown``."""
    match = _TRANSFERS.match(text or "")
    return float(match[1]) * 1e9 if match else None


def _interfaces(files: SysfsFiles, folder: str, function: str, net: str) -> Iterator[Interface]:
    for name in _names(f"{function}/net"):
        own = f"{net}/{name}"
        if "." in name or _REPRESENTOR.fullmatch(files.text(f"{own}/phys_port_name") or ""):
            continue  # a child of another interface, or the far end of a virtual function
        members = (files.text(f"{own}/master/bonding/slaves") or "").split()
        others = [each for each in members if each != name]
        one_device = "bond" in folder.rpartition("/")[2] or not any(
            _names(f"{net}/{each}/device/infiniband") for each in others
        )
        if others and one_device:
            # An RDMA bond stands over both functions, but sysfs shows it under the first one only.
            for each in members:
                yield Interface(each, f"{net}/{each}", 1, True)
            return
        number = files.number(f"{own}/dev_port") or 0
        yield Interface(name, own, number + 1, False)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names, and half the cost
    except OSError:
        return []
