"""Snapshots that raise each code of ``agent/catalogue/gpu.yaml``: an eight-GPU node, ten seconds apart where time counts."""

from collections.abc import Callable
from typing import Any

from agent.snapshot import Gpu, NvLink, PciDevice, PodDevices, Snapshot
from agent.snapshot.pci import MELLANOX, NVIDIA
from contract.vocabulary import SourceState, SourceStatus
from tests.support import gpu, snapshot, source

TICK = 10.0
VBIOS = "96.00.89.00.01"
LINKS = tuple(
    NvLink(link=link, active=True, replays_total=0, recoveries_total=0, crc_errors_total=0)
    for link in range(18)
)
IDLE: dict[str, Any] = {
    "model": "NVIDIA H100 80GB HBM3",
    "temperature_celsius": 34.0,
    "memory_temperature_celsius": 45.0,
    "slowdown_temperature_celsius": 87.0,
    "shutdown_temperature_celsius": 92.0,
    "power_watts": 110.0,
    "power_limit_watts": 700.0,
    "energy_joules_total": 5e8,
    "utilization_ratio": 0.0,
    "memory_utilization_ratio": 0.0,
    "memory_used_bytes": 1 << 20,
    "memory_total_bytes": 80 << 30,
    "sm_clock_hertz": 345e6,
    "sm_clock_max_hertz": 1980e6,
    "process_count": 0,
    "ecc_corrected_total": 0,
    "ecc_uncorrected_total": 0,
    "ecc_uncorrected_aggregate_total": 0,
    "ecc_sram_uncorrected_total": 0,
    "sram_threshold_exceeded": False,
    "recovery_action": 0,
    "clocks_event_reasons": 0x1,
    "remapped_rows_corrected_total": 0,
    "remapped_rows_uncorrected_total": 0,
    "remap_pending": False,
    "remap_failed": False,
    "retired_pages_single_bit_total": 0,
    "retired_pages_double_bit_total": 0,
    "retirement_pending": False,
    "power_violation_seconds_total": 0.0,
    "thermal_violation_seconds_total": 0.0,
    "hardware_slowdown_seconds_total": 0.0,
    "power_brake_seconds_total": 0.0,
    "pcie_generation": 1,
    "pcie_generation_max": 5,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "pcie_replays_total": 0,
    "pcie_received_bytes_per_second": 1e3,
    "pcie_transmitted_bytes_per_second": 1e3,
    "performance_state": 8,
    "persistence_mode": True,
    "nvlinks": LINKS,
    "fabric_state": 3,
    "fabric_status": 0,
    "fabric_health_mask": 0b10_10_10_10,
    "mig_enabled": False,
}
BUSY: dict[str, Any] = {
    **IDLE,
    "temperature_celsius": 62.0,
    "memory_temperature_celsius": 70.0,
    "power_watts": 610.0,
    "utilization_ratio": 1.0,
    "memory_utilization_ratio": 0.4,
    "memory_used_bytes": 70 << 30,
    "sm_clock_hertz": 1755e6,
    "process_count": 1,
    "clocks_event_reasons": 0x4,
    "pcie_generation": 5,
    "pcie_received_bytes_per_second": 4e9,
    "pcie_transmitted_bytes_per_second": 3e9,
    "performance_state": 0,
    "sm_active_ratio": 0.9,
    "tensor_active_ratio": 0.5,
    "dram_active_ratio": 0.4,
}
SPINNING: dict[str, Any] = {
    "power_watts": 120.0,
    "memory_utilization_ratio": 0.0,
    "dram_active_ratio": 0.0,
    "tensor_active_ratio": 0.0,
    "pcie_received_bytes_per_second": 1e6,
    "pcie_transmitted_bytes_per_second": 1e6,
}


def eight(base: dict[str, Any], **first: Any) -> tuple[Gpu, ...]:
    """Eight GPUs; what is given is the first one's."""
    return (gpu(0, **{**base, **first}), *(gpu(index, **base) for index in range(1, 8)))


def pci(index: int, driver: str = "nvidia", **fields: Any) -> PciDevice:
    """What the bus says of ``gpu(index)``."""
    given = {"vendor": NVIDIA, "device": 0x2330, "class_code": 0x030200, "driver": driver}
    return PciDevice(**{"address": gpu(index).pci_bus_id, **given, **fields})


def over(
    seconds: float, make: Callable[[float], tuple[Gpu, ...]], *, step: float = TICK
) -> list[Snapshot]:
    """A node over a while; ``make`` is told how far into it."""
    return [
        snapshot(tick * step, gpus=make(tick * step)) for tick in range(int(seconds / step) + 1)
    ]


def always(seconds: float, base: dict[str, Any], **first: Any) -> list[Snapshot]:
    """The same all the while."""
    gpus = eight(base, **first)
    return over(seconds, lambda _: gpus)


def rise(field: str, by: float, base: dict[str, Any] = IDLE) -> list[Snapshot]:
    """One counter of the first GPU rises between two looks."""
    return [snapshot(0, gpus=eight(base)), snapshot(TICK, gpus=eight(base, **{field: by}))]


def now(base: dict[str, Any] = IDLE, **first: Any) -> list[Snapshot]:
    """One look is enough."""
    return [snapshot(0, gpus=eight(base, **first))]


def driver(state: SourceState, reason: str, *devices: PciDevice) -> list[Snapshot]:
    """NVML does not answer; the bus does."""
    sources: tuple[SourceStatus, ...] = (source("nvidia", state, reason), source("pci"))
    return [snapshot(0, sources=sources, pci_devices=devices)]


def on_the_bus(*snapshots_of: tuple[PciDevice, ...]) -> list[Snapshot]:
    """What the bus shows, and all GPUs well."""
    sources = (source("nvidia"), source("pci"))
    return [
        snapshot(at * TICK, sources=sources, gpus=eight(IDLE), pci_devices=devices)
        for at, devices in enumerate(snapshots_of)
    ]


def nvlinks(**fields: Any) -> tuple[NvLink, ...]:
    """All links well but the first."""
    healthy = {"active": True, "replays_total": 0, "recoveries_total": 0, "crc_errors_total": 0}
    return (NvLink(**{"link": 0, **healthy, **fields}), *LINKS[1:])


def aer(
    aer_fatal_total: int | None = 0,
    aer_nonfatal_total: int = 0,
    aer_correctable_total: int = 0,
) -> tuple[PciDevice, ...]:
    """An adapter's error counters."""
    adapter = PciDevice(
        address="0000:a1:00.0",
        vendor=MELLANOX,
        device=0x1021,
        class_code=0x020700,
        driver="mlx5_core",
        aer_fatal_total=aer_fatal_total,
        aer_nonfatal_total=aer_nonfatal_total,
        aer_correctable_total=aer_correctable_total,
    )
    return (adapter,)


def with_pods(*pods_of: tuple[PodDevices, ...], **first: Any) -> list[Snapshot]:
    """Who holds what, a minute apart, and eight GPUs that are the same all the while."""
    sources = (source("nvidia"), source("pods"))
    return [
        snapshot(60.0 * at, sources=sources, gpus=eight(IDLE, **first), pods=pods)
        for at, pods in enumerate(pods_of)
    ]


def holding(*device_ids: str, resource: str = "nvidia.com/gpu") -> PodDevices:
    """A pod that holds these."""
    return PodDevices(namespace="ml", pod="train-0", resource=resource, device_ids=device_ids)


_NO_LINK = tuple(NvLink(link=link, active=False) for link in range(18))

EXAMPLES: dict[str, list[Snapshot]] = {
    "gpu-lost": now(lost=True),
    "gpu-count": [snapshot(0, gpus=eight(IDLE)[:7])],
    "gpu-not-in-driver": [
        snapshot(
            0,
            sources=(source("nvidia"), source("pci")),
            gpus=eight(IDLE)[:7],
            pci_devices=tuple(pci(index) for index in range(8)),
        )
    ],
    "gpu-reset-required": [snapshot(0, gpus=(gpu(0, reset_required=True), *eight(IDLE)[1:]))],
    "gpu-recovery-action": now(recovery_action=1),
    "gpu-recovery-unknown": now(recovery_action=5),
    "gpu-persistence-off": now(persistence_mode=False),
    "gpu-vbios-differs": now({**IDLE, "vbios_version": VBIOS}, vbios_version="96.00.61.00.01"),
    "gpu-stray-process": with_pods((holding("GPU-0"),), (), process_count=1, process_ids=(4242,)),
    "nvidia-stuck": driver(SourceState.STUCK, "nvmlDeviceGetTemperature on GPU 3 hangs"),
    "nvidia-failing": driver(SourceState.FAILING, "UNKNOWN: an internal driver error"),
    "nvidia-library-mismatch": driver(
        SourceState.FAILING, "LIB_RM_VERSION_MISMATCH: reload the modules"
    ),
    "nvidia-driver-missing": driver(
        SourceState.ABSENT, "the NVIDIA kernel driver is not loaded", pci(0, ""), pci(1, "")
    ),
    "nvidia-library-missing": driver(
        SourceState.ABSENT, "libnvidia-ml.so.1 is not found", pci(0), pci(1)
    ),
    "gpu-too-hot": now(BUSY, temperature_celsius=88.0),
    "gpu-near-shutdown": now(BUSY, temperature_celsius=91.0),
    "gpu-memory-too-hot": now(BUSY, memory_temperature_celsius=96.0),
    "gpu-temperature-outlier": always(600, BUSY, temperature_celsius=83.0),
    "gpu-hardware-slowdown": always(420, BUSY, clocks_event_reasons=0x48),
    "gpu-power-brake": always(420, BUSY, clocks_event_reasons=0x88),
    "gpu-software-slowdown": always(420, BUSY, clocks_event_reasons=0x20),
    "gpu-clock-stuck": always(900, BUSY, clocks_event_reasons=0, sm_clock_hertz=345e6),
    "gpu-clock-outlier": always(600, BUSY, clocks_event_reasons=0, sm_clock_hertz=1200e6),
    "gpu-power-outlier": always(600, BUSY, power_watts=200.0),
    "gpu-hang-suspect": always(600, BUSY, **SPINNING),
    "gpu-spinning": always(600, {**BUSY, **SPINNING}),
    "gpu-ecc-uncorrected": rise("ecc_uncorrected_total", 1),
    "gpu-ecc-sram-uncorrected": rise("ecc_sram_uncorrected_total", 1),
    "gpu-sram-threshold": now(sram_threshold_exceeded=True, ecc_sram_uncorrected_total=5),
    "gpu-ecc-corrected": rise("ecc_corrected_total", 30_000_000),
    "gpu-ecc-lifetime": now(ecc_uncorrected_aggregate_total=5),
    "gpu-remap-pending": now(remap_pending=True, remapped_rows_uncorrected_total=1),
    "gpu-remap-failed": now(remap_failed=True, remapped_rows_uncorrected_total=8),
    "gpu-remaps-spent": now(remapped_rows_uncorrected_total=512),
    "gpu-retirement-pending": now(retirement_pending=True),
    "gpu-retired-pages": now(retired_pages_single_bit_total=50, retired_pages_double_bit_total=10),
    "gpu-pcie-link": always(600, BUSY, pcie_generation=1),
    "gpu-pcie-replays": rise("pcie_replays_total", 100, BUSY),
    "gpu-nvlink-inactive": now(nvlinks=nvlinks(active=False)),
    "gpu-nvlink-all-inactive": now({**IDLE, "nvlinks": _NO_LINK}),
    "gpu-nvlink-errors": [
        snapshot(0, gpus=eight(BUSY)),
        snapshot(TICK, gpus=eight(BUSY, nvlinks=nvlinks(recoveries_total=12))),
    ],
    "gpu-fabric-not-ready": [
        snapshot(0, gpus=eight(IDLE)),
        snapshot(TICK, gpus=eight(IDLE, fabric_state=2)),
    ],
    "gpu-fabric-pending": now({**IDLE, "fabric_state": 1}),
    "gpu-fabric-failed": now(fabric_status=999),
    "gpu-fabric-degraded": now(fabric_health_mask=0b10_10_10_01),
    "pcie-aer-fatal": on_the_bus(aer(), aer(aer_fatal_total=1)),
    "pcie-aer-nonfatal": on_the_bus(aer(), aer(aer_nonfatal_total=10)),
    "pcie-aer-correctable": on_the_bus(aer(), aer(aer_correctable_total=20_000)),
}
