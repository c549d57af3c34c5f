"""One command of a repair: started without a shell, bounded in time and in what is kept of its words."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

MAX_OUTPUT_BYTES = 1_024
"""The last of what it printed is kept, however much there is."""

KILLED_WITHIN_SECONDS = 2.0
"""A process that hangs in the kernel does not end even then, and is left behind."""

LAST_WORDS_SECONDS = 0.5
"""How long after its end what it printed is waited for; a child of its own may hold the pipe open."""

FLOOD_PAUSE_SECONDS = 0.01


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How a command went."""

    status: int | None
    """Its exit status, negative after a signal; ``None``: it did not start, or not end."""
    output: str
    """The last ``MAX_OUTPUT_BYTES`` of stdout and stderr together."""
    problem: str = ""
    """Why it is no success, in words; empty: status 0."""


async def run(
    words: Sequence[str], *, limit_seconds: float, environment: Mapping[str, str] | None = None
) -> Finished:
    """Run a command to its end, or to its limit: then it is killed with all that it started.

    Cancelling kills it too.

    Args:
        words: program and arguments.
        limit_seconds: how long it may run.
        environment: its variables; ``None``: this process's own.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    tail = _Tail()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: tail, os.fdopen(reader, "rb", buffering=0))
    try:
        os.set_blocking(writer, True)
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            problem = f"{words[0]} cannot be started: {error.strerror}"
            return Finished(status=None, output="", problem=problem)
        finally:
            os.close(writer)
        return await _watched(process, tail, limit_seconds)
    finally:
        transport.close()


async def _watched(
    process: asyncio.subprocess.Process, tail: "_Tail", limit_seconds: float
) -> Finished:
    problem = ""
    try:
        try:
            async with asyncio.timeout(limit_seconds):
                await process.wait()
        except TimeoutError:
            problem = f"it ran longer than {limit_seconds:g} s and was killed"
            if not await _killed(process):
                problem = (
                    f"it ran longer than {limit_seconds:g} s and does not end even when killed"
                )
    except asyncio.CancelledError:
        await _killed(process)
        raise
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORDS_SECONDS):
            await tail.ended.wait()
    status = process.returncode
    if not problem and status:
        problem = (
            f"it was ended by {signal.Signals(-status).name}"
            if status < 0
            else f"it ended with status {status}"
        )
    return Finished(status=status, output=tail.text(), problem=problem)


async def _killed(process: asyncio.subprocess.Process) -> bool:
    _kill(process)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILLED_WITHIN_SECONDS):
            await process.wait()
    return process.returncode is not None


def _kill(process: asyncio.subprocess.Process) -> None:
    """Its whole group; not reaped yet, so the number is still its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


class _Tail(asyncio.Protocol):
    """Keeps the end of what comes through a pipe."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self._kept = b""
        self._pipe: asyncio.ReadTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._pipe = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-MAX_OUTPUT_BYTES:]
        if len(data) > MAX_OUTPUT_BYTES and self._pipe is not None:
            # Whoever floods is held up; the loop has other work.
            self._pipe.pause_reading()
            asyncio.get_running_loop().call_later(FLOOD_PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self._pipe is not None and not self._pipe.is_closing():
            self._pipe.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.ended.set()

    def text(self) -> str:
        """What was kept, without what only a terminal understands."""
        text = self._kept.decode(errors="replace")
        return "".join(each for each in text if each == "\n" or each.isprintable()).strip()
