"""Plays one scenario: a clock that nobody waits for, a machine, and one agent after the other."""

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec

from agent.catalogue.load import shipped
from agent.overrides import Judgement
from agent.overrides_keeper import OverrideKeeper
from agent.state import Restored, decode
from contract.vocabulary import Event, Health
from tests.support import START
from tests.timelines.life import NODE, Life
from tests.timelines.model import Lines, Scenario, Step
from tests.timelines.outcome import Outcome, Recorder
from tests.timelines.world import World


async def play(scenario: Scenario, folder: Path) -> Outcome:
    """What came of it.

    Args:
        scenario: what happens.
        folder: an empty one, for the kernel log and the sysfs tree.
    """
    return await _Player(scenario, folder).play()


class _Player:
    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self._scenario = scenario
        self._world = World(scenario.node, folder)
        self._recorder = Recorder()
        self._overrides = OverrideKeeper(shipped())
        self._life: Life | None = None
        self._saved: bytes | None = None
        self._starts_at = 0.0
        self._ticks = self._told = self._persons_words = 0
        self._health: dict[int, Health | None] = {}

    async def play(self) -> Outcome:
        try:
            return await self._play()
        finally:
            self._world.close()

    async def _play(self) -> Outcome:
        began = time.process_time()
        steps = deque(sorted(_unrolled(self._scenario.steps), key=lambda each: each.at))
        next_tick = 0.0
        now = 0.0
        while True:
            next_look = max(next_tick, self._starts_at) if self._life else self._starts_at
            next_step = steps[0].at if steps else float("inf")
            now = min(next_look, next_step)
            if now > self._scenario.until:
                break
            if next_step <= next_look:
                await self._happen(steps.popleft(), now)
            else:
                self._life = self._life or self._started(now)
                self._told += sum(1 for _ in await self._life.tick(now))
                self._ticks += 1
                self._recorder.note(now, self._life.findings)
                self._look_at_health(now, self._life)
                next_tick = self._next_tick(now)
        if self._life is not None:
            await self._life.end(self._scenario.until, orderly=True)
        return self._recorder.outcome(
            ended=self._scenario.until,
            ticks=self._ticks,
            told=self._told,
            cpu_seconds=time.process_time() - began,
            health=self._health,
        )

    def _next_tick(self, now: float) -> float:
        pace = {0: 1.0, **self._scenario.pace}
        every = pace[max(start for start in pace if start <= now)]
        return min((now + every, *(start for start in pace if start > now)))

    async def _happen(self, step: Step, now: float) -> None:
        events = self._world.apply(step, now)
        if step.overrides is not None:
            self._override(step.overrides)
        if step.clear is not None:
            self._persons_words += 1
            events.append(
                Event(
                    id=f"directive:{self._persons_words}",
                    time_seconds=START + now,
                    kind="clear",
                    subject=step.clear.subject,
                    message=step.clear.code,
                )
            )
        if self._life is None:
            return
        for event in events:
            self._life.emit(event)
        self._told += len(await self._life.listen(now))
        self._recorder.note(now, self._life.findings)
        if step.restart is not None:
            self._saved = await self._life.end(now, orderly=step.restart.kind != "crash")
            self._life = None
            self._starts_at = now + step.restart.away_seconds
            if step.restart.kind == "reboot":
                self._world.reboot(now)

    def _override(self, text: str) -> None:
        self._overrides.offer(text.encode())
        if not self._overrides.valid:
            raise ValueError(f"overrides: {self._overrides.error}")
        if self._life is not None:
            self._life.use(self._judgement())

    def _judgement(self) -> Judgement:
        return self._overrides.judgement(pool=self._scenario.node.pool, model="", node=NODE)

    def _started(self, now: float) -> Life:
        judgement = self._judgement()
        restored = Restored()
        if self._saved is not None:
            restored = decode(
                self._saved, judgement.catalogue, boot_id=self._world.boot_id, now=START + now
            )
        return Life(self._world, self._scenario.node, judgement, restored, now)

    def _look_at_health(self, now: float, life: Life) -> None:
        due = [
            number
            for number, expected in enumerate(self._scenario.health)
            if expected.at <= now and number not in self._health
        ]
        if due:
            health = life.judge.health(life.snapshot)
            for number in due:
                self._health[number] = health.get(self._scenario.health[number].subject)


def _unrolled(steps: tuple[Step, ...]) -> Iterator[Step]:
    """Each repetition as a step of its own."""
    for step in steps:
        if step.repeat is None:
            yield step
            continue
        for number in range(step.repeat.times):
            yield msgspec.structs.replace(
                step,
                at=step.at + number * step.repeat.every_seconds,
                repeat=None,
                kmsg=tuple(_numbered(each, number + 1) for each in step.kmsg),
                pods=None
                if step.pods is None
                else tuple(
                    msgspec.structs.replace(each, pod=each.pod.replace("{n}", str(number + 1)))
                    for each in step.pods
                ),
            )


def _numbered(line: str | Lines, number: int) -> str | Lines:
    if isinstance(line, Lines):
        return msgspec.structs.replace(line, text=line.text.replace("{n}", str(number)))
    return line.replace("{n}", str(number))
