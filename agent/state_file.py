"""The file in which the agent's state outlives it: read once at the start, replaced whole, never half written."""

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import stat
from pathlib import Path

import structlog

from agent.sources import SourceStuckError
from agent.sources.abandonable import Abandonable

log = structlog.get_logger("agent")

NAME = "agent-state.json"
LOAD_DEADLINE_SECONDS = 5.0
SAVE_DEADLINE_SECONDS = 2.0
MAX_BYTES = 16 << 20
"""No agent writes more; a larger file is not ours."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system without locks answers."""


class StateFile:
    """One file in a folder that outlives the agent's container, and that one agent at a time writes.

    A disk that does not answer delays the start by ``LOAD_DEADLINE_SECONDS`` and the end by
    ``SAVE_DEADLINE_SECONDS``, and nothing else.
    """

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / NAME
        # Agents in different containers have the same process id.
        self._beside = self._path.with_suffix(f".{secrets.token_hex(8)}.new")
        self._aside = self._path.with_suffix(".unusable")
        self._content = b""
        self._writing = b""
        """What the thread took to write; by identity."""
        self._lock: int | None = None
        self._unread = False
        """What stands there was not read, and must not be written over."""
        self._reader = Abandonable(
            self._read, what=f"reading {self._path}", deadline_seconds=LOAD_DEADLINE_SECONDS
        )
        self._mover = Abandonable(
            self._move, what=f"renaming {self._path}", deadline_seconds=SAVE_DEADLINE_SECONDS
        )
        self._writer = Abandonable(
            self._write, what=f"writing {self._path}", deadline_seconds=SAVE_DEADLINE_SECONDS
        )
        self._failing = ""

    async def load(self) -> bytes | None:
        """What was saved; ``None`` where there is nothing, or nothing that can be read in time."""
        self._unread = True
        try:
            content = await self._reader.run()
        except OSError as error:
            self._tell(f"{self._path} cannot be read: {error.strerror}; starting without it")
        except SourceStuckError as error:
            self._tell(f"{error}; starting without it")
        else:
            self._unread = False
            return content
        return None

    async def set_aside(self, why: str) -> None:
        """Keep a file that cannot be used beside the new one, for a person to look at."""
        with contextlib.suppress(OSError, SourceStuckError):
            await self._mover.run()
        log.warning(
            "saved state cannot be used; starting without it", kept_at=str(self._aside), why=why
        )

    async def save(self, content: bytes) -> None:
        """Replace the file; a failure is told once and costs nothing else.

        When it returns without a word, this content stands on the disk, also where an older one was still
        being written.
        """
        self._content = content
        try:
            async with asyncio.timeout(SAVE_DEADLINE_SECONDS):
                await self._newest_written()
        except (OSError, SourceStuckError) as error:
            late = isinstance(error, TimeoutError)
            why = f"writing {self._path} takes too long" if late else str(error)
            self._tell(f"state cannot be saved: {why}; a restart would forget this node's faults")
        else:
            self._failing = ""

    def close(self) -> None:
        """Leave a pending write behind, and the file to the next agent."""
        for each in (self._reader, self._mover, self._writer):
            each.abandon()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _newest_written(self) -> None:
        while True:
            failure: OSError | None = None
            try:
                await self._writer.run()
            except OSError as error:
                failure = error
            if self._writing is self._content:
                if failure is not None:
                    raise failure
                return

    def _tell(self, problem: str) -> None:
        if problem != self._failing:
            self._failing = problem
            log.warning(problem)

    def _read(self) -> bytes | None:
        try:
            # Else a fifo in its place is waited for.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            return file.read(MAX_BYTES)

    def _move(self) -> None:
        self._path.replace(self._aside)

    def _write(self) -> None:
        content = self._writing = self._content
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._become_its_only_writer()
        if self._unread:
            with contextlib.suppress(OSError):
                self._move()
            self._unread = False
        try:
            descriptor = os.open(
                self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._beside.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                self._beside.unlink()
            raise

    def _become_its_only_writer(self) -> None:
        """Hold the folder's lock from the first write on.

        Raises:
            OSError: another agent holds it.
        """
        if self._lock is not None:
            return
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(folder)
                if isinstance(error, BlockingIOError):
                    told = f"another agent saves in {self._path.parent}"
                    raise OSError(error.errno, told) from error
                raise
        self._lock = folder
        for left in self._path.parent.glob(f"{self._path.stem}.*.new"):  # by one that was killed
            with contextlib.suppress(OSError):
                left.unlink()
