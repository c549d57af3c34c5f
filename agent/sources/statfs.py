"""One file system asked for its space, in a thread of its own that may be left behind.

``statfs`` on a dead network mount never returns. Nobody waits for such a one: its probe goes on in the background and
is asked again for its answer, so a dead mount costs one thread and no tick.
"""

import asyncio
import os
from typing import Literal

import msgspec

from agent.sources import SourceStuckError
from agent.sources.abandonable import Abandonable

GRACE_SECONDS = 0.25
"""How long a reading waits for answers that are on their way; a local file system takes a millisecond."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one file system."""

    state: Literal["ok", "stuck", "failing", "missing"]
    reason: str = ""
    total_bytes: int = 0
    available_bytes: int = 0
    total_inodes: int | None = None
    """``None`` where the file system does not count them."""
    available_inodes: int | None = None
    read_only: bool = False


class Probe:
    """Asks one path, never twice at once.

    Args:
        path: where the file system is mounted.
        deadline_seconds: after which it counts as stuck.
    """

    def __init__(self, path: str, *, deadline_seconds: float) -> None:
        self._path = path
        self._work = Abandonable(
            self._ask, what=f"statfs of {path}", deadline_seconds=deadline_seconds
        )
        self._task: asyncio.Task[Answer] | None = None
        self.answer: Answer | None = None
        """The newest; ``None`` before the first."""
        self.started_seconds = float("-inf")
        """Loop time at which it was asked last."""

    @property
    def busy(self) -> bool:
        """An answer is still to come."""
        return self._task is not None

    @property
    def stuck(self) -> bool:
        """It was asked longer than its deadline ago."""
        return self.answer is not None and self.answer.state == "stuck"

    def start(self, now: float) -> None:
        """Ask now, at this loop time, unless the last question is still open."""
        if self._task is None:
            self.started_seconds = now
            self._task = asyncio.create_task(self._work.run(), name=f"statfs of {self._path}")

    @property
    def task(self) -> asyncio.Task[Answer] | None:
        """What a reading may wait for a moment: an open question that is not known to be stuck."""
        return None if self.stuck else self._task

    def collect(self, now: float) -> None:
        """Take the answer if it has come; a late one is waited for on, in the background."""
        if self._task is None or not self._task.done():
            return
        task, self._task = self._task, None
        try:
            self.answer = task.result()
        except SourceStuckError:
            waited = f"statfs gives no answer for {now - self.started_seconds:.0f} s"
            self.answer = Answer(state="stuck", reason=waited)
            self._task = asyncio.create_task(self._work.run(), name=f"statfs of {self._path}")

    def abandon(self) -> None:
        """Leave an open question behind."""
        if self._task is not None:
            if not self._task.cancel():
                self._task.exception()  # nobody will ask for it any more
            self._task = None
        self._work.abandon()

    def _ask(self) -> Answer:
        try:
            usage = os.statvfs(self._path)
        except FileNotFoundError:
            return Answer(state="missing", reason="there is no such path")
        except OSError as error:
            return Answer(state="failing", reason=error.strerror or str(error))
        return Answer(
            state="ok",
            total_bytes=usage.f_blocks * usage.f_frsize,
            available_bytes=usage.f_bavail * usage.f_frsize,
            total_inodes=usage.f_files or None,
            available_inodes=usage.f_favail if usage.f_files else None,
            read_only=bool(usage.f_flag & os.ST_RDONLY),
        )


async def settle(probes: list[Probe], *, grace_seconds: float = GRACE_SECONDS) -> None:
    """Wait a moment for the answers that are on their way, and take those that came."""
    waiting = {probe.task for probe in probes if probe.task is not None}
    if waiting:
        await asyncio.wait(waiting, timeout=grace_seconds)
    now = asyncio.get_running_loop().time()
    for probe in probes:
        probe.collect(now)
