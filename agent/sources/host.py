"""Host source: processors, memory, load and disk space, through psutil."""

import os
import time
from collections.abc import Sequence

import psutil

from agent.snapshot import Disk, Host
from agent.sources import Reading, SourceFailingError
from agent.sources.abandonable import Abandonable

STATFS_DEADLINE_SECONDS = 2.0


class HostSource:
    """Reads the machine itself.

    Disk space is read where it can be abandoned, since ``statfs`` on a dead network mount never returns;
    memory and load come from /proc and do not block.
    """

    name = "host"

    def __init__(
        self, *, disk_paths: Sequence[str], deadline_seconds: float = STATFS_DEADLINE_SECONDS
    ) -> None:
        self._disk_paths = tuple(disk_paths)
        self._disks = Abandonable(
            self._statfs,
            what=f"statfs of {', '.join(self._disk_paths)}",
            deadline_seconds=deadline_seconds,
        )
        psutil.cpu_percent(interval=None)

    async def read(self) -> Reading:
        """Read now.

        Raises:
            SourceStuckError: a watched mount point does not answer.
            SourceFailingError: it answers with an error.
        """
        memory = psutil.virtual_memory()
        disks = await self._disks.run()
        return Reading(
            host=Host(
                cpu_count=psutil.cpu_count() or 0,
                cpu_utilization_ratio=psutil.cpu_percent(interval=None) / 100,
                memory_total_bytes=memory.total,
                memory_available_bytes=memory.available,
                load_average_1m=os.getloadavg()[0],
                uptime_seconds=time.time() - psutil.boot_time(),
                disks=disks,
            )
        )

    async def close(self) -> None:
        """Leave a pending ``statfs`` behind."""
        self._disks.abandon()

    def _statfs(self) -> tuple[Disk, ...]:
        disks = []
        for path in self._disk_paths:
            try:
                usage = os.statvfs(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SourceFailingError(f"statfs of {path}: {error.strerror}") from error
            disks.append(
                Disk(
                    mount_point=path,
                    total_bytes=usage.f_blocks * usage.f_frsize,
                    available_bytes=usage.f_bavail * usage.f_frsize,
                )
            )
        return tuple(disks)
