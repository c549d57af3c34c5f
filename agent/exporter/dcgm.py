"""The names that dcgm-exporter gave these readings, so that existing dashboards and autoscalers work.

Its units are kept, well chosen or not: MHz, MiB, percent, millijoules, and the last XID as a gauge.
Its values are whole numbers except for power and for what it calls profiling, as there.
"""

from collections.abc import Mapping

from agent.exporter.fields import write_field
from agent.exporter.gpu import link_errors
from agent.snapshot import Gpu, Snapshot
from contract.metrics import Labels, Page, Row, gauge, labels, untyped

MIB = 1 << 20

SCALED = (
    (gauge("DCGM_FI_DEV_SM_CLOCK", "SM clock (in MHz)."), "sm_clock_hertz", 1e-6),
    (gauge("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C)."), "temperature_celsius", 1),
    (
        gauge("DCGM_FI_DEV_MEMORY_TEMP", "Memory temperature (in C)."),
        "memory_temperature_celsius",
        1,
    ),
    (
        untyped("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy since boot (in mJ)."),
        "energy_joules_total",
        1_000,
    ),
    (gauge("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %)."), "utilization_ratio", 100),
    (
        gauge("DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilization (in %)."),
        "memory_utilization_ratio",
        100,
    ),
    (
        untyped("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "Single-bit volatile ECC errors."),
        "ecc_corrected_total",
        1,
    ),
    (
        untyped("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "Double-bit volatile ECC errors."),
        "ecc_uncorrected_total",
        1,
    ),
    (gauge("DCGM_FI_DEV_MEM_CLOCK", "Memory clock (in MHz)."), "memory_clock_hertz", 1e-6),
    (
        untyped("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "PCIe retries."),
        "pcie_replays_total",
        1,
    ),
    (
        untyped("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "Rows remapped for correctable errors."),
        "remapped_rows_corrected_total",
        1,
    ),
    (
        untyped(
            "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "Rows remapped for uncorrectable errors."
        ),
        "remapped_rows_uncorrected_total",
        1,
    ),
    (
        gauge("DCGM_FI_DEV_ROW_REMAP_FAILURE", "Whether remapping of rows has failed."),
        "remap_failed",
        1,
    ),
    (
        untyped("DCGM_FI_DEV_POWER_VIOLATION", "Throttling by the power limit (in ns)."),
        "power_violation_seconds_total",
        1e9,
    ),
    (
        untyped("DCGM_FI_DEV_THERMAL_VIOLATION", "Throttling by heat (in ns)."),
        "thermal_violation_seconds_total",
        1e9,
    ),
    (
        gauge("DCGM_FI_PROF_PCIE_TX_BYTES", "Data sent over PCIe (in B/s)."),
        "pcie_transmitted_bytes_per_second",
        1,
    ),
    (
        gauge("DCGM_FI_PROF_PCIE_RX_BYTES", "Data received over PCIe (in B/s)."),
        "pcie_received_bytes_per_second",
        1,
    ),
    (
        gauge("DCGM_FI_PROF_NVLINK_TX_BYTES", "Data sent over NVLink (in B/s)."),
        "nvlink_transmitted_bytes_per_second",
        1,
    ),
    (
        gauge("DCGM_FI_PROF_NVLINK_RX_BYTES", "Data received over NVLink (in B/s)."),
        "nvlink_received_bytes_per_second",
        1,
    ),
)
RATIOS = (
    (
        gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "Ratio of time an engine is active."),
        "engine_active_ratio",
    ),
    (gauge("DCGM_FI_PROF_SM_ACTIVE", "Ratio of SMs with a warp assigned."), "sm_active_ratio"),
    (gauge("DCGM_FI_PROF_SM_OCCUPANCY", "Ratio of warps resident."), "sm_occupancy_ratio"),
    (
        gauge("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "Ratio of time tensor pipes are active."),
        "tensor_active_ratio",
    ),
    (gauge("DCGM_FI_PROF_DRAM_ACTIVE", "Ratio of memory bandwidth in use."), "dram_active_ratio"),
)
NVLINK_TOTALS = (
    (
        untyped("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "NVLink CRC errors."),
        "crc_errors_total",
    ),
    (
        untyped("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "NVLink retries."),
        "replays_total",
    ),
    (
        untyped("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "NVLink recovery errors."),
        "recoveries_total",
    ),
)
POWER = gauge("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).")
MEMORY_USED = gauge("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).")
MEMORY_FREE = gauge("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).")
XID = gauge("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered.")


def write_dcgm_names(page: Page, snapshot: Snapshot, last_xid: Mapping[str, int]) -> None:
    """Write the aliases of one snapshot's GPUs.

    Args:
        page: where to.
        snapshot: the newest one.
        last_xid: GPU subject → its newest XID; a GPU that is not there had none.
    """
    named = [(_labels(snapshot.node, gpu), gpu) for gpu in snapshot.gpus]
    for metric, field, factor in SCALED:
        page.family(
            metric,
            [
                (who, round(value * factor))
                for who, gpu in named
                if (value := getattr(gpu, field)) is not None
            ],
        )
    page.family(
        POWER, [(who, gpu.power_watts) for who, gpu in named if gpu.power_watts is not None]
    )
    for metric, field in RATIOS:
        write_field(page, metric, field, named)
    for metric, field in NVLINK_TOTALS:
        page.family(
            metric,
            [
                (who, errors)
                for who, gpu in named
                if (errors := link_errors(gpu, field)) is not None
            ],
        )
    _write_memory(page, named)
    page.family(XID, [(who, last_xid.get(gpu.subject, 0)) for who, gpu in named])


def _write_memory(page: Page, named: list[tuple[Labels, Gpu]]) -> None:
    used: list[Row] = []
    free: list[Row] = []
    for who, gpu in named:
        if gpu.memory_used_bytes is not None:
            used.append((who, gpu.memory_used_bytes // MIB))
            if gpu.memory_total_bytes is not None:
                taken = gpu.memory_used_bytes + (gpu.memory_reserved_bytes or 0)
                free.append((who, (gpu.memory_total_bytes - taken) // MIB))
    page.family(MEMORY_USED, used)
    page.family(MEMORY_FREE, free)


def _labels(node: str, gpu: Gpu) -> Labels:
    return labels(
        gpu=gpu.index,
        UUID=gpu.uuid,
        device=f"nvidia{gpu.index}",
        modelName=gpu.model,
        Hostname=node,
    )
