"""Kernel-log source: /dev/kmsg, a fifo or a file, read as it grows; events leave the moment a line is readable."""

import asyncio
import errno
import os
import stat
from collections.abc import Callable

from agent.kernel_log import MAX_LINE_BYTES, event_from, parse_record
from agent.sources import Emit, Reading, SourceAbsentError, SourceFailingError
from agent.stats import AgentStats

_CHUNK_BYTES = 64 * 1024
_MAX_READS_PER_WAKE = 256
"""So that a flood of lines never keeps the loop from its other work for long."""


class KmsgSource:
    """Reads the kernel log without ever blocking: the event loop says when there is something.

    On start the ring buffer is read from its oldest record, so a fault since boot is seen even when the
    agent was not running; each record carries its own time.
    """

    name = "kmsg"

    def __init__(
        self,
        path: str,
        *,
        emit: Emit,
        stats: AgentStats,
        clock: Callable[[], float],
        boot_seconds: float,
    ) -> None:
        self._path = path
        self._emit = emit
        self._stats = stats
        self._clock = clock
        self._boot_seconds = boot_seconds
        """Unix time of boot, to which record times are added."""
        self._descriptor: int | None = None
        self._is_device = False
        self._polled = False
        self._partial = b""
        self._skipping = False
        self._lines = 0
        self._overruns = 0
        self._failure = ""

    async def read(self) -> Reading:
        """Open the log if it is not open; say how the reader is doing.

        Raises:
            SourceAbsentError: there is no such log here.
            SourceFailingError: it cannot be opened, or the reader died.
        """
        if self._descriptor is None:
            self._open()
        if self._polled:
            self._readable()
        if self._failure:
            failure, self._failure = self._failure, ""
            raise SourceFailingError(failure)
        return Reading()

    async def close(self) -> None:
        """Stop reading."""
        self._detach()

    def _open(self) -> None:
        try:
            mode = os.stat(self._path).st_mode  # noqa: PTH116 - one call, on a device
            # A fifo opened for reading alone reports end-of-file for ever once its first writer leaves.
            flags = os.O_RDWR if stat.S_ISFIFO(mode) else os.O_RDONLY
            descriptor = os.open(self._path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise SourceAbsentError(f"no kernel log at {self._path}") from error
        except PermissionError as error:
            raise SourceFailingError(
                f"{self._path}: {error.strerror}; reading the kernel log needs root or CAP_SYSLOG"
            ) from error
        except OSError as error:
            raise SourceFailingError(f"{self._path}: {error.strerror}") from error
        self._descriptor = descriptor
        self._is_device = stat.S_ISCHR(mode)
        try:
            asyncio.get_running_loop().add_reader(descriptor, self._readable)
        except PermissionError:
            self._polled = (
                True  # a regular file cannot be waited for: read what is new once per tick
            )

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
                    self._overruns += 1
                    self._stats.kmsg_overruns += 1
                    continue
                self._failure = f"{self._path}: reading stopped: {error.strerror}"
                self._detach()
                return
            if not chunk:
                return
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
        time_seconds = self._clock()
        if record.uptime_seconds is not None:
            time_seconds = min(time_seconds, self._boot_seconds + record.uptime_seconds)
        number = record.sequence if record.sequence is not None else f"line-{self._lines}"
        event = event_from(record, id=f"kmsg:{number}", time_seconds=time_seconds)
        if event is not None:
            self._emit(event)
