"""The extender in a process of its own, as the aggregator sees it: started, told the scores, and started anew when it ends.

A pod that is to be placed then waits neither for a round of decisions nor for the reports of thousands of nodes. The port belongs to
that process alone: it is closed when the process ends, so a scheduler goes on without us at once.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec
import structlog

from aggregator.config import ENV_PREFIX
from aggregator.feeds.extender_child import Settings
from aggregator.feeds.extender_counts import Counted
from aggregator.feeds.extender_frames import (
    HEADER_BYTES,
    Serving,
    Wanted,
    body_bytes,
    framed,
    read_word,
)
from aggregator.feeds.extender_publication import Publication
from aggregator.feeds.extender_scale import DEFAULT_SCALE
from aggregator.feeds.extender_spawn import Spawned, Spawner
from aggregator.feeds.extender_turns import step_behind
from aggregator.scores.book import ScoreBook
from aggregator.scores.model import STALE_AFTER_SECONDS
from aggregator.stats import AggregatorStats
from contract.process import split_address

log = structlog.get_logger("extender")

CHILD = "aggregator.feeds.extender_child"

PUSH_SECONDS = 0.02
"""Between two looks at what changed: the pods of a moment go together."""

MAX_PUSHING_SHARE = 0.1
"""Most of the loop's time that working out what to tell may take …"""
MAX_URGENT_SHARE = 0.5
"""… and while kinds of pod are asked about that nobody asked about before: one takes 6 ms with 5,000 nodes."""

STALL_SECONDS = 5.0
"""After which a process that does not read is ended."""

LOOK_SECONDS, MISSED_LOOKS, MISSED_AT_START = 1.0, 5, 30
"""It says something every second; after so many looks without a word it is ended."""

STOP_SECONDS = 2.0

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.1, 30.0
"""Before it is started anew; doubled each time."""

STEADY_SECONDS = 60.0
"""After which a process that ends is the first one again."""

OWN_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}
"""numpy would start a thread per core, for arrays of a few thousand numbers. And the C library would give the memory of a question about 5,000
nodes back after each answer, to ask for it again: 53 page faults each time."""


class ExtenderProcess:
    """One per aggregator. One owner: the event loop.

    Args:
        book: the scores.
        stats: what is counted there is added up here.
        listen: ``address:port``; port 0: any.
        leading: whether agents report to this process.
        scale: as for ``Extender``, as is the next one.
        stale_after_seconds: how old the scores may be.
        behind: whether this process may let that one go first (``extender_turns``), for good.
    """

    def __init__(
        self,
        book: ScoreBook,
        stats: AggregatorStats,
        listen: str,
        *,
        leading: Callable[[], bool] = lambda: True,
        scale: int = DEFAULT_SCALE,
        stale_after_seconds: float = STALE_AFTER_SECONDS,
        behind: bool = False,
    ) -> None:
        self._book = book
        self._stats = stats
        self._host, self.port = split_address(listen)
        self._leading = leading
        self._scale = scale
        self._stale_after_seconds = stale_after_seconds
        self._behind = behind
        self._spawner = Spawner()
        self._sockets: list[socket.socket] = []
        """Bound, and not given to a process yet."""
        self._wake = asyncio.Event()
        self.started = asyncio.Event()
        """Set while the port is open; ``port`` is the one really bound then."""
        self.pid: int | None = None
        self._missed = 0
        """Looks since it last said anything."""

    async def bind(self) -> None:
        """Take the port, which nobody listens on yet; ``run`` does so where it was not done before.

        Raises:
            OSError: the address cannot be used.
        """
        self._sockets = await _bound(self._host, self.port)
        self.port = self._sockets[0].getsockname()[1]

    async def run(self) -> None:
        """Keep such a process until cancelled.

        Raises:
            OSError: the address cannot be used.
        """
        if not self._sockets:
            await self.bind()
        sockets, self._sockets = self._sockets, []
        async with self._spawner:
            await self._keep(sockets)

    async def _keep(self, sockets: list[socket.socket]) -> None:
        """One process after the other, until cancelled."""
        loop = asyncio.get_running_loop()
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            began = loop.time()
            try:
                why = await self._live(sockets)
            except OSError as error:
                why = str(error)
            finally:
                self.started.clear()
            if loop.time() - began > STEADY_SECONDS:
                pause_seconds = FIRST_PAUSE_SECONDS
            self._stats.extender_restarts_total += 1
            sockets = await self._bound_again(why, pause_seconds)
            pause_seconds = min(LAST_PAUSE_SECONDS, pause_seconds * 2)

    async def _bound_again(self, why: str, pause_seconds: float) -> list[socket.socket]:
        """The same port once more, as soon as it can be had."""
        while True:
            log.warning(
                "the extender's process is started anew", why=why, pause_seconds=pause_seconds
            )
            await asyncio.sleep(pause_seconds)
            try:
                return await _bound(self._host, self.port)
            except OSError as error:
                self._stats.extender_restarts_total += 1
                why = str(error)
                pause_seconds = min(LAST_PAUSE_SECONDS, pause_seconds * 2)

    async def _live(self, sockets: list[socket.socket]) -> str:
        """One process, from its start to its end; why it ended."""
        async with self._process(sockets) as (process, reader, writer):
            publication = Publication(self._book)
            self.pid = process.pid
            tasks = [
                asyncio.create_task(self._publish(publication, writer), name="publish"),
                asyncio.create_task(self._listen(publication, reader), name="listen"),
                asyncio.create_task(self._watch(), name="watch"),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                why = [_words(task.exception()) for task in done]
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return f"{why[0]} (exit code {process.returncode})"

    @asynccontextmanager
    async def _process(
        self, sockets: list[socket.socket]
    ) -> AsyncIterator[tuple[Spawned, asyncio.StreamReader, asyncio.StreamWriter]]:
        """A new process, and the two ways to talk with it. It is gone when this is left."""
        ours, theirs = socket.socketpair()
        settings = Settings(
            listening=[each.fileno() for each in sockets],
            scale=self._scale,
            stale_after_seconds=self._stale_after_seconds,
        )
        try:
            process = await self._spawner.start(
                (sys.executable, "-m", CHILD, msgspec.json.encode(settings)),
                stdin=theirs,
                passed=sockets,
                environment=_environment(os.environ),
            )
        except BaseException:
            ours.close()
            raise
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                yield process, reader, writer
            finally:
                writer.transport.abort()
        finally:
            await _ended(process)

    async def _publish(self, publication: Publication, writer: asyncio.StreamWriter) -> None:
        """Tell what changed, until cancelled.

        Raises:
            TimeoutError: nobody reads.
            ConnectionError: nobody is there.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            spent = 0.0
            updates = publication.updates(loop.time(), leading=self._leading())
            while (began := loop.time()) and (update := next(updates, None)) is not None:
                writer.write(framed(update))
                spent += loop.time() - began
                async with asyncio.timeout(STALL_SECONDS):
                    await writer.drain()
                await asyncio.sleep(0)  # the others have their turn
            pause = max(PUSH_SECONDS, spent * (1 / MAX_PUSHING_SHARE - 1))
            at_least = spent * (1 / MAX_URGENT_SHARE - 1)
            await asyncio.sleep(at_least)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause - at_least):
                    await self._wake.wait()

    async def _listen(self, publication: Publication, reader: asyncio.StreamReader) -> None:
        """Take what it says, until cancelled.

        Raises:
            IncompleteReadError: it is gone.
        """
        loop = asyncio.get_running_loop()
        while True:
            header = await reader.readexactly(HEADER_BYTES)
            word = read_word(await reader.readexactly(body_bytes(header)))
            self._missed = 0
            if isinstance(word, Wanted):
                if publication.want(word.pod, loop.time()):
                    self._wake.set()
            elif isinstance(word, Serving):
                if self._behind:
                    step_behind(self._spawner.thread_id)
                self.started.set()
            else:
                add_up(self._stats, word.counted)

    async def _watch(self) -> None:
        """See that it lives, until cancelled. Looks are counted, not time: it may be ourselves who stood still.

        Raises:
            TimeoutError: it says nothing.
        """
        self._missed = 0
        while self._missed < (MISSED_LOOKS if self.started.is_set() else MISSED_AT_START):
            await asyncio.sleep(LOOK_SECONDS)
            self._missed += 1
        raise TimeoutError


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What a Python process needs; our own settings, which may hold a webhook's secret, stay here."""
    kept = {name: value for name, value in ours.items() if not name.startswith(ENV_PREFIX)}
    return {**kept, **OWN_ENVIRONMENT}


def add_up(stats: AggregatorStats, counted: Counted) -> None:
    """What that process counted, as if it had been counted here."""
    for tally, part in (
        (stats.extender_requests, counted.requests),
        (stats.extender_answers, counted.answers),
        (stats.extender_passed_over, counted.passed_over),
    ):
        for key, count in part.items():
            tally.add(key, count)
    for place, count in enumerate(counted.seconds_counts):
        stats.extender_seconds.counts[place] += count
    stats.extender_seconds.sum += counted.seconds_sum
    stats.extender_unknown_nodes_total += counted.unknown_nodes
    stats.extender_ready_total += counted.ready
    stats.extender_errors_total += counted.errors


async def _bound(host: str, port: int) -> list[socket.socket]:
    """Sockets that hold the port and do not listen yet: until the process does, a client is refused at once.

    Raises:
        OSError: the address cannot be used.
    """
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, host or None, port, start_serving=False)
    sockets = [socket.socket(fileno=os.dup(each.fileno())) for each in server.sockets]
    server.close()
    return sockets


async def _ended(process: Spawned) -> None:
    """It was told by the end of its stdin; it is ended where it does not go by itself."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    except asyncio.CancelledError:
        process.kill()  # the spawner waits for it
        raise


def _words(error: BaseException | None) -> str:
    if isinstance(error, asyncio.IncompleteReadError | ConnectionError):
        return "it ended"
    if isinstance(error, TimeoutError):
        return "it stood still"
    return f"{type(error).__name__}: {error}"
