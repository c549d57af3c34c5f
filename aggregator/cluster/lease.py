"""Leader election by a coordination.k8s.io Lease.

Two clocks on two machines never agree, so none is compared: whether another leader is alive is
judged by how long, by our own monotonic clock, its Lease has not changed. Whether we lead ourselves
is a matter of when we last *began* a renewal that succeeded, computed at each look at ``leading``:
a loop that is stuck in a request stops leading without being asked.
"""

import asyncio
import contextlib
import math
import secrets
from collections.abc import Callable

import msgspec
import structlog

from aggregator.cluster import times
from aggregator.cluster.client import WRITE_SECONDS, Api, Json
from aggregator.cluster.errors import ApiError, Conflict, NotFound

log = structlog.get_logger()


class LeaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which Lease, and how long things take; the defaults are client-go's."""

    namespace: str = "default"
    name: str = "fleetmedic-aggregator"
    identity: str = "fleetmedic"
    """Who we are, for people; a random part is added so that no two processes are the same."""
    duration_seconds: float = 15.0
    """A Lease unchanged for this long is free to take."""
    renew_deadline_seconds: float = 10.0
    """A leader that could not renew for this long stops leading."""
    retry_seconds: float = 2.0
    """Between two attempts to renew or to acquire; up to a fifth longer."""

    def __post_init__(self) -> None:
        if not self.duration_seconds > self.renew_deadline_seconds > self.retry_seconds > 0:
            raise ValueError(
                "a lease needs duration > renew deadline > retry > 0, but has "
                f"{self.duration_seconds:g}, {self.renew_deadline_seconds:g}, "
                f"{self.retry_seconds:g} seconds"
            )

    @property
    def collection(self) -> str:
        """Where such Leases live."""
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"


class Elector:
    """One candidate. One owner: the event loop.

    Args:
        api: the way to the server.
        settings: which Lease and how long things take.
        on_change: called when we begin to lead and when we notice that we no longer do.
        clock: monotonic seconds.
        wall: Unix time; only ever written, for people, never compared.
        random: 0 ≤ x < 1.
    """

    def __init__(
        self,
        api: Api,
        settings: LeaseSettings,
        *,
        on_change: Callable[[], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._api = api
        self._settings = settings
        self._on_change = on_change
        self._clock = clock
        self._wall = wall
        self._random = random
        self._path = f"{settings.collection}/{settings.name}"
        self.identity = f"{settings.identity}_{secrets.token_hex(4)}"
        self._until = -math.inf  # until when we lead, monotonic
        self._mine: Json | None = None  # the Lease as we last wrote it, while we lead
        self._seen = ""  # version of another's Lease,
        self._seen_at = -math.inf  # and since when it has been that one, monotonic
        self._claimed = False  # whether the Lease may say that it is ours
        self._closed = False
        self._trouble = ""  # why we cannot even try, as last said aloud
        self._step_lock = asyncio.Lock()

    @property
    def leading(self) -> bool:
        """Whether we may act now."""
        return self._clock() < self._until

    async def run(self) -> None:
        """Try to lead, and renew, until cancelled; no answer of the server ends it."""
        try:
            while not self._closed:
                await self._step()
                await asyncio.sleep(self._settings.retry_seconds * (1 + 0.2 * self._random()))
        finally:
            self._stop_leading()  # nobody renews any more

    async def release(self) -> None:
        """Stop leading at once and for good, and leave the Lease to whoever is next."""
        self._closed = True
        self._stop_leading()
        async with self._step_lock:
            if not self._claimed:
                return
            with contextlib.suppress(NotFound):
                lease = await self._api.get(self._path, seconds=self._patience)
                if _spec(lease).get("holderIdentity") == self.identity:
                    await self._write(lease, {"holderIdentity": "", "leaseDurationSeconds": 1})

    async def _step(self) -> None:
        """One attempt to renew or to acquire."""
        async with self._step_lock:
            if self._closed:
                return
            led = self._mine is not None
            try:
                await (self._renew() if led else self._acquire())
                self._trouble = ""
            except ApiError as error:
                if led and not self.leading:
                    log.warning("could not renew the lease in time", error=str(error))
                    self._stop_leading()
                elif not led and not isinstance(error, Conflict) and str(error) != self._trouble:
                    self._trouble = str(error)  # said once, not at each attempt
                    log.warning("cannot ask for the lease", lease=self._path, error=self._trouble)

    async def _renew(self) -> None:
        """Write our Lease again; when somebody touched it, look whose it is now."""
        assert self._mine is not None  # noqa: S101 - _step asks first
        started = self._clock()
        try:
            self._mine = await self._write(self._mine, self._claim())
        except Conflict:
            lease = await self._api.get(self._path, seconds=self._patience)
            holder = _spec(lease).get("holderIdentity")
            if holder != self.identity:
                log.warning("lost the lease", to=holder)
                self._stop_leading()
                return
            self._mine = await self._write(lease, self._claim())
        except NotFound:
            self._stop_leading()
            return
        self._lead_since(started)

    async def _acquire(self) -> None:
        """Take the Lease when it is free, ours, or unchanged for too long."""
        started = self._clock()
        try:
            lease = await self._api.get(self._path, seconds=self._patience)
        except NotFound:
            self._claimed = True
            body = {"metadata": {"name": self._settings.name}, "spec": self._claim(first=True)}
            self._mine = await self._api.create(
                self._settings.collection,
                {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **body},
                seconds=self._patience,
            )
        else:
            if not self._may_take(lease):
                return
            changes = int(_spec(lease).get("leaseTransitions") or 0) + 1
            claim = {**self._claim(first=True), "leaseTransitions": changes}
            self._mine = await self._write(lease, claim)
        self._lead_since(started)
        log.info("leading", lease=self._settings.name, identity=self.identity)

    def _may_take(self, lease: Json) -> bool:
        spec = _spec(lease)
        if spec.get("holderIdentity") in ("", None, self.identity):
            return True
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen:
            self._seen, self._seen_at = version, self._clock()
        # A holder with a longer lease than ours is given its own.
        patience = max(
            self._settings.duration_seconds, float(spec.get("leaseDurationSeconds") or 0)
        )
        return self._clock() - self._seen_at >= patience

    async def _write(self, lease: Json, spec: Json) -> Json:
        """Replace the Lease, unless it changed since we read it."""
        self._claimed = True
        return await self._api.replace(
            self._path, {**lease, "spec": {**_spec(lease), **spec}}, seconds=self._patience
        )

    def _claim(self, *, first: bool = False) -> Json:
        now = times.micro(self._wall())
        claim = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._settings.duration_seconds),
            "renewTime": now,
        }
        return {**claim, "acquireTime": now} if first else claim

    @property
    def _patience(self) -> float:
        """At least two attempts to renew fit in before the deadline."""
        return min(WRITE_SECONDS, self._settings.renew_deadline_seconds / 2)

    def _lead_since(self, started: float) -> None:
        if self._closed:  # while the request was under way
            return
        led = self.leading
        self._until = started + self._settings.renew_deadline_seconds
        if not led:
            self._on_change()

    def _stop_leading(self) -> None:
        led = self._mine is not None
        self._mine = None
        self._until = -math.inf
        if led:
            self._on_change()


def _spec(lease: Json) -> Json:
    spec: Json = lease.get("spec") or {}
    return spec
