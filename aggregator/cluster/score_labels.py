"""Each GPU node's score, written on its Node object as ``feeds/node_labels.py`` plans it: label and annotation, nothing else."""

import asyncio
import math
from collections.abc import Callable, Mapping

import structlog

from aggregator.cluster import EdgeError
from aggregator.cluster.errors import ApiError, Forbidden, NotFound, TooManyRequests, Unavailable
from aggregator.cluster.nodes import NodeRecord, node_path
from aggregator.cluster.pen import Pen
from aggregator.cluster.reflector import Reflector
from aggregator.feeds.node_labels import (
    Carried,
    LabelMemory,
    LabelSettings,
    ScorePatch,
    plan,
    spend,
)
from aggregator.scores.model import NodeScore
from contract.vocabulary import SCORE_BAND_LABEL

LOOK_SECONDS = 2.0
TOLD_SECONDS = 600.0
"""After which the same kind of refusal is told once more: thousands of nodes may meet with it."""

log = structlog.get_logger()


class ScoreLabels:
    """Keeps label and annotation of every GPU node in step with its score.

    Args:
        nodes: what the Nodes carry now; answers to our writes are put in at once.
        pen: writes for us; asks before each request whether we still may.
        settings: whether and how often; switched off, what an earlier leader left is taken off, and that is all.
        permit: raises EdgeError while we may not write, so that nothing is planned in vain.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        nodes: Reflector[NodeRecord],
        pen: Pen,
        settings: LabelSettings,
        *,
        permit: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._nodes = nodes
        self._pen = pen
        self._settings = settings
        self._permit = permit
        self._clock = clock
        self._memory = LabelMemory()
        self._imagined: dict[str, tuple[str, str]] = {}
        """Node → band and score that a dry run would have written."""
        self._quiet_until = 0.0
        self._told: dict[int, float] = {}
        """HTTP status → when a refusal with it was told last."""
        self.waiting = 0
        """Nodes whose write waits for the budget, as of the last look."""
        self.writes_total = 0
        self.delayed_total = 0
        """Writes that had to wait for the budget, each counted once."""
        self.suppressed_total = 0
        """Scores that came back into their band before it was moved."""
        self.errors_total = 0

    async def run(self, scores: Callable[[], Mapping[str, NodeScore]]) -> None:
        """Look every two seconds while we may write; switched off, until nothing of ours is left."""
        while True:
            idle = await self.step(scores())
            if idle and not self._settings.enabled:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def step(self, scores: Mapping[str, NodeScore]) -> bool:
        """Write what is due; no answer of the server is an error here.

        Args:
            scores: by node, as of the newest tick.

        Returns:
            Whether all nodes are known and none had to be written to.
        """
        now = self._clock()
        try:
            self._permit()
        except EdgeError:  # another aggregator leads, or a person stopped all writes
            self._memory = self._memory.waking()
            self.waiting = 0
            return False
        if not self._nodes.synced or now < self._quiet_until:
            return False
        planned = plan(scores, self._carried(), self._settings, self._memory, now)
        self._memory, self.waiting = planned.memory, planned.waiting
        self.delayed_total += planned.delayed
        self.suppressed_total += planned.suppressed
        sent: list[ScorePatch] = []
        try:
            for patch in planned.patches:
                sent.append(patch)
                await self._write(patch)
        except EdgeError:
            sent.pop()  # it was stopped before that one left
            return False
        except (TooManyRequests, Unavailable) as error:  # the others would fare no better now
            self._complain(error)
            if isinstance(error, TooManyRequests):
                self._quiet_until = self._clock() + error.retry_after_seconds
            return False
        finally:
            self._memory = spend(self._memory, sent, self._clock())
        return not sent and not planned.waiting and not self._owed()

    def _owed(self) -> bool:
        """Whether a node still waits out its pause before what is ours can be taken off it."""
        return not self._settings.enabled and any(
            each.managed and (each.band or each.score) for each in self._carried().values()
        )

    def _carried(self) -> dict[str, Carried]:
        entries = self._nodes.entries
        carried = {name: _of(entry.value) for name, entry in entries.items()}
        self._imagined = {name: each for name, each in self._imagined.items() if name in carried}
        for name, (band, score) in self._imagined.items():
            carried[name] = carried[name]._replace(band=band, score=score)
        return carried

    async def _write(self, patch: ScorePatch) -> None:
        try:
            written = await self._pen.patch(node_path(patch.node), patch.body)
        except NotFound:
            return  # the node left meanwhile
        except (TooManyRequests, Unavailable):
            raise
        except ApiError as error:  # one that is refused must not hold up the others
            self._complain(error)
            return
        self.writes_total += 1
        if self._pen.dry_run:
            self._imagined[patch.node] = patch.texts
        else:
            self._nodes.put(written)
        log.debug(
            "score written on a node",
            node=patch.node,
            band=patch.band,
            score=patch.score,
            why=patch.reason,
            dry_run=self._pen.dry_run,
        )

    def _complain(self, error: ApiError) -> None:
        """Counted each time, told once in ten minutes for each kind of answer."""
        self.errors_total += 1
        now = self._clock()
        if now - self._told.get(error.status, -math.inf) < TOLD_SECONDS:
            return
        self._told[error.status] = now
        remedy = "check the rights in deploy/base/rbac.yaml: nodes patch"
        extra = {"remedy": remedy} if isinstance(error, Forbidden) else {}
        log.warning("a node keeps the score that it carries", error=str(error), **extra)


def _of(record: NodeRecord) -> Carried:
    node = record.node
    return Carried(
        band=node.labels.get(SCORE_BAND_LABEL, ""),
        score=record.score_annotation,
        has_gpus=node.gpu_capacity > 0,
        managed=node.managed,
    )
