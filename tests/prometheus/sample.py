"""A made-up fleet of four nodes with one trouble of each sort, as values and as both pages."""

from collections.abc import Iterator

import msgspec

from agent.exporter import render as render_agent
from agent.health import health_of
from agent.report import encode
from agent.snapshot import Disk, Gpu, Host, RdmaPort, Snapshot
from agent.stats import AgentStats
from aggregator.exporter import render as render_aggregator
from aggregator.fleet import Fleet
from aggregator.journal import Decision, Journal
from aggregator.policy.model import (
    Attempt,
    AttemptOutcome,
    ClusterNode,
    ClusterView,
    Incident,
    Taint,
)
from aggregator.stats import AggregatorStats
from contract import report_pb2 as pb
from contract.vocabulary import Action, Domain, Finding, Phase, Severity, SourceState, SourceStatus

GPUS = 4
HOUR = 3_600.0
SILENT = "gpu-d"
"""The node whose agent is gone; its page is not served."""

FEED_COUNTS = {
    "requests": {"watcher": 40, "custom-metrics": 0},
    "writes": {"score-labels": 12, "node-metrics": 0, "usage-thresholds": 0, "devices-dra": 2},
    "errors": {"score-labels": 3, "node-metrics": 0, "usage-thresholds": 0, "devices": 1},
    "delayed": {"score-labels": 4},
    "suppressed": {"score-labels": 1},
}
"""As ``aggregator/feeding.py`` counts them."""


def gpu(index: int, *, lost: bool = False, hot: bool = False) -> Gpu:
    """One GPU; the driver says nothing more about a lost one."""
    bare = Gpu(
        uuid=f"GPU-{index}",
        pci_bus_id=f"0000:{index:02x}:00.0",
        index=index,
        model="NVIDIA H200",
        lost=lost,
    )
    if lost:
        return bare
    return msgspec.structs.replace(
        bare,
        serial=f"16500{index}",
        temperature_celsius=92.0 if hot else 41.0,
        memory_temperature_celsius=44.0,
        slowdown_temperature_celsius=90.0,
        power_watts=512.5,
        power_limit_watts=700.0,
        energy_joules_total=1234567.5,
        utilization_ratio=0.0 if index == 1 else 0.75,
        memory_utilization_ratio=0.5,
        duty_cycle_ratio=(0.875, 0.0, 0.625, None)[index],
        memory_used_bytes=40 << 30,
        memory_total_bytes=140 << 30,
        sm_clock_hertz=1.98e9,
        process_count=0 if index == 2 else 1,
        ecc_corrected_total=3,
        ecc_uncorrected_total=0,
        recovery_action=0,
        clocks_event_reasons=0x40 if hot else 0x1,
    )


def port(index: int, state: str = "ACTIVE") -> RdmaPort:
    """One InfiniBand port."""
    return RdmaPort(
        device=f"mlx5_{index}",
        port=1,
        link_layer="InfiniBand",
        state=state,
        physical_state="LinkUp" if state == "ACTIVE" else "Polling",
        rate_bits_per_second=400e9,
        link_downed_total=0 if state == "ACTIVE" else 2,
        received_bytes_total=1 << 40,
        transmitted_bytes_total=1 << 41,
    )


def snapshot(
    node: str, now: float, *, lost: bool = False, hot: bool = False, down: bool = False
) -> Snapshot:
    """One node: four GPUs, two ports, a host; the flags make GPU 0 or port 0 the bad one."""
    return Snapshot(
        node=node,
        boot_id="6b0d2f0a",
        taken_seconds=now,
        sources=(
            SourceStatus(name="overrides", state=SourceState.OK),
            SourceStatus(name="nvidia", state=SourceState.OK, since_seconds=now - HOUR),
            SourceStatus(
                name="kmsg", state=SourceState.FAILING, reason='it "failed"', since_seconds=now
            ),
        ),
        driver_version="580.65.06",
        gpus=tuple(gpu(i, lost=lost and i == 0, hot=hot and i == 0) for i in range(GPUS)),
        rdma_ports=(port(0, "DOWN" if down else "ACTIVE"), port(1)),
        host=Host(
            cpu_count=192,
            cpu_utilization_ratio=0.25,
            memory_total_bytes=2 << 40,
            memory_available_bytes=1 << 40,
            load_average_1m=12.5,
            uptime_seconds=86_400.0,
            disks=(Disk(mount_point="/", total_bytes=1 << 40, available_bytes=1 << 39),),
        ),
    )


def finding(code: str, subject: str, severity: Severity, action: Action, now: float) -> Finding:
    """One finding, ten minutes old."""
    return Finding(
        code=code,
        subject=subject,
        severity=severity,
        action=action,
        domain=Domain.RDMA if subject.startswith("rdma") else Domain.GPU,
        evidence="made up",
        since_seconds=now - 600,
        last_seen_seconds=now,
    )


def nodes(now: float) -> Iterator[tuple[Snapshot, tuple[Finding, ...]]]:
    """The fleet: one healthy node, a lost GPU, a hot GPU and a port down, and one now silent."""
    yield snapshot("gpu-a", now), ()
    yield (
        snapshot("gpu-b", now, lost=True),
        (finding("xid-79", "gpu:0000:00:00.0", Severity.FATAL, Action.REBOOT_NODE, now),),
    )
    yield (
        snapshot("gpu-c", now, hot=True, down=True),
        (
            finding("gpu-too-hot", "gpu:0000:00:00.0", Severity.CRITICAL, Action.NONE, now),
            finding("rdma-down", "rdma:mlx5_0/1", Severity.DEGRADED, Action.NONE, now),
        ),
    )
    yield snapshot(SILENT, now - 900), ()


def incident(node: str, phase: Phase, now: float, quarantined: float | None) -> Incident:
    """One incident, quarantined so many seconds ago."""
    return Incident(
        name=f"{node}-1",
        node=node,
        pool="h200",
        phase=phase,
        findings=(),
        opened_seconds=now - 48 * HOUR,
        attempts=(
            Attempt(
                id=f"{node}-1-1",
                rung="drain",
                started_seconds=now - HOUR,
                deadline_seconds=now,
                outcome=AttemptOutcome.DONE,
            ),
        ),
        quarantined_seconds=None if quarantined is None else now - quarantined,
    )


def cluster_view(now: float) -> ClusterView:
    """What Kubernetes says; ``gpu-e`` has GPUs and no agent that ever reported."""
    members = {
        name: ClusterNode(
            name=name,
            gpu_capacity=GPUS,
            taint=Taint("xid-79", "NoSchedule") if name in {"gpu-b", SILENT} else None,
        )
        for name in ("gpu-a", "gpu-b", "gpu-c", SILENT, "gpu-e")
    }
    incidents = (
        incident("gpu-b", Phase.QUARANTINED, now, quarantined=HOUR),
        incident("gpu-c", Phase.SUSPECT, now, quarantined=None),
        incident(SILENT, Phase.NEEDS_HUMAN, now, quarantined=30 * HOUR),
    )
    return ClusterView(
        synced=True,
        nodes=members,
        incidents={each.name: each for each in incidents},
        device_quarantines={"gpu-c": frozenset({"gpu:0000:00:00.0", "gpu:0000:02:00.0"})},
    )


def fleet(now: float) -> Fleet:
    """The aggregator's picture; the silent node last reported a quarter of an hour ago."""
    picture = Fleet()
    for shot, findings in nodes(now):
        raw = encode(
            shot,
            findings,
            (),
            sequence=1,
            urgent=False,
            events_dropped_total=0,
            agent_version="0.1.0",
        )
        picture.apply(pb.NodeReport.FromString(raw), shot.taken_seconds)
    return picture


def journal(now: float) -> Journal:
    """Two decisions, one of them declined."""
    log = Journal()
    for kind, taken in (("set-taint", True), ("declined", False)):
        log.add(Decision(time_seconds=now, node="gpu-b", kind=kind, text="why", taken=taken))
    return log


def agent_stats() -> AgentStats:
    """An agent that has sent a little and seen one XID 79."""
    stats = AgentStats()
    stats.reports_sent = stats.reports_acked = 12
    stats.sample_seconds, stats.check_seconds = 0.25, 0.01
    stats.xid(79, "gpu:0000:00:00.0")
    stats.directives.add(("reset-device", "done"))
    return stats


def aggregator_stats() -> AggregatorStats:
    """A leader that has refused one report, decided once and answered all but one of a scheduler's questions."""
    stats = AggregatorStats()
    stats.leader = True
    stats.reports_total, stats.connections = 48, 3
    stats.reading(age_seconds=12.5, errors=2)
    stats.reports_refused.add("not your node")
    stats.extender_requests.add("prioritize", 6)
    for basis in ("pod", "node", "not-ours", "stale", "unreadable"):
        stats.extender_answers.add(basis)
    stats.extender_passed_over.add("mig")
    stats.extender_seconds.observe(0.0007)
    stats.feeds = lambda: FEED_COUNTS
    stats.failing_pods = lambda: {"gpu-c": 4, "gone": 3}
    stats.declined.add(("reboot-node", "approval"))
    stats.detect_to_decision.observe(0.3)
    return stats


def pages(now: float) -> dict[str, bytes]:
    """Path → page: each living agent's, and the aggregator's."""
    served = {
        f"/{shot.node}": render_agent(
            shot,
            findings,
            agent_stats() if findings else AgentStats(),
            health=health_of(shot, findings),
        )
        for shot, findings in nodes(now)
        if shot.node != SILENT
    }
    served["/aggregator"] = render_aggregator(
        fleet(now), cluster_view(now), journal(now), aggregator_stats(), now
    )
    return served
