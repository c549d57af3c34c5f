"""One scripted GPU as a value: every field is one line of the scenario file, `None` means not supported."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TypeAlias

GIB = 1 << 30
MIB = 1 << 20


GPM_METRICS = {
    "engine": 1,
    "sm": 2,
    "occupancy": 3,
    "tensor": 5,
    "dram": 10,
    "pcie_tx": 20,
    "pcie_rx": 21,
    "nvlink_rx": 60,
    "nvlink_tx": 61,
}
"""Ids of GPM metrics: shares in percent, traffic in MiB/s."""

IDLE_METRICS: "Mapping[int, float | Fail]" = dict.fromkeys(GPM_METRICS.values(), 0.0)


@dataclass(frozen=True)
class Fail:
    """A reading that fails with this NVML code: a number, or a name such as "gpu_is_lost"."""

    code: int | str

    def __str__(self) -> str:
        return f"error {self.code}"


@dataclass(frozen=True)
class Rising:
    """A counter that grows by itself from `base` by `per_second`, counted from the library's load."""

    base: int
    per_second: float

    def __str__(self) -> str:
        return f"{self.base} + {self.per_second}/s"


Number: TypeAlias = int | Rising | Fail | None
Text: TypeAlias = str | Fail | None


@dataclass(frozen=True)
class Process:
    """A process on a GPU; `used_bytes` None is NVML's "not available"."""

    pid: int
    used_bytes: int | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None

    def __str__(self) -> str:
        memory = "-" if self.used_bytes is None else str(self.used_bytes)
        if self.gpu_instance is None:
            return f"{self.pid}:{memory}"
        return f"{self.pid}:{memory}:{self.gpu_instance}:{self.compute_instance or 0}"


@dataclass(frozen=True)
class RetiredPage:
    address: int
    timestamp: int = 0  # seconds since the epoch

    def __str__(self) -> str:
        return f"{self.address:#x}@{self.timestamp}"


@dataclass(frozen=True, kw_only=True)
class MigDevice:
    uuid: str
    gpu_instance_id: int
    compute_instance_id: int = 0
    name: Text = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    memory_total_bytes: Number = 10_468_982_784
    memory_reserved_bytes: Number = 0
    memory_used_bytes: Number = 0


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An idle H100 unless told otherwise. Units are in the names; flags are 0 or 1."""

    uuid: Text
    pci_bus_id: Text
    name: Text = "NVIDIA H100 80GB HBM3"
    serial: Text = None
    minor_number: Number = None
    vbios_version: Text = "96.00.89.00.01"
    board_part_number: Text = "692-2G520-0200-000"
    pci_device_id: Number = 0x233010DE
    pci_subsystem_id: Number = 0x16C110DE
    module_id: Number = None
    numa_node: Number = None
    architecture: Number = 9
    cuda_capability_major: Number = 9
    cuda_capability_minor: Number = 0

    memory_total_bytes: Number = 81559 * MIB
    memory_reserved_bytes: Number = 551 * MIB
    memory_used_bytes: Number = 0
    bar1_total_bytes: Number = 128 * GIB
    bar1_used_bytes: Number = MIB
    gpu_utilization_percent: Number = 0
    memory_utilization_percent: Number = 0
    encoder_utilization_percent: Number = 0
    decoder_utilization_percent: Number = 0
    sampling_period_microseconds: Number = 100_000
    utilization_samples: tuple[int, ...] | Fail | None = ()
    """Percents of the driver's samples, one each 200 ms, over and over; none: always `gpu_utilization_percent`."""
    utilization_samples_newest_microseconds: Number = None
    """Unix time of the newest sample; None: of this moment."""
    compute_processes: tuple[Process, ...] | Fail | None = ()
    graphics_processes: tuple[Process, ...] | Fail | None = ()

    temperature_celsius: Number = 31
    memory_temperature_celsius: Number = 41
    temperature_shutdown_celsius: Number = 92
    temperature_slowdown_celsius: Number = 89
    temperature_memory_max_celsius: Number = 95
    temperature_gpu_max_celsius: Number = 87
    margin_temperature_celsius: Number = 56
    power_milliwatts: Number = 71_300
    power_limit_milliwatts: Number = 700_000
    power_limit_default_milliwatts: Number = 700_000
    power_limit_min_milliwatts: Number = 200_000
    power_limit_max_milliwatts: Number = 700_000
    enforced_power_limit_milliwatts: Number = 700_000
    energy_millijoules: Number = Rising(8_640_000_000, 71_300)
    clock_graphics_mhz: Number = 345
    clock_sm_mhz: Number = 345
    clock_memory_mhz: Number = 2619
    clock_video_mhz: Number = 765
    clock_graphics_max_mhz: Number = 1980
    clock_sm_max_mhz: Number = 1980
    clock_memory_max_mhz: Number = 2619
    clock_video_max_mhz: Number = 1545
    performance_state: Number = 0
    persistence_mode: Number = 1
    compute_mode: Number = 0
    clocks_event_reasons: Number = 0x1
    clocks_event_reasons_supported: Number = 0x1FF
    violation_power_nanoseconds: Number = 0
    violation_thermal_nanoseconds: Number = 0
    violation_sw_thermal_nanoseconds: Number = 0
    violation_hw_thermal_nanoseconds: Number = 0
    violation_power_brake_nanoseconds: Number = 0

    ecc_mode: Number = 1
    ecc_mode_pending: Number = 1
    ecc_volatile_corrected_dram: Number = 0
    ecc_volatile_corrected_sram: Number = 0
    ecc_volatile_uncorrected_dram: Number = 0
    ecc_volatile_uncorrected_sram: Number = 0
    ecc_aggregate_corrected_dram: Number = 0
    ecc_aggregate_corrected_sram: Number = 0
    ecc_aggregate_uncorrected_dram: Number = 0
    ecc_aggregate_uncorrected_sram: Number = 0
    sram_threshold_exceeded: Number = 0
    remapped_rows_correctable: Number = 0
    remapped_rows_uncorrectable: Number = 0
    remapped_rows_pending: Number = 0
    remapped_rows_failure: Number = 0
    remap_banks_max: Number = 2560
    remap_banks_high: Number = 0
    remap_banks_partial: Number = 0
    remap_banks_low: Number = 0
    remap_banks_none: Number = 0
    retired_pages_single_bit: tuple[RetiredPage, ...] | Fail | None = None
    retired_pages_double_bit: tuple[RetiredPage, ...] | Fail | None = None
    retired_pages_pending: Number = None

    pcie_generation: Number = 5
    pcie_generation_max: Number = 5
    pcie_width: Number = 16
    pcie_width_max: Number = 16
    pcie_replay_counter: Number = 0
    pcie_tx_kilobytes_per_second: Number = 120
    pcie_rx_kilobytes_per_second: Number = 80
    pcie_tx_bytes: Number = Rising(10**12, 120_000)
    pcie_rx_bytes: Number = Rising(10**12, 80_000)
    pcie_correctable_errors: Number = 0
    pcie_non_fatal_errors: Number = 0
    pcie_fatal_errors: Number = 0
    nvlink_count: Number = 18
    nvlink_version: Number = 6
    nvlink_speed_mbps: Number = 26_562
    nvlink_recovery_events: Number = None  # Blackwell's way to count
    nvlink_data_tx_kibibytes: Number = 0
    nvlink_data_rx_kibibytes: Number = 0
    nvlink_raw_tx_kibibytes: Number = 0
    nvlink_raw_rx_kibibytes: Number = 0
    fabric_state: Number = 3
    fabric_status: Number = 0
    fabric_clique_id: Number = 0
    fabric_cluster_uuid: Text = "00000000-0000-0000-0000-000000000000"
    fabric_health_mask: Number = (
        0x1AA  # bandwidth whole, routes healthy, no timeout, configuration right
    )
    fabric_health_summary: Number = 1

    gpm_supported: Number = 1

    mig_mode: Number = 0
    mig_mode_pending: Number = 0
    mig_max_count: Number = 7
    recovery_action: Number = 0
    supported_event_types: Number = 0x1 | 0x2 | 0x4 | 0x8 | 0x10
    lost: bool = False
    absent: bool = False

    nvlinks: Mapping[int, Mapping[str, Number]] = field(default_factory=dict)
    """Per link: active, version, speed_mbps, replay, recovery, recovery_events, crc_flit, crc_data, ecc_data."""
    gpm: Mapping[int, float | Fail] = field(default_factory=lambda: IDLE_METRICS)
    """What nvmlGpmMetricsGet answers for a metric id, in its own unit."""
    field_values: Mapping[int | tuple[int, int], int | str | Rising | Fail] = field(
        default_factory=dict
    )
    """What nvmlDeviceGetFieldValues answers for an id, or an (id, scope): wins over the rest."""
    mig_devices: tuple[MigDevice, ...] = ()

    def lines(self) -> Iterator[tuple[str, str]]:
        """Keys (without the leading `gpu.<n>.`) and values, as the scenario file has them."""
        yield from _plain(self)
        for link, readings in self.nvlinks.items():
            for key, value in readings.items():
                if value is not None:
                    yield f"nvlink.{link}.{key}", _text(value)
        for metric, amount in self.gpm.items():
            yield f"gpm.{metric}", str(amount)
        for wanted, answer in self.field_values.items():
            key = f"{wanted[0]}.{wanted[1]}" if isinstance(wanted, tuple) else str(wanted)
            yield f"field.{key}", _text(answer)
        for number, instance in enumerate(self.mig_devices):
            for key, text in _plain(instance):
                yield f"mig.{number}.{key}", text


_NESTED = {"nvlinks", "gpm", "field_values", "mig_devices"}


def _plain(record: Gpu | MigDevice) -> Iterator[tuple[str, str]]:
    for member in fields(record):
        value = getattr(record, member.name)
        if value is not None and member.name not in _NESTED:
            yield member.name, _text(value)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


_BUS_IDS = ("1B", "43", "52", "61", "9D", "C3", "D1", "DF")  # an HGX H100 board's


def h100_node(gpus: int = 8, *, busy: bool = False) -> list[Gpu]:
    """Healthy H100 80GB HBM3s with the same UUIDs and bus ids every time; idle, or in training."""
    return [h100(index, busy=busy) for index in range(gpus)]


def h100(index: int, *, busy: bool = False) -> Gpu:
    """The GPU at this place of `h100_node`."""
    bus = _BUS_IDS[index] if index < len(_BUS_IDS) else f"{0xE0 + index:02X}"
    idle = Gpu(
        uuid=f"GPU-{0x5F1EE700 + index:08x}-1d1c-4a7e-8001-{0xAC0FFEE00000 + index:012x}",
        pci_bus_id=f"00000000:{bus}:00.0",
        serial=str(1_652_923_000_100 + index),
        minor_number=index,
        module_id=index + 1,
        numa_node=int(index >= 4),
    )
    return training(idle) if busy else idle


def training(gpu: Gpu) -> Gpu:
    """The same GPU in the middle of a training job: warm, full, fast, its counters rising."""
    used_bytes = 72 * GIB
    return replace(
        gpu,
        memory_used_bytes=used_bytes,
        gpu_utilization_percent=98,
        memory_utilization_percent=54,
        compute_processes=(Process(pid=4242, used_bytes=used_bytes),),
        temperature_celsius=62,
        memory_temperature_celsius=74,
        margin_temperature_celsius=25,
        power_milliwatts=612_400,
        energy_millijoules=Rising(86_400_000_000, 612_400),
        clock_graphics_mhz=1755,
        clock_sm_mhz=1755,
        clock_video_mhz=1365,
        clocks_event_reasons=0x4,
        pcie_tx_kilobytes_per_second=2_400_000,
        pcie_rx_kilobytes_per_second=1_900_000,
        gpm={
            GPM_METRICS["engine"]: 99.0,
            GPM_METRICS["sm"]: 92.5,
            GPM_METRICS["occupancy"]: 31.25,
            GPM_METRICS["tensor"]: 48.5,
            GPM_METRICS["dram"]: 54.0,
            GPM_METRICS["pcie_tx"]: 2048.0,
            GPM_METRICS["pcie_rx"]: 1024.0,
            GPM_METRICS["nvlink_rx"]: 90_000.0,
            GPM_METRICS["nvlink_tx"]: 91_000.0,
        },
        nvlink_data_tx_kibibytes=Rising(10**9, 95_000_000),
        nvlink_data_rx_kibibytes=Rising(10**9, 95_000_000),
        nvlink_raw_tx_kibibytes=Rising(1_200_000_000, 114_000_000),
        nvlink_raw_rx_kibibytes=Rising(1_200_000_000, 114_000_000),
    )
