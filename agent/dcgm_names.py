"""The names that dcgm-exporter gave these readings, so that existing dashboards and autoscalers work.

Its units are kept, well chosen or not: MHz, MiB, percent, millijoules, and the last XID as a gauge.
Its values are whole numbers except for power, as there.
"""

from collections.abc import Mapping

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
    _write_memory(page, named)
    page.family(XID, [(who, last_xid.get(gpu.subject, 0)) for who, gpu in named])


def _write_memory(page: Page, named: list[tuple[Labels, Gpu]]) -> None:
    used: list[Row] = []
    free: list[Row] = []
    for who, gpu in named:
        if gpu.memory_used_bytes is not None:
            used.append((who, gpu.memory_used_bytes // MIB))
            if gpu.memory_total_bytes is not None:
                free.append((who, (gpu.memory_total_bytes - gpu.memory_used_bytes) // MIB))
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
