"""Leader election on a real API server: one leads, and the other takes over when it should."""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aggregator.cluster.client import WRITE_SECONDS, Api, Json
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.lease import Elector, LeaseSettings
from tests.controlplane.cluster import ControlPlane

pytestmark = pytest.mark.cluster


class HangingApi(Api):
    """Like the real one, until told that no answer to a write ever comes."""

    hanging = False

    async def replace(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        seconds: float = WRITE_SECONDS,
        dry_run: bool = False,
    ) -> Json:
        if self.hanging:
            await asyncio.Event().wait()
        return await super().replace(path, body, seconds=seconds, dry_run=dry_run)


class Candidate:
    """One elector in a task of its own."""

    def __init__(self, plane: ControlPlane, settings: LeaseSettings) -> None:
        self.api = HangingApi(Credentials(plane.kubeconfig))
        self.changed = asyncio.Event()
        self.elector = Elector(
            self.api,
            settings,
            on_change=self.changed.set,
            clock=time.monotonic,
            wall=time.time,
            random=random.random,
        )
        self.task = asyncio.create_task(self.elector.run())

    @property
    def leading(self) -> bool:
        return self.elector.leading

    async def until_leading(self) -> float:
        """Seconds that it took."""
        started = time.monotonic()
        async with asyncio.timeout(15):
            while not self.leading:
                self.changed.clear()
                await self.changed.wait()
        return time.monotonic() - started

    async def kill(self) -> None:
        """Ends without a word to anybody, as a killed process does."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def close(self) -> None:
        await self.kill()
        await self.elector.release()
        await self.api.close()


@pytest.fixture
def settings() -> LeaseSettings:
    """Timings short enough for a test, long enough for a busy machine."""
    return LeaseSettings(
        name=f"t-{uuid.uuid4().hex[:8]}",
        identity="test",
        duration_seconds=2.0,
        renew_deadline_seconds=1.4,
        retry_seconds=0.2,
    )


@asynccontextmanager
async def two(plane: ControlPlane, settings: LeaseSettings) -> AsyncIterator[list[Candidate]]:
    """The first one leads, the second one has seen that it does."""
    first = Candidate(plane, settings)
    await first.until_leading()
    second = Candidate(plane, settings)
    try:
        while not second.elector._seen:
            await asyncio.sleep(0.01)
        yield [first, second]
    finally:
        await first.close()
        await second.close()


async def lease_of(plane: ControlPlane, settings: LeaseSettings) -> Json:
    status, lease = await plane.request("GET", f"{settings.collection}/{settings.name}")
    assert status == 200
    spec: Json = lease["spec"]
    return spec


async def test_only_one_leads_and_it_keeps_leading(
    control_plane: ControlPlane, settings: LeaseSettings
) -> None:
    async with two(control_plane, settings) as (first, second):
        before = await lease_of(control_plane, settings)
        until = time.monotonic() + 1.5 * settings.duration_seconds
        while time.monotonic() < until:
            assert first.leading
            assert not second.leading
            await asyncio.sleep(0.05)
        after = await lease_of(control_plane, settings)
        assert after["holderIdentity"] == before["holderIdentity"] == first.elector.identity
        assert after["renewTime"] > before["renewTime"]
        assert after["acquireTime"] == before["acquireTime"]


async def test_a_release_hands_over_at_the_next_look(
    control_plane: ControlPlane, settings: LeaseSettings
) -> None:
    async with two(control_plane, settings) as (first, second):
        await first.kill()
        await first.elector.release()
        assert not first.leading
        assert await second.until_leading() < settings.duration_seconds / 2
        assert (await lease_of(control_plane, settings))["leaseTransitions"] == 1


async def test_a_killed_leader_is_replaced_after_the_lease_duration(
    control_plane: ControlPlane, settings: LeaseSettings
) -> None:
    async with two(control_plane, settings) as (first, second):
        await first.kill()
        assert not first.leading
        took = await second.until_leading()
        assert settings.duration_seconds / 2 < took < settings.duration_seconds + 2


async def test_a_leader_whose_renewal_hangs_stops_before_another_begins(
    control_plane: ControlPlane, settings: LeaseSettings
) -> None:
    async with two(control_plane, settings) as (first, second):
        first.api.hanging = True
        takeover = asyncio.create_task(second.until_leading())
        while first.leading:
            assert not second.leading
            await asyncio.sleep(0.01)
        assert not takeover.done()
        await takeover
        assert not first.leading


async def test_a_leader_whose_lease_is_taken_stops(
    control_plane: ControlPlane, settings: LeaseSettings
) -> None:
    async with two(control_plane, settings) as (first, _):
        path = f"{settings.collection}/{settings.name}"
        body = {"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 60}}
        first.changed.clear()
        await control_plane.request("PATCH", path, body, "application/merge-patch+json")
        await asyncio.wait_for(first.changed.wait(), 10)
        assert not first.leading


async def test_a_touched_or_deleted_lease_does_not_shake_the_leader_for_long(
    control_plane: ControlPlane, settings: LeaseSettings
) -> None:
    first = Candidate(control_plane, settings)
    await first.until_leading()
    path = f"{settings.collection}/{settings.name}"
    body = {"metadata": {"annotations": {"who": "a person"}}}
    await control_plane.request("PATCH", path, body, "application/merge-patch+json")
    renewed = (await lease_of(control_plane, settings))["renewTime"]
    await control_plane.until(path, lambda lease: lease["spec"]["renewTime"] > renewed)
    assert first.leading
    await control_plane.request("DELETE", path)
    await control_plane.until(path, bool)
    await first.until_leading()
    await first.close()
