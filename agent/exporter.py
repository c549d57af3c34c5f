"""The node's Prometheus page: a pure function from values to text, called once per tick.

A scrape is answered with the bytes of the last tick and so never touches hardware. Ages are not on
the page, because served bytes would freeze them: ``fleetmedic_snapshot_time_seconds`` says when they
were true. Every sample carries ``node``; what identifies a GPU beyond ``gpu`` (its index) and ``uuid``
stands once, on ``fleetmedic_gpu_info``.
"""

from collections.abc import Iterable, Sequence

from agent import metric_names as names
from agent.dcgm_names import write_dcgm_names
from agent.snapshot import Gpu, Host, RdmaPort, Snapshot
from agent.stats import AgentStats
from contract.metrics import Labels, Metric, Page, Row, labels
from contract.vocabulary import Finding, SourceState


def render(
    snapshot: Snapshot,
    findings: Sequence[Finding],
    stats: AgentStats,
    *,
    dcgm_names: bool = True,
) -> bytes:
    """The whole page for one tick.

    Args:
        snapshot: the newest one.
        findings: all that are raised now.
        stats: what the agent counted about itself.
        dcgm_names: also offer the widely used DCGM names; turn off where dcgm-exporter runs too.
    """
    page = Page()
    _write_node(page, snapshot, findings, stats)
    _write_gpus(page, snapshot, findings)
    _write_rdma(page, snapshot.node, snapshot.rdma_ports)
    if snapshot.host is not None:
        _write_host(page, snapshot.node, snapshot.host)
    if dcgm_names:
        write_dcgm_names(page, snapshot, stats.last_xid)
    return page.render()


def _write_node(
    page: Page, snapshot: Snapshot, findings: Sequence[Finding], stats: AgentStats
) -> None:
    node = snapshot.node
    who = labels(node=node)
    page.one(names.SNAPSHOT_TIME, snapshot.taken_seconds, who)
    page.one(
        names.NODE_INFO,
        1,
        labels(node=node, driver_version=snapshot.driver_version, boot_id=snapshot.boot_id),
    )
    page.family(
        names.SOURCE_STATE,
        [
            (labels(node=node, source=status.name, state=state.label), int(state is status.state))
            for status in snapshot.sources
            for state in SourceState
        ],
    )
    page.family(names.FINDING, [(_finding_labels(node, each), 1) for each in findings])
    page.family(
        names.FINDING_SINCE,
        [
            (labels(node=node, code=each.code, subject=each.subject), each.since_seconds)
            for each in findings
        ],
    )
    page.family(
        names.XID_EVENTS,
        [
            (labels(node=node, code=code, subject=subject), count)
            for (code, subject), count in stats.xid_events.items()
        ],
    )
    for metric, field in names.STATS_FIELDS:
        page.one(metric, getattr(stats, field), who)


def _finding_labels(node: str, finding: Finding) -> Labels:
    return labels(
        node=node,
        code=finding.code,
        subject=finding.subject,
        severity=finding.severity.label,
        action=finding.action.label,
    )


def _write_gpus(page: Page, snapshot: Snapshot, findings: Iterable[Finding]) -> None:
    node = snapshot.node
    named = [(labels(node=node, gpu=gpu.index, uuid=gpu.uuid), gpu) for gpu in snapshot.gpus]
    page.family(
        names.GPU_INFO,
        [
            (
                labels(
                    node=node,
                    gpu=gpu.index,
                    uuid=gpu.uuid,
                    pci_bus_id=gpu.pci_bus_id,
                    model=gpu.model,
                    serial=gpu.serial,
                ),
                1,
            )
            for gpu in snapshot.gpus
        ],
    )
    worst: dict[str, int] = {}
    for each in findings:
        worst[each.subject] = max(each.severity, worst.get(each.subject, 0))
    page.family(names.GPU_SEVERITY, [(who, int(worst.get(gpu.subject, 0))) for who, gpu in named])
    page.family(names.GPU_LOST, [(who, int(gpu.lost)) for who, gpu in named])
    for metric, field in names.GPU_FIELDS:
        _write_field(page, metric, field, named)
    page.family(names.GPU_CLOCKS_HELD, _clocks_held(node, snapshot.gpus))


def _clocks_held(node: str, gpus: Iterable[Gpu]) -> list[Row]:
    return [
        (
            labels(node=node, gpu=gpu.index, uuid=gpu.uuid, reason=reason),
            int(gpu.clocks_event_reasons & bit != 0),
        )
        for gpu in gpus
        if gpu.clocks_event_reasons is not None
        for reason, bit in names.CLOCKS_HELD_REASONS
    ]


def _write_rdma(page: Page, node: str, ports: Sequence[RdmaPort]) -> None:
    named = [(labels(node=node, device=port.device, port=port.port), port) for port in ports]
    page.family(
        names.RDMA_INFO,
        [
            (
                labels(
                    node=node,
                    device=port.device,
                    port=port.port,
                    link_layer=port.link_layer,
                    state=port.state,
                    physical_state=port.physical_state,
                ),
                1,
            )
            for port in ports
        ],
    )
    page.family(
        names.RDMA_ACTIVE,
        [(who, int(port.state == "ACTIVE")) for who, port in named if port.state],
    )
    page.family(
        names.RDMA_RATE,
        [
            (who, port.rate_bits_per_second / 8)
            for who, port in named
            if port.rate_bits_per_second is not None
        ],
    )
    for metric, field in names.RDMA_FIELDS:
        _write_field(page, metric, field, named)


def _write_host(page: Page, node: str, host: Host) -> None:
    who = labels(node=node)
    for metric, field in names.HOST_FIELDS:
        _write_field(page, metric, field, [(who, host)])
    named = [(labels(node=node, mount_point=disk.mount_point), disk) for disk in host.disks]
    _write_field(page, names.DISK_SIZE, "total_bytes", named)
    _write_field(page, names.DISK_AVAILABLE, "available_bytes", named)


def _write_field(
    page: Page, metric: Metric, field: str, named: Sequence[tuple[Labels, object]]
) -> None:
    """One family from one field of many things; what was not measured has no sample."""
    page.family(
        metric,
        [(who, value) for who, each in named if (value := getattr(each, field)) is not None],
    )
