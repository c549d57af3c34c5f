"""Snapshot and findings → the report on the wire. Pure."""

from collections.abc import Iterable, Iterator

from agent.holders import holders_of, is_told
from agent.snapshot import Gpu, Host, Npu, RdmaPort, Snapshot
from contract import report_pb2 as pb
from contract.codec import event_to_wire, finding_to_wire, outcome_to_wire, source_to_wire
from contract.vocabulary import DirectiveOutcome, Event, Finding, SourceState
from contract.wire import PROTOCOL_VERSION

_GPU_FIELDS = tuple(field.name for field in pb.Gpu.DESCRIPTOR.fields)
_NPU_FIELDS = tuple(field.name for field in pb.Npu.DESCRIPTOR.fields)
_DISK_FIELDS = tuple(field.name for field in pb.Disk.DESCRIPTOR.fields)
_PORT_FIELDS = tuple(field.name for field in pb.RdmaPort.DESCRIPTOR.fields)


def encode(
    snapshot: Snapshot,
    findings: Iterable[Finding],
    events: Iterable[Event],
    *,
    sequence: int,
    urgent: bool,
    events_dropped_total: int,
    agent_version: str,
    outcomes: Iterable[DirectiveOutcome] = (),
    repairs: Iterable[str] = (),
) -> bytes:
    """One report as bytes."""
    findings = tuple(findings)
    report = pb.NodeReport(
        protocol_version=PROTOCOL_VERSION,
        sequence=sequence,
        node=snapshot.node,
        boot_id=snapshot.boot_id,
        agent_version=agent_version,
        taken_time_seconds=snapshot.taken_seconds,
        urgent=urgent,
        findings=[finding_to_wire(each) for each in findings],
        sources=[source_to_wire(each) for each in snapshot.sources],
        gpus=[_gpu(each) for each in snapshot.gpus],
        npus=[_npu(each) for each in snapshot.npus],
        rdma_ports=[_port(each) for each in snapshot.rdma_ports],
        host=_host(snapshot.host) if snapshot.host else None,
        events=[event_to_wire(each) for each in events],
        events_dropped_total=events_dropped_total,
        driver_version=snapshot.driver_version,
        outcomes=[outcome_to_wire(each) for each in outcomes],
        repairs=repairs,
        holders=_holders(snapshot, findings),
    )
    return report.SerializeToString()


def _holders(snapshot: Snapshot, findings: Iterable[Finding]) -> Iterator[pb.Holders]:
    """Of what findings name, and of every GPU and NPU; nothing while the kubelet does not answer.

    That nobody holds one is told too: else whoever drains it would have to take every pod for a holder. Of devices that are
    well, whoever packs pods wants to know.
    """
    kubelet = snapshot.source("pods")
    if kubelet is None or kubelet.state is not SourceState.OK:
        return
    devices: tuple[Gpu | Npu, ...] = (*snapshot.gpus, *snapshot.npus)
    for subject in dict.fromkeys(each.subject for each in (*findings, *devices)):
        pods = holders_of(snapshot, subject)
        if pods or is_told(snapshot, subject):
            yield pb.Holders(subject=subject, pods=pods)


def _gpu(gpu: Gpu) -> pb.Gpu:
    return pb.Gpu(**{name: getattr(gpu, name) for name in _GPU_FIELDS})


def _npu(npu: Npu) -> pb.Npu:
    return pb.Npu(**{name: getattr(npu, name) for name in _NPU_FIELDS})


def _port(port: RdmaPort) -> pb.RdmaPort:
    return pb.RdmaPort(**{name: getattr(port, name) for name in _PORT_FIELDS})


def _host(host: Host) -> pb.Host:
    return pb.Host(
        cpu_count=host.cpu_count,
        cpu_utilization_ratio=host.cpu_utilization_ratio,
        memory_total_bytes=host.memory_total_bytes,
        memory_available_bytes=host.memory_available_bytes,
        load_average_1m=host.load_average_1m,
        uptime_seconds=host.uptime_seconds,
        disks=[
            pb.Disk(**{name: getattr(disk, name) for name in _DISK_FIELDS}) for disk in host.disks
        ],
    )
