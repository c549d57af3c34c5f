"""The families of network and FUSE mounts on the agent's page."""

from collections.abc import Sequence

from agent.exporter.fields import write_field
from agent.snapshot import Mount
from contract.metrics import MAX_LABEL_TEXT, Page, gauge, labels

ANSWERS = gauge(
    "fleetmedic_mount_answers", "1 when the mount answers, 0 when it is stuck or fails."
)
READ_ONLY = gauge(
    "fleetmedic_mount_read_only", "1 when the mounted file system cannot be written to."
)
MOUNT_FIELDS = (
    (gauge("fleetmedic_mount_size_bytes", "Size of each mounted file system."), "total_bytes"),
    (
        gauge("fleetmedic_mount_available_bytes", "Space left to unprivileged users."),
        "available_bytes",
    ),
    (gauge("fleetmedic_mount_inodes", "Files each mounted file system can hold."), "total_inodes"),
    (
        gauge("fleetmedic_mount_inodes_available", "Files that may still be made."),
        "available_inodes",
    ),
)


def write_mounts(page: Page, node: str, mounts: Sequence[Mount]) -> None:
    """Every mount that was asked; the source bounds how many these are."""
    # Two mounts under one name would make Prometheus refuse the page.
    named = [
        (labels(node=node, mount_point=path, fs_type=mount.fs_type), mount)
        for path, mount in {_short(mount.mount_point): mount for mount in mounts}.items()
    ]
    page.family(ANSWERS, [(who, int(mount.state == "ok")) for who, mount in named])
    page.family(
        READ_ONLY,
        [(who, int(mount.read_only)) for who, mount in named if mount.read_only is not None],
    )
    for metric, field in MOUNT_FIELDS:
        write_field(page, metric, field, named)


def _short(path: str) -> str:
    """A path whose middle is left out where it is too long for a label: both its ends tell pods' volumes apart."""
    if len(path) <= MAX_LABEL_TEXT:
        return path
    half = (MAX_LABEL_TEXT - 1) // 2
    return f"{path[:half]}…{path[-half:]}"
