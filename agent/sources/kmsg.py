"""Kernel-log source: /dev/kmsg, a fifo or a file, read as it grows; events leave the moment a line is readable."""

import asyncio
import errno
import math
import os
import stat
from collections.abc import Callable

from agent.kernel_log import MAX_LINE_BYTES, event_from, parse_record
from agent.sources import (
    Emit,
    Reading,
    SourceAbsentError,
    SourceFailingError,
    SourceStuckError,
)
from agent.sources.abandonable import Abandonable
from agent.stats import AgentStats

UNKNOWN_AFTER_LOSS_SECONDS = 600.0
"""For so long after records were lost, nobody can say that this node is well."""

_CHUNK_BYTES = 64 * 1024
_MAX_READS_PER_WAKE = 256
"""So that a flood of lines never keeps the loop from its other work for long."""


class KmsgSource:
    """Reads the kernel log without ever blocking: the event loop says when there is something.

    On start the ring buffer is read from its oldest record, so a fault since boot is seen even when the
    agent was not running; each record carries its own time. Given ``resume_after``, what was judged before a
    restart is passed over, and what the kernel overwrote meanwhile is told.

    A regular file whose lines carry no numbers of the kernel is read from its end: what stands in it already was
    judged by the run before this one, as far as anybody can tell. A file that is rotated or cut is followed.

    Args:
        path: what to read.
        emit: takes each event.
        stats: counts what is read.
        clock: Unix time.
        boot_seconds: Unix time of boot, to which record times are added. A function is asked for each record,
            so that a step of the clock moves no record that comes after it.
        resume_after: the kernel's number of the newest record that was judged before a restart.
    """

    name = "kmsg"

    def __init__(
        self,
        path: str,
        *,
        emit: Emit,
        stats: AgentStats,
        clock: Callable[[], float],
        boot_seconds: float | Callable[[], float],
        resume_after: int | None = None,
    ) -> None:
        self._path = path
        self._emit = emit
        self._stats = stats
        self._clock = clock
        self._boot_seconds = boot_seconds if callable(boot_seconds) else lambda: boot_seconds
        self.sequence = resume_after
        """The kernel's number of the newest record that was judged; ``None`` before the first."""
        self._descriptor: int | None = None
        self._is_device = False
        self._is_stream = False
        self._polled = False
        self._inode: tuple[int, int] | None = None
        self._offset = 0
        self._looking = Abandonable(
            lambda: os.stat(path),  # noqa: PTH116 - its numbers, not a path
            what=f"looking at {path}",
            deadline_seconds=0.1,
        )
        self._all_is_new = False
        """The file was not there before, or took another's place: every line came after the start."""
        self._partial = b""
        self._skipping = False
        self._lines = 0
        self._lost = 0
        self._lost_until = -math.inf
        self._failure = ""

    async def read(self) -> Reading:
        """Open the log if it is not open; say how the reader is doing.

        Raises:
            SourceAbsentError: there is no such log here.
            SourceFailingError: it cannot be opened, the reader died, or records were lost lately.
        """
        if self._descriptor is None:
            self._open()
        if self._polled:
            self._readable()
            await self._follow()
        if self._failure:
            failure, self._failure = self._failure, ""
            raise SourceFailingError(failure)
        if self._clock() < self._lost_until:
            raise SourceFailingError(
                f"{self._lost} records were overwritten before they were read: what they said is not known"
            )
        self._lost = 0
        return Reading()

    async def close(self) -> None:
        """Stop reading."""
        self._looking.abandon()
        self._detach()

    def _open(self) -> None:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - one call, on a device
            mode = found.st_mode
            # A fifo opened for reading alone reports end-of-file for ever once its first writer leaves.
            flags = os.O_RDWR if stat.S_ISFIFO(mode) else os.O_RDONLY
            descriptor = os.open(self._path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            self._all_is_new = True
            raise SourceAbsentError(f"no kernel log at {self._path}") from error
        except PermissionError as error:
            raise SourceFailingError(
                f"{self._path}: {error.strerror}; reading the kernel log needs root or CAP_SYSLOG"
            ) from error
        except OSError as error:
            raise SourceFailingError(f"{self._path}: {error.strerror}") from error
        self._descriptor = descriptor
        self._is_device = stat.S_ISCHR(mode)
        self._is_stream = stat.S_ISFIFO(mode)
        self._polled = False
        inode = (found.st_dev, found.st_ino)
        if stat.S_ISREG(mode):
            if inode != self._inode:
                self._begin_at(0 if self._all_is_new else _first_new_byte(descriptor))
            os.lseek(descriptor, self._offset, os.SEEK_SET)
        self._inode, self._all_is_new = inode, True
        try:
            asyncio.get_running_loop().add_reader(descriptor, self._readable)
        except PermissionError:
            self._polled = (
                True  # a regular file cannot be waited for: read what is new once per tick
            )

    async def _follow(self) -> None:
        """Go on with what stands at the path now: a log is renamed and begun anew, or cut to nothing."""
        try:
            now = await self._looking.run()
        except (OSError, SourceStuckError):
            return  # between a rename and the new file
        if self._descriptor is None:
            return
        size = os.fstat(self._descriptor).st_size
        if size < self._offset:
            self._begin_at(0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        elif size == self._offset and (now.st_dev, now.st_ino) != self._inode:  # read to its end
            self._detach()
            self._open()
        else:
            return
        self._readable()

    def _begin_at(self, offset: int) -> None:
        self._offset, self._partial, self._skipping = offset, b"", False

    def _detach(self) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _readable(self) -> None:
        for _ in range(_MAX_READS_PER_WAKE):
            assert self._descriptor is not None  # noqa: S101
            try:
                chunk = os.read(self._descriptor, _CHUNK_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:  # the ring was overwritten before we read it
                    self._stats.kmsg_overruns += 1
                    continue  # how many were lost, the number of the next record tells
                self._failure = f"{self._path}: reading stopped: {error.strerror}"
                self._detach()
                return
            if not chunk:
                return
            self._offset += len(chunk)
            if self._is_device:
                self._line(
                    chunk.partition(b"\n")[0]
                )  # what follows are the record's key=value lines
            else:
                self._stream(chunk)

    def _stream(self, chunk: bytes) -> None:
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                self._line(line)
        if len(self._partial) > MAX_LINE_BYTES:
            if not self._skipping:
                self._line(self._partial)
            self._skipping = True
            self._partial = b""

    def _line(self, line: bytes) -> None:
        self._lines += 1
        self._stats.kmsg_lines += 1
        record = parse_record(line)
        if record.clipped:
            self._stats.kmsg_malformed += 1
        # What comes through a fifo comes once, and whoever writes it numbers as he likes.
        numbered = record.sequence is not None and not self._is_stream
        if numbered and not self._is_next(record.sequence or 0):
            return
        time_seconds = self._clock()
        if record.uptime_seconds is not None:
            time_seconds = min(time_seconds, self._boot_seconds() + record.uptime_seconds)
        number = record.sequence if record.sequence is not None else f"line-{self._lines}"
        event = event_from(record, id=f"kmsg:{number}", time_seconds=time_seconds)
        if event is not None:
            self._emit(event)

    def _is_next(self, sequence: int) -> bool:
        """Whether this record was not judged yet; notes those that are missing before it."""
        judged = self.sequence
        if judged is not None and sequence <= judged:
            return False
        self.sequence = sequence
        if judged is not None and sequence > judged + 1:
            self._lost += sequence - judged - 1
            self._stats.kmsg_lost += sequence - judged - 1
            self._lost_until = self._clock() + UNKNOWN_AFTER_LOSS_SECONDS
        return True


def _first_new_byte(descriptor: int) -> int:
    """Where reading of a file begins: records that the kernel numbered are told apart, of other lines only the next."""
    head = os.pread(descriptor, _CHUNK_BYTES, 0)
    if any(parse_record(line).sequence is not None for line in head.split(b"\n")):
        return 0
    size = os.fstat(descriptor).st_size
    start = max(0, size - MAX_LINE_BYTES)
    tail = os.pread(descriptor, size - start, start)
    return start + tail.rfind(b"\n") + 1
