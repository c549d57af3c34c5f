"""One server process: started, watched until it answers, and stopped without leftovers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.controlplane import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

POLL_S = 0.05
TAIL_BYTES = 4000

# Below Linux' ephemeral range (32768 and up): no outgoing connection of anybody can take such a
# port while the server that owns it is being restarted.
PORTS = range(20000, 32000)


class ProcessError(Exception):
    """A server died, or did not become ready in time; the text holds the end of its log."""


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    for port in random.sample(PORTS, 200):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ProcessError(f"no free port among 200 tried between {PORTS.start} and {PORTS.stop}")


class Process:
    """A child process whose output goes to a file.

    The kernel ties a child to the *thread* that started it, so the caller passes one executor
    with a single thread that lives as long as its children may.
    """

    def __init__(self, name: str, argv: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not exited."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id, when it was started."""
        return self._child.pid if self._child is not None else None

    async def start(self, parent: ThreadPoolExecutor) -> None:
        """Start it from the one thread of `parent`; does not wait until it is ready."""
        if self.running:
            raise ProcessError(f"{self.name} is already running")
        await asyncio.get_running_loop().run_in_executor(parent, self._spawn)

    def _spawn(self) -> None:
        shim = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                [*shim, *self._argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop them in order
            )

    async def ready(self, probe: Callable[[], Awaitable[bool]], *, timeout_s: float) -> None:
        """Wait until `probe` says yes.

        Raises:
            ProcessError: it exited, or `timeout_s` passed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not await probe():
                    if not self.running:
                        raise ProcessError(await asyncio.to_thread(self._explain, "died"))
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            what = f"is not ready after {timeout_s:g} s"
            raise ProcessError(await asyncio.to_thread(self._explain, what)) from None

    async def stop(self, sign: signal.Signals = signal.SIGTERM, *, grace_s: float = 5.0) -> None:
        """Signal it and wait until it is gone; after `grace_s` it is killed."""
        if self._child is None:
            return
        child, self._child = self._child, None
        await asyncio.to_thread(_end, child, sign, grace_s)

    def _explain(self, what: str) -> str:
        code = self._child.returncode if self._child is not None else None
        status = "" if code is None else f" (exit status {code})"
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            tail = file.read().decode(errors="replace").strip()
        return f"{self.name} {what}{status}; the end of {self.log}:\n{tail or '(empty)'}"


def _end(child: subprocess.Popen[bytes], sign: signal.Signals, grace_s: float) -> None:
    child.send_signal(sign)
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
