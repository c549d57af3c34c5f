"""Everything the sources read at one instant, typed, units in the field names.

``None`` means *not measured*; it is never zero and never healthy. Field names are those of
``contract/report.proto`` so that the encoder stays a plain copy.
"""

from typing import Any

import msgspec

from contract.vocabulary import Event, SourceStatus


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One physical GPU as NVML describes it."""

    uuid: str
    pci_bus_id: str
    """Lower case, four-digit domain: ``0000:3b:00.0``, as the kernel log writes it."""
    index: int
    model: str = ""
    serial: str = ""
    lost: bool = False
    """The driver lists it but no longer reaches it (``NVML_ERROR_GPU_IS_LOST``)."""
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    slowdown_temperature_celsius: float | None = None
    """Core temperature at which the hardware slows itself down."""
    shutdown_temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules_total: float | None = None
    """Since the driver loaded."""
    utilization_ratio: float | None = None
    """0..1: share of the driver's last sample period in which a kernel ran."""
    memory_utilization_ratio: float | None = None
    """0..1: share of that period in which memory was read or written."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    sm_clock_hertz: float | None = None
    process_count: int | None = None
    ecc_corrected_total: int | None = None
    """Volatile: since the driver loaded."""
    ecc_uncorrected_total: int | None = None
    recovery_action: int | None = None
    """NVML field 230: 0 none, 1 reset, 2 reboot, 3 drain P2P, 4 drain and reset; others unknown."""
    clocks_event_reasons: int | None = None
    """NVML bit mask of why clocks are held down."""

    @property
    def subject(self) -> str:
        """How findings name this GPU."""
        return f"gpu:{self.pci_bus_id}"


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
    received_bytes_total: int | None = None
    transmitted_bytes_total: int | None = None

    @property
    def subject(self) -> str:
        """How findings name this port."""
        return f"rdma:{self.device}/{self.port}"


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """One mounted local file system."""

    mount_point: str
    total_bytes: int
    available_bytes: int
    """To an unprivileged user."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine itself."""

    cpu_count: int = 0
    cpu_utilization_ratio: float | None = None
    """0..1 over all cores, since the last reading; ``None`` on the first."""
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    load_average_1m: float | None = None
    uptime_seconds: float | None = None
    disks: tuple[Disk, ...] = ()


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What this node looked like at one instant."""

    node: str
    boot_id: str = ""
    taken_seconds: float
    """Unix time."""
    sources: tuple[SourceStatus, ...] = ()
    driver_version: str = ""
    gpus: tuple[Gpu, ...] = ()
    rdma_ports: tuple[RdmaPort, ...] = ()
    host: Host | None = None
    events: tuple[Event, ...] = ()
    """What happened since the snapshot before."""

    def source(self, name: str) -> SourceStatus | None:
        """The state of one source, if it is configured at all."""
        return next((status for status in self.sources if status.name == name), None)


def readable_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot for people and JSON: words instead of numbers, no fields that were not measured."""
    content: dict[str, Any] = _without_nothing(msgspec.to_builtins(snapshot))
    content["sources"] = [
        {
            "name": status.name,
            "state": status.state.label,
            "reason": status.reason,
            "since_seconds": status.since_seconds,
        }
        for status in snapshot.sources
    ]
    return content


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nothing(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_without_nothing(each) for each in value]
    return value
