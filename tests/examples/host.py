"""One example per code of ``agent/catalogue/host.yaml``, and of those that EDAC counts."""

from typing import Any

from agent.snapshot import Disk, Host, Mount, Snapshot
from agent.snapshot.host import BlockedProcess, FuseQueue, MemoryController, UnreadableDisk
from tests.support import gpu, port, snapshot, source

GIB = 1 << 30


def host(*each: dict[str, Any]) -> list[Snapshot]:
    """One snapshot of the machine per 10 s, from its fields."""
    return [snapshot(10.0 * n, host=Host(**fields)) for n, fields in enumerate(each)]


def disk(**fields: Any) -> Disk:
    """A disk that is half full."""
    sizes: dict[str, Any] = {
        "total_bytes": 100 * GIB,
        "available_bytes": 50 * GIB,
        "total_inodes": 1_000_000,
        "available_inodes": 500_000,
        "read_only": False,
    }
    return Disk(mount_point=fields.pop("mount_point", "/"), **{**sizes, **fields})


def mount(**fields: Any) -> Mount:
    """A file server's mount that answers and is half full."""
    given: dict[str, Any] = {
        "mount_point": "/var/lib/kubelet/pods/1/volumes/kubernetes.io~nfs/data",
        "fs_type": "nfs4",
        "origin": "nas-a:/export/data",
        "state": "ok",
        "read_only": False,
    }
    if fields.get("state", "ok") == "ok":
        given |= {"total_bytes": 10_000 * GIB, "available_bytes": 5_000 * GIB}
    return Mount(**{**given, **fields})


def mounts(*each: Mount) -> list[Snapshot]:
    """One snapshot per state of a mount, 15 s apart."""
    return [
        snapshot(15.0 * n, sources=(source("mounts"),), mounts=(state,))
        for n, state in enumerate(each)
    ]


def blocked(name: str, seconds: float = 305.0) -> dict[str, Any]:
    """A process that has been blocked for so long."""
    return {"blocked_processes": (BlockedProcess(pid=4711, name=name, seconds=seconds),)}


def memory_errors(corrected: int | None = 0, uncorrected: int | None = 0) -> dict[str, Any]:
    """What one memory controller counted."""
    return {
        "memory_controllers": (
            MemoryController(
                name="mc0", corrected_errors_total=corrected, uncorrected_errors_total=uncorrected
            ),
        )
    }


def unreadable(state: Any, reason: str) -> list[Snapshot]:
    """A watched disk that is there and then is not readable."""
    gone = UnreadableDisk(mount_point="/data", state=state, reason=reason)
    return host({"disks": (disk(mount_point="/data"),)}, {"unreadable_disks": (gone,)})


def gpu_node(*each: dict[str, Any]) -> list[Snapshot]:
    """The same on a node with a GPU and a working RDMA port, all in one boot."""
    others: dict[str, Any] = {"boot_id": "b1", "gpus": (gpu(0),), "rdma_ports": (port(),)}
    return [snapshot(60.0 * n, host=Host(**fields), **others) for n, fields in enumerate(each)]


def fuse(waiting: int) -> dict[str, Any]:
    """One FUSE connection with so many requests that wait."""
    return {"fuse_queues": (FuseQueue(connection="52", waiting=waiting, background_max=12),)}


EXAMPLES: dict[str, list[Snapshot]] = {
    "host-memory-pressure": host(
        {"memory_total_bytes": 2048 * GIB, "memory_available_bytes": 20 * GIB}
    ),
    "memory-uncorrected-error": host(memory_errors(), memory_errors(uncorrected=1)),
    "memory-corrected-errors-often": host(memory_errors(17), memory_errors(117)),
    "file-handles-low": host({"open_files": 8_000_000, "open_files_max": 2**63 - 1}),
    "file-handles-exhausted": host({"open_files": 960_000, "open_files_max": 1_000_000}),
    "process-ids-low": host({"threads": 27_000, "threads_max": 32_768}),
    "process-ids-exhausted": host({"threads": 32_000, "threads_max": 32_768}),
    "zombie-processes": host({"processes": 3_000, "zombie_processes": 1_200}),
    "processes-blocked": host(blocked("python3")),
    "nvidia-process-blocked": host(blocked("nvidia-smi")),
    "clock-unsynchronised": host({"clock_synchronised": False, "clock_offset_seconds": 0.0}),
    "clock-drift": host({"clock_synchronised": True, "clock_offset_seconds": -1.8}),
    "disk-pressure": host({"disks": (disk(available_bytes=2 * GIB),)}),
    "inode-pressure": host({"disks": (disk(available_inodes=900),)}),
    "disk-read-only": host({"disks": (disk(),)}, {"disks": (disk(read_only=True),)}),
    "disk-stuck": unreadable("stuck", "statfs gives no answer for 4 s"),
    "disk-failing": unreadable("failing", "Input/output error"),
    "disk-missing": unreadable("missing", "there is no such path"),
    "cpu-governor-not-performance": gpu_node(
        {"cpu_governors": {"performance": 4, "powersave": 188}}
    ),
    "nvidia-peermem-missing": gpu_node({"peermem_loaded": True}, {"peermem_loaded": False}),
    "memory-fragmented": host({"free_large_blocks": {"node 0": 4, "node 1": 90_000}}),
    "fuse-queue-full": host(fuse(10)),
    "kernel-panic-recorded": host(
        {"crash_records": 2, "crash_record_newest_seconds": 1_699_990_000.0}
    ),
    "mount-stuck": mounts(mount(), mount(state="stuck", reason="statfs gives no answer for 17 s")),
    "mount-failing": mounts(mount(), mount(state="failing", reason="Stale file handle")),
    "mount-read-only": mounts(mount(), mount(read_only=True)),
    "mount-full": mounts(mount(available_bytes=GIB)),
    "mount-inodes-full": mounts(mount(total_inodes=10_000_000, available_inodes=12)),
}
