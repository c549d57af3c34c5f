"""An RDMA port as sysfs describes it. ``None`` means *not measured*."""

from collections.abc import Mapping
from typing import Literal

import msgspec

RoceAddress = Literal["none", "link-local", "routable"]
"""From the least to the most that a port can reach."""


class RdmaNetdev(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One network interface that carries a port: its own (IPoIB, RoCE), or a member of its bond."""

    name: str
    operational_state: str = ""
    """``up``, ``down``, ``lowerlayerdown``, ``dormant``, ``unknown``; RFC 2863."""
    enabled: bool | None = None
    """Whether an administrator has it up; read only while its port is not active."""
    carrier_downs_total: int | None = None
    """Times the carrier was lost since the interface was made. A 32-bit counter that does not saturate."""
    bond_member: bool = False


class RdmaPort(msgspec.Struct, frozen=True, kw_only=True):
    """One port of one RDMA adapter, InfiniBand or RoCE, from sysfs."""

    device: str
    port: int
    link_layer: str = ""
    """``InfiniBand`` or ``Ethernet``."""
    state: str = ""
    """Logical state: ``ACTIVE``, ``DOWN`` …"""
    physical_state: str = ""
    """``LinkUp``, ``Polling``, ``Disabled`` …"""
    rate_bits_per_second: float | None = None
    link_downed_total: int | None = None
    """Stops at 255 on most adapters."""
    received_bytes_total: int | None = None
    transmitted_bytes_total: int | None = None

    # Most of what follows is read now and then, and kept in between.
    excluded: bool = False
    """The settings say to leave it alone: nothing of it was read."""
    is_virtual_function: bool = False
    is_bond: bool = False
    may_leave: bool = False
    """RDMA devices are set to be exclusive to a network namespace: one that a pod is given vanishes here."""
    link_width: int | None = None
    """Lanes: 4 of ``4X NDR``."""
    link_speed: str = ""
    """The generation: ``NDR``."""
    subnet_manager_lid: int | None = None
    """InfiniBand only; 0: no subnet manager has been here."""
    counters: Mapping[str, int] = {}
    """Trouble, congestion and packet counters by the kernel's own names; what cannot be read is absent."""
    netdevs: tuple[RdmaNetdev, ...] = ()
    firmware: str = ""
    adapter_type: str = ""
    """``hca_type``: ``MT4129``."""
    board: str = ""
    """``board_id``: the product of its maker, ``MT_0000000838``."""
    pci_address: str = ""
    """``0000:18:00.0``"""
    roce_v2_address: RoceAddress | None = None
    """The best that its GID table has for RoCE v2; of Ethernet ports only."""
    numa_node: int | None = None
    pcie_transfers_per_second: float | None = None
    pcie_transfers_per_second_max: float | None = None
    """What the adapter and the slot above it can both do."""
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    """Of adapter and slot together."""

    @property
    def subject(self) -> str:
        """How findings name this port."""
        return f"rdma:{self.device}/{self.port}"
