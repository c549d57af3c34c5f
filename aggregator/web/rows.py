"""One node as the grid shows it: small, built only when something about it changed."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from aggregator.fleet import NodeState
from aggregator.policy.model import ClusterNode, ClusterView, Incident
from aggregator.readings import duty_ratio
from aggregator.scores.inputs import blind_reason, known_nodes, open_incidents, standing_of
from aggregator.scores.model import NodeScore, Standing
from aggregator.web.deps import WebDeps
from contract import report_pb2 as pb
from contract.vocabulary import Finding, Severity

IDLE_BELOW_RATIO = 0.01
"""A GPU that a process holds and that computes less than this is shown as held but idle."""


class GpuCell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU. A reading that is absent was not measured."""

    index: int = msgspec.field()
    health: str = "healthy"
    """``healthy``, or the worst severity raised on it."""
    code: str = ""
    """The finding that decided."""
    utilization_ratio: float | None = None
    """Share of time in which a kernel ran: over the last ten seconds where the driver tells it, else when it was read."""
    memory_used_ratio: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    held_idle: bool = False
    """A process holds it and it computes nothing."""


class PortDot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One RDMA port."""

    name: str
    health: str = "healthy"
    state: str = ""


class NodeRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node. What is left out is empty, zero or false."""

    name: str
    pool: str
    health: str
    """``healthy``, the worst severity raised, ``stale`` (silent too long) or ``unknown`` (never seen)."""
    standing: Standing = ""
    model: str = ""
    codes: tuple[str, ...] = ()
    """Of its findings, worst first, each once."""
    incident: str = ""
    phase: str = ""
    """Of the open incident."""
    blind: str = ""
    """Why its devices cannot be read: ``nvidia is stuck``."""
    cordoned: bool = False
    connected: bool = False
    received_seconds: float | None = None
    score: int | None = None
    utilization_ratio: float | None = None
    gpus: tuple[GpuCell, ...] = ()
    ports: tuple[PortDot, ...] = ()


class Moment:
    """The inputs of all rows at one instant, read once."""

    def __init__(self, deps: WebDeps) -> None:
        self.now = deps.clock()
        self.view: ClusterView = deps.view()
        self.incidents: Mapping[str, Incident] = open_incidents(self.view)
        self.scores: Mapping[str, NodeScore] = deps.scores()


_Inputs = tuple[
    pb.NodeReport | None, bool, bool, ClusterNode | None, Incident | None, NodeScore | None
]


class RowBook:
    """Rows by node name; a row is built again only after one of its inputs was replaced."""

    def __init__(self, deps: WebDeps) -> None:
        self._deps = deps
        self._rows: dict[str, tuple[_Inputs, NodeRow]] = {}

    def names(self, moment: Moment) -> list[str]:
        """Every node there is something to show of, by name."""
        return known_nodes(self._deps.fleet, moment.view)

    def all(self, moment: Moment) -> Iterator[NodeRow]:
        """All rows, by name."""
        return (row for name in self.names(moment) if (row := self.row(name, moment)))

    def row(self, name: str, moment: Moment) -> NodeRow | None:
        """One node's row; ``None`` when nothing is known of such a node."""
        state = self._deps.fleet.get(name)
        cluster = moment.view.nodes.get(name)
        if state is None and cluster is None:
            self._rows.pop(name, None)
            return None
        stale = (
            state is not None
            and moment.now - state.received_seconds > self._deps.stale_after_seconds
        )
        inputs = (
            state.report if state else None,
            stale,
            bool(state and state.connected),
            cluster,
            moment.incidents.get(name),
            moment.scores.get(name),
        )
        cached = self._rows.get(name)
        if cached is not None and _same(cached[0], inputs):
            return cached[1]
        pool = self._deps.pool_of(cluster, state)
        row = _build(name, pool, state, inputs)
        self._rows[name] = (inputs, row)
        return row


def _same(old: _Inputs, new: _Inputs) -> bool:
    """Reports are compared by identity (they are replaced whole), small values by value."""
    return old[0] is new[0] and old[1:] == new[1:]


def _build(name: str, pool: str, state: NodeState | None, inputs: _Inputs) -> NodeRow:
    report, stale, connected, cluster, incident, score = inputs
    findings = state.findings if state else ()
    worst = worst_by_subject(findings)
    return NodeRow(
        name=name,
        pool=pool,
        health=_health(state, stale),
        standing=standing_of(cluster, incident)[0],
        model=state.gpu_model if state else "",
        codes=tuple(dict.fromkeys(each.code for each in findings)),
        incident=incident.name if incident else "",
        phase=incident.phase.value if incident else "",
        blind=blind_reason(state.sources) if state and not stale else "",
        cordoned=bool(cluster and cluster.unschedulable),
        connected=connected,
        received_seconds=state.received_seconds if state and state.reports_total else None,
        score=score.score if score else None,
        utilization_ratio=_share(state.utilization_ratio, 3) if state else None,
        gpus=_cells(report, worst) if report else (),
        ports=tuple(_dot(port, worst) for port in report.rdma_ports) if report else (),
    )


def _health(state: NodeState | None, stale: bool) -> str:
    if state is None or state.reports_total == 0:
        return "unknown"
    if stale:
        return "stale"
    if state.worst is not None and state.worst >= Severity.DEGRADED:
        return state.worst.label
    return "unknown" if blind_reason(state.sources) else "healthy"


def worst_by_subject(findings: Sequence[Finding]) -> dict[str, Finding]:
    """The worst finding per device; findings come worst first, an instance's count for its GPU."""
    worst: dict[str, Finding] = {}
    for each in findings:
        worst.setdefault(each.subject.partition("/mig:")[0], each)
    return worst


def gpu_finding(gpu: pb.Gpu, worst: Mapping[str, Finding]) -> Finding | None:
    """The worst finding on a GPU, by whichever name it was raised."""
    names = (gpu.pci_bus_id, gpu.uuid, str(gpu.index))
    found = [worst[key] for name in names if (key := f"gpu:{name}") in worst]
    return max(found, key=lambda each: each.severity, default=None)


def gpu_health(gpu: pb.Gpu, finding: Finding | None) -> str:
    """One word for a GPU's state."""
    if gpu.lost:
        return Severity.FATAL.label
    if finding is None or finding.severity < Severity.DEGRADED:
        return "healthy"
    return finding.severity.label


def port_name(port: pb.RdmaPort) -> str:
    """As findings write it: ``mlx5_0/1``."""
    return f"{port.device}/{port.port}"


def port_health(port: pb.RdmaPort, worst: Mapping[str, Finding]) -> str:
    """One word for a port's state."""
    finding = worst.get(f"rdma:{port_name(port)}")
    if finding is None or finding.severity < Severity.DEGRADED:
        return "healthy"
    return finding.severity.label


def _cell(gpu: pb.Gpu, worst: Mapping[str, Finding]) -> GpuCell:
    finding = gpu_finding(gpu, worst) if worst else None
    use = duty_ratio(gpu)
    held = gpu.process_count > 0
    return GpuCell(
        index=gpu.index,
        health=gpu_health(gpu, finding),
        code=finding.code if finding else "",
        utilization_ratio=_share(use, 2),
        memory_used_ratio=_memory_ratio(gpu),
        temperature_celsius=(
            _rounded(gpu.temperature_celsius, 0) if gpu.HasField("temperature_celsius") else None
        ),
        power_watts=_rounded(gpu.power_watts, 0) if gpu.HasField("power_watts") else None,
        held_idle=held and use is not None and use < IDLE_BELOW_RATIO,
    )


def _cells(report: pb.NodeReport, worst: Mapping[str, Finding]) -> tuple[GpuCell, ...]:
    """Every accelerator of the node, GPUs before NPUs."""
    gpus = (_cell(gpu, worst) for gpu in report.gpus)
    return (*gpus, *(_npu_cell(npu, worst) for npu in report.npus))


def npu_health(npu: pb.Npu, worst: Mapping[str, Finding]) -> str:
    """One word for an NPU's state."""
    finding = worst.get(f"npu:{npu.index}")
    if finding is None or finding.severity < Severity.DEGRADED:
        return "healthy"
    return finding.severity.label


def _npu_cell(npu: pb.Npu, worst: Mapping[str, Finding]) -> GpuCell:
    finding = worst.get(f"npu:{npu.index}")
    return GpuCell(
        index=npu.index,
        health=npu_health(npu, worst),
        code=finding.code if finding else "",
        utilization_ratio=_share(duty_ratio(npu), 2),
        memory_used_ratio=_memory_ratio(npu),
        temperature_celsius=(
            _rounded(npu.temperature_celsius, 0) if npu.HasField("temperature_celsius") else None
        ),
        power_watts=_rounded(npu.power_watts, 0) if npu.HasField("power_watts") else None,
    )


def _memory_ratio(gpu: pb.Gpu | pb.Npu) -> float | None:
    if not gpu.HasField("memory_used_bytes") or not gpu.memory_total_bytes:
        return None
    return _rounded(gpu.memory_used_bytes / gpu.memory_total_bytes, 2)


def _dot(port: pb.RdmaPort, worst: Mapping[str, Finding]) -> PortDot:
    health = port_health(port, worst) if worst else "healthy"
    return PortDot(name=port_name(port), health=health, state=port.state)


def _share(value: float | None, digits: int) -> float | None:
    """A ratio as sent; what is not 0..1 was not measured, so that one agent cannot spoil the fleet's mean."""
    return round(value, digits) if value is not None and 0.0 <= value <= 1.0 else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
