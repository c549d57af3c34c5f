"""Koordinator's usage thresholds on Nodes, as ``feeds/koordinator_thresholds.py`` plans them. Off by default."""

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import aclosing

import structlog

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import (
    ApiError,
    Conflict,
    Forbidden,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from aggregator.cluster.nodes import NODES, node_path
from aggregator.cluster.pen import Pen, permitted
from aggregator.feeds.koordinator_thresholds import (
    MARK,
    MAX_WRITES,
    ThresholdSettings,
    edit,
    wanted,
)
from aggregator.policy.model import ClusterView
from aggregator.usage import STEP_NODES, Usage

LOOK_SECONDS = 30.0
WAITING_SECONDS = 2.0
"""Between looks whether we may write by now."""
WINDOW_SECONDS = 600.0
PERCENTILE = 95.0

log = structlog.get_logger()


class UsageThresholds:
    """Tightens the thresholds of hot and sick nodes, and takes back what is ours.

    Args:
        api: the way to the server.
        pen: writes for us; asks before each request whether we still may.
        usage: what is known of each node's use.
        settings: whether at all; where not, what earlier settings left behind is taken off, and nothing else is done.
        permit: raises EdgeError while we may not write, so that nothing is read in vain.
        sick: node → why it should rather get no new pods, now.
    """

    def __init__(
        self,
        api: Api,
        pen: Pen,
        usage: Usage,
        settings: ThresholdSettings,
        *,
        permit: Callable[[], None],
        sick: Callable[[], Mapping[str, str]],
    ) -> None:
        self._api = api
        self._pen = pen
        self._usage = usage
        self._settings = settings
        self._permit = permit
        self._sick = sick
        self._told: dict[str, str] = {}
        self._began = math.inf
        """Unix time of the first look in which we could write."""
        self._away = False
        """Whether somebody else may have led since then: agents reported to that one."""
        self._back = -math.inf
        """Unix time of the first look after we were away."""
        self._refused: frozenset[str] = frozenset()
        """Nodes whose write failed in the last look: tried last."""
        self.words: Mapping[str, str] = {}
        """Node → what was written on it, or why nothing was, as of the last look."""
        self.writes_total = 0
        self.errors_total = 0

    async def run(self, view: Callable[[], ClusterView], wall: Callable[[], float]) -> None:
        """Look every half minute while we may write; switched off, until nothing of ours is left."""
        while True:
            idle = await self.step(view(), wall())
            if idle and not self._settings.enabled:
                return
            await asyncio.sleep(LOOK_SECONDS if permitted(self._permit) else WAITING_SECONDS)

    async def step(self, view: ClusterView, now: float) -> bool:
        """Write what is due; no answer of the server is an error here.

        Args:
            view: the nodes.
            now: Unix time.

        Returns:
            Whether all was read, and there was nothing to write.
        """
        try:
            self._permit()
            if not view.synced:
                return False
            marked = await self._marked()
            reasons = await self._reasons(view, set(marked), now)
            words: dict[str, str] = {}
            refused: set[str] = set()
            writes = 0
            due = [*(marked.keys() - reasons.keys()), *reasons]
            for name in sorted(due, key=lambda each: each in self._refused):
                if writes >= MAX_WRITES:
                    break
                node = marked.get(name) or await self._read(name)
                if node is None:
                    continue
                change = edit(node, reasons.get(name, ""), self._settings)
                if change.words:
                    words[name] = change.words
                if change.patch is not None:
                    writes += 1
                    if why := await self._write(name, change.patch):
                        refused.add(name)
                        words[name] = why
            self._refused = frozenset(refused)
            self._tell(words)
        except EdgeError:
            self._away = True
            return False  # another aggregator leads, or a person stopped all writes
        except Forbidden as error:
            if self._settings.enabled:
                self._complain(error)
            return True  # nobody asked for thresholds, and so nobody granted us to look
        except ApiError as error:
            self._complain(error)
            return False
        return writes == 0

    async def _reasons(self, view: ClusterView, marked: set[str], now: float) -> dict[str, str]:
        if not self._settings.enabled:
            return {}
        use: dict[str, float] = {}
        names = [name for name in view.nodes if name in self._usage.latest]
        for start in range(0, len(names), STEP_NODES):
            some = names[start : start + STEP_NODES]
            found = self._usage.percentiles(WINDOW_SECONDS, now, (PERCENTILE,), some)
            for name, (cpu, memory, _) in found.items():
                shares = [each[0] for each in (cpu, memory) if each is not None]
                if shares:
                    use[name] = max(shares)
            await asyncio.sleep(0)
        ours = {name for name, node in view.nodes.items() if node.managed}
        if self._away and math.isfinite(self._began):
            self._back = now
        self._away = False
        self._began = min(self._began, now)
        known = max(min(self._began, self._usage.first_seconds), min(self._back, now))
        whole = now - known >= WINDOW_SECONDS
        return wanted(marked, use, self._sick(), ours, self._settings, whole=whole)

    async def _marked(self) -> dict[str, Json]:
        """The Nodes that carry our signature."""
        found: dict[str, Json] = {}
        query = {"labelSelector": MARK}
        async with aclosing(self._api.pages(NODES, query=query)) as pages:
            async for page in pages:
                found |= {each["metadata"]["name"]: each for each in page.get("items") or ()}
        return found

    async def _read(self, name: str) -> Json | None:
        try:
            return await self._api.get(node_path(name))
        except NotFound:
            return None

    async def _write(self, name: str, patch: Json) -> str:
        """Why the server refuses this one; empty: it does not."""
        try:
            await self._pen.patch(node_path(name), patch)
        except (Conflict, NotFound):
            return ""  # changed meanwhile: the next look decides anew
        except (TooManyRequests, Unavailable):
            self._refused |= {name}
            raise  # the others would fare no better now
        except ApiError as error:  # one that is refused must not hold up the others
            self.errors_total += 1
            return f"refused: {error}"
        self.writes_total += 1
        return ""

    def _tell(self, words: Mapping[str, str]) -> None:
        """Each thing once, until it is another one; a dry run comes to the same again and again."""
        for name, text in words.items():
            if self._told.get(name) != text:
                log.info("koordinator", node=name, change=text, dry_run=self._pen.dry_run)
        self._told = dict(words)
        self.words = words

    def _complain(self, error: ApiError) -> None:
        """Counted each time, told once for the same trouble."""
        self.errors_total += 1
        if self._told.get("") != str(error):
            self._told[""] = str(error)
            log.warning("usage thresholds are left as they are", error=str(error))
