"""NVIDIA GPUs through NVML, read by a child process that can be left behind.

NVML calls hang for minutes when a GPU dies, in the kernel where no signal reaches them. So nothing in this process
calls NVML: a child does (``nvml_child``, held by ``nvml_process.py``), is asked over pipes and given a deadline,
and is replaced when it does not come back. What must survive a replacement (which GPUs this node has) lives here.
"""

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from agent.snapshot import Gpu
from agent.sources import (
    Emit,
    Reading,
    SourceAbsentError,
    SourceError,
    SourceFailingError,
    SourceStuckError,
)
from agent.sources import nvml_wire as wire
from agent.sources.nvml_process import ChildEndedError, NvmlChild, end_all
from agent.sources.nvml_roll import Roll

LONGEST_BACKOFF_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""A child that answers for so long has left the trouble of those before it behind."""
MOST_ABANDONED = 2


class NvidiaSource:
    """The NVIDIA GPUs of this node. One reader at a time.

    Args:
        emit: takes XID and ECC events the moment they come.
        clock: Unix time in seconds.
        random: 0..1, spreads restarts over a fleet.
        expected: GPUs that this node should have; those that NVML does not list are reported lost.
        deadline_seconds: how long one reading may take.
        kill_after_seconds: how long a child may leave a request unanswered before it is replaced.
        absent_retry_seconds: how often to look whether a driver has come.
        backoff_seconds: pause before the first replacement; doubles up to a minute.
        reopen_seconds: while a GPU is lost or waits for a reset, how often to start NVML afresh beside the running
            one, which is the only way in which NVML lists a GPU again.
        environment: variables for the child, over this process's own; ``LD_LIBRARY_PATH`` says where the driver's
            library is, where the dynamic loader would not find it.
    """

    def __init__(
        self,
        *,
        emit: Emit,
        clock: Callable[[], float],
        random: Callable[[], float],
        expected: Iterable[Gpu] = (),
        deadline_seconds: float = 0.8,
        kill_after_seconds: float = 30.0,
        absent_retry_seconds: float = 60.0,
        backoff_seconds: float = 1.0,
        reopen_seconds: float = 300.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._random = random
        self._deadline_seconds = deadline_seconds
        self._kill_after_seconds = kill_after_seconds
        self._absent_retry_seconds = absent_retry_seconds
        self._backoff_seconds = backoff_seconds
        self._reopen_seconds = reopen_seconds
        self._environment = {**os.environ, **(environment or {})}
        spec = importlib.util.find_spec("pynvml")
        self._library_folder = str(Path(spec.origin).parent) if spec and spec.origin else ""
        self._roll = Roll(expected)
        self._child: NvmlChild | None = None
        self._fresh: NvmlChild | None = None
        self._abandoned: list[NvmlChild] = []
        self._outcome: SourceError | Reading = SourceFailingError("NVML was not started yet")
        self._retry_at = 0.0
        self._reopened_at = 0.0
        self._failures = 0
        self._sequence = 0
        self._closed = False

    @property
    def name(self) -> str:
        """``nvidia``."""
        return "nvidia"

    @property
    def child_pids(self) -> tuple[int, ...]:
        """Processes that are this source's and not known to have ended."""
        own = (self._child, self._fresh, *self._abandoned)
        return tuple(child.pid for child in own if child and not child.ended.done())

    async def read(self) -> Reading:
        """Ask the child; start or replace it where there is none, or none of use.

        Raises:
            SourceAbsentError: no driver, or no GPU, and none known to have been here.
            SourceFailingError: NVML refuses, with its code and what helps, or its process died.
            SourceStuckError: no answer by the deadline, naming the call.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._deadline_seconds
        self._reap()
        child = self._child or await self._next_child()
        if child is None:
            return self._again()
        if child.busy_since is not None:
            raise self._stuck(child)
        try:
            sample = await child.ask(until)
        except TimeoutError:
            raise self._stuck(child) from None
        except ChildEndedError:
            self._reap()
            return self._again()
        gpus = self._roll.call(sample.gpus)
        if loop.time() - child.started_at >= STEADY_SECONDS:
            self._failures = 0
        if any(gpu.lost or gpu.reset_required for gpu in gpus):
            await self._reopen(child)
        return Reading(driver_version=sample.driver, gpus=gpus)

    async def close(self) -> None:
        """End every child; within a second, whatever they do."""
        self._closed = True
        self._outcome = SourceFailingError("the NVIDIA source is closed")
        left = [child for child in (self._child, self._fresh, *self._abandoned) if child]
        self._child = self._fresh = None
        self._abandoned = []
        await end_all(left)

    def _again(self) -> Reading:
        """What there is to say while there is no child."""
        if isinstance(self._outcome, Reading):
            return self._outcome
        raise type(self._outcome)(str(self._outcome))

    def _reap(self) -> None:
        """Take note of children that have ended since."""
        self._abandoned = [child for child in self._abandoned if not child.ended.done()]
        child, fresh = self._child, self._fresh
        oldest = asyncio.get_running_loop().time() - self._kill_after_seconds
        if fresh and fresh.ended.done():
            self._fresh = None
        elif fresh and child and fresh.ready:
            self._abandon(child)
            self._child, self._fresh = fresh, None
        elif fresh and fresh.started_at <= oldest:
            self._abandon(fresh)
            self._fresh = None
        if child and child.ended.done() and child is self._child:
            self._child = None
            self._ended(child)

    def _ended(self, child: NvmlChild) -> None:
        """Decide what to say and when to try again, after a child that ended by itself."""
        if not child.unavailable:
            self._back_off(SourceFailingError(child.last_words))
            return
        error = wire.reason(child.unavailable, len(self._roll))
        if child.unavailable == "GPU_NOT_FOUND" and len(self._roll):
            self._back_off(Reading(gpus=self._roll.call(())))
        elif isinstance(error, SourceAbsentError):
            self._back_off(error, self._absent_retry_seconds)
        else:
            self._back_off(error)

    def _back_off(self, outcome: SourceError | Reading, seconds: float = 0.0) -> None:
        """Say this until then: the seconds given, else longer after each failure."""
        if not seconds:
            seconds = min(self._backoff_seconds * 2**self._failures, LONGEST_BACKOFF_SECONDS)
            self._failures = min(self._failures + 1, 16)
        self._outcome = outcome
        self._retry_at = asyncio.get_running_loop().time() + seconds * (0.5 + self._random() / 2)

    def _stuck(self, child: NvmlChild) -> SourceStuckError:
        """The reason, now; a child that has been silent for too long is replaced."""
        silent = asyncio.get_running_loop().time() - (child.busy_since or 0.0)
        process = "the NVML process" if child.ready else "the start of the NVML process"
        text = f"{child.call or process} has not answered for {silent:.1f} s"
        if silent < self._kill_after_seconds:
            return SourceStuckError(text)
        self._child = None
        self._abandon(child)
        error = SourceStuckError(f"{text}; its process was told to end")
        self._back_off(error)
        return error

    def _abandon(self, child: NvmlChild) -> None:
        child.kill()
        self._abandoned.append(child)

    async def _next_child(self) -> NvmlChild | None:
        """A new child, if it is time for one."""
        if self._closed:
            return None
        if not self._library_folder:
            raise SourceAbsentError("the Python package nvidia-ml-py is not installed")
        if asyncio.get_running_loop().time() < self._retry_at:
            return None
        if len(self._abandoned) >= MOST_ABANDONED:
            pids = ", ".join(str(child.pid) for child in self._abandoned)
            raise SourceStuckError(
                f"NVML processes hang in the kernel and cannot be killed (pids {pids}); no other is started: "
                "the driver answers nobody any more, reboot the node"
            )
        if self._fresh:
            self._child, self._fresh = self._fresh, None
        else:
            self._child = await self._start()
        return self._child

    async def _start(self) -> NvmlChild:
        try:
            child = await NvmlChild.start(self._on_event, self._library_folder, self._environment)
        except OSError as error:
            self._back_off(SourceFailingError(f"the NVML process cannot be started: {error}"))
            raise SourceFailingError(str(self._outcome)) from error
        if self._closed:
            child.kill()
            self._abandoned.append(child)
        return child

    async def _reopen(self, child: NvmlChild) -> None:
        """While a GPU is lost, prepare a new session beside this one; ``_reap`` changes over once it is ready."""
        now = asyncio.get_running_loop().time()
        due = now >= max(child.started_at, self._reopened_at) + self._reopen_seconds
        if due and self._fresh is None and not self._abandoned:
            self._reopened_at = now
            with contextlib.suppress(SourceFailingError):
                self._fresh = await self._start()

    def _on_event(self, child: NvmlChild, happened: wire.Happened) -> None:
        """Two sessions side by side see the same events: only one speaks."""
        if child is self._fresh:
            return
        now = self._clock()
        self._sequence = max(self._sequence + 1, int(now * 1000))
        self._emit(wire.event(happened, sequence=self._sequence, now=now))
