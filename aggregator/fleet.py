"""The picture of the fleet: the latest report and a short history per node. Pure: the clock comes in."""

import math
from collections import deque
from collections.abc import Iterator, KeysView, Mapping, Sequence

import msgspec

from aggregator.readings import utilizations
from contract import report_pb2 as pb
from contract.codec import finding_from_wire, outcome_from_wire, source_from_wire
from contract.vocabulary import DirectiveOutcome, Finding, Severity, SourceState, SourceStatus
from contract.wire import MAX_FINDINGS, MAX_TEXT

HISTORY_LENGTH = 120
"""Utilization points kept per node: ten minutes at one report every five seconds."""


MAX_OUTCOMES = 64
"""Directives, or kinds of them, taken from one report."""

MAX_HOLDERS = 256
"""Pods taken of one device."""

MAX_WORD = 256
"""Characters of a code or a subject: as many as an Incident keeps, or what is saved would never be what is seen."""


class NodeState:
    """What is known of one node. Read it freely; only ``Fleet`` changes it."""

    __slots__ = (
        "clear_since_seconds",
        "connected",
        "findings",
        "first_seen_seconds",
        "holders",
        "name",
        "outcomes",
        "received_seconds",
        "repairs",
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
        self.outcomes: tuple[DirectiveOutcome, ...] = ()
        """Of every directive that its agent remembers."""
        self.repairs: frozenset[str] = frozenset()
        """Kinds of directive that its agent's own settings allow."""
        self.holders: Mapping[str, tuple[str, ...]] = {}
        """Subject → the pods that hold that device, where the kubelet tells; devices with findings come first."""
        self.first_seen_seconds = now
        self.received_seconds = now
        """Unix time of the newest report, by our clock."""
        self.clear_since_seconds = now
        """Since when it reports without a break and without critical trouble, as far as we know."""
        self.reports_total = 0
        self.connected = False
        self.utilization_history: deque[tuple[float, float]] = deque(maxlen=HISTORY_LENGTH)
        """(Unix time, mean use of its GPUs 0..1, as ``readings.duty_ratio`` says it) per regular report."""

    @property
    def boot_id(self) -> str:
        """Of the kernel, as its agent says."""
        return self.report.boot_id[:MAX_TEXT]

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
        """The model of the first accelerator, empty without any."""
        accelerators = self.report.gpus or self.report.npus
        return accelerators[0].model if accelerators else ""


class Fleet:
    """All nodes that ever reported to this process. One owner: the event loop."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeState] = {}
        self._newest_seconds = -math.inf
        """Nothing that is kept of any node is later than this."""
        self.findings_raised_total = 0
        """Findings that were new on their node when a report brought them."""

    def apply(
        self,
        report: pb.NodeReport,
        now: float,
        *,
        silent_after_seconds: float = 30.0,
        measured: Sequence[float] | None = None,
    ) -> bool:
        """Take in one report of a node whose identity is already proven.

        Args:
            report: as decoded; ``report.node`` names the node.
            now: Unix time of receipt.
            silent_after_seconds: a longer time between two reports is a break.
            measured: the utilization of its GPUs, where somebody read it already.

        Returns:
            Whether the set of findings or source states changed, so that a decision is due.
        """
        name = report.node
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = NodeState(name, now)
        findings = (
            tuple(
                sorted(
                    (_finding(each, now) for each in report.findings[:MAX_FINDINGS]),
                    key=lambda each: (-each.severity, each.since_seconds, each.key),
                )
            )
            if report.findings
            else ()
        )
        sources = node.sources
        if report.sources != node.report.sources:
            sources = tuple(source_from_wire(each) for each in report.sources)
        changed = (
            node.reports_total == 0
            or (findings is not node.findings and _strengths(node.findings) != _strengths(findings))
            or (sources is not node.sources and _states(node.sources) != _states(sources))
        )
        if changed:
            self.findings_raised_total += len(
                {each.key for each in findings} - {each.key for each in node.findings}
            )
        changed = _take_repairs(node, report) or changed
        critical = bool(findings) and findings[0].severity >= Severity.CRITICAL
        if critical or now - node.received_seconds > silent_after_seconds:
            node.clear_since_seconds = now
        node.sources = sources
        node.report = report
        node.findings = findings
        node.received_seconds = now
        node.reports_total += 1
        node.connected = True
        self._newest_seconds = max(self._newest_seconds, now)
        if not report.urgent:
            if measured is None:
                measured = utilizations(report.gpus)
            if measured:
                node.utilization_history.append((now, sum(measured) / len(measured)))
        return changed

    def not_ahead_of(self, now: float) -> None:
        """The clock may have been set back: nothing that we know was seen later than now.

        Else a node that falls silent would look fresh, and one that is well not yet clear, for as long as it went back.
        """
        if now >= self._newest_seconds:
            return
        self._newest_seconds = now
        for node in self._nodes.values():
            node.received_seconds = min(node.received_seconds, now)
            node.clear_since_seconds = min(node.clear_since_seconds, now)

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

    def names(self) -> KeysView[str]:
        """Of all nodes, in no order."""
        return self._nodes.keys()

    def __iter__(self) -> Iterator[NodeState]:
        """All nodes, by name."""
        return iter(sorted(self._nodes.values(), key=lambda node: node.name))

    def __len__(self) -> int:
        return len(self._nodes)


def _strengths(findings: tuple[Finding, ...]) -> set[tuple[tuple[str, str], Severity]]:
    return {(each.key, each.severity) for each in findings}


def _states(sources: tuple[SourceStatus, ...]) -> set[tuple[str, SourceState]]:
    return {(each.name, each.state) for each in sources}


def _take_repairs(node: NodeState, report: pb.NodeReport) -> bool:
    """Take in what a report says about repairs; whether a decision may hang on it."""
    known = node.report
    outcomes, repairs = node.outcomes, node.repairs
    if report.outcomes != known.outcomes:
        node.outcomes = tuple(outcome_from_wire(each) for each in report.outcomes[:MAX_OUTCOMES])
    if report.repairs != known.repairs:
        node.repairs = frozenset(report.repairs[:MAX_OUTCOMES])
    if report.holders != known.holders:
        node.holders = {
            each.subject[:MAX_WORD]: tuple(each.pods[:MAX_HOLDERS])
            for each in report.holders[:MAX_FINDINGS]
        }
    booted = known.boot_id[:MAX_TEXT] != report.boot_id[:MAX_TEXT]
    return booted or (outcomes, repairs) != (node.outcomes, node.repairs)


def _finding(message: pb.Finding, now: float) -> Finding:
    """One finding; a start that is no time, or still to come, is now: it decides who goes first."""
    finding = finding_from_wire(message)
    if len(finding.code) > MAX_WORD or len(finding.subject) > MAX_WORD:
        finding = msgspec.structs.replace(
            finding, code=finding.code[:MAX_WORD], subject=finding.subject[:MAX_WORD]
        )
    if 0.0 < finding.since_seconds <= now:
        return finding
    return msgspec.structs.replace(finding, since_seconds=now)
