"""The book on the disk. A book that cannot be read is never an empty one, and one that cannot be written ends all repairs."""

import asyncio
import contextlib
import errno
import fcntl
import os
from pathlib import Path

from agent.repairs.book import Book, decode, encode
from agent.sources import SourceStuckError
from agent.sources.abandonable import Abandonable

NAME = "directives.json"
DEADLINE_SECONDS = 5.0
MAX_BYTES = 1 << 20

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system without locks answers."""


class BookError(Exception):
    """The book cannot be used now; the message says why, and what a person can do."""


class BookFile:
    """One file in a folder that outlives the agent's container; one agent at a time has it.

    Args:
        folder: where it lies; empty: nowhere, the book is kept in memory (enough for what may be done twice).
        node: whose book it is.
    """

    def __init__(self, folder: str, *, node: str) -> None:
        self._folder = Path(folder) if folder else None
        self._path = Path(folder) / NAME
        self._beside = self._path.with_suffix(".json.new")
        self._node = node
        self._content = b""
        self._written = b""
        """What the thread took to write; by identity."""
        self._lock: int | None = None
        self._reader = Abandonable(
            self._read, what=f"reading {self._path}", deadline_seconds=DEADLINE_SECONDS
        )
        self._writer = Abandonable(
            self._write, what=f"writing {self._path}", deadline_seconds=DEADLINE_SECONDS
        )

    async def load(self) -> Book:
        """What was saved; an empty book where there never was one.

        Raises:
            BookError: it cannot be read, or another agent has it.
        """
        if self._folder is None:
            return Book(node=self._node)
        try:
            content = await self._reader.run()
        except (OSError, SourceStuckError) as error:
            raise BookError(f"{self._path} cannot be read: {_why(error)}") from error
        if content is None:
            return Book(node=self._node)
        try:
            return decode(content, node=self._node)
        except Exception as error:  # whatever a damaged disk gives back
            raise BookError(
                f"{self._path} cannot be used ({str(error)[:200]}): which directives were carried out is not known. "
                "Look at what this node did last, then remove the file"
            ) from error

    async def save(self, book: Book) -> None:
        """Returns once this book stands on the disk.

        Raises:
            BookError: it does not.
        """
        if self._folder is None:
            return
        content = self._content = encode(book)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._writer.run()
                while self._written is not content:  # an older one was still being written
                    await self._writer.run()
        except (OSError, SourceStuckError) as error:
            raise BookError(f"{self._path} cannot be written: {_why(error)}") from error

    def close(self) -> None:
        """Leave pending work behind, and the book to the next agent."""
        self._reader.abandon()
        self._writer.abandon()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _read(self) -> bytes | None:
        assert self._folder is not None  # noqa: S101 - the caller looked
        self._folder.mkdir(parents=True, exist_ok=True)
        self._have_it_alone()
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
            return file.read(MAX_BYTES)

    def _write(self) -> None:
        assert self._folder is not None  # noqa: S101 - the caller looked
        self._written = content = self._content
        descriptor = os.open(
            self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        self._beside.replace(self._path)
        # The name too must be there after a reboot that comes at once.
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # a file system that cannot
                os.fsync(folder)
        finally:
            os.close(folder)

    def _have_it_alone(self) -> None:
        if self._lock is not None:
            return
        lock = os.open(
            self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(lock)
                if isinstance(error, BlockingIOError):
                    raise OSError(error.errno, "another agent has it") from error
                raise
        self._lock = lock


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not error.args:
        return f"no answer for {DEADLINE_SECONDS:g} s"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
