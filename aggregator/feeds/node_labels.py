"""The score on the Node itself, for schedulers that are asked nothing: what to write to which node, and when. Pure.

Two keys, always in one patch: the label ``fleetmedic.io/score-band`` (0..10) for NodeAffinity's ``addedAffinity``, and the
annotation ``fleetmedic.io/score`` (0..1000) for scheduler-plugins' NodeMetadata.

A write to a Node wakes everybody who watches Nodes, so there are few. The band moves when the score is ``margin`` outside
of it, or stayed outside for ``settle_seconds``; the annotation when the score is ``step`` away from it. A node is written
once in ``pause_seconds`` at most (a node that turns sick at once), the cluster within a token bucket, what matters most
first. A difference that waits grows by ``AGING_PER_SECOND``, so that none waits for ever.

When a node's data go stale it gets the neutral score: 500, or the band of the best healthy node with room where that is lower
(``neutral_score``). The keys are not removed then: NodeMetadata counts a missing key as the worst. What people opted out is
never written to.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from aggregator.scores.model import (
    BAND,
    LEAST_HEALTHY_SCORE,
    MAX_SCORE,
    NEUTRAL_SCORE,
    NodeScore,
)
from contract.vocabulary import SCORE_ANNOTATION, SCORE_BAND_LABEL

Json = dict[str, Any]

RAISE_SETTLES = 10
"""Times ``settle_seconds`` for which the neutral score must be one band above what a node carries: one healthy node that goes to and fro
between two bands would else move every node of which nothing is known."""

AGING_PER_SECOND = 10.0
"""In points of the score: after 100 s a difference of one point comes before a new one of a thousand."""


class LabelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whether nodes carry their score, and how often that may change."""

    enabled: bool = False
    """Off: what an earlier leader wrote is taken off every node, at the same pace."""
    step: int = 25
    """Of the annotation, in points of 1000."""
    margin: int = 25
    """How far outside of its band a score moves the band without waiting."""
    settle_seconds: float = 120.0
    """How long a score must stay outside of its band to move it from less than ``margin`` away."""
    pause_seconds: float = 60.0
    """Between two writes to one node."""
    stale_seconds: float = 120.0
    """How long nothing may be known about a node before it gets the neutral score."""
    writes_per_second: float = 10.0
    """Of the whole cluster, in the long run."""
    burst: int = 50
    """How many writes may come at once after a quiet time."""

    def __post_init__(self) -> None:
        """Refuse what would never write, or always.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        for name, least, most in (("step", 1, BAND), ("margin", 0, BAND), ("burst", 1, 10_000)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}; it has to be {least} to {most}")
        for name in ("settle_seconds", "pause_seconds", "stale_seconds"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; it has to be 0 or more")
        if not 0 < self.writes_per_second < math.inf:
            raise ValueError(
                f"writes_per_second is {self.writes_per_second}; more than 0 is needed"
            )


class Carried(NamedTuple):
    """What a Node object says now, as far as this feed cares."""

    band: str = ""
    """The label as it stands; empty: it is not there."""
    score: str = ""
    """The annotation as it stands."""
    has_gpus: bool = True
    managed: bool = True
    """False where people opted the node out."""


class Wrote(NamedTuple):
    """The last write to one node."""

    at_seconds: float
    sick: bool


class LabelMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be carried from one look to the next, on one monotonic clock. Losing it costs waiting time only."""

    outside: Mapping[str, tuple[int, float]] = {}
    """Node → the band that it carries and since when its score is outside of it."""
    unknown: Mapping[str, float] = {}
    """Node → since when nothing is known about it."""
    due: Mapping[str, float] = {}
    """Node → since when it waits for the budget."""
    wrote: Mapping[str, Wrote] = {}
    tokens: float | None = None
    """Writes that may be made now; ``None``: as many as a burst allows."""
    refilled_seconds: float = 0.0

    def waking(self) -> "LabelMemory":
        """For a look after others may have led: what was waited for begins anew, the budget does not."""
        return msgspec.structs.replace(self, outside={}, unknown={}, due={})


class ScorePatch(msgspec.Struct, frozen=True, kw_only=True):
    """One write to one Node."""

    node: str
    band: int | None
    """0..10; ``None``, as the score: both keys are removed."""
    score: int | None
    """0..1000."""
    reason: str
    sick: bool = False

    @property
    def texts(self) -> tuple[str, str]:
        """Label and annotation as this leaves them; empty: removed."""
        return _text(self.band), _text(self.score)

    @property
    def body(self) -> Json:
        """A JSON merge patch of our two keys. It names no resourceVersion: nobody else writes these keys."""
        band, score = self.texts
        return {
            "metadata": {
                "labels": {SCORE_BAND_LABEL: band or None},
                "annotations": {SCORE_ANNOTATION: score or None},
            }
        }


class Planned(NamedTuple):
    """What one look leads to."""

    patches: list[ScorePatch]
    """Within the budget, what matters most first. Each one that is sent is to be told to ``spend``."""
    memory: LabelMemory
    waiting: int
    """Nodes that are due and have to wait for the budget."""
    delayed: int
    """Those of them that are so for the first time."""
    suppressed: int
    """Scores that came back into their band before it was moved: writes that hysteresis saved."""


def plan(
    scores: Mapping[str, NodeScore],
    nodes: Mapping[str, Carried],
    settings: LabelSettings,
    memory: LabelMemory,
    now: float,
) -> Planned:
    """What to write now.

    Args:
        scores: by node, as of the newest tick; a node that is missing here is one of which nothing is known.
        nodes: every Node object there is, as known just now.
        settings: whether and how often.
        memory: what the last call gave back, after ``spend``.
        now: monotonic seconds.
    """
    look = _Look(settings, memory, now, neutral_score(scores, nodes))
    for name, node in nodes.items():
        if not node.managed:
            continue
        if settings.enabled:
            if node.has_gpus or node.band or node.score:
                look.at(name, node, scores.get(name))
        elif node.band or node.score:
            gone = ScorePatch(node=name, band=None, score=None, reason="the feed is switched off")
            look.wants(gone, importance=0.0)
    return look.result(nodes)


def spend(memory: LabelMemory, sent: Sequence[ScorePatch], now: float) -> LabelMemory:
    """The memory after these patches were sent, answered well or not: a node that refuses waits out its pause too."""
    names = {each.node for each in sent}
    wrote = dict(memory.wrote)
    wrote.update({each.node: Wrote(now, each.sick) for each in sent})
    return msgspec.structs.replace(
        memory,
        due={name: at for name, at in memory.due.items() if name not in names},
        wrote=wrote,
        tokens=(memory.tokens or 0.0) - len(sent),
    )


class _Look:
    """One look at all nodes. Lives as long as one call of ``plan``."""

    def __init__(
        self, settings: LabelSettings, memory: LabelMemory, now: float, neutral: int
    ) -> None:
        self._neutral = neutral
        self._settings = settings
        self._memory = memory
        self._now = now
        self._outside: dict[str, tuple[int, float]] = {}
        self._unknown: dict[str, float] = {}
        self._wanted: list[tuple[float, ScorePatch]] = []
        self._suppressed = 0

    def at(self, name: str, node: Carried, scored: NodeScore | None) -> None:
        """Decide about one node that the feed looks after."""
        carried = _carried(node)
        score = whole(scored)
        if scored is None or score is None or scored.verdict == "unknown":
            since = self._unknown[name] = self._memory.unknown.get(name, self._now)
            if carried is None or self._now - since >= self._settings.stale_seconds:
                why = scored.reason if scored and score is not None else "there is no score of it"
                if not self._near_neutral(name, carried):
                    self._firmly(name, carried, self._neutral, f"neutral: {why}")
        elif scored.verdict == "sick":
            self._firmly(name, carried, 0, f"sick: {scored.reason}", sick=True)
        elif carried is None:
            self._write(name, score // BAND, score, "first score", importance=MAX_SCORE)
        else:
            self._follow(name, carried, score)

    def wants(self, patch: ScorePatch, *, importance: float) -> None:
        """Take down a write, unless its node was written just now."""
        wrote = self._memory.wrote.get(patch.node)
        if wrote is not None and self._now - wrote.at_seconds < self._settings.pause_seconds:
            turned_sick = patch.sick and not wrote.sick
            if not turned_sick:
                return
        waited = self._now - self._memory.due.get(patch.node, self._now)
        self._wanted.append((importance + AGING_PER_SECOND * waited, patch))

    def result(self, nodes: Mapping[str, Carried]) -> Planned:
        """The most important writes that the budget allows, and what has to be remembered."""
        before, settings = self._memory, self._settings
        self._wanted.sort(key=lambda each: (not each[1].sick, -each[0], each[1].node))
        patches = [patch for _, patch in self._wanted]
        tokens = float(settings.burst)
        if before.tokens is not None:
            passed = max(0.0, self._now - before.refilled_seconds)
            tokens = min(tokens, before.tokens + passed * settings.writes_per_second)
        allowed = max(0, math.floor(tokens))
        late = [each.node for each in patches[allowed:]]
        memory = LabelMemory(
            outside=self._outside,
            unknown=self._unknown,
            due={each.node: before.due.get(each.node, self._now) for each in patches},
            wrote={name: each for name, each in before.wrote.items() if name in nodes},
            tokens=tokens,
            refilled_seconds=self._now,
        )
        delayed = sum(name not in before.due for name in late)
        return Planned(patches[:allowed], memory, len(late), delayed, self._suppressed)

    def _firmly(
        self,
        name: str,
        carried: tuple[int, int] | None,
        score: int,
        reason: str,
        *,
        sick: bool = False,
    ) -> None:
        """A score that is no measurement and has no noise: exactly this one, without hysteresis."""
        if carried == (score // BAND, score):
            return
        change = MAX_SCORE if carried is None else abs(score - carried[1])
        patch = ScorePatch(node=name, band=score // BAND, score=score, reason=reason, sick=sick)
        self.wants(patch, importance=change)

    def _near_neutral(self, name: str, carried: tuple[int, int] | None) -> bool:
        """Whether a node carries what was neutral before, one band less than now, and not for long yet."""
        if carried is None or carried[1] != carried[0] * BAND or not carried[0]:
            return False
        if self._neutral - carried[1] != BAND:
            return False
        known, since = self._memory.outside.get(name, (carried[0], self._now))
        since = since if known == carried[0] else self._now
        self._outside[name] = (carried[0], since)
        return self._now - since < RAISE_SETTLES * self._settings.settle_seconds

    def _follow(self, name: str, carried: tuple[int, int], score: int) -> None:
        """A measured score: written when it is clearly another one."""
        band, last = carried
        target = score // BAND
        moves = target != band and self._left(name, band, score)
        if target == band == self._memory.outside.get(name, (None,))[0]:
            self._suppressed += 1
        change = abs(score - last)
        if moves:
            self._write(name, target, score, f"band {band} → {target}", importance=change)
        elif change >= self._settings.step:
            self._write(name, band, score, f"score {last} → {score}", importance=change)

    def _left(self, name: str, band: int, score: int) -> bool:
        """Whether a score outside of its band is so far enough or long enough."""
        known, since = self._memory.outside.get(name, (band, self._now))
        since = since if known == band else self._now
        self._outside[name] = (band, since)
        lowest = band * BAND
        highest = min(lowest + BAND - 1, MAX_SCORE)
        far = max(lowest - score, score - highest) >= max(1, self._settings.margin)
        return far or self._now - since >= self._settings.settle_seconds

    def _write(self, name: str, band: int, score: int, reason: str, *, importance: float) -> None:
        step = self._settings.step
        patch = ScorePatch(node=name, band=band, score=score // step * step, reason=reason)
        self.wants(patch, importance=importance)


def neutral_score(scores: Mapping[str, NodeScore], nodes: Mapping[str, Carried]) -> int:
    """What a node gets of which nothing is known: not before the best healthy node with room.

    A label has no pod in hand, so it is held against what the other nodes carry: where all of those are below the middle, every pod
    would else go to the node whose agent is dead. In whole bands, which move as seldom as those of the nodes themselves.
    """
    best = 0
    for name, node in nodes.items():
        scored = scores.get(name)
        if scored is None or scored.verdict != "healthy" or not node.managed:
            continue
        score = whole(scored)
        if score is None or score <= LEAST_HEALTHY_SCORE:
            continue
        carried = _carried(node)
        best = max(best, carried[0] if carried else score // BAND)
        if best * BAND >= NEUTRAL_SCORE:
            break
    return min(NEUTRAL_SCORE, best * BAND) if best else NEUTRAL_SCORE


def whole(scored: NodeScore | None) -> int | None:
    """The score as a whole number 0..1000; ``None`` where there is none or it is not a number."""
    if scored is None or not math.isfinite(scored.score):
        return None
    return min(MAX_SCORE, max(0, int(scored.score)))


def _carried(node: Carried) -> tuple[int, int] | None:
    """Band and score as a node carries them; ``None`` where one is missing or makes no sense."""
    band, score = _number(node.band), _number(node.score)
    if band is None or score is None or band > MAX_SCORE // BAND or score > MAX_SCORE:
        return None
    return band, score


def _number(text: str) -> int | None:
    """A whole number as we write it: ASCII digits, no sign, no leading zero."""
    if not text or len(text) > 4 or not (text.isascii() and text.isdecimal()):
        return None
    return int(text) if text == "0" or text[0] != "0" else None


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
