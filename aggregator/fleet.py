"""The picture of the fleet: the latest report and a short history per node. Pure: the clock comes in."""

from collections import deque
from collections.abc import Iterator

from contract import report_pb2 as pb
from contract.codec import finding_from_wire, source_from_wire
from contract.vocabulary import Finding, Severity, SourceStatus
from contract.wire import MAX_FINDINGS

HISTORY_LENGTH = 120
"""Utilization points kept per node: ten minutes at one report every five seconds."""


class NodeState:
    """What is known of one node. Read it freely; only ``Fleet`` changes it."""

    __slots__ = (
        "connected",
        "findings",
        "first_seen_seconds",
        "name",
        "received_seconds",
        "report",
        "reports_total",
        "sources",
        "utilization_history",
    )

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.report: pb.NodeReport = pb.NodeReport(node=name)
        """The newest report as it came; readings are read from here, never written."""
        self.findings: tuple[Finding, ...] = ()
        """Worst first."""
        self.sources: tuple[SourceStatus, ...] = ()
        self.first_seen_seconds = now
        self.received_seconds = now
        """Unix time of the newest report, by our clock."""
        self.reports_total = 0
        self.connected = False
        self.utilization_history: deque[tuple[float, float]] = deque(maxlen=HISTORY_LENGTH)
        """(Unix time, mean GPU utilization 0..1) per regular report."""

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding; ``None`` when there is none."""
        return self.findings[0].severity if self.findings else None

    @property
    def utilization_ratio(self) -> float | None:
        """Mean GPU utilization 0..1 as last measured."""
        return self.utilization_history[-1][1] if self.utilization_history else None

    @property
    def gpu_model(self) -> str:
        """The model of the first GPU, empty without GPUs."""
        return self.report.gpus[0].model if self.report.gpus else ""


class Fleet:
    """All nodes that ever reported to this process. One owner: the event loop."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeState] = {}
        self.findings_raised_total = 0
        """Findings that were new on their node when a report brought them."""

    def apply(self, report: pb.NodeReport, now: float) -> bool:
        """Take in one report of a node whose identity is already proven.

        Args:
            report: as decoded; ``report.node`` names the node.
            now: Unix time of receipt.

        Returns:
            Whether the set of findings or source states changed, so that a decision is due.
        """
        node = self._nodes.get(report.node)
        if node is None:
            node = self._nodes[report.node] = NodeState(report.node, now)
        findings = (
            tuple(
                sorted(
                    (finding_from_wire(each) for each in report.findings[:MAX_FINDINGS]),
                    key=lambda each: (-each.severity, each.since_seconds, each.key),
                )
            )
            if report.findings
            else ()
        )
        before = [(each.key, each.severity) for each in node.findings]
        changed = (
            node.reports_total == 0
            or before != [(each.key, each.severity) for each in findings]
            or [int(each.state) for each in node.sources]
            != [int(each.state) for each in report.sources]
        )
        if changed:
            self.findings_raised_total += len(
                {each.key for each in findings} - {key for key, _ in before}
            )
        if changed or len(node.sources) != len(report.sources):
            node.sources = tuple(source_from_wire(each) for each in report.sources)
        node.report = report
        node.findings = findings
        node.received_seconds = now
        node.reports_total += 1
        node.connected = True
        if not report.urgent:
            measured = [
                gpu.utilization_ratio for gpu in report.gpus if gpu.HasField("utilization_ratio")
            ]
            if measured:
                node.utilization_history.append((now, sum(measured) / len(measured)))
        return changed

    def disconnected(self, name: str) -> None:
        """The node's stream ended; its last report stays until it ages out."""
        if node := self._nodes.get(name):
            node.connected = False

    def forget(self, name: str) -> None:
        """Drop a node that is no longer part of the cluster."""
        self._nodes.pop(name, None)

    def get(self, name: str) -> NodeState | None:
        """One node, if it ever reported."""
        return self._nodes.get(name)

    def __iter__(self) -> Iterator[NodeState]:
        """All nodes, by name."""
        return iter(sorted(self._nodes.values(), key=lambda node: node.name))

    def __len__(self) -> int:
        return len(self._nodes)
