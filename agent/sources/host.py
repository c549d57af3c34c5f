"""Host source: processors, memory, load and disk space, through psutil."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Sequence

import psutil

from agent.snapshot import Disk, Host
from agent.sources import Reading, SourceFailingError, SourceStuckError

STATFS_DEADLINE_SECONDS = 2.0


class HostSource:
    """Reads the machine itself.

    Disk space is read in a thread with a deadline, since ``statfs`` on a dead network mount never returns;
    memory and load come from /proc and do not block.
    """

    name = "host"

    def __init__(
        self, *, disk_paths: Sequence[str], deadline_seconds: float = STATFS_DEADLINE_SECONDS
    ) -> None:
        self._disk_paths = tuple(disk_paths)
        self._deadline_seconds = deadline_seconds
        self._pending: asyncio.Future[tuple[Disk, ...] | SourceFailingError] | None = None
        psutil.cpu_percent(interval=None)

    async def read(self) -> Reading:
        """Read now.

        Raises:
            SourceStuckError: a watched mount point does not answer.
            SourceFailingError: it answers with an error.
        """
        memory = psutil.virtual_memory()
        disks = await self._read_disks()
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
        """Leave a pending ``statfs`` behind; its thread keeps nobody from ending the process."""
        self._pending = None

    async def _read_disks(self) -> tuple[Disk, ...]:
        # One statfs at a time: a dead mount must not collect one stuck thread per tick.
        if self._pending is None or self._pending.done():
            self._pending = self._in_a_thread()
        done, _ = await asyncio.wait({self._pending}, timeout=self._deadline_seconds)
        if not done:
            paths = ", ".join(self._disk_paths)
            raise SourceStuckError(
                f"statfs of {paths} gives no answer for {self._deadline_seconds:g} s"
            )
        pending, self._pending = self._pending, None
        result = pending.result()
        if isinstance(result, SourceFailingError):
            raise result
        return result

    def _in_a_thread(self) -> asyncio.Future[tuple[Disk, ...] | SourceFailingError]:
        # Not the loop's executor: its threads are waited for when the process ends.
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Disk, ...] | SourceFailingError] = loop.create_future()

        def tell(result: tuple[Disk, ...] | SourceFailingError) -> None:
            if not future.done():
                future.set_result(result)

        def work() -> None:
            try:
                result: tuple[Disk, ...] | SourceFailingError = self._statfs()
            except SourceFailingError as error:
                result = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, result)

        threading.Thread(target=work, name="statfs", daemon=True).start()
        return future

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
