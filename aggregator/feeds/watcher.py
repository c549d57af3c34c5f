"""load-watcher's ``/watcher``: measured use for Trimaran, the load-aware plugins of kube-scheduler's plugin collection.

Wire format as load-watcher v0.2.4 sends and decodes it, which its own sample file does not show: the nodes stand below
``data.NodeMetricsMap``, types and operators are written ``CPU``, ``Memory``, ``AVG``, ``STD``, ``Latest``, values are percent.

What the plugins make of a gap, and so what is answered:

* A node that is not in the map scores 0, the worst. So a node is only left out when that is wanted (``unhealthy``).
* A node that fell silent is not idle and not broken: for as long as any of its last fifteen minutes are known it is told as
  last known, and after that, like a node that never reported, with the mean of all that are known: neither preferred
  nor shunned.
* Where nothing is known of any node, or we do not lead, or we are about to go, the map is empty: all nodes are equal.
* The plugins keep the last map for ever if nobody answers. Nothing that we send can change that; another aggregator that
  takes over can.

``/gpu/watcher`` tells GPU utilization as if it were CPU. It is an experiment: the plugins add the CPU that a pod asks for.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Literal

import msgspec
from aiohttp import web

from aggregator.feeds.steps import Steps, at_once, gently
from aggregator.usage import SLOT_SECONDS, STEP_NODES, Summary, Three, Usage

CPU, MEMORY, GPU = range(3)
"""Places in a node's three summaries."""

WINDOWS = {"5m": 300.0, "10m": 600.0, "15m": 900.0}

SOURCE = "fleetmedic"
ASSUMED = "mean of the fleet, nothing is known of this node"
"""The name of a metric that was not measured on its node."""

FRESH_SECONDS = 60.0
"""A node whose newest report is younger takes part in ``window.end``."""

Subject = Literal["cpu", "gpu"]
Unhealthy = Literal["keep", "leave-out"]


class Metric(msgspec.Struct, frozen=True, gc=False):
    """One value of one node."""

    name: str
    type: Literal["CPU", "Memory"]
    operator: Literal["AVG", "STD", "Latest"]
    rollup: str
    value: float
    """Percent, 0..100, two decimals."""


_NONE: dict[str, str] = {}
"""Shared by all, so that an answer for thousands of nodes is not as many dicts for the garbage collector to look at."""


class NodeMetrics(msgspec.Struct, frozen=True, gc=False):
    """One node."""

    metrics: list[Metric]
    tags: dict[str, str]
    metadata: dict[str, str]


class _Data(msgspec.Struct, frozen=True):
    nodes: dict[str, NodeMetrics] = msgspec.field(name="NodeMetricsMap")


class _Window(msgspec.Struct, frozen=True):
    duration: str
    start: int
    end: int


class Payload(msgspec.Struct, frozen=True):
    """What one request is answered with."""

    timestamp: int
    """Unix time of the answer."""
    window: _Window
    source: str
    data: _Data


def build(
    usage: Usage,
    nodes: Iterable[str],
    now: float,
    *,
    subject: Subject = "cpu",
    leave_out: Set[str] = frozenset(),
) -> Payload:
    """The answer for a whole fleet; about 60 µs for each node.

    Args:
        usage: what is known.
        nodes: every node of the cluster, also those that never reported.
        now: Unix time.
        subject: what to tell as type ``CPU``: the CPUs, or the GPUs.
        leave_out: nodes that new pods should rather not go to.
    """
    return at_once(build_in_steps(usage, list(nodes), now, subject=subject, leave_out=leave_out))


def build_in_steps(
    usage: Usage, nodes: Sequence[str], now: float, *, subject: Subject, leave_out: Set[str]
) -> Steps[Payload]:
    """As ``build``, with breaks."""
    label = _label(now - usage.first_seconds)
    known = yield from usage.window_in_steps(WINDOWS[label], now)
    place = GPU if subject == "gpu" else CPU
    means = (_mean(known, place), _mean(known, MEMORY))
    told: dict[str, NodeMetrics] = {}
    for number, name in enumerate(nodes):
        if number % STEP_NODES == 0:
            yield
        if name not in leave_out:
            node = _node(name, usage, known, means, label, place)
            if node.metrics:
                told[name] = node
    end = _data_time(usage, now)
    return Payload(
        timestamp=int(now),
        window=_Window(label, int(end - WINDOWS[label]), int(end)),
        source=SOURCE,
        data=_Data(told),
    )


def encode_in_steps(payload: Payload) -> Steps[bytes]:
    """The answer as JSON: the same bytes as in one go, with breaks."""
    empty = msgspec.structs.replace(payload, data=_Data({}))
    head, _, tail = msgspec.json.encode(empty).rpartition(b"{}")
    nodes = list(payload.data.nodes.items())
    pieces = []
    for start in range(0, len(nodes), STEP_NODES):
        pieces.append(msgspec.json.encode(dict(nodes[start : start + STEP_NODES]))[1:-1])
        yield
    return b"".join((head, b"{", b",".join(pieces), b"}", tail))


def nothing(now: float) -> Payload:
    """The neutral answer: no node, so all nodes are equal."""
    return Payload(int(now), _Window("15m", int(now - 900), int(now)), SOURCE, _Data({}))


def one_node(payload: Payload, host: str) -> Payload | None:
    """The same answer for one node alone, if it is there."""
    found = payload.data.nodes.get(host)
    return found if found is None else msgspec.structs.replace(payload, data=_Data({host: found}))


def _label(known_seconds: float) -> str:
    """The window to tell: the longest one that is full, else the shortest."""
    full = [label for label, seconds in WINDOWS.items() if seconds <= known_seconds]
    return full[-1] if full else "5m"


def _mean(known: Mapping[str, Three], place: int) -> Summary | None:
    """Over all nodes on which it was measured."""
    found = [each for three in known.values() if (each := three[place]) is not None]
    if not found:
        return None
    return Summary(
        math.fsum(each.average for each in found) / len(found),
        math.fsum(each.deviation for each in found) / len(found),
    )


def _node(
    name: str,
    usage: Usage,
    known: Mapping[str, Three],
    means: tuple[Summary | None, Summary | None],
    label: str,
    place: int,
) -> NodeMetrics:
    own = known.get(name, (None, None, None))
    latest = usage.latest.get(name)
    newest = (
        (latest.cpu_ratio, latest.memory_ratio, latest.gpu_ratio) if latest else (math.nan,) * 3
    )
    return NodeMetrics(
        [
            *_metrics("CPU", own[place], newest[place], means[0], label),
            *_metrics("Memory", own[MEMORY], newest[MEMORY], means[1], label),
        ],
        _NONE,
        _NONE,
    )


def _metrics(
    kind: Literal["CPU", "Memory"],
    own: Summary | None,
    newest: float,
    mean: Summary | None,
    label: str,
) -> list[Metric]:
    """Of one quantity. ``Latest`` stands before ``AVG``: one plugin takes whichever of them comes last."""
    summary = own or mean
    if summary is None:
        return []
    name = "measured" if own else ASSUMED
    metrics = []
    if own and not math.isnan(newest):
        metrics.append(Metric(name, kind, "Latest", label, percent(newest)))
    metrics.append(Metric(name, kind, "STD", label, percent(summary.deviation)))
    metrics.append(Metric(name, kind, "AVG", label, percent(summary.average)))
    return metrics


def percent(share: float) -> float:
    """A share as percent, 0..100, two decimals; 0.0 for what is no number."""
    return 0.0 if math.isnan(share) else round(100.0 * min(1.0, max(0.0, share)), 2)


def _data_time(usage: Usage, now: float) -> float:
    """How new the data are: the oldest of the newest reports of nodes that are not silent.

    The plugins count a pod that was bound less than a minute before, or after, this time on top of what is measured.
    """
    newest = [each.received_seconds for each in usage.latest.values()]
    fresh = [each for each in newest if now - FRESH_SECONDS <= each <= now]
    return min(fresh, default=min(now, max(newest, default=now)))


class Watcher:
    """The feed over HTTP. One owner: the event loop.

    Args:
        usage: what is known.
        nodes: the names of all nodes of the cluster, now.
        sick: names of nodes that should get no new pods, now; used with ``unhealthy="leave-out"``.
        serving: whether this process leads and is not about to go.
        clock: Unix time.
        unhealthy: ``keep`` tells the truth about sick nodes too (their taint keeps pods off); ``leave-out`` makes the
            plugins rank them last.
    """

    def __init__(
        self,
        usage: Usage,
        *,
        nodes: Callable[[], Iterable[str]],
        sick: Callable[[], Set[str]],
        serving: Callable[[], bool],
        clock: Callable[[], float],
        unhealthy: Unhealthy = "keep",
    ) -> None:
        self._usage = usage
        self._nodes = nodes
        self._sick = sick
        self._serving = serving
        self._clock = clock
        self._unhealthy = unhealthy
        self._kept: dict[Subject, tuple[int, Payload, bytes]] = {}
        self._making = asyncio.Lock()
        self.requests_total = 0

    def routes(self) -> list[web.RouteDef]:
        """``/watcher`` and ``/cpu/watcher`` alike, ``/gpu/watcher``, and the health of each."""
        routes = []
        for prefix, handler in (("", self._cpu), ("/cpu", self._cpu), ("/gpu", self._gpu)):
            routes.append(web.get(f"{prefix}/watcher", handler))
            routes.append(web.get(f"{prefix}/watcher/health", self._health))
        return routes

    async def _cpu(self, request: web.Request) -> web.Response:
        return await self._answer("cpu", request.query.get("host", ""))

    async def _gpu(self, request: web.Request) -> web.Response:
        return await self._answer("gpu", request.query.get("host", ""))

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._serving() else 503)

    async def _answer(self, subject: Subject, host: str) -> web.Response:
        self.requests_total += 1
        payload, body = await self.payload(subject)
        if host:
            alone = one_node(payload, host)
            if alone is None:
                return web.Response(status=404, text=f"host {host[:253]} is not known here")
            body = msgspec.json.encode(alone)
        return web.Response(body=body, content_type="application/json")

    async def payload(self, subject: Subject) -> tuple[Payload, bytes]:
        """The answer and its bytes; made at most once in five seconds, however many plugins ask."""
        now = self._clock()
        if not self._serving():
            self._kept.clear()
            empty = nothing(now)
            return empty, msgspec.json.encode(empty)
        async with self._making:
            now = self._clock()  # it may have been a while
            slot = int(now // SLOT_SECONDS)
            kept = self._kept.get(subject)
            if kept is None or kept[0] != slot:
                leave_out = self._sick() if self._unhealthy == "leave-out" else frozenset()
                steps = build_in_steps(
                    self._usage, list(self._nodes()), now, subject=subject, leave_out=leave_out
                )
                made = await gently(steps)
                kept = self._kept[subject] = (slot, made, await gently(encode_in_steps(made)))
        return kept[1], kept[2]
