"""The node's Prometheus page: a pure function from values to text, called once per tick.

A scrape is answered with the bytes of the last tick and so never touches hardware. Ages are not on
the page, because served bytes would freeze them: ``fleetmedic_snapshot_time_seconds`` says when they
were true. Every sample carries ``node``; what identifies a GPU beyond ``gpu`` (its index) and ``uuid``
stands once, on ``fleetmedic_gpu_info``.
"""

from collections.abc import Mapping, Sequence

from agent.exporter.dcgm import write_dcgm_names
from agent.exporter.gpu import write_gpus
from agent.exporter.host import write_host
from agent.exporter.mounts import write_mounts
from agent.exporter.node import write_node
from agent.exporter.npu import write_npus
from agent.exporter.pci import write_pci
from agent.exporter.rdma import write_rdma
from agent.snapshot import Snapshot
from agent.stats import AgentStats
from contract.metrics import Page
from contract.vocabulary import Finding, Health


def render(
    snapshot: Snapshot,
    findings: Sequence[Finding],
    stats: AgentStats,
    *,
    dcgm_names: bool = True,
    health: Mapping[str, Health] | None = None,
) -> bytes:
    """The whole page for one tick.

    Args:
        snapshot: the newest one.
        findings: all that are raised now.
        stats: what the agent counted about itself.
        health: how each device is, by subject.
        dcgm_names: also offer the widely used DCGM names; turn off where dcgm-exporter runs too.
    """
    page = Page()
    write_node(page, snapshot, findings, stats, health or {})
    write_gpus(page, snapshot, findings)
    write_npus(page, snapshot, findings)
    write_rdma(page, snapshot.node, snapshot.rdma_ports)
    if snapshot.host is not None:
        write_host(page, snapshot.node, snapshot.host)
    write_mounts(page, snapshot.node, snapshot.mounts)
    write_pci(page, snapshot.node, snapshot.pci_devices)
    if dcgm_names:
        write_dcgm_names(page, snapshot, stats.last_xid)
    return page.render()
