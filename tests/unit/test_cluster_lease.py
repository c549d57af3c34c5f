"""Two electors and one Lease under every order of events: never do two lead at once.

The server is a version counter and one object; it may answer late, not at all, or do the write
and lose the answer. Time is a number that only the test moves.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aggregator.cluster.client import WRITE_SECONDS, Api, Json
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.errors import Conflict, NotFound, Unavailable
from aggregator.cluster.lease import Elector, LeaseSettings

SETTINGS = LeaseSettings()


class World:
    """Time, and the one Lease there is."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.version = 0
        self.lease: Json | None = None


class Line(Api):
    """One candidate's line to the server, which may be slow or broken."""

    def __init__(self, world: World) -> None:
        super().__init__(Credentials(None))
        self.world = world
        self.slow_seconds = 0.0
        self.lost = ""  # "before" or "after" the server did it

    def _travel(self, seconds: float) -> None:
        """Half the way; the caller gives up after ``seconds``, the server does not."""
        self.world.now += min(self.slow_seconds / 2, seconds)

    async def get(self, path: str, *, seconds: float = 30.0) -> Json:
        self._travel(seconds)
        if self.lost:
            raise Unavailable("lost")
        if self.world.lease is None:
            raise NotFound("none")
        found = self.world.lease
        self._travel(seconds)
        return found

    async def create(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        seconds: float = WRITE_SECONDS,
        dry_run: bool = False,
    ) -> Json:
        return self._write(body, seconds, exists=False)

    async def replace(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        seconds: float = WRITE_SECONDS,
        dry_run: bool = False,
    ) -> Json:
        return self._write(body, seconds, exists=True)

    def _write(self, body: Mapping[str, Any], seconds: float, *, exists: bool) -> Json:
        self._travel(seconds)
        if self.lost == "before":
            raise Unavailable("lost on the way there")
        known = self.world.lease
        if exists:
            if known is None:
                raise NotFound("none")
            asked = body["metadata"]["resourceVersion"]
            if asked != known["metadata"]["resourceVersion"]:
                raise Conflict("changed")
        elif known is not None:
            raise Conflict("exists")
        self.world.version += 1
        version = {"resourceVersion": str(self.world.version)}
        self.world.lease = {**body, "metadata": {**body["metadata"], **version}}
        self._travel(seconds)
        if self.lost == "after" or self.slow_seconds > seconds:
            raise Unavailable("lost on the way back")
        return self.world.lease


def candidate(world: World) -> tuple[Elector, Line]:
    line = Line(world)
    elector = Elector(
        line,
        SETTINGS,
        on_change=lambda: None,
        clock=lambda: world.now,
        wall=lambda: 0.0,  # a broken wall clock harms nobody
        random=lambda: 0.5,
    )
    return elector, line


class Election(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.candidates = [candidate(self.world) for _ in range(2)]

    @rule(who=st.integers(0, 1))
    def step(self, who: int) -> None:
        asyncio.run(self.candidates[who][0]._step())

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 9.0, 16.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(
        who=st.integers(0, 1),
        slow=st.sampled_from([0.0, 1.0, 5.0, 12.0]),
        lost=st.sampled_from(["", "", "before", "after"]),
    )
    def the_line_changes(self, who: int, slow: float, lost: str) -> None:
        self.candidates[who][1].slow_seconds = slow
        self.candidates[who][1].lost = lost

    @rule(who=st.integers(0, 1), seconds=st.sampled_from([9.0, 16.0]))
    def one_looks_on(self, who: int, seconds: float) -> None:
        self.step(who)
        self.world.now += seconds
        self.step(who)

    @rule(who=st.integers(0, 1))
    def crash_and_restart(self, who: int) -> None:
        self.candidates[who] = candidate(self.world)

    @rule(who=st.integers(0, 1))
    def release_and_restart(self, who: int) -> None:
        elector, line = self.candidates[who]
        try:
            asyncio.run(elector.release())
        except (Unavailable, Conflict):
            assert line.lost or line.slow_seconds
        assert not elector.leading
        self.candidates[who] = candidate(self.world)

    @rule()
    def somebody_touches_it(self) -> None:
        if self.world.lease is not None:
            self.world.version += 1
            metadata = {**self.world.lease["metadata"], "resourceVersion": str(self.world.version)}
            self.world.lease = {**self.world.lease, "metadata": metadata}

    @invariant()
    def at_most_one_leads(self) -> None:
        assert sum(elector.leading for elector, _ in self.candidates) <= 1


Election.TestCase.settings = hypothesis_settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestElection = Election.TestCase


async def test_leading_ends_by_the_clock_alone() -> None:
    world = World()
    elector, _ = candidate(world)
    await elector._step()
    assert elector.leading
    world.now += SETTINGS.renew_deadline_seconds - 0.01
    assert elector.leading
    world.now += 0.01
    assert not elector.leading


async def test_the_time_a_renewal_takes_counts_against_the_leader() -> None:
    world = World()
    elector, line = candidate(world)
    await elector._step()
    line.slow_seconds = 3.0
    await elector._step()
    world.now += SETTINGS.renew_deadline_seconds - 3.0
    assert not elector.leading


async def test_the_lease_is_free_after_it_was_seen_unchanged_for_its_duration() -> None:
    world = World()
    (first, _), (second, _) = candidate(world), candidate(world)
    await first._step()
    world.now += 100 * SETTINGS.duration_seconds  # nobody looked: nothing is known
    await second._step()
    assert not second.leading
    world.now += SETTINGS.duration_seconds - 0.01
    await second._step()
    assert not second.leading
    world.now += 0.01
    await second._step()
    assert second.leading
    await first._step()
    assert not first.leading


async def test_a_write_that_was_done_but_not_answered_is_recognised_as_ours() -> None:
    world = World()
    elector, line = candidate(world)
    await elector._step()
    line.lost = "after"
    await elector._step()
    line.lost = ""
    world.now += 5
    await elector._step()
    world.now += SETTINGS.renew_deadline_seconds - 0.1
    assert elector.leading


async def test_one_who_never_claimed_the_lease_asks_nothing_when_it_goes() -> None:
    elector, line = candidate(World())
    line.lost = "before"
    await elector.release()


@pytest.mark.parametrize("times", [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_timings_that_cannot_be_safe_are_refused(times: tuple[float, float, float]) -> None:
    duration, deadline, retry = times
    with pytest.raises(ValueError, match="duration > renew deadline > retry"):
        LeaseSettings(
            duration_seconds=duration, renew_deadline_seconds=deadline, retry_seconds=retry
        )
