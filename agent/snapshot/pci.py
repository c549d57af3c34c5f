"""A PCI device as sysfs describes it. ``None`` means *not measured*."""

import msgspec

NVIDIA = 0x10DE
MELLANOX = 0x15B3
HUAWEI = 0x19E5

DISPLAY = 0x03
NETWORK = 0x02
BRIDGE_OTHER = 0x0680
PROCESSING_ACCELERATOR = 0x12
"""Base classes, and one class with its subclass (NVSwitch), as the PCI Code and ID Assignment has them."""


class PciDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One accelerator or adapter on the PCI bus, whether a driver has taken it or not."""

    address: str
    """``0000:3b:00.0``"""
    vendor: int
    device: int
    class_code: int
    """24 bits: base class, subclass, interface."""
    driver: str = ""
    """Kernel driver bound to it; empty: none."""
    link_transfers_per_second: float | None = None
    link_transfers_per_second_max: float | None = None
    link_width: int | None = None
    link_width_max: int | None = None
    aer_correctable_total: int | None = None
    """Errors that PCIe Advanced Error Reporting counted since the device was found; correctable cost no data."""
    aer_nonfatal_total: int | None = None
    """A transaction was lost; the link works."""
    aer_fatal_total: int | None = None
    """The link is no longer to be trusted."""
    is_virtual_function: bool = False
    peer_traffic_redirected: bool | None = None
    """The port of the PCIe switch right above sends what it writes to its neighbours up to the processor first (ACS).
    ``None``: no switch is above it, or its settings cannot be read."""
    max_read_request_bytes: int | None = None
    """Of an adapter: the most that it asks of memory at once."""

    @property
    def is_gpu(self) -> bool:
        """An NVIDIA GPU as a whole; not a slice of one that a virtual machine gets."""
        return (
            self.vendor == NVIDIA
            and self.class_code >> 16 == DISPLAY
            and not self.is_virtual_function
        )

    @property
    def is_nvswitch(self) -> bool:
        """The switch between a board's GPUs."""
        return self.vendor == NVIDIA and self.class_code >> 8 == BRIDGE_OTHER

    @property
    def subject(self) -> str:
        """How findings name it: a GPU as all findings about it do, the others by their place."""
        return f"gpu:{self.address}" if self.is_gpu else f"pci:{self.address}"
