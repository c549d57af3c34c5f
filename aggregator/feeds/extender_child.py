"""The process that answers the scheduler: a copy of the scores, a port, and nothing else.

``python -m aggregator.feeds.extender_child SETTINGS`` is started by the aggregator, which holds the other end of its stdin, a
socket. It knows no cluster, no agents and no files, and is as small as a process with numpy can be. It ends when that socket does, and
with the aggregator, so that the port is never open without somebody who keeps the scores true.
"""

import asyncio
import ctypes
import gc
import itertools
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

import msgspec

from aggregator.feeds.extender import MAX_BODY_BYTES, VERBS, Extender, Question
from aggregator.feeds.extender_counts import Counts
from aggregator.feeds.extender_fleet import FleetReplies
from aggregator.feeds.extender_frames import (
    HEADER_BYTES,
    Report,
    Serving,
    Update,
    Wanted,
    Word,
    body_bytes,
    framed,
    read_update,
)
from aggregator.feeds.extender_http import Reply, Server
from aggregator.feeds.extender_mirror import Mirror
from aggregator.feeds.extender_turns import go_first
from aggregator.scores.terms import Newcomer

WAIT_SECONDS = 0.25
"""For scores that are not here yet; then the scores without a pod in hand are answered."""

RENEW_SECONDS = 2.0
"""Between two words that a pod is still asked for."""

COUNT_SECONDS, QUIET_TURNS = 0.2, 5
"""Between two reports of what was counted; so many of them later, where nothing was."""

MAX_UNSENT_BYTES = 64 << 10
"""Towards the aggregator; where it does not read, nothing more is said."""

MAX_WAITING = 1_000
"""Questions that wait for scores; more are answered without."""

_PR_SET_PDEATHSIG = 1

Say = Callable[[Word], bool]
"""Tells the aggregator; ``False``: it does not listen."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the aggregator gives along."""

    listening: list[int]
    """Sockets that are bound, by file descriptor."""
    scale: int
    stale_after_seconds: float


class Desk:
    """Takes questions, and keeps those whose scores are not here for a moment.

    Args:
        mirror: the scores.
        extender: answers from them.
        fleet: its answers that are ready.
        counts: what is counted.
        say: tells the aggregator.
    """

    def __init__(
        self, mirror: Mirror, extender: Extender, fleet: FleetReplies, counts: Counts, say: Say
    ) -> None:
        self._mirror = mirror
        self._extender = extender
        self._fleet = fleet
        self._preparing = False
        self._counts = counts
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[Newcomer, float] = {}
        """When the aggregator was last told that a pod is asked for."""
        self._waiting: dict[Newcomer, list[Callable[[], None]]] = {}
        self.told: asyncio.Future[None] = self._loop.create_future()
        """Done once the aggregator told anything."""

    def ask(self, path: str, body: bytes | bytearray | None, reply: Reply) -> None:
        """One request."""
        started = time.perf_counter()
        question = self._extender.read(VERBS[path], body)
        answer = partial(self._answer, question, reply, started)
        pod = question.needs
        if pod is None:
            answer()
            return
        self._renew(pod)
        if self._mirror.array(pod) is not None or self._is_full():
            answer()
            return
        self._waiting.setdefault(pod, []).append(answer)
        if len(self._waiting[pod]) == 1:
            self._loop.call_later(WAIT_SECONDS, self._answer_all, pod)

    def _is_full(self) -> bool:
        return sum(map(len, self._waiting.values())) >= MAX_WAITING

    def take(self, update: Update) -> None:
        """The mirror was told this."""
        if not self.told.done():
            self.told.set_result(None)
        for pod in update.dropped:
            self._wanted.pop(pod, None)
        if update.scores is not None:
            self._answer_all(update.scores[0])
        if not self._preparing:
            self._prepare()

    def _prepare(self) -> None:
        """One answer after the other, so that no question waits for more than one."""
        self._preparing = False
        if self._fleet.prepare():
            self._preparing = True
            self._loop.call_soon(self._prepare)

    def _answer_all(self, pod: Newcomer) -> None:
        """Those who wait for this pod's scores have them now, or waited long enough."""
        for answer in self._waiting.pop(pod, ()):
            answer()

    def _answer(self, question: Question, reply: Reply, started: float) -> None:
        body = self._extender.reply(question)
        self._counts.extender_seconds.observe(time.perf_counter() - started)
        reply(body)
        self._extender.look_at_names(question)

    def _renew(self, pod: Newcomer) -> None:
        now = self._loop.time()
        if now - self._wanted.get(pod, -RENEW_SECONDS) >= RENEW_SECONDS and self._say(Wanted(pod)):
            self._wanted[pod] = now


async def serve(settings: Settings) -> None:
    """Answer until the aggregator is gone."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=sys.stdin.fileno()))
    mirror, counts = Mirror(), Counts()
    fleet = FleetReplies(mirror, settings.scale)
    extender = Extender(
        mirror,
        counts,
        clock=time.time,
        scale=settings.scale,
        stale_after_seconds=settings.stale_after_seconds,
        fleet=fleet,
    )
    say = partial(_say, writer)
    desk = Desk(mirror, extender, fleet, counts, say)
    server = Server(desk.ask, VERBS, max_body_bytes=MAX_BODY_BYTES, keep=lambda: mirror.leading)
    followed = asyncio.create_task(_follow(reader, mirror, desk, server))
    beside = [asyncio.create_task(server.sweep()), asyncio.create_task(_report(counts, say))]
    try:
        await asyncio.wait([followed, desk.told], return_when=asyncio.FIRST_COMPLETED)
        for descriptor in settings.listening:
            await loop.create_server(server.accept, sock=socket.socket(fileno=descriptor))
        say(Serving())
        gc.freeze()
        await followed
    finally:
        for task in beside:
            task.cancel()


async def _follow(reader: asyncio.StreamReader, mirror: Mirror, desk: Desk, server: Server) -> None:
    """Take in what the aggregator tells, until it ends."""
    while True:
        try:
            header = await reader.readexactly(HEADER_BYTES)
            update = read_update(await reader.readexactly(body_bytes(header)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        mirror.apply(update)
        desk.take(update)
        if update.leading is False:
            server.close_idle()


async def _report(counts: Counts, say: Say) -> None:
    """Send home what was counted, and that we live, until cancelled."""
    for turn in itertools.count():
        await asyncio.sleep(COUNT_SECONDS)
        if (counts.any or turn % QUIET_TURNS == 0) and say(Report(counts.seen())):
            counts.clear()


def _say(writer: asyncio.StreamWriter, word: Word) -> bool:
    if writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
        return False
    writer.write(framed(word))
    return True


def main() -> int:
    """Serve as the one argument says."""
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    # The aggregator gets the same signals and ends us; so that answers go on until it does.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    go_first()
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
