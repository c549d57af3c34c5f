"""The machine itself: processors, memory, disks, mounts. ``None`` means *not measured*."""

from collections.abc import Mapping
from typing import Literal

import msgspec


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """One mounted local file system."""

    mount_point: str
    total_bytes: int
    available_bytes: int
    """To an unprivileged user."""
    total_inodes: int | None = None
    available_inodes: int | None = None
    read_only: bool | None = None

    @property
    def subject(self) -> str:
        """How findings name this disk."""
        return f"mount:{self.mount_point}"


class UnreadableDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A watched path of which nothing can be measured now."""

    mount_point: str
    state: Literal["stuck", "failing", "missing"]
    """``stuck``: a probe has not come back; ``missing``: there is no such path."""
    reason: str = ""

    @property
    def subject(self) -> str:
        """How findings name this disk."""
        return f"mount:{self.mount_point}"


class BlockedProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that waits in the kernel and cannot be interrupted (state D)."""

    pid: int
    name: str
    seconds: float
    """How long it has been seen so, without doing anything in between."""


class MemoryController(msgspec.Struct, frozen=True, kw_only=True):
    """One memory controller, as EDAC counts its errors since its driver loaded."""

    name: str
    """``mc0``"""
    corrected_errors_total: int | None = None
    uncorrected_errors_total: int | None = None

    @property
    def subject(self) -> str:
        """How findings name this controller."""
        return f"memory:{self.name}"


class FuseQueue(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What waits for the program behind one FUSE connection."""

    connection: str
    """The minor number of the mount's device: ``52`` of ``0:52`` in /proc/self/mountinfo."""
    waiting: int
    """Requests that have no answer yet."""
    background_max: int
    """How many the kernel sends without a caller that waits for each (``max_background``)."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine itself."""

    cpu_count: int = 0
    cpu_utilization_ratio: float | None = None
    """0..1 over all cores, since the last reading; ``None`` on the first."""
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    load_average_1m: float | None = None
    uptime_seconds: float | None = None
    disks: tuple[Disk, ...] = ()
    unreadable_disks: tuple[UnreadableDisk, ...] = ()

    # What follows is read only now and then, and kept in between.
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    oom_kills_total: int | None = None
    """Processes killed for want of memory since boot, those of workloads at their own limit included."""
    open_files: int | None = None
    open_files_max: int | None = None
    threads: int | None = None
    threads_max: int | None = None
    """The lower of the kernel's limits of process ids and of threads."""
    processes: int | None = None
    zombie_processes: int | None = None
    blocked_processes: tuple[BlockedProcess, ...] = ()
    """Only those that were seen blocked in two scans or more; the longest first, at most 32."""
    clock_synchronised: bool | None = None
    """By NTP or PTP, as the kernel was told."""
    clock_offset_seconds: float | None = None
    """What the kernel still has to correct."""
    clock_estimated_error_seconds: float | None = None
    memory_controllers: tuple[MemoryController, ...] = ()
    virtual_machine: bool | None = None
    cpu_governors: Mapping[str, int] = {}
    """Governor of the processors' clocks → frequency policies that have it; empty where the machine has none."""
    free_large_blocks: Mapping[str, int] = {}
    """``node 0`` → free blocks of 1 MiB and more of that NUMA node's ordinary memory."""
    fuse_queues: tuple[FuseQueue, ...] = ()
    crash_records: int | None = None
    """Records of panics and oopses of earlier boots that the firmware still keeps (pstore)."""
    crash_record_newest_seconds: float | None = None
    """Unix time."""
    peermem_loaded: bool | None = None
    """Whether the module nvidia_peermem is there."""


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One network or FUSE mount, as a tenant's pod would meet it."""

    mount_point: str
    fs_type: str
    state: Literal["ok", "stuck", "failing"]
    """``stuck``: a probe has not come back."""
    origin: str = ""
    """What is mounted: ``nas-a:/export/data``."""
    reason: str = ""
    read_only: bool | None = None
    """The file system itself; a mount that is read-only on purpose in one pod is not."""
    total_bytes: int | None = None
    available_bytes: int | None = None
    total_inodes: int | None = None
    available_inodes: int | None = None

    @property
    def subject(self) -> str:
        """How findings name this mount."""
        return f"mount:{self.mount_point}"
