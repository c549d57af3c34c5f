"""All pods that have not ended, for the scores: followed by one watch, each kept as a small value.

Of 50,000 pods it keeps 36 MiB, and the rooms' book 14 MiB more. Pods that fail at once are told of besides (``failed_pods.py``), and are
not kept.
Nothing waits for it. Where pods may not be watched (no right to), or not yet, scores go by what the agents report, and the
reason is told. A change of a pod is no change of the cluster's view: whoever wants to know asks for the changes.
"""

import asyncio
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from aggregator.cluster import PodChange, times
from aggregator.cluster.client import Api, Json
from aggregator.cluster.failed_pods import FailedPods
from aggregator.cluster.reflector import Entry, Reflector, Timings
from aggregator.scores.admitted import devices_held
from aggregator.scores.failed_pods import PodFailure
from aggregator.scores.placed import PlacedPod, placed_pod
from aggregator.scores.requests import Ask

PODS = "/api/v1/pods"
NOT_ENDED = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}

BACKOFF_MAX_SECONDS = 120.0
"""Without the right to watch pods nothing is lost by asking seldom."""
STALE_SECONDS = 600.0
"""A picture of the pods that is older tells less than the reports do."""
PAGE = 100
"""Pods read at once: 10 to 20 ms of the event loop."""
FailingPods = Literal["off", "by-tenant", "by-workload"]
"""Whether pods that fail at once are watched for, and whose failures count for one."""

LEFT_SECONDS = 60.0
"""For so long a pod that left its node may be why the kubelet refused the next one: it holds devices longer than the API tells."""
MAX_LEFT = 20_000
HELD_SECONDS = 2.0
"""A refusal is told so much later: by then the kubelet has written which pods it took before."""

MAX_SHAPES = 20_000
"""Kept once for all pods that ask for the same."""


class PodInformer:
    """Follows pods until cancelled. One owner: the event loop.

    Args:
        api: the way to the server.
        clock: monotonic seconds.
        random: 0 ≤ x < 1.
        timings: how patient to be.
        on_change: called after each change of a pod.
        failures: whether pods that fail at once are told of, and who is one witness: a namespace or a workload.
        wall: Unix time.
    """

    def __init__(
        self,
        api: Api,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        timings: Timings,
        on_change: Callable[[], None] = lambda: None,
        failures: FailingPods = "off",
        wall: Callable[[], float] = time.time,
    ) -> None:
        timings = msgspec.structs.replace(
            timings, backoff_max_seconds=max(timings.backoff_max_seconds, BACKOFF_MAX_SECONDS)
        )
        self._failed = (
            FailedPods(
                api,
                PODS,
                seconds=_seconds,
                by_tenant=failures == "by-tenant",
                clock=clock,
                wall=wall,
                random=random,
                timings=timings,
                key=_key,
                page=PAGE,
            )
            if failures != "off"
            else None
        )
        self._reflector: Reflector[PlacedPod] = Reflector(
            api,
            PODS,
            self._reduce,
            on_change=on_change,
            clock=clock,
            random=random,
            timings=timings,
            query=NOT_ENDED,
            key=_key,
            on_each=self._noted,
            page=PAGE,
        )
        self._clock = clock
        self._left: deque[tuple[float, PlacedPod]] = deque(maxlen=MAX_LEFT)
        """Pods with devices that left their node, and when, by the monotonic clock."""
        self._refused: OrderedDict[str, None] = OrderedDict()
        """UIDs of pods that were refused lately: those held nothing."""
        self._held: deque[tuple[float, PodFailure]] = deque(maxlen=MAX_LEFT)
        """Refusals that are not told yet, and since when."""
        self._listed = False
        self._asks: dict[Ask, Ask] = {}
        self._before: dict[str, PlacedPod | None] = {}
        """By key, what changed since changes were taken: as it was then."""
        self.pods: Mapping[str, PlacedPod] = _Values(self._reflector)
        """By ``namespace/name``; changes under the reader's hands."""

    @property
    def known(self) -> bool:
        """Whether ``pods`` is all there are: they were listed, and the server was heard since."""
        self._listed = self._listed or self._reflector.synced
        return self._listed and self._reflector.last_event_age <= STALE_SECONDS

    @property
    def trouble(self) -> str:
        """Why pods are not known, or not as of now; empty: they are. Without the right to watch they are listed now and then."""
        if self._reflector.trouble:
            return f"pods cannot be followed: {self._reflector.trouble}"
        if self.known:
            return ""
        return "the server is silent about pods" if self._listed else "pods are not listed yet"

    async def run(self) -> None:
        """Follow pods until cancelled; no answer of the server ends it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reflector.run(), name="pods")
            if self._failed is not None:
                tasks.create_task(self._failed.run(), name="failed-pods")

    def refresh(self) -> None:
        """List again at once; what is known stays meanwhile."""
        self._listed = self.known
        self._reflector.refresh()
        if self._failed is not None:
            self._failed.refresh()

    def take_changes(self) -> Sequence[PodChange]:
        """What changed since the last call; pods that came and went in between are not told."""
        noted, self._before = self._before, {}
        changes = (PodChange(key, before, self.pods.get(key)) for key, before in noted.items())
        return [each for each in changes if each.before != each.after]

    def take_failures(self) -> Sequence[PodFailure]:
        """Pods that failed at once, as they were seen since the last call; some are told more than once."""
        if self._failed is None:
            return ()
        now, told = self._clock(), []
        for each in self._failed.take():
            if each.refused_devices:
                self._refused[each.uid] = None
                self._held.append((now, each))
            else:
                told.append(each)
        while len(self._refused) > MAX_LEFT:
            self._refused.popitem(last=False)
        while self._left and now - self._left[0][0] > LEFT_SECONDS:
            self._left.popleft()
        ripe = []
        while self._held and now - self._held[0][0] >= HELD_SECONDS:
            ripe.append(self._held.popleft()[1])
        left = self._left_devices() if ripe else {}
        told += [
            msgspec.structs.replace(each, left_devices=left.get(each.node, 0)) for each in ripe
        ]
        return told

    def _left_devices(self) -> Mapping[str, int]:
        """Node → whole devices of pods that left it lately, those that were refused there left out."""
        asks: dict[str, list[Ask]] = {}
        for _, pod in self._left:
            if pod.uid not in self._refused:
                asks.setdefault(pod.node, []).append(pod.ask)
        return {node: devices_held(each) for node, each in asks.items()}

    def _noted(self, key: str, before: PlacedPod | None) -> None:
        if before is not None and self._failed is not None and before.node:
            now = self.pods.get(key)
            if (now is None or now.uid != before.uid) and devices_held([before.ask]):
                self._left.append((self._clock(), before))
        if self._before.setdefault(key, before) is None and key not in self.pods:
            del self._before[key]

    def _reduce(self, obj: Json) -> PlacedPod:
        """The words and shapes that thousands of pods have in common are kept once."""
        if self._failed is not None:
            self._failed.saw(obj)
        pod = placed_pod(obj, created_seconds=_created(obj))
        if len(self._asks) >= MAX_SHAPES:
            self._asks.clear()
        return msgspec.structs.replace(
            pod,
            namespace=sys.intern(pod.namespace),
            node=sys.intern(pod.node),
            workload=sys.intern(pod.workload),
            ask=self._asks.setdefault(pod.ask, pod.ask),
        )


class _Values(Mapping[str, PlacedPod]):
    """The entries of a reflector without their versions; follows it through lists."""

    def __init__(self, reflector: Reflector[PlacedPod]) -> None:
        self._reflector = reflector

    def __getitem__(self, key: str) -> PlacedPod:
        entry: Entry[PlacedPod] = self._reflector.entries[key]
        return entry.value

    def __iter__(self) -> Iterator[str]:
        return iter(self._reflector.entries)

    def __len__(self) -> int:
        return len(self._reflector.entries)


def _key(obj: Json) -> str:
    metadata = obj["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"


def _created(obj: Json) -> float:
    return _seconds(str(obj["metadata"].get("creationTimestamp")))


@lru_cache(maxsize=1024)  # a pod's events come in one burst, and pods in bursts
def _seconds(text: str) -> float:
    try:
        return times.to_seconds(text)
    except (ValueError, OverflowError):
        return 0.0
