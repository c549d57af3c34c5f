"""Host checks: memory and disk pressure."""

from collections.abc import Iterator

from agent.catalogue import Catalogue
from agent.checks import Limits, Observation
from agent.snapshot import Snapshot

SOURCE = "host"

_GIB = 1 << 30


def check(snapshot: Snapshot, catalogue: Catalogue, limits: Limits) -> Iterator[Observation]:
    """Everything wrong with the machine itself now."""
    host = snapshot.host
    if host is None:
        return
    if host.memory_total_bytes and host.memory_available_bytes is not None:
        ratio = host.memory_available_bytes / host.memory_total_bytes
        if ratio < limits.memory_low_ratio:
            yield Observation(
                code=catalogue.codes["host-memory-pressure"],
                subject="host",
                evidence=f"{host.memory_available_bytes / _GIB:.1f} GiB ({ratio:.1%}) of memory available, "
                f"limit {limits.memory_low_ratio:.1%}",
                source=SOURCE,
            )
    for disk in host.disks:
        ratio = disk.available_bytes / disk.total_bytes if disk.total_bytes else 1.0
        if ratio < limits.disk_low_ratio:
            yield Observation(
                code=catalogue.codes["disk-pressure"],
                subject=f"mount:{disk.mount_point}",
                evidence=f"{disk.available_bytes / _GIB:.1f} GiB ({ratio:.1%}) available, "
                f"limit {limits.disk_low_ratio:.1%}",
                source=SOURCE,
            )
