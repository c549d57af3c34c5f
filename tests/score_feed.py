"""The feed of score labels on a real API server, as one aggregator runs it: its reflector of Nodes, its pen, its leave to write."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.nodes import NODES, NodeRecord, reduce_node
from aggregator.cluster.pen import Pen
from aggregator.cluster.reflector import Reflector
from aggregator.cluster.score_labels import ScoreLabels
from aggregator.feeds.node_labels import LabelSettings
from aggregator.scores.model import NodeScore
from contract.vocabulary import SCORE_ANNOTATION, SCORE_BAND_LABEL
from tests.controlplane.sandbox import LABEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

WAIT_S = 60.0
AT_ONCE: dict[str, Any] = {"settle_seconds": 0, "pause_seconds": 0, "burst": 10_000}
"""Without waits, for a test of what is written and not of when."""

Keys = tuple[str, str]


def healthy(score: int) -> NodeScore:
    return NodeScore(score, "healthy", "healthy")


def sick(reason: str = "xid-79") -> NodeScore:
    return NodeScore(0, reason, "sick")


def unknown() -> NodeScore:
    return NodeScore(500, "no report for 40 s", "unknown")


class Feed:
    """One aggregator's feed. Of the shared cluster it sees the nodes of one namespace's sandbox alone."""

    def __init__(self, kubeconfig: Path, namespace: str, **settings: Any) -> None:
        self.api = Api(Credentials(kubeconfig))
        self.changed = asyncio.Event()
        self.nodes: Reflector[NodeRecord] = Reflector(
            self.api,
            NODES,
            reduce_node,
            on_change=self.changed.set,
            clock=time.monotonic,
            random=lambda: 0.5,
            query={"labelSelector": f"{LABEL}={namespace}"},
        )
        self.refusal = ""
        """Why nothing may be written; empty: this one leads."""
        self.writes_left: int | None = None
        """After how many writes a person stops it; ``None``: nobody does."""
        self.now = 1_000.0
        """Monotonic seconds, moved by the test."""
        self.labels = self.new(**settings)

    def new(self, *, dry_run: bool = False, **settings: Any) -> ScoreLabels:
        """Another process's feed beside, or after, this one."""
        return ScoreLabels(
            self.nodes,
            Pen(self.api, permit=self._before_write, dry_run=dry_run),
            LabelSettings(**{"enabled": True, **settings}),
            permit=self.permit,
            clock=lambda: self.now,
        )

    def permit(self) -> None:
        if self.refusal:
            raise EdgeError(self.refusal)

    def _before_write(self) -> None:
        if self.writes_left is not None:
            if not self.writes_left:
                self.refusal = "stopped by a person"
            self.writes_left -= 1
        self.permit()

    def keys(self) -> dict[str, Keys]:
        """Label and annotation of each node as the reflector knows them; empty where there is none."""
        return {
            name: (
                entry.value.node.labels.get(SCORE_BAND_LABEL, ""),
                entry.value.score_annotation,
            )
            for name, entry in self.nodes.entries.items()
        }

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds; looked at after each change of a node."""
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def feeding(kubeconfig: Path, namespace: str, **settings: Any) -> AsyncIterator[Feed]:
    """A feed whose picture of the nodes is complete and stays fresh; nothing is written until the test says so."""
    feed = Feed(kubeconfig, namespace, **settings)
    follow = asyncio.create_task(feed.nodes.run())
    try:
        await feed.until(lambda: feed.nodes.synced)
        yield feed
    finally:
        follow.cancel()
        await asyncio.gather(follow, return_exceptions=True)
        await feed.api.close()


def carried(node: dict[str, Any]) -> Keys:
    """Label and annotation of a Node object."""
    metadata = node["metadata"]
    return (
        (metadata.get("labels") or {}).get(SCORE_BAND_LABEL, ""),
        (metadata.get("annotations") or {}).get(SCORE_ANNOTATION, ""),
    )
