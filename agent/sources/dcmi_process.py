"""The parent's handle on the process that calls DCMI (``dcmi_child``): requests, answers, signals, its last words."""

import asyncio
import contextlib
import mmap
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self, cast

import msgspec

from agent.sources import dcmi_wire as wire

DIAL_BYTES = 64
LONGEST_LINE_BYTES = 1 << 20
_CHILD = Path(__file__).with_name("dcmi_child")


class ChildEndedError(Exception):
    """The child ended before it answered."""


class DcmiChild(asyncio.SubprocessProtocol):
    """One child process, as the parent sees it. One request is under way at a time."""

    def __init__(
        self, on_event: Callable[["DcmiChild", wire.Happened], None], dial: mmap.mmap
    ) -> None:
        loop = asyncio.get_running_loop()
        self.started_at = loop.time()
        self.busy_since: float | None = None
        """Loop time of the request that is not answered yet."""
        self.ready = False
        self.unavailable: wire.Unavailable | None = None
        """Why DCMI cannot be used, once the child has said so."""
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done when the process is gone and all it said has been read."""
        self._on_event = on_event
        self._dial = dial
        self._transport: asyncio.SubprocessTransport | None = None
        self._request = 0
        self._answer: asyncio.Future[wire.Sample] | None = None
        self._unread = b""
        self._complaint = b""

    @classmethod
    async def start(
        cls,
        on_event: Callable[["DcmiChild", wire.Happened], None],
        library: str,
        environment: Mapping[str, str],
    ) -> Self:
        """Start one. It is not ready yet, but may be asked.

        Raises:
            OSError: no process can be started.
        """
        descriptor = os.memfd_create("fleetmedic-dcmi-dial")
        try:
            os.truncate(descriptor, DIAL_BYTES)
            child = cls(on_event, mmap.mmap(descriptor, DIAL_BYTES))
            arguments = (_CHILD, str(os.getpid()), str(descriptor), library)
            await asyncio.get_running_loop().subprocess_exec(
                lambda: child,
                *(sys.executable, "-I", "-S", *arguments),
                pass_fds=(descriptor,),
                env=environment,
            )
        finally:
            os.close(descriptor)
        return child

    @property
    def pid(self) -> int:
        """Process id; 0 before the start."""
        return (self._transport.get_pid() or 0) if self._transport else 0

    @property
    def call(self) -> tuple[str, wire.Place | None]:
        """The DCMI call that it is in, empty when in none, and the chip that it is about."""
        return ("", None) if self._dial.closed else wire.dialled(self._dial[:])

    @property
    def last_words(self) -> str:
        """How it ended, and the last line that it wrote about it."""
        code = (self._transport.get_returncode() or 0) if self._transport else 0
        how = (
            f"was ended by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with status {code}"
        )
        lines = self._complaint.decode(errors="replace").strip().splitlines()
        return f"the DCMI process {how}" + (f": {lines[-1]}" if lines else "")

    async def ask(self, until: float, avoided: Iterable[wire.Place] = ()) -> wire.Sample:
        """One sample, by this loop time, without the chips to leave alone.

        Raises:
            TimeoutError: no answer yet; ``busy_since`` stays set until it comes, and then it is thrown away.
            ChildEndedError: the child ended.
        """
        loop = asyncio.get_running_loop()
        if self.ended.done() or self._transport is None:
            raise ChildEndedError
        self._request += 1
        self.busy_since = loop.time()
        self._answer = loop.create_future()
        stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        words = (str(self._request), *(f"{card}:{chip}" for card, chip in avoided))
        stdin.write(f"{' '.join(words)}\n".encode())
        async with asyncio.timeout_at(until):
            return await self._answer

    def finish(self) -> None:
        """Ask it to end; it does, also while a call hangs, unless it hangs in the kernel."""
        if self._transport is not None and (stdin := self._transport.get_pipe_transport(0)):
            stdin.close()

    def terminate(self) -> None:
        """SIGTERM."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._transport is not None and not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._transport.send_signal(number)

    def let_go(self) -> None:
        """Close our ends of what we share with it, whatever becomes of it."""
        self._dial.close()
        if self._transport is not None:
            self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process runs."""
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """It wrote something."""
        if fd != 1:
            self._complaint = (self._complaint + data)[-4096:]
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        try:
            for line in lines:
                self._take(wire.decode(line))
        except msgspec.DecodeError as error:
            self._complaint += f"\nan answer that cannot be read: {error}\n".encode()
            self.kill()
        if len(self._unread) > LONGEST_LINE_BYTES:
            self._complaint += b"\nan answer without end\n"
            self.kill()

    def _take(self, frame: wire.Frame) -> None:
        match frame:
            case wire.Sample():
                self.busy_since = None
                if self._answer and not self._answer.done() and frame.request == self._request:
                    self._answer.set_result(frame)
            case wire.Happened():
                self._on_event(self, frame)
            case wire.Ready():
                self.ready = True
            case wire.Unavailable():
                self.unavailable = frame

    def connection_lost(self, exc: Exception | None) -> None:
        """The process is gone and its pipes are read to the end."""
        del exc
        self.let_go()
        self.busy_since = None
        if self._answer and not self._answer.done():
            self._answer.set_exception(ChildEndedError())
        if not self.ended.done():
            self.ended.set_result(None)


async def end_all(children: Iterable[DcmiChild]) -> None:
    """End them: by end of file, then SIGTERM, then SIGKILL; within a second, whatever they do."""
    left = list(children)
    steps = ((DcmiChild.finish, 0.3), (DcmiChild.terminate, 0.15), (DcmiChild.kill, 0.25))
    try:
        for step, patience in steps:
            for child in left:
                step(child)
            if left:
                await asyncio.wait([child.ended for child in left], timeout=patience)
            left = [child for child in left if not child.ended.done()]
    finally:
        for child in left:
            child.kill()
            child.let_go()
