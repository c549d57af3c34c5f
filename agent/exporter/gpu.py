"""The GPU families of the agent's page."""

from collections.abc import Iterable, Sequence

from agent.exporter.fields import write_field
from agent.exporter.gpu_fields import GPU_FIELDS
from agent.snapshot import Gpu, Snapshot
from contract.metrics import Labels, Page, Row, counter, gauge, labels
from contract.vocabulary import Finding

GPU_INFO = gauge("fleetmedic_gpu_info", "Identity of each GPU; always 1.")
GPU_SEVERITY = gauge(
    "fleetmedic_gpu_worst_severity",
    "Worst finding on the GPU: 0 none, 10 info, 20 degraded, 30 critical, 40 fatal.",
)
GPU_LOST = gauge("fleetmedic_gpu_lost", "1 when the driver lists the GPU but cannot reach it.")
GPU_RESET_REQUIRED = gauge(
    "fleetmedic_gpu_reset_required", "1 when the driver refuses to use the GPU until it is reset."
)
GPU_PROFILING_ABSENT = gauge(
    "fleetmedic_gpu_profiling_absent",
    "1 for each GPU without profiling readings; the label says why. No sample where there are some.",
)
NVLINKS = gauge("fleetmedic_gpu_nvlinks", "NVLinks that the GPU has.")
NVLINKS_INACTIVE = gauge("fleetmedic_gpu_nvlinks_inactive", "NVLinks that are known to be down.")
NVLINK_ERRORS = counter(
    "fleetmedic_gpu_nvlink_errors_total",
    "NVLink errors of the GPU's links together, since the driver loaded.",
)
NVLINK_KINDS = (
    ("replay", "replays_total"),
    ("recovery", "recoveries_total"),
    ("crc", "crc_errors_total"),
)
MIG_USED = gauge("fleetmedic_gpu_mig_memory_used_bytes", "Memory of the MIG instance in use.")
MIG_SIZE = gauge("fleetmedic_gpu_mig_memory_size_bytes", "Memory that the MIG instance has.")
GPU_CLOCKS_HELD = gauge(
    "fleetmedic_gpu_clocks_held", "1 while the driver holds the clocks down for this reason."
)
CLOCKS_HELD_REASONS = (
    ("sw_power_cap", 0x04),
    ("hw_slowdown", 0x08),
    ("sync_boost", 0x10),
    ("sw_thermal", 0x20),
    ("hw_thermal", 0x40),
    ("hw_power_brake", 0x80),
)
"""The bits of NVML's mask that cost speed; idle and settings made by people are left out."""


def write_gpus(page: Page, snapshot: Snapshot, findings: Iterable[Finding]) -> None:
    """Every GPU of this node."""
    node = snapshot.node
    named = [(labels(node=node, gpu=gpu.index, uuid=gpu.uuid), gpu) for gpu in snapshot.gpus]
    page.family(
        GPU_INFO,
        [
            (
                labels(
                    node=node,
                    gpu=gpu.index,
                    uuid=gpu.uuid,
                    pci_bus_id=gpu.pci_bus_id,
                    model=gpu.model,
                    serial=gpu.serial,
                    pcie_generation_max=_or_nothing(gpu.pcie_generation_max),
                    pcie_width_max=_or_nothing(gpu.pcie_width_max),
                ),
                1,
            )
            for gpu in snapshot.gpus
        ],
    )
    worst: dict[str, int] = {}
    for each in findings:
        worst[each.subject] = max(each.severity, worst.get(each.subject, 0))
    page.family(GPU_SEVERITY, [(who, int(worst.get(gpu.subject, 0))) for who, gpu in named])
    page.family(GPU_LOST, [(who, int(gpu.lost)) for who, gpu in named])
    page.family(GPU_RESET_REQUIRED, [(who, int(gpu.reset_required)) for who, gpu in named])
    for metric, field in GPU_FIELDS:
        write_field(page, metric, field, named)
    page.family(GPU_CLOCKS_HELD, _clocks_held(node, snapshot.gpus))
    page.family(
        GPU_PROFILING_ABSENT,
        [
            ({**who, "reason": gpu.profiling_absent}, 1)
            for who, gpu in named
            if gpu.profiling_absent
        ],
    )
    _write_nvlinks(page, [(who, gpu) for who, gpu in named if gpu.nvlinks])
    _write_mig(page, named)


def link_errors(gpu: Gpu, field: str) -> int | None:
    """The sum over the GPU's links; ``None`` where no link counts it."""
    counts = [count for link in gpu.nvlinks if (count := getattr(link, field)) is not None]
    return sum(counts) if counts else None


def _write_nvlinks(page: Page, named: Sequence[tuple[Labels, Gpu]]) -> None:
    """Sums: a series per link and counter would be half of the page."""
    page.family(NVLINKS, [(who, len(gpu.nvlinks)) for who, gpu in named])
    page.family(
        NVLINKS_INACTIVE,
        [
            (who, sum(link.active is False for link in gpu.nvlinks))
            for who, gpu in named
            if any(link.active is not None for link in gpu.nvlinks)
        ],
    )
    page.family(
        NVLINK_ERRORS,
        [
            ({**who, "kind": kind}, errors)
            for who, gpu in named
            for kind, field in NVLINK_KINDS
            if (errors := link_errors(gpu, field)) is not None
        ],
    )


def _write_mig(page: Page, named: Sequence[tuple[Labels, Gpu]]) -> None:
    instances = [
        (
            {
                **who,
                **labels(
                    mig_uuid=each.uuid,
                    gpu_instance=each.gpu_instance,
                    compute_instance=_or_nothing(each.compute_instance),
                ),
            },
            each,
        )
        for who, gpu in named
        for each in gpu.mig_instances
    ]
    write_field(page, MIG_USED, "memory_used_bytes", instances)
    write_field(page, MIG_SIZE, "memory_total_bytes", instances)


def _or_nothing(value: int | None) -> str:
    return "" if value is None else str(value)


def _clocks_held(node: str, gpus: Iterable[Gpu]) -> list[Row]:
    return [
        (
            labels(node=node, gpu=gpu.index, uuid=gpu.uuid, reason=reason),
            int(gpu.clocks_event_reasons & bit != 0),
        )
        for gpu in gpus
        if gpu.clocks_event_reasons is not None
        for reason, bit in CLOCKS_HELD_REASONS
    ]
