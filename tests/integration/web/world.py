"""A small fleet and cluster for the HTTP side to show, changed by a test at will."""

from typing import Any

import msgspec

from aggregator.fleet import Fleet
from aggregator.journal import Decision, Journal
from aggregator.policy.model import (
    Attempt,
    AttemptOutcome,
    ClusterNode,
    ClusterView,
    Condition,
    DrainProgress,
    DrainState,
    Incident,
    NodeCapacity,
    Taint,
    TimelineEntry,
)
from aggregator.scores.book import ScoreBook
from aggregator.scores.inputs import fleet_facts
from aggregator.scores.model import STALE_AFTER_SECONDS, NodeScore, judge
from aggregator.scores.placed import PlacedPod
from aggregator.scores.rooms import RoomBook
from aggregator.stats import AggregatorStats
from aggregator.web.deps import WebDeps
from contract import report_pb2 as pb
from contract.codec import finding_to_wire
from contract.vocabulary import Action, Domain, Finding, Phase, Severity

NOW = 1_760_000_000.0
GPUS = 8


class World:
    """A small fleet and cluster that a test changes at will."""

    def __init__(self) -> None:
        self.now = NOW
        self.fleet = Fleet()
        self.journal = Journal()
        self.stats = AggregatorStats()
        self.nodes: dict[str, ClusterNode] = {}
        self.incidents: dict[str, Incident] = {}
        self.book = ScoreBook()
        self.rooms = RoomBook(pods_known=False)
        self.pods_trouble = ""
        self.scores: dict[str, NodeScore] = {}
        self.stopped = ""
        self.synced = True
        self.leading = True
        self.mode = "observe"

    def view(self) -> ClusterView:
        return ClusterView(
            synced=self.synced,
            nodes=dict(self.nodes),
            incidents=dict(self.incidents),
            stopped=self.stopped,
        )

    def deps(self, **changed: Any) -> WebDeps:
        known: dict[str, Any] = {
            "fleet": self.fleet,
            "view": self.view,
            "mode": lambda: self.mode,
            "leading": lambda: self.leading,
            "journal": self.journal,
            "stats": self.stats,
            "scores": lambda: dict(self.scores),
            "book": self.book,
            "rooms": self.rooms,
            "pods_trouble": lambda: self.pods_trouble,
            "metrics": lambda: b"fleetmedic_up 1\n",
            "clock": lambda: self.now,
            "version": "1.2.3",
        }
        return WebDeps(**(known | changed))

    def report(
        self,
        name: str,
        *findings: Finding,
        use: float = 0.5,
        duty: float | None = None,
        score: bool = True,
    ) -> None:
        """A report of eight GPUs and one RDMA port arrives."""
        report = pb.NodeReport(node=name, agent_version="0.1.0", driver_version="550.1")
        for index in range(GPUS):
            report.gpus.append(
                pb.Gpu(
                    uuid=f"GPU-{index}",
                    pci_bus_id=f"0000:{index}b:00.0",
                    index=index,
                    model="H100",
                    utilization_ratio=use,
                    duty_cycle_ratio=duty,
                    temperature_celsius=50.0,
                    memory_used_bytes=40 << 30,
                    memory_total_bytes=80 << 30,
                    process_count=1,
                )
            )
        report.rdma_ports.append(pb.RdmaPort(device="mlx5_0", port=1, state="ACTIVE"))
        report.sources.append(pb.SourceStatus(name="nvidia", state=pb.SOURCE_STATE_OK))
        report.host.cpu_utilization_ratio = 0.25
        report.findings.extend(finding_to_wire(each) for each in findings)
        self.fleet.apply(report, self.now)
        self.nodes.setdefault(name, ClusterNode(name=name, gpu_capacity=GPUS))
        if score:
            self.score()

    def score(self) -> None:
        for facts in fleet_facts(self.fleet, self.view()):
            self.book.take_health(facts, judge(facts, self.now, STALE_AFTER_SECONDS))
        self.book.settle(self.now)
        self.scores = dict(self.book.scores)

    def pods(self, *pods: PlacedPod) -> None:
        """The cluster's pods are known, and these are all there are; each node has room as the cluster says."""
        self.rooms.pods_known = True
        self.nodes = {
            name: msgspec.structs.replace(
                node,
                capacity=NodeCapacity(
                    cpu_milli=96_000, memory_mib=1_000_000, devices={"nvidia.com/gpu": GPUS}
                ),
            )
            for name, node in self.nodes.items()
        }
        self.rooms.set_nodes(self.nodes)
        for pod in pods:
            self.rooms.set_pod(pod)
        for name in self.nodes:
            self.book.take_room(name, self.rooms.room(name))
        self.score()

    def lose_gpu(self, name: str) -> None:
        """GPU 3 is lost, the node is quarantined, an incident is open."""
        lost = finding()
        self.nodes[name] = ClusterNode(
            name=name,
            gpu_capacity=GPUS,
            taint=Taint("gpu-lost", "NoSchedule"),
            conditions={"GPUHealthy": Condition("False", "GpuLost")},
        )
        self.incidents[f"inc-{name}"] = incident(name)
        self.report(name, lost)

    def decide(self, text: str, *, taken: bool = True) -> None:
        kind = "set-taint" if taken else "declined"
        self.journal.add(
            Decision(time_seconds=self.now, node="node-1", kind=kind, text=text, taken=taken)
        )

    def drain(self, name: str) -> Incident:
        """GPU 3 is lost, the node is quarantined and cordoned by us, and a drain of it is under way."""
        self.lose_gpu(name)
        self.nodes[name] = msgspec.structs.replace(
            self.nodes[name],
            quarantined_by=f"inc-{name}",
            cordoned_by=f"inc-{name}",
            unschedulable=True,
        )
        self.incidents[f"inc-{name}"] = found = draining(name)
        return found


def draining(node: str) -> Incident:
    """An incident in the middle of its story: a reset failed, a drain waits for a disruption budget."""
    return msgspec.structs.replace(
        incident(node, Phase.DRAINING),
        opened_seconds=NOW - 900,
        quarantined_seconds=NOW - 895,
        phase_since_seconds=NOW - 120,
        next_step="2 of 7 pods are left; reboot-node once they are gone",
        next_step_seconds=NOW + 3_480,
        attempts=(
            Attempt(
                id=f"inc-{node}-1",
                rung="reset-device",
                subject="gpu:0000:3b:00.0",
                code="gpu-lost",
                started_seconds=NOW - 600,
                deadline_seconds=NOW - 300,
                finished_seconds=NOW - 582,
                outcome=AttemptOutcome.FAILED,
                text="nvidia-smi: GPU 0000:3B:00.0 is in use by another client",
            ),
            Attempt(
                id=f"inc-{node}-2",
                rung="drain",
                code="gpu-lost",
                started_seconds=NOW - 120,
                deadline_seconds=NOW + 3_480,
            ),
        ),
        drain=DrainProgress(
            attempt=f"inc-{node}-2",
            state=DrainState.RUNNING,
            pods_total=7,
            pods_gone=5,
            text="2 blocked by PDB serving/llm: needs 3 healthy, has 3",
        ),
        timeline=(
            TimelineEntry(NOW - 900, Phase.SUSPECT, "first seen: gpu-lost on gpu:0000:3b:00.0"),
            TimelineEntry(NOW - 895, Phase.QUARANTINED, "quarantined for gpu-lost"),
            TimelineEntry(NOW - 120, Phase.DRAINING, "drain of the whole node begun"),
        ),
    )


def finding(severity: Severity = Severity.FATAL) -> Finding:
    return Finding(
        code="gpu-lost",
        subject="gpu:0000:3b:00.0",
        severity=severity,
        action=Action.REBOOT_NODE,
        domain=Domain.GPU,
        evidence="<b>fell off</b> the bus",
        since_seconds=NOW - 60,
        last_seen_seconds=NOW,
    )


def incident(node: str, phase: Phase = Phase.QUARANTINED) -> Incident:
    return Incident(
        name=f"inc-{node}",
        node=node,
        pool="H100",
        phase=phase,
        findings=(finding(),),
        opened_seconds=NOW - 60,
        quarantined_seconds=NOW - 59,
        closed_seconds=NOW if phase is Phase.CLOSED else None,
        next_step="drain",
        timeline=(TimelineEntry(NOW - 60, Phase.SUSPECT, "seen"),),
    )
