"""Host source: processors, memory, limits, processes, the clock, memory errors and local disks.

Each part is read as often as it changes. What may block is read in threads that can be left behind, and nothing
waits for another: a disk that hangs hides neither its siblings nor the machine.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

import psutil

from agent.snapshot import Disk, Host
from agent.snapshot.host import UnreadableDisk
from agent.sources import Reading, SourceStuckError
from agent.sources.abandonable import Abandonable
from agent.sources.host_settings import governors, is_virtual_machine, traces
from agent.sources.procfs import Processes, clock, limits, memory_controllers
from agent.sources.statfs import GRACE_SECONDS, Answer, Probe, settle

STATFS_DEADLINE_SECONDS = 2.0
DISK_SECONDS = 5.0
"""Between two looks at a disk."""
LIMITS_SECONDS = 10.0
"""Between two looks at limits, swap and the clock."""
SCAN_SECONDS = 60.0
"""Between two looks at every process: 15 µs each, on machines with thousands, and at memory errors."""
RARE_SECONDS = 600.0
"""Between two looks at what only people change: the governor of every processor, 12 µs each."""


class HostSource:
    """Reads the machine itself.

    Args:
        disk_paths: mount points whose space is watched. One that does not exist is told of, not passed over.
        proc_root: the host's /proc. In a container it shows the host's processes only with its PID namespace.
        sysfs_root: the host's /sys.
        deadline_seconds: after which a disk counts as stuck.
    """

    name = "host"

    def __init__(
        self,
        *,
        disk_paths: Sequence[str],
        proc_root: str = "/proc",
        sysfs_root: str = "/sys",
        host_root: str = "",
        deadline_seconds: float = STATFS_DEADLINE_SECONDS,
    ) -> None:
        self._proc_root = proc_root
        self._sysfs_root = sysfs_root
        self._disks = {
            path: Probe(host_root + path, deadline_seconds=deadline_seconds)
            for path in dict.fromkeys(disk_paths)
        }
        self._grace_seconds = min(GRACE_SECONDS, deadline_seconds)
        self._processes = Processes(proc_root)
        self._slow: dict[str, Any] = {}
        self._scanned: dict[str, Any] = {}
        self._rare: dict[str, Any] = {}
        self._slow_work = Abandonable(
            self._read_slow, what=f"reading {proc_root}", deadline_seconds=self._grace_seconds
        )
        self._limits_due = self._scan_due = self._rare_due = float("-inf")
        psutil.cpu_percent(interval=None)

    async def read(self) -> Reading:
        """Read now; what does not answer is left out, and a disk that does not is told of as such."""
        now = asyncio.get_running_loop().time()
        for probe in self._disks.values():
            if now - probe.started_seconds >= DISK_SECONDS:
                probe.start(now)
        await settle(list(self._disks.values()), grace_seconds=self._grace_seconds)
        if now >= self._limits_due:
            await self._read_seldom(now)
        answers = [
            (path, probe.answer) for path, probe in self._disks.items() if probe.answer is not None
        ]
        memory = psutil.virtual_memory()
        return Reading(
            host=Host(
                cpu_count=psutil.cpu_count() or 0,
                cpu_utilization_ratio=psutil.cpu_percent(interval=None) / 100,
                memory_total_bytes=memory.total,
                memory_available_bytes=memory.available,
                load_average_1m=os.getloadavg()[0],
                uptime_seconds=time.time() - psutil.boot_time(),
                disks=tuple(_disk(path, each) for path, each in answers if each.state == "ok"),
                unreadable_disks=tuple(
                    UnreadableDisk(mount_point=path, state=each.state, reason=each.reason)
                    for path, each in answers
                    if each.state != "ok"
                ),
                **self._slow,
            )
        )

    async def close(self) -> None:
        """Leave what is pending behind."""
        for probe in self._disks.values():
            probe.abandon()
        self._slow_work.abandon()

    async def _read_seldom(self, now: float) -> None:
        try:
            self._slow = await self._slow_work.run()
        except SourceStuckError:
            return  # it goes on in its thread; its answer is taken when it comes
        self._limits_due = now + LIMITS_SECONDS

    def _read_slow(self) -> dict[str, Any]:
        now = time.monotonic()
        if now >= self._scan_due:
            self._scan_due = now + SCAN_SECONDS
            self._scanned = {
                **self._processes.scan(now),
                "memory_controllers": memory_controllers(self._sysfs_root),
                **traces(self._proc_root, self._sysfs_root),
            }
        if now >= self._rare_due:
            self._rare_due = now + RARE_SECONDS
            self._rare = {
                "cpu_governors": governors(self._sysfs_root),
                "virtual_machine": is_virtual_machine(self._proc_root),
            }
        return {**limits(self._proc_root), **clock(), **self._scanned, **self._rare}


def _disk(path: str, answer: Answer) -> Disk:
    return Disk(
        mount_point=path,
        total_bytes=answer.total_bytes,
        available_bytes=answer.available_bytes,
        total_inodes=answer.total_inodes,
        available_inodes=answer.available_inodes,
        read_only=answer.read_only,
    )
