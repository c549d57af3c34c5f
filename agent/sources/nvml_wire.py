"""What the NVML process says, and what it means: frames, units, identities, reasons. Pure.

NVML's own units come in (milliwatts, megahertz, percent), ours go out.
"""

import msgspec

from agent.kernel_log.nvidia import INSTANCE_XIDS
from agent.snapshot import Gpu, MigInstance, NvLink
from agent.sources import SourceAbsentError, SourceError, SourceFailingError
from contract.vocabulary import Event

NO_INSTANCE = 0xFFFFFFFF
"""NVML's word for "the whole GPU"."""
MIB = 1 << 20
SLOWEST_PERFORMANCE_STATE = 15
"""NVML says 32 where it does not know."""
MOST_PCIE = 32
"""More lanes, and more generations, than a slot can have."""


class RawGpu(msgspec.Struct, kw_only=True):
    """One place of NVML's enumeration as the child read it; ``None`` is not measured."""

    index: int
    lost: bool | None = None
    """``None``: it answers. ``True``: it is lost. ``False``: it cannot be read for another reason."""
    reset_required: bool = False
    """It answers, some or all of it that it must be reset."""
    uuid: str = ""
    bus: str = ""
    """As NVML writes it: ``00000000:3B:00.0``."""
    model: str = ""
    serial: str = ""
    vbios_version: str = ""
    shutdown_temperature_celsius: float | None = None
    slowdown_temperature_celsius: float | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    power_milliwatts: float | None = None
    power_limit_milliwatts: float | None = None
    energy_millijoules: float | None = None
    utilization_percent: float | None = None
    memory_utilization_percent: float | None = None
    duty_cycle_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    sm_clock_megahertz: float | None = None
    sm_clock_max_megahertz: float | None = None
    memory_clock_megahertz: float | None = None
    performance_state: int | None = None
    persistence_mode: bool | None = None
    process_count: int | None = None
    process_ids: tuple[int, ...] = ()
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    ecc_corrected_aggregate: int | None = None
    ecc_uncorrected_aggregate: int | None = None
    ecc_sram_uncorrected: int | None = None
    sram_threshold_exceeded: bool | None = None
    remapped_rows_corrected: int | None = None
    remapped_rows_uncorrected: int | None = None
    remap_pending: int | None = None
    remap_failed: int | None = None
    retired_pages_single_bit: int | None = None
    retired_pages_double_bit: int | None = None
    retirement_pending: int | None = None
    recovery_action: int | None = None
    clocks_event_reasons: int | None = None
    power_violation_nanoseconds: int | None = None
    thermal_violation_nanoseconds: int | None = None
    hardware_thermal_nanoseconds: int | None = None
    power_brake_nanoseconds: int | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    pcie_replays: int | None = None
    pcie_received_kilobytes_per_second: float | None = None
    pcie_transmitted_kilobytes_per_second: float | None = None
    nvlinks: tuple[NvLink, ...] = ()
    fabric_state: int | None = None
    fabric_status: int | None = None
    fabric_health_mask: int | None = None
    mig_enabled: bool | None = None
    mig_instances: tuple[MigInstance, ...] = ()
    profiling_absent: str = ""
    engine_active_percent: float | None = None
    sm_active_percent: float | None = None
    sm_occupancy_percent: float | None = None
    tensor_active_percent: float | None = None
    dram_active_percent: float | None = None
    pcie_received_mebibytes_per_second: float | None = None
    pcie_transmitted_mebibytes_per_second: float | None = None
    nvlink_received_mebibytes_per_second: float | None = None
    nvlink_transmitted_mebibytes_per_second: float | None = None


class Ready(msgspec.Struct, tag="ready", tag_field="kind"):
    """NVML is initialised and every GPU was read once."""


class Sample(msgspec.Struct, tag="sample", tag_field="kind", kw_only=True):
    """The answer to one request."""

    request: int
    driver: str
    gpus: list[RawGpu]


class Happened(msgspec.Struct, tag="event", tag_field="kind", kw_only=True):
    """An NVML event."""

    event: str
    """``xid``, ``double-bit-ecc`` and so on: also the kind of our event."""
    bus: str
    data: int
    """For an XID its number."""
    gpu_instance: int = NO_INSTANCE
    """MIG instance."""


WORDS = {
    "double-bit-ecc": "double bit ecc",
    "dram-retirement-failure": "that a page of memory could not be retired",
    "fatal-poison": "poisoned data, fatally",
    "gpu-unavailable": "the GPU unavailable",
    "gpu-recovery-action": "that the GPU needs recovery",
}
"""Events other than XIDs, as they are told."""


class Unavailable(msgspec.Struct, tag="unavailable", tag_field="kind"):
    """NVML cannot be used; the child ends."""

    code: str
    """NVML's name without ``NVML_ERROR_``."""


Frame = Ready | Sample | Happened | Unavailable

_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


def decode(line: bytes) -> Frame:
    """One line of the child's output.

    Raises:
        msgspec.DecodeError: it is no frame of ours.
    """
    return _decoder.decode(line)


def bus_id(text: str) -> str:
    """NVML's ``00000000:3B:00.0`` as the kernel writes it: ``0000:3b:00.0``; other forms only in lower case."""
    domain, separator, rest = text.lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}" if separator else domain
    except ValueError:
        return text.lower()


def gpu(raw: RawGpu) -> Gpu:
    """A GPU that answers, in our units."""
    slowdowns = [
        each
        for each in (raw.hardware_thermal_nanoseconds, raw.power_brake_nanoseconds)
        if each is not None
    ]
    received, transmitted = (
        raw.pcie_received_mebibytes_per_second,
        raw.pcie_transmitted_mebibytes_per_second,
    )
    return Gpu(
        uuid=raw.uuid,
        pci_bus_id=bus_id(raw.bus) or f"index-{raw.index}",
        index=raw.index,
        model=raw.model,
        serial=raw.serial,
        vbios_version=raw.vbios_version,
        reset_required=raw.reset_required,
        temperature_celsius=raw.temperature_celsius,
        memory_temperature_celsius=raw.memory_temperature_celsius,
        slowdown_temperature_celsius=raw.slowdown_temperature_celsius,
        shutdown_temperature_celsius=raw.shutdown_temperature_celsius,
        power_watts=_divided(raw.power_milliwatts, 1000),
        power_limit_watts=_divided(raw.power_limit_milliwatts, 1000),
        energy_joules_total=_divided(raw.energy_millijoules, 1000),
        utilization_ratio=_share(raw.utilization_percent),
        memory_utilization_ratio=_share(raw.memory_utilization_percent),
        duty_cycle_ratio=_share(raw.duty_cycle_percent),
        memory_used_bytes=raw.memory_used_bytes,
        memory_total_bytes=raw.memory_total_bytes,
        memory_reserved_bytes=raw.memory_reserved_bytes,
        sm_clock_hertz=_times(raw.sm_clock_megahertz, 1e6),
        sm_clock_max_hertz=_times(raw.sm_clock_max_megahertz, 1e6),
        memory_clock_hertz=_times(raw.memory_clock_megahertz, 1e6),
        performance_state=_at_most(raw.performance_state, SLOWEST_PERFORMANCE_STATE),
        persistence_mode=raw.persistence_mode,
        process_count=raw.process_count,
        process_ids=raw.process_ids,
        ecc_corrected_total=raw.ecc_corrected,
        ecc_uncorrected_total=raw.ecc_uncorrected,
        ecc_corrected_aggregate_total=raw.ecc_corrected_aggregate,
        ecc_uncorrected_aggregate_total=raw.ecc_uncorrected_aggregate,
        ecc_sram_uncorrected_total=raw.ecc_sram_uncorrected,
        sram_threshold_exceeded=raw.sram_threshold_exceeded,
        remapped_rows_corrected_total=raw.remapped_rows_corrected,
        remapped_rows_uncorrected_total=raw.remapped_rows_uncorrected,
        remap_pending=_flag(raw.remap_pending),
        remap_failed=_flag(raw.remap_failed),
        retired_pages_single_bit_total=raw.retired_pages_single_bit,
        retired_pages_double_bit_total=raw.retired_pages_double_bit,
        retirement_pending=_flag(raw.retirement_pending),
        recovery_action=raw.recovery_action,
        clocks_event_reasons=raw.clocks_event_reasons,
        power_violation_seconds_total=_divided(raw.power_violation_nanoseconds, 10**9),
        thermal_violation_seconds_total=_divided(raw.thermal_violation_nanoseconds, 10**9),
        hardware_slowdown_seconds_total=sum(slowdowns) / 1e9 if slowdowns else None,
        power_brake_seconds_total=_divided(raw.power_brake_nanoseconds, 10**9),
        pcie_generation=_at_most(raw.pcie_generation, MOST_PCIE),
        pcie_generation_max=_at_most(raw.pcie_generation_max, MOST_PCIE),
        pcie_width=_at_most(raw.pcie_width, MOST_PCIE),
        pcie_width_max=_at_most(raw.pcie_width_max, MOST_PCIE),
        pcie_replays_total=raw.pcie_replays,
        pcie_received_bytes_per_second=_times(raw.pcie_received_kilobytes_per_second, 1000)
        if received is None
        else received * MIB,
        pcie_transmitted_bytes_per_second=_times(raw.pcie_transmitted_kilobytes_per_second, 1000)
        if transmitted is None
        else transmitted * MIB,
        nvlinks=raw.nvlinks,
        nvlink_received_bytes_per_second=_times(raw.nvlink_received_mebibytes_per_second, MIB),
        nvlink_transmitted_bytes_per_second=_times(
            raw.nvlink_transmitted_mebibytes_per_second, MIB
        ),
        fabric_state=raw.fabric_state,
        fabric_status=raw.fabric_status,
        fabric_health_mask=raw.fabric_health_mask,
        mig_enabled=raw.mig_enabled,
        mig_instances=raw.mig_instances,
        profiling_absent=raw.profiling_absent,
        engine_active_ratio=_share(raw.engine_active_percent),
        sm_active_ratio=_share(raw.sm_active_percent),
        sm_occupancy_ratio=_share(raw.sm_occupancy_percent),
        tensor_active_ratio=_share(raw.tensor_active_percent),
        dram_active_ratio=_share(raw.dram_active_percent),
    )


def _divided(value: float | None, by: int) -> float | None:
    return None if value is None else value / by


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _share(percent: float | None) -> float | None:
    return None if percent is None else min(max(percent / 100, 0.0), 1.0)


def _flag(value: int | None) -> bool | None:
    return None if value is None else value != 0


def _at_most(value: int | None, most: int) -> int | None:
    """Where the hardware does not know, or is gone, some calls succeed with a number that cannot be."""
    return value if value is not None and value <= most else None


def event(happened: Happened, *, sequence: int, now: float) -> Event:
    """Our event for NVML's; ``sequence`` is unique per boot, ``now`` is Unix time."""
    place = bus_id(happened.bus) or "unknown"
    instance = happened.gpu_instance
    where = "" if instance == NO_INSTANCE else f" in MIG instance {instance}"
    xid = happened.event == "xid"
    what = f"XID {happened.data}" if xid else WORDS.get(happened.event, happened.event)
    return Event(
        id=f"nvml:{sequence}",
        time_seconds=now,
        kind=happened.event,
        subject=f"gpu:{place}{_instance(happened)}",
        message=f"NVML reports {what}{where}",
        code=happened.data if xid else None,
        finding=f"xid-{happened.data}" if xid else "",
    )


def _instance(happened: Happened) -> str:
    """The part of the subject that names the MIG instance, for what stays within one: as the kernel log's lines do."""
    whole = happened.event != "xid" or happened.gpu_instance == NO_INSTANCE
    return "" if whole or happened.data not in INSTANCE_XIDS else f"/mig:{happened.gpu_instance}"


ABSENT = {
    "LIBRARY_NOT_FOUND": "libnvidia-ml.so.1 is not found: no NVIDIA driver is installed here",
    "DRIVER_NOT_LOADED": "the NVIDIA kernel driver is not loaded",
    "GPU_NOT_FOUND": "the NVIDIA driver finds no GPU",
}
"""Codes that say that there is nothing to watch, in words."""

REMEDIES = {
    "LIB_RM_VERSION_MISMATCH": "the driver's library and the loaded kernel module are of different versions, "
    "as after an upgrade under a running node; reload the NVIDIA kernel modules or reboot the node",
    "NO_PERMISSION": "the agent may not open the NVIDIA device files; run it privileged or mount them",
    "IRQ_ISSUE": "the kernel finds an interrupt problem with a GPU; see the kernel log, then reboot the node",
    "GPU_IS_LOST": "a GPU has fallen off the bus; reboot the node, replace the GPU if it comes back",
    "RESET_REQUIRED": "a GPU must be reset before it can be used again; reset it or reboot the node",
    "OPERATING_SYSTEM": "the kernel refuses access to the driver; see device cgroup and security modules",
    "INSUFFICIENT_POWER": "a GPU's external power cables are not attached properly; check them",
    "MEMORY": "the node has no memory left",
    "UNKNOWN": "an internal driver error; see the kernel log (NVRM lines)",
}


def reason(code: str, known_gpus: int) -> SourceError:
    """Why there is no reading, and what helps.

    Args:
        code: NVML's name for it, without ``NVML_ERROR_``.
        known_gpus: how many GPUs this node is known to have; where it has some, their driver's absence is a fault.
    """
    if code in ABSENT and known_gpus:
        return SourceFailingError(
            f"{ABSENT[code]}, but this node has {known_gpus} known GPUs ({code})"
        )
    if code in ABSENT:
        return SourceAbsentError(ABSENT[code])
    return SourceFailingError(f"{code}: {REMEDIES.get(code, 'NVML cannot be used')}")


def dialled(dial: bytes) -> str:
    """The call that the child is in, as people read it; empty when it is in none."""
    function = dial[1:].rstrip(b" \0").decode(errors="replace")
    return f"{function} on GPU {dial[0] - 1}" if function and dial[0] else function
