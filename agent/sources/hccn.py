"""The RoCE side of NPUs through hccn_tool: one run at a time, now and then, never in the way of a reading.

A dead chip can hang the tool in the kernel, where no signal reaches it. So each run has a deadline, and as long as a
killed one still lives no other is started for its chip.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from agent.snapshot.npu import NpuNetwork, Optics
from agent.sources import hccn_text as text

LONGEST_OUTPUT_BYTES = 1 << 18
LOOK_AGAIN_SECONDS = 600.0
"""How often to look for a tool that is not there."""
SLOWEST_SECONDS = 1800.0
"""A question that keeps failing, as on boards without a network, is asked so seldom."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One question to the tool."""

    name: str
    option: str
    read: Callable[[str], Any]
    every_seconds: float
    soon_seconds: float = 0.0
    """Asked again so soon after an answer that tells of new trouble; 0: as always."""
    is_trouble: Callable[[Any], bool] = lambda _: False

    @property
    def longest_age_seconds(self) -> float:
        """An answer older than this counts as not measured."""
        return 2 * self.every_seconds + 60


def _dark(optics: Optics) -> bool:
    low = optics.receive_low_watts
    return optics.present is False or (
        low is not None and any(power < low for power in optics.receive_watts)
    )


QUERIES = (
    Query(
        name="link_up",
        option="-link",
        read=text.link_up,
        every_seconds=30.0,
        soon_seconds=10.0,
        is_trouble=lambda up: not up,
    ),
    Query(name="link_ups_total", option="-link_stat", read=text.link_ups, every_seconds=60.0),
    Query(name="counters", option="-stat", read=text.counters, every_seconds=60.0),
    Query(
        name="optics",
        option="-optical",
        read=text.optics,
        every_seconds=300.0,
        soon_seconds=60.0,
        is_trouble=_dark,
    ),
    Query(
        name="speed_bits_per_second",
        option="-speed",
        read=text.speed_bits_per_second,
        every_seconds=300.0,
    ),
)

NET_HEALTH = Query(
    name="net_health", option="-net_health", read=text.net_health, every_seconds=60.0
)
"""Asked only of chips whose DCMI does not tell it."""


class _Asked(msgspec.Struct):
    """One question about one chip."""

    query: Query
    due: float
    answer: Any = None
    answered_at: float = 0.0
    failures: int = 0
    was_well: bool = False
    """Some answer told of no trouble: a port that nobody wired is not asked more often."""


class HccnTool:
    """Keeps the newest answers of the tool for every chip it was told of.

    Args:
        path: the tool.
        environment: its variables.
        deadline_seconds: how long one run may take.
        queries: what to ask.
        patience_seconds: how long a killed run may take to go.
        spread_seconds: between two first questions, so that they do not come due together ever after.
    """

    def __init__(
        self,
        path: str,
        *,
        environment: Mapping[str, str] | None = None,
        deadline_seconds: float = 5.0,
        queries: tuple[Query, ...] = QUERIES,
        patience_seconds: float = 0.5,
        spread_seconds: float = 0.25,
    ) -> None:
        self._path = path
        self._environment = {**os.environ, **(environment or {})}
        self._deadline_seconds = deadline_seconds
        self._queries = queries
        self._patience_seconds = patience_seconds
        self._spread_seconds = spread_seconds
        self._chips: dict[int, list[_Asked]] = {}
        self._left_behind: dict[int, tuple[asyncio.SubprocessTransport, _Run]] = {}
        self._overran = False
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def watch(self, chips: Iterable[int], *, net_health_of: Iterable[int] = ()) -> None:
        """Ask about these chips from now on, by physical id.

        Args:
            chips: all of them.
            net_health_of: those of them whose network health is asked for too.
        """
        extra = set(net_health_of)
        wanted = {chip: len(self._queries) + (chip in extra) for chip in chips}
        if {chip: len(asked) for chip, asked in self._chips.items()} == wanted:
            return
        now = asyncio.get_running_loop().time()
        chips_now: dict[int, list[_Asked]] = {}
        for place, chip in enumerate(sorted(wanted)):
            queries = (*self._queries, NET_HEALTH) if chip in extra else self._queries
            before = {asked.query.name: asked for asked in self._chips.get(chip, ())}
            chips_now[chip] = [
                before.get(query.name)
                or _Asked(query, now + self._spread_seconds * (place * len(queries) + turn))
                for turn, query in enumerate(queries)
            ]
        self._chips = chips_now
        self._changed.set()
        if self._task is None and chips_now:
            self._task = asyncio.get_running_loop().create_task(self._ask_for_ever())

    def network(self, chip: int) -> NpuNetwork | None:
        """The newest answers about a chip, without those that are too old."""
        now = asyncio.get_running_loop().time()
        fresh = [
            asked
            for asked in self._chips.get(chip, ())
            if asked.answer is not None
            and asked.query is not NET_HEALTH
            and now - asked.answered_at <= asked.query.longest_age_seconds
        ]
        if not fresh:
            return None
        return NpuNetwork(
            age_seconds=round(max(now - asked.answered_at for asked in fresh), 3),
            **{asked.query.name: asked.answer for asked in fresh},
        )

    def net_health(self, chip: int) -> int | None:
        """The newest network health of a chip that was asked for it."""
        now = asyncio.get_running_loop().time()
        for asked in self._chips.get(chip, ()):
            if asked.query is NET_HEALTH and asked.answer is not None:
                fresh = now - asked.answered_at <= NET_HEALTH.longest_age_seconds
                return int(asked.answer) if fresh else None
        return None

    def hangs(self, chip: int) -> str:
        """Why nothing more is asked about a chip; empty where it is."""
        transport, _ = self._left_behind.get(chip, (None, None))
        if transport is None or transport.get_returncode() is not None:
            return ""
        return f"hccn_tool hangs in the kernel and cannot be killed (pid {transport.get_pid()})"

    async def close(self) -> None:
        """Stop asking; what runs is killed, and waited for only for a moment."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        left = list(self._left_behind.values())
        self._left_behind = {}
        for transport, _ in left:
            _kill(transport)
        if left:
            await asyncio.wait([run.ended for _, run in left], timeout=self._patience_seconds)
        for transport, _ in left:
            transport.close()
        self._chips = {}

    async def _ask_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            turns = [
                (asked.due, chip, asked) for chip, all_ in self._chips.items() for asked in all_
            ]
            due, chip, asked = min(
                turns, key=lambda turn: turn[0], default=(loop.time() + 60, -1, None)
            )
            if due > loop.time():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._changed.wait()
                continue
            if asked is not None:
                await self._ask(chip, asked)

    async def _ask(self, chip: int, asked: _Asked) -> None:
        loop = asyncio.get_running_loop()
        query = asked.query
        if self.hangs(chip):
            asked.due = loop.time() + query.every_seconds
            return
        self._left_behind.pop(chip, None)
        try:
            output = await self._run(chip, query.option)
        except OSError:
            for each in (each for all_ in self._chips.values() for each in all_):
                each.due = loop.time() + LOOK_AGAIN_SECONDS
            return
        answer = None if output is None else query.read(output)
        now = loop.time()
        if output is None and self._overran:
            for each in self._chips.get(chip, ()):  # the others would hang too, one deadline each
                each.due = max(each.due, now + each.query.every_seconds)
        if answer is None:
            asked.failures += 1
            wait = min(query.every_seconds * 2 ** min(asked.failures - 1, 10), SLOWEST_SECONDS)
            asked.due = now + wait
            return
        asked.answer, asked.answered_at, asked.failures = answer, now, 0
        trouble = query.is_trouble(answer)
        soon = query.soon_seconds and trouble and asked.was_well
        asked.was_well = asked.was_well or not trouble
        asked.due = now + (query.soon_seconds if soon else query.every_seconds)

    async def _run(self, chip: int, option: str) -> str | None:
        """What one run prints; nothing where it fails or takes too long.

        Raises:
            OSError: it cannot be started.
        """
        transport, run = await asyncio.get_running_loop().subprocess_exec(
            _Run,
            *(self._path, "-i", str(chip), option, "-g"),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment,
        )
        try:
            self._overran = not await _ended(run, self._deadline_seconds)
            if not self._overran:
                return None if transport.get_returncode() else run.output.decode(errors="replace")
        finally:
            if not run.ended.done():
                _kill(transport)
                # While it cannot be killed, nobody else is sent after this chip.
                self._left_behind[chip] = (transport, run)
        if await _ended(run, self._patience_seconds):
            del self._left_behind[chip]
        return None


class _Run(asyncio.SubprocessProtocol):
    """One run of the tool."""

    def __init__(self) -> None:
        self.output = b""
        self.ended = asyncio.get_running_loop().create_future()
        """Done when the process is gone and all it said has been read."""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process runs."""
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """It wrote something."""
        del fd
        self.output = (self.output + data)[:LONGEST_OUTPUT_BYTES]

    def connection_lost(self, exc: Exception | None) -> None:
        """The process is gone and its pipe is read to the end."""
        del exc
        if self._transport is not None:
            self._transport.close()
        if not self.ended.done():
            self.ended.set_result(None)


async def _ended(run: _Run, seconds: float) -> bool:
    await asyncio.wait({run.ended}, timeout=seconds)
    return run.ended.done()


def _kill(transport: asyncio.SubprocessTransport) -> None:
    with contextlib.suppress(ProcessLookupError):
        transport.kill()
