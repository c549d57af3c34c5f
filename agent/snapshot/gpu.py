"""A GPU as NVML describes it. ``None`` means *not measured*; it is never zero and never healthy."""

import msgspec


class NvLink(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One NVLink of one GPU. Counters are since the driver loaded."""

    link: int
    active: bool | None = None
    """Asleep for want of traffic is active. All links of a card without a bridge are inactive."""
    replays_total: int | None = None
    recoveries_total: int | None = None
    crc_errors_total: int | None = None
    """Flit and data CRC errors together."""


class MigInstance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One MIG instance: a slice of a GPU that workloads see as a device."""

    uuid: str
    gpu_instance: int
    compute_instance: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None

    def subject(self, gpu: "Gpu") -> str:
        """How findings name this instance."""
        return f"{gpu.subject}/mig:{self.gpu_instance}"


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One physical GPU as NVML describes it."""

    uuid: str
    pci_bus_id: str
    """Lower case, four-digit domain: ``0000:3b:00.0``, as the kernel log writes it."""
    index: int
    model: str = ""
    serial: str = ""
    vbios_version: str = ""
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
    """0..1: share of the driver's last sample period (200 ms) in which a kernel ran, as nvidia-smi says it; goes with other readings
    of this moment, and says nothing of the time between two samples of ours."""
    memory_utilization_ratio: float | None = None
    """0..1: share of that period in which memory was read or written."""
    duty_cycle_ratio: float | None = None
    """0..1: share of time in which a kernel ran, over the seconds since the reading before (ten at a sample per second), from the
    driver's own samples: how much the GPU is used. Up to ten seconds old (``nvml_child/duty.py``)."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    """For the driver and its error correction: neither used nor free. ``None`` where the driver counts it as used."""
    sm_clock_hertz: float | None = None
    process_count: int | None = None
    ecc_corrected_total: int | None = None
    """Volatile: since the driver loaded."""
    ecc_uncorrected_total: int | None = None
    recovery_action: int | None = None
    """NVML field 230: 0 none, 1 reset, 2 reboot, 3 drain P2P, 4 drain and reset; others unknown."""
    clocks_event_reasons: int | None = None
    """NVML bit mask of why clocks are held down."""

    # What follows is read for the checks; most of it is asked for only now and then, and kept in between.
    ecc_corrected_aggregate_total: int | None = None
    """Over the board's life."""
    ecc_uncorrected_aggregate_total: int | None = None
    ecc_sram_uncorrected_total: int | None = None
    """Volatile, in on-chip memory."""
    sram_threshold_exceeded: bool | None = None
    """The driver counts more uncorrectable errors in on-chip memory than a board may have in its life."""
    remapped_rows_corrected_total: int | None = None
    remapped_rows_uncorrected_total: int | None = None
    remap_pending: bool | None = None
    """A row waits for the next reset to be replaced by a spare one."""
    remap_failed: bool | None = None
    """There was no spare row left where one was needed."""
    retired_pages_single_bit_total: int | None = None
    """Boards before Ampere retire pages instead of remapping rows."""
    retired_pages_double_bit_total: int | None = None
    retirement_pending: bool | None = None
    power_violation_seconds_total: float | None = None
    """Time in which the power limit held the clocks down, since the driver loaded."""
    thermal_violation_seconds_total: float | None = None
    hardware_slowdown_seconds_total: float | None = None
    """Time in hardware slowdown (thermal, power brake), where the driver counts it."""
    power_brake_seconds_total: float | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    """Of GPU and slot together."""
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    pcie_replays_total: int | None = None
    pcie_received_bytes_per_second: float | None = None
    """Since the sample before, by the profiling counters; without them, in 20 ms every ten samples."""
    pcie_transmitted_bytes_per_second: float | None = None
    sm_clock_max_hertz: float | None = None
    memory_clock_hertz: float | None = None
    performance_state: int | None = None
    """0 fastest … 15 slowest."""
    persistence_mode: bool | None = None
    reset_required: bool = False
    """Some or all calls on it answer ``NVML_ERROR_RESET_REQUIRED``; what the others answer is here."""
    nvlinks: tuple[NvLink, ...] = ()
    fabric_state: int | None = None
    """NVML: 0 not supported, 1 not started, 2 in progress, 3 completed."""
    fabric_status: int | None = None
    """NVML return code of the registration, meaningful once completed; 0 success."""
    fabric_health_mask: int | None = None
    """NVML bit fields of two bits each (0 unknown, 1 true, 2 false), from the lowest on: bandwidth degraded, route
    recovery under way, route unhealthy, access timeout recovery; then four bits: 1 configured right, more: wrongly."""
    mig_enabled: bool | None = None
    mig_instances: tuple[MigInstance, ...] = ()
    process_ids: tuple[int, ...] = ()
    """Compute processes, as the host numbers them."""
    sm_active_ratio: float | None = None
    """0..1, by the GPU's own profiling counters (GPM; Hopper and newer): share of the SMs that were busy."""
    sm_occupancy_ratio: float | None = None
    tensor_active_ratio: float | None = None
    dram_active_ratio: float | None = None
    """Of the memory's theoretical bandwidth."""
    engine_active_ratio: float | None = None
    """0..1: share of time in which any compute or graphics engine was busy, over the last ten samples."""
    nvlink_received_bytes_per_second: float | None = None
    """Over all links, by the profiling counters."""
    nvlink_transmitted_bytes_per_second: float | None = None
    profiling_absent: str = ""
    """Why there are no profiling readings; empty where there are."""

    @property
    def subject(self) -> str:
        """How findings name this GPU."""
        return f"gpu:{self.pci_bus_id}"
