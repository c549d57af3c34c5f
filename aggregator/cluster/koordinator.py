"""Koordinator's NodeMetric objects: written for nodes without koordlet, in an explicit mode only.

Each round asks anew whether that is safe (the scheduler's own configuration) and whose each object is. Where it is not safe, ours are
taken away at once. A write that is refused is told and not repeated before the next round.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from urllib.parse import quote

import msgspec
import structlog

from aggregator.cluster import EdgeError, times
from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import (
    ApiError,
    Conflict,
    Forbidden,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from aggregator.cluster.pen import Pen, permitted
from aggregator.feeds.koordinator import (
    FRESH_SECONDS,
    Readings,
    RunningPod,
    expiry_trouble,
    is_signed,
    readings,
    running_pod,
    signed_metadata,
    spec,
    status,
    status_writer,
    writes_status,
)
from aggregator.policy.model import ClusterView
from aggregator.usage import Usage

NODE_METRICS = "/apis/slo.koordinator.sh/v1alpha1/nodemetrics"
KOORDLET_PODS = "/api/v1/pods"
KOORDLET = {"labelSelector": "koord-app=koordlet"}

MANAGER = "fleetmedic-nodemetric"
"""The field manager of what we write."""

ROUND_SECONDS = 45.0
"""Less than the 60 that the objects promise as their interval."""

WAITING_SECONDS = 2.0
"""Between looks whether we may write by now: who takes over must go on before what the last one wrote expires."""

MAX_NODES = 2_000
"""Written in one round; of more nodes none is written, for some would then always be late."""

MAX_FAILURES = 3
"""In a row, of a server that does not answer: then the round is over, else it might last for hours."""

CHUNK = 20
"""Nodes whose percentiles are computed at once: two milliseconds."""

PAGE = 50
"""Objects read at once: they are large, and the event loop has other things to do."""

PodsOf = Callable[[str], Awaitable[Sequence[RunningPod]]]

log = structlog.get_logger()


class NodeMetricSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whether to write NodeMetric objects, and where the scheduler's word about expired ones stands."""

    enabled: bool = False
    config_namespace: str = "koordinator-system"
    config_name: str = "koord-scheduler-config"
    """The ConfigMap that koord-scheduler is started with."""
    confirmed: bool = False
    """A person says that every scheduler lets nodes with expired objects pass, so that the ConfigMap is not asked."""


class NodeMetrics:
    """Keeps NodeMetric objects of nodes without koordlet up to date.

    Args:
        api: the way to the server.
        pen: writes for us; asks before each request whether we still may.
        usage: what is known of each node's use.
        settings: whether at all; where not, what earlier settings left behind is taken away, and nothing else is done.
        permit: raises EdgeError while we may not write, so that nothing is read in vain.
        pods: the running pods of a node; by default the API server is asked.
    """

    def __init__(
        self,
        api: Api,
        pen: Pen,
        usage: Usage,
        settings: NodeMetricSettings,
        *,
        permit: Callable[[], None],
        pods: PodsOf | None = None,
    ) -> None:
        self._api = api
        self._pen = pen
        self._usage = usage
        self._settings = settings
        self._permit = permit
        self._pods = pods or self._listed_pods
        self._told: Mapping[str, str] = {}
        self.refused: Mapping[str, str] = {}
        """Node → why it is not written; under the empty name, why none is."""
        self.writes_total = 0
        self.errors_total = 0

    async def run(self, view: Callable[[], ClusterView], wall: Callable[[], float]) -> None:
        """A round every three quarters of a minute while we may write; where it is off, until ours are gone."""
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            done = await self.step(view(), wall())
            if done and not self._settings.enabled:
                return
            pause = max(1.0, ROUND_SECONDS - (clock() - started))
            await asyncio.sleep(pause if permitted(self._permit) else WAITING_SECONDS)

    async def step(self, view: ClusterView, now: float) -> bool:
        """One round; no answer of the server is an error here.

        Args:
            view: the nodes.
            now: Unix time.

        Returns:
            Whether everything was done that is to be done, and nothing failed.
        """
        try:
            self._permit()
            if not self._settings.enabled:
                left = await self._clear()
                self._tell(left)
                return not left
            if trouble := await self._unsafe():
                left = await self._clear()
                self._tell({"": trouble, **left})
                return False
            if not view.synced:
                return False
            self._tell(await self._round(view, now))
        except EdgeError:
            return False  # another aggregator leads, or a person stopped all writes
        except NotFound:
            self._tell({"": "Koordinator is not installed: there is no NodeMetric in this cluster"})
            return not self._settings.enabled
        except Forbidden as error:
            if not self._settings.enabled:
                return True  # nobody asked for it, and so nobody granted us to look
            self.errors_total += 1
            self._tell({"": f"{error}; check the rights in docs/how-to/koordinator.md"})
            return False
        except ApiError as error:
            self.errors_total += 1
            self._tell({"": str(error)})
            return False
        return True

    async def _unsafe(self) -> str:
        """Why nodes might become unschedulable if we died; empty: they would not."""
        if self._settings.confirmed:
            return ""
        namespace, name = self._settings.config_namespace, self._settings.config_name
        path = f"/api/v1/namespaces/{quote(namespace)}/configmaps/{quote(name)}"
        try:
            configuration = await self._api.get(path)
        except (NotFound, Forbidden) as error:
            return (
                f"whether a node stays schedulable without us cannot be read ({error}): grant `get`, name the "
                "ConfigMap, or confirm it"
            )
        texts = configuration.get("data") or {}
        return expiry_trouble({f"{name}/{key}": str(text) for key, text in texts.items()})

    async def _round(self, view: ClusterView, now: float) -> dict[str, str]:
        """Write every node that is ours to write; why the others are not."""
        fresh = [
            name
            for name, latest in self._usage.latest.items()
            if name in view.nodes and now - latest.received_seconds <= FRESH_SECONDS
        ]
        if len(fresh) > MAX_NODES:
            return {"": f"{len(fresh)} nodes report; at most {MAX_NODES} can be kept up to date"}
        koordlets = await self._koordlet_nodes()
        objects = await self._list(NODE_METRICS, {})
        refused: dict[str, str] = {}
        failures = 0
        for start in range(0, len(fresh), CHUNK):
            names = fresh[start : start + CHUNK]
            known = readings(self._usage, now, names)
            for name in names:
                existing = objects.get(name)
                managed = view.nodes[name].managed
                if why := _not_ours(name, existing, managed=managed, koordlet=name in koordlets):
                    refused[name] = why
                    continue
                try:
                    uid = view.nodes[name].uid
                    await self._refresh(name, uid, existing is not None, known)
                    failures = 0
                except ApiError as error:  # one that is refused must not hold up the others
                    failures = failures + 1 if isinstance(error, Unavailable) else 0
                    if isinstance(error, TooManyRequests) or failures >= MAX_FAILURES:
                        raise
                    self.errors_total += 1
                    refused[name] = str(error)
        return refused

    async def _refresh(self, name: str, uid: str, exists: bool, known: Readings) -> None:
        pods = await self._pods(name)
        latest = self._usage.latest.get(name)
        if latest is not None:  # else it left the cluster meanwhile
            updated = times.whole(latest.received_seconds)
            await self._write(name, uid, exists, status(name, latest, known, pods, updated))

    async def _write(self, name: str, uid: str, exists: bool, wanted: Json) -> None:
        identity = _identity(name)
        if not exists:
            body = {**identity, "metadata": signed_metadata(name, uid), "spec": spec()}
            try:
                await self._pen.create(NODE_METRICS, body)
            except Conflict:
                return  # made by somebody else just now: the next round looks whose it is
            if self._pen.dry_run:
                self.writes_total += 1
                return  # there is no object that a status could be tried on
        path = f"{NODE_METRICS}/{quote(name)}/status"
        await self._pen.apply(path, {**identity, "status": wanted}, manager=MANAGER)
        self.writes_total += 1

    async def _clear(self) -> dict[str, str]:
        """Take away what is ours: objects that we created, and what we say in those of Koordinator's manager.

        Objects that others wrote stay, empty where nobody else says anything. Where the last usage is believed for ever, ours
        would close a node that was busy.

        Returns:
            By node why something of ours is still there.
        """
        left: dict[str, str] = {}
        for name, existing in (await self._list(NODE_METRICS, {})).items():
            try:
                if is_signed(existing) and not status_writer(existing, MANAGER):
                    version = existing["metadata"]["resourceVersion"]
                    await self._pen.delete(
                        f"{NODE_METRICS}/{quote(name)}",
                        {"preconditions": {"resourceVersion": version}},
                    )
                elif writes_status(existing, MANAGER):
                    path = f"{NODE_METRICS}/{quote(name)}/status"
                    await self._pen.apply(path, _identity(name), manager=MANAGER)
                else:
                    continue
            except NotFound:
                continue
            except (TooManyRequests, Unavailable):
                raise  # the others would fare no better now
            except ApiError as error:  # one that is refused must not hold up the others
                self.errors_total += 1
                left[name] = f"what is ours cannot be taken away: {error}"
                continue
            self.writes_total += 1
        return left

    async def _koordlet_nodes(self) -> set[str]:
        """Nodes that a pod of koordlet is bound to, whether it runs or not."""
        found = await self._items(KOORDLET_PODS, KOORDLET)
        return {str(each.get("spec", {}).get("nodeName") or "") for each in found}

    async def _listed_pods(self, node: str) -> Sequence[RunningPod]:
        # From the server's cache: a pod more or less matters little, a read through etcd for each node does.
        query = {"fieldSelector": f"spec.nodeName={node}", "resourceVersion": "0"}
        found = await self._items(KOORDLET_PODS, query)
        return [pod for each in found if (pod := running_pod(each)) is not None]

    async def _list(self, collection: str, query: Mapping[str, str]) -> dict[str, Json]:
        return {each["metadata"]["name"]: each for each in await self._items(collection, query)}

    async def _items(self, collection: str, query: Mapping[str, str]) -> list[Json]:
        items: list[Json] = []
        async with aclosing(self._api.pages(collection, limit=PAGE, query=query)) as pages:
            async for page in pages:
                items += page.get("items") or ()
        return items

    def _tell(self, refused: Mapping[str, str]) -> None:
        """Each reason once, until it is another one."""
        for name, why in refused.items():
            if self._told.get(name) != why:
                log.warning("no NodeMetric is written", node=name or "all", why=why)
        self._told = self.refused = dict(refused)


def _identity(name: str) -> Json:
    return {
        "apiVersion": "slo.koordinator.sh/v1alpha1",
        "kind": "NodeMetric",
        "metadata": {"name": name},
    }


def _not_ours(name: str, existing: Json | None, *, managed: bool, koordlet: bool) -> str:
    """Why a node's object is not ours to write; empty: it is."""
    if not managed:
        return "people opted this node out"
    if koordlet:
        return "koordlet runs on this node and writes it"
    if existing and (other := status_writer(existing, MANAGER)):
        return f"{other} writes its status; if that is gone: kubectl delete nodemetric {name}"
    return ""
