"""One thread that starts processes, and stays as it is while the others step behind.

On Linux a nice value belongs to a thread, and a process has that of the thread which started it; priority once given up is not given
back. And a process that asked for it (``PR_SET_PDEATHSIG``) is killed when the *thread* that started it ends, see prctl(2).
So the thread waits for each of its processes itself: it cannot end before them, and none is left unreaped, whatever becomes of
the one who asked for it.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Self

Tell = Callable[[Callable[[], object]], None]
"""Has something done by the loop."""


class Spawned:
    """A process: lived through by the thread, owned by the loop.

    Args:
        command: what to run.
        stdin: its end of a socket pair.
        passed: sockets that it has under the same numbers.
        environment: all of it.
    """

    def __init__(
        self,
        command: Sequence[str | bytes],
        stdin: socket.socket,
        passed: Sequence[socket.socket],
        environment: Mapping[str, str],
    ) -> None:
        self._command = command
        self._stdin = stdin
        self._passed = passed
        self._environment = environment
        self._lock = threading.Lock()
        """Held while it is reaped or killed: a process that was reaped has lost its number to the next one."""
        self._unwanted = False
        self.pid: int | None = None
        self.returncode: int | None = None
        """Less than 0: the signal that ended it."""
        self.error: Exception | None = None
        """Why there is no process."""
        self.begun = asyncio.Event()
        """There is a process, or an error."""
        self._ended = asyncio.Event()

    async def wait(self) -> None:
        """Until it has ended and is reaped."""
        await self._ended.wait()

    def kill(self) -> None:
        """End it at once, also where it is only about to start; nothing where it has ended."""
        with self._lock:
            self._unwanted = True
            self._kill()

    def live(self, tell: Tell) -> None:
        """Start it, and return when it has ended. For the thread."""
        try:
            process = self._start()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            self.error = error
            process = None
        tell(self.begun.set)
        if process is not None:
            # Where SIGCHLD is ignored, an ended process leaves nothing.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                self.returncode = process.wait()
            tell(self._ended.set)

    def _start(self) -> subprocess.Popen[bytes] | None:
        """The process; ``None``: nobody wants it any more.

        Raises:
            OSError: it cannot be started.
        """
        try:
            if self._unwanted:
                return None
            process = subprocess.Popen(  # noqa: S603 - the command is ours
                self._command,
                bufsize=0,
                stdin=self._stdin.fileno(),
                pass_fds=[each.fileno() for each in self._passed],
                env=self._environment,
            )
        finally:
            for each in (self._stdin, *self._passed):
                each.close()
        with self._lock:
            self.pid = process.pid
            if self._unwanted:
                self._kill()
        return process

    def _kill(self) -> None:
        if self.pid is not None and self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it left nothing
                os.kill(self.pid, signal.SIGKILL)


class Spawner:
    """The thread, while this is entered: one process at a time. It has the priority of who enters."""

    def __init__(self) -> None:
        self.thread_id: int | None = None
        """The kernel's number for it."""

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._orders: SimpleQueue[Spawned | None] = SimpleQueue()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="extender-spawner", daemon=True)
        self._thread.start()
        self.thread_id = self._thread.native_id
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait until its process has ended, and end the thread. Where this is cancelled, it does the same by itself."""
        self._orders.put(None)
        await self._done.wait()
        self._thread.join()

    async def start(
        self,
        command: Sequence[str | bytes],
        *,
        stdin: socket.socket,
        passed: Sequence[socket.socket],
        environment: Mapping[str, str],
    ) -> Spawned:
        """A new process, as ``Spawned`` says.

        The sockets are closed here, whatever comes of it; not before it has them, as their numbers could be another file's by then.

        Raises:
            OSError: it cannot be started.
        """
        spawned = Spawned(command, stdin, passed, environment)
        self._orders.put(spawned)
        try:
            await spawned.begun.wait()
        except asyncio.CancelledError:
            spawned.kill()
            raise
        if spawned.error is not None:
            raise spawned.error
        return spawned

    def _work(self) -> None:
        while (spawned := self._orders.get()) is not None:
            spawned.live(self._tell)
        self._tell(self._done.set)

    def _tell(self, what: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            self._loop.call_soon_threadsafe(what)
