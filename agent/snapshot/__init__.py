"""Everything the sources read at one instant, typed, units in the field names.

``None`` means *not measured*; it is never zero and never healthy. Field names are those of
``contract/report.proto`` so that the encoder stays a plain copy.
"""

from typing import Any

import msgspec

from agent.snapshot.gpu import Gpu, MigInstance, NvLink
from agent.snapshot.host import Disk, Host, Mount
from agent.snapshot.npu import Npu
from agent.snapshot.pci import PciDevice
from agent.snapshot.pods import PodDevices
from agent.snapshot.rdma import RdmaNetdev, RdmaPort
from contract.vocabulary import Event, SourceState, SourceStatus

__all__ = [
    "Disk",
    "Gpu",
    "Host",
    "MigInstance",
    "Mount",
    "Npu",
    "NvLink",
    "PciDevice",
    "PodDevices",
    "RdmaNetdev",
    "RdmaPort",
    "Snapshot",
    "readable_snapshot",
    "snapshot_from_readable",
]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What this node looked like at one instant."""

    node: str
    boot_id: str = ""
    taken_seconds: float
    """Unix time."""
    elapsed_seconds: float | None = None
    """Since the snapshot before, by a clock that never steps; ``None`` on the first, or where nobody measured it."""
    sources: tuple[SourceStatus, ...] = ()
    driver_version: str = ""
    gpus: tuple[Gpu, ...] = ()
    npus: tuple[Npu, ...] = ()
    rdma_ports: tuple[RdmaPort, ...] = ()
    host: Host | None = None
    mounts: tuple[Mount, ...] = ()
    pci_devices: tuple[PciDevice, ...] = ()
    pods: tuple[PodDevices, ...] = ()
    events: tuple[Event, ...] = ()
    """What happened since the snapshot before."""

    def source(self, name: str) -> SourceStatus | None:
        """The state of one source, if it is configured at all."""
        return next((status for status in self.sources if status.name == name), None)


def readable_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot for people and JSON: words instead of numbers, no fields that were not measured."""
    content: dict[str, Any] = _without_nothing(msgspec.to_builtins(snapshot))
    content["sources"] = [
        {
            "name": status.name,
            "state": status.state.label,
            "reason": status.reason,
            "since_seconds": status.since_seconds,
        }
        for status in snapshot.sources
    ]
    return content


def snapshot_from_readable(content: dict[str, Any]) -> Snapshot:
    """What ``readable_snapshot`` made, read back; fields of another version are passed over.

    Raises:
        msgspec.ValidationError, ValueError: it is no snapshot; the message names the field.
    """
    sources = [
        {**status, "state": SourceState.from_label(str(status.get("state")))}
        for status in content.get("sources", ())
    ]
    return msgspec.convert({**content, "sources": sources}, type=Snapshot)


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nothing(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_without_nothing(each) for each in value]
    return value
