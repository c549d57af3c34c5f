"""Kueue's ClusterQueues: read whole, written with the quotas of ``feeds/kueue_quota.py``. Quiet where Kueue is absent."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing

import structlog

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import ApiError, Conflict, Forbidden, NotFound
from aggregator.cluster.pen import Pen
from aggregator.feeds.kueue_quota import QuotaMemory, QuotaPatch, QuotaSettings, Slot, plan
from aggregator.policy.model import ClusterView

GROUP = "/apis/kueue.x-k8s.io"
VERSIONS = ("v1beta2", "v1beta1")
"""In which a ClusterQueue's resource groups are as we know them."""

LOOK_SECONDS = 15.0
MAX_QUEUES = 5_000

log = structlog.get_logger()


class KueueQuota:
    """Keeps nominal quotas in step with the nodes that are there.

    Args:
        api: the way to the server.
        pen: writes for us; asks before each request whether we still may.
        settings: which quotas; with none, what earlier settings left behind is put back, and nothing else is done.
        permit: raises EdgeError while we may not write, so that nothing is read in vain.
    """

    def __init__(
        self,
        api: Api,
        pen: Pen,
        settings: QuotaSettings,
        *,
        permit: Callable[[], None],
    ) -> None:
        self._api = api
        self._pen = pen
        self._settings = settings
        self._permit = permit
        self._memory = QuotaMemory()
        self._complained = ""
        self._troubles: Mapping[Slot, str] = {}
        self._told: dict[str, str] = {}
        self.words: Mapping[Slot, str] = {}
        """How each quota stands, as of the last look."""
        self.writes_total = 0
        self.errors_total = 0

    async def run(self, view: Callable[[], ClusterView], wall: Callable[[], float]) -> None:
        """Look every quarter of a minute while we may write; without settings until nothing of ours is left."""
        while True:
            idle = await self.step(view(), wall())
            if idle and not self._settings.pools:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def step(self, view: ClusterView, now: float) -> bool:
        """Read all ClusterQueues and write what is due; no answer of the server is an error here.

        Args:
            view: the nodes.
            now: Unix time.

        Returns:
            Whether all was read, and there was nothing to write or to wait for.
        """
        try:
            self._permit()
            collection = await self._collection()
            queues = await self._read(collection) if collection else {}
            planned = plan(queues, view, self._settings, self._memory, now)
            self._memory, self.words = planned.memory, planned.words
            self._tell(planned.troubles)
            for patch in planned.patches:
                await self._write(f"{collection}/{patch.queue}", patch)
        except EdgeError:
            return False  # another aggregator leads, or a person stopped all writes
        except Forbidden as error:
            if self._settings.pools:
                self._complain(error)
            return True  # nobody asked for quotas, and so nobody granted us to look
        except ApiError as error:
            self._complain(error)
            return False
        return view.synced and not planned.patches and not self._memory.wanted

    async def _collection(self) -> str:
        """Where ClusterQueues live; empty: this cluster has none that we can read."""
        try:
            group = await self._api.get(GROUP)
        except NotFound:
            return ""
        served = {each["version"] for each in group.get("versions") or ()}
        version = next((each for each in VERSIONS if each in served), "")
        if not version:
            raise ApiError(f"Kueue serves {sorted(served)}; quotas are known in {VERSIONS}")
        return f"{GROUP}/{version}/clusterqueues"

    async def _read(self, collection: str) -> dict[str, Json]:
        queues: dict[str, Json] = {}
        async with aclosing(self._api.pages(collection)) as pages:
            async for page in pages:
                queues |= {each["metadata"]["name"]: each for each in page.get("items") or ()}
                if len(queues) > MAX_QUEUES:
                    raise ApiError(f"more than {MAX_QUEUES} ClusterQueues; quotas are left alone")
        return queues

    async def _write(self, path: str, patch: QuotaPatch) -> None:
        try:
            await self._pen.patch(path, patch.body)
        except Conflict:
            return  # changed meanwhile: the next look decides anew
        except ApiError as error:  # one that is refused must not hold up the others
            self._complain(error)
            return
        self.writes_total += 1
        if self._pen.dry_run and self._told.get(patch.queue) == patch.reason:
            return  # nothing changed by it, so it comes again and again
        self._told[patch.queue] = patch.reason
        log.info(
            "nominal quota follows the healthy nodes",
            cluster_queue=patch.queue,
            change=patch.reason,
            dry_run=self._pen.dry_run,
        )

    def _tell(self, troubles: Mapping[Slot, str]) -> None:
        """Each trouble once, until it is another one."""
        for slot, why in troubles.items():
            if self._troubles.get(slot) != why:
                log.warning("a quota cannot be followed", quota=str(slot), why=why)
        self._troubles = troubles

    def _complain(self, error: ApiError) -> None:
        """Counted each time, told once for the same trouble."""
        self.errors_total += 1
        if str(error) == self._complained:
            return
        self._complained = str(error)
        remedy = "check the rights in deploy/base/rbac.yaml: clusterqueues list, patch"
        extra = {"remedy": remedy} if isinstance(error, Forbidden) else {}
        log.warning("quotas are left as they are", error=str(error), **extra)
