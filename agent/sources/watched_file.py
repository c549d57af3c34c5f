"""A small file that a person or Kubernetes changes while we run, read where a dead mount can be abandoned.

The content is compared, not its times: a ConfigMap's files are swapped by a symbolic link, an editor's by a
rename, and both are seen so.
"""

import errno
import os
import stat
import time
from collections.abc import Callable

from agent.sources import SourceStuckError
from agent.sources.abandonable import Abandonable


class WatchedFile:
    """One file, asked for once a tick and read every few seconds.

    A file that never was is no news. One that is gone, or empty, counts as empty only after a while: an
    editor, or a copy under way, leaves it so for a moment.

    Args:
        path: the file; symbolic links are followed.
        every_seconds: time between two looks.
        gone_seconds: how long it must be gone, or empty, to count as empty.
        most_bytes: what is read of a longer file is one byte more, so that its reader can refuse it.
        deadline_seconds: how long a tick may wait for it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        path: str,
        *,
        every_seconds: float = 5.0,
        gone_seconds: float = 60.0,
        most_bytes: int = 256 * 1024,
        deadline_seconds: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.error = ""
        """Why the file cannot be read now; what was read before stays true."""
        self.answered = False
        """Whether a first look has ended: with content, without a file, or with an error."""
        self._path = path
        self._every_seconds = every_seconds
        self._gone_seconds = gone_seconds
        self._most_bytes = most_bytes
        self._clock = clock
        self._reading = Abandonable(
            self._content, what=f"reading {path}", deadline_seconds=deadline_seconds
        )
        self._due_seconds = float("-inf")
        self._gone_since_seconds: float | None = None
        self._told = hash(b"")
        """Of what the caller was told last; before the first word, that it is empty."""

    async def changed(self) -> bytes | None:
        """The content, if it is another than last time; ``b""`` when the file is gone for good. Never raises."""
        now = self._clock()
        if now < self._due_seconds:
            return None
        self._due_seconds = now + self._every_seconds
        try:
            content = await self._reading.run()
        except SourceStuckError as error:
            self.error = str(error)
            if not self.answered:  # somebody waits for the first word
                self._due_seconds = now
            return None
        except OSError as error:
            self.answered = True
            self.error = f"{self._path} cannot be read: {error.strerror}"
            return None
        self.answered = True
        self.error = ""
        if not content:
            if self._gone_since_seconds is None:
                self._gone_since_seconds = now
            if now - self._gone_since_seconds < self._gone_seconds:
                return None
        else:
            self._gone_since_seconds = None
        if hash(content) == self._told:
            return None
        self._told = hash(content)
        return content

    def close(self) -> None:
        """Leave a reading that is under way behind."""
        self._reading.abandon()

    def _content(self) -> bytes:
        try:
            # Else a fifo in its place is waited for.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        with open(descriptor, "rb", buffering=0) as stream:  # noqa: PTH123 - a descriptor has no path
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            return _all_of(stream.read, self._most_bytes + 1)


def _all_of(read: Callable[[int], bytes | None], most_bytes: int) -> bytes:
    parts = []
    while most_bytes > 0 and (part := read(most_bytes)):
        parts.append(part)
        most_bytes -= len(part)
    return b"".join(parts)
