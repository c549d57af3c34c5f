"""An Ascend NPU as DCMI and hccn_tool describe it. ``None`` means *not measured*."""

from collections.abc import Mapping
from typing import Literal

import msgspec


class NpuFault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault that the driver holds against a chip now."""

    code: int
    text: str = ""
    """The driver's own words."""
    severity: int | None = None
    """DCMI: 0 warning, 1 minor, 2 major, 3 critical; known only where the driver tells."""

    @property
    def name(self) -> str:
        """The code of the finding: ``npu-80e01801``."""
        return f"npu-{self.code:08x}"


class Optics(msgspec.Struct, frozen=True, kw_only=True):
    """The optical module of an NPU's port. Limits are the module's own alarm thresholds."""

    present: bool | None = None
    temperature_celsius: float | None = None
    temperature_high_celsius: float | None = None
    transmit_watts: tuple[float, ...] = ()
    """Per lane."""
    transmit_low_watts: float | None = None
    transmit_high_watts: float | None = None
    receive_watts: tuple[float, ...] = ()
    receive_low_watts: float | None = None
    receive_high_watts: float | None = None


class NpuNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """The RoCE side of an NPU, read by hccn_tool now and then."""

    age_seconds: float = 0.0
    """Of the oldest reading in it; older ones than the source allows are not in it."""
    link_up: bool | None = None
    speed_bits_per_second: float | None = None
    link_ups_total: int | None = None
    """Times the link came up, since the chip was reset."""
    optics: Optics | None = None
    counters: Mapping[str, int] | None = None
    """As the tool names them: ``roce_rx_err_pkt_num`` …; since the chip was reset."""


class Npu(msgspec.Struct, frozen=True, kw_only=True):
    """One NPU chip."""

    card: int
    chip: int
    index: int
    """Logical id, as device files and resources count it."""

    model: str = ""
    pci_bus_id: str = ""
    """Lower case, as the kernel writes it: ``0000:c1:00.0``."""
    temperature_celsius: float | None = None
    power_watts: float | None = None
    utilization_ratio: float | None = None
    """0..1, of the AI cores."""
    memory_used_bytes: int | None = None
    """High-bandwidth memory."""
    memory_total_bytes: int | None = None
    health: int | None = None
    """DCMI: 0 healthy, 1 minor, 2 major, 3 critical."""

    physical_id: int | None = None
    """As hccn_tool counts it."""
    state: Literal["ok", "unreadable", "not-ready", "lost", "unresponsive"] = "ok"
    """``unreadable``: its calls fail, which says nothing about it. ``not-ready``: the driver waits for it, as during a
    reset. ``lost``: the driver does not know it (any more). ``unresponsive``: calls about it do not return."""
    state_reason: str = ""
    """The call and what it answered, where the state is not ``ok``."""
    faults: tuple[NpuFault, ...] | None = None
    """Present now. Empty: none; ``None``: the driver did not say."""
    memory_temperature_celsius: float | None = None
    voltage_volts: float | None = None
    clock_hertz: float | None = None
    """Of the AI cores."""
    ecc_single_bit_total: int | None = None
    """High-bandwidth memory, since the chip was reset."""
    ecc_double_bit_total: int | None = None
    ecc_single_bit_life_total: int | None = None
    """Over the chip's life."""
    ecc_double_bit_life_total: int | None = None
    isolated_pages_single_bit_total: int | None = None
    isolated_pages_double_bit_total: int | None = None
    """Pages of memory taken out of use after errors of two bits and more."""
    network_health: int | None = None
    """DCMI: 0 success, 1 socket fails, 2 receive timeout, 3 unreachable, 4 time exceeded, 5 fault, 6 not tried yet,
    7 thread error, 8 no detection address set."""
    network: NpuNetwork | None = None
    """``None``: not measured, or the chip has no network of its own."""
    network_reason: str = ""
    """Why its network cannot be read, where that is known."""

    @property
    def subject(self) -> str:
        """How findings name this NPU."""
        return f"npu:{self.index}"
