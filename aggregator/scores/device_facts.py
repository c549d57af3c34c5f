"""What a node's own agent says of its devices: which there are, which are sick, who holds them. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from aggregator.fleet import NodeState
from aggregator.scores.requests import model_name
from contract import report_pb2 as pb
from contract.vocabulary import Finding, Severity

MAX_REPORTED = 64
"""Devices taken from one report."""

_MIB = 2**20


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of one node, as of its newest report. Devices are in the order of their indexes."""

    resource: str = ""
    """As a device plugin would list them; empty: there are none."""
    model: str = ""
    """As the labels of nodes write it."""
    ids: tuple[str, ...] = ()
    """UUIDs of GPUs; of NPUs their indexes."""
    subjects: tuple[str, ...] = ()
    """As findings name them: ``gpu:0000:3b:00.0``."""
    sick: tuple[bool, ...] = ()
    """Lost, or with a critical or fatal finding: no capacity."""
    busy: tuple[bool, ...] = ()
    """A process holds it."""
    memory_mib: tuple[int, ...] = ()
    """Of each; 0: not told."""
    holders: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Device id → ``namespace/name`` of the pods that hold it; only of devices of which the kubelet tells."""
    cpu_milli: int = 0
    """Of the machine; 0: not told."""
    host_memory_mib: int = 0

    def without(self, devices: Collection[str]) -> "DeviceFacts":
        """With these no capacity either, by subject or by id; of a part of a device, the whole."""
        whole = {each.partition("/")[0] for each in devices}
        return msgspec.structs.replace(
            self,
            sick=tuple(
                sick or device in whole or subject in whole
                for sick, device, subject in zip(self.sick, self.ids, self.subjects, strict=False)
            ),
        )


def device_facts(state: NodeState) -> DeviceFacts:
    """The facts in a node's newest report."""
    report = state.report
    host_memory = report.host.memory_total_bytes // _MIB
    if report.gpus:
        gpus = sorted(report.gpus[:MAX_REPORTED], key=lambda each: each.index)
        subjects = [f"gpu:{each.pci_bus_id}" for each in gpus]
        ids = [each.uuid for each in gpus]
        sick = _sick(subjects, [each.lost for each in gpus], state.findings)
        devices: Sequence[pb.Gpu | pb.Npu] = gpus
        busy = [each.process_count > 0 for each in gpus]
        resource = "amd.com/gpu" if gpus[0].model.startswith("AMD") else "nvidia.com/gpu"
    else:
        npus = sorted(report.npus[:MAX_REPORTED], key=lambda each: each.index)
        subjects = [f"npu:{each.index}" for each in npus]
        ids = [str(each.index) for each in npus]
        sick = _sick(subjects, [False] * len(npus), state.findings)
        devices = npus
        busy = [each.memory_used_bytes > 0 and each.utilization_ratio > 0 for each in npus]
        resource = _npu_resource(npus[0].model) if npus else ""
    return DeviceFacts(
        resource=resource,
        model=next((model_name(each.model) for each in devices if each.model), ""),
        ids=tuple(ids),
        subjects=tuple(subjects),
        sick=sick,
        busy=tuple(busy),
        memory_mib=tuple(each.memory_total_bytes // _MIB for each in devices),
        holders={
            device: state.holders[subject]
            for device, subject in zip(ids, subjects, strict=True)
            if subject in state.holders
        },
        cpu_milli=report.host.cpu_count * 1000,
        host_memory_mib=host_memory,
    )


def _sick(
    subjects: Sequence[str], lost: Sequence[bool], findings: Iterable[Finding]
) -> tuple[bool, ...]:
    """A finding about a part of a device (a link, a MIG instance) is about the device."""
    named = {
        each.subject.partition("/")[0] for each in findings if each.severity >= Severity.CRITICAL
    }
    return tuple(gone or subject in named for subject, gone in zip(subjects, lost, strict=True))


def _npu_resource(model: str) -> str:
    """As Ascend's own device plugin lists it: every 910 by one name, the two kinds of 310 by two."""
    words = "".join(model.split()).upper()
    if "310P" in words:
        return "huawei.com/Ascend310P"
    return "huawei.com/Ascend310" if "310" in words else "huawei.com/Ascend910"
