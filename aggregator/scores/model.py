"""One node's score: a whole number 0..1000, larger is the better place for the next GPU pod. Pure.

Health decides the range, the terms (``aggregator.scores.terms``) decide the place in it. The first rule that
fits; ``v`` is the value of the terms for a pod on this node, 0..1::

    quarantined (our taint, or an incident past suspicion)      0                    sick
    a fatal or critical finding, freshly reported               0                    sick
    our taint only asks to avoid the node                       1 + round(98 · v)    degraded, 1..99
    pods fail there at once (``aggregator.scores.failures``)    1 + round(98 · v)    degraded, 1..99
    no report within ``stale_after_seconds``, or never one      500                  unknown
    a degraded finding, or an open incident in suspicion        1 + round(98 · v)    degraded, 1..99
    the device source fails, so that the hardware is unseen     500                  unknown
    healthy                                                     100 + round(900 · v) healthy, 100..1000

So a suspect node ranks last and is still ordered among its kind. Silence is the middle of the scale: neither
rewarded nor punished; among the nodes of one question it is not before the best healthy one. A healthy node that the pod does not fit by our books keeps 100, since the books may be
late and the scheduler's are not. A value that is not a number counts as the middle: no NaN leaves here. What
Kubernetes knows by itself (our taint, failed pods) outlives the agent's silence; what only the agent saw does not.

Without a pod to place and without a histogram of pods (``aggregator.scores.book``) only use is known:
a healthy node then scores ``500 + floor(500 · use)``, ``use`` being the share of its GPUs in use, so that
nodes are filled one after the other and empty ones stay whole.
"""

import math
from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.vocabulary import Severity

MAX_SCORE = 1000
NEUTRAL_SCORE = 500
LEAST_HEALTHY_SCORE = 100
DEGRADED_MAX_SCORE = 99
BAND = 100
"""Of a score: the label band 0..10 is ``score // BAND``."""
STALE_AFTER_SECONDS = 30.0
"""Six reports missed at the usual rhythm."""

Standing = Literal["", "avoid", "quarantined"]
"""How the node stands in the cluster by our own doing; empty: in service."""

Verdict = Literal["sick", "degraded", "unknown", "healthy"]

VERDICTS: tuple[Verdict, ...] = ("sick", "degraded", "unknown", "healthy")
"""Worst first; arrays of verdicts hold the place in this tuple."""

SICK, DEGRADED, UNKNOWN, HEALTHY = range(4)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int8]


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the score of one node depends on, but for the pods on it."""

    name: str
    standing: Standing = ""
    standing_reason: str = ""
    suspect_reason: str = ""
    """The code for which an incident is open and nothing was done yet; empty: none is."""
    worst: Severity | None = None
    """Of the findings in the newest report; ``None`` when there are none."""
    worst_text: str = ""
    """Code and subject of that finding, for people."""
    received_seconds: float | None = None
    """Unix time of the newest report; ``None`` when there never was one."""
    failing_reason: str = ""
    """How pods fail there at once, a clause; empty: they do not."""
    blind_reason: str = ""
    """Why the devices could not be read; empty when they could."""
    use_ratio: float | None = None
    """Share of the node's GPUs in use, 0..1; ``None`` when not measured."""
    gpu_count: int = 0
    ports_up: int = 0
    """RDMA ports that carry traffic."""
    ports_total: int | None = None
    """RDMA ports that the node has; ``None``: not known."""
    neighbourhoods: tuple[int, ...] = ()
    """By device index, a number that devices near each other share; empty: not known."""


class NodeScore(msgspec.Struct, frozen=True):
    """A score and why."""

    score: int
    """0..1000."""
    reason: str
    """One clause a person can read; shown on the page and in the scheduler's events."""
    verdict: Verdict

    @property
    def hard(self) -> bool:
        """Whether no new GPU pod belongs here at all."""
        return self.verdict == "sick"


class Judgement(msgspec.Struct, frozen=True):
    """What a node's health alone says about it."""

    verdict: Verdict
    reason: str


def judge(facts: NodeFacts, now: float, stale_after_seconds: float) -> Judgement:
    """The range a node's score lies in, and why, by the rules above."""
    silence = _by_silence(facts, now, stale_after_seconds)
    found = None if silence else _by_findings(facts)
    if found and found.verdict == "sick" and facts.standing != "quarantined":
        return found  # a budget that leaves a node its softer taint makes its fault no smaller
    return _by_standing(facts) or found or _by_pods(facts) or silence or _by_sight(facts)


def grade(verdict: Verdict, value: float) -> int:
    """The score for a verdict and a value of the terms; see ``grades``."""
    codes = np.array([VERDICTS.index(verdict)], dtype=np.int8)
    return int(grades(codes, np.array([value], dtype=np.float64))[0])


def grades(verdicts: Codes, values: Floats) -> Ints:
    """The scores of many nodes.

    Args:
        verdicts: shape (n,), places in ``VERDICTS``.
        values: shape (n,), of the terms, 0..1; what is outside is brought in, NaN counts as the middle.

    Returns:
        shape (n,), whole numbers 0..1000.
    """
    middle = (NEUTRAL_SCORE - LEAST_HEALTHY_SCORE) / (MAX_SCORE - LEAST_HEALTHY_SCORE)
    known = np.clip(np.where(np.isnan(values), middle, values), 0.0, 1.0)
    low = np.array([0, 1, NEUTRAL_SCORE, LEAST_HEALTHY_SCORE], dtype=np.int64)[verdicts]
    high = np.array([0, DEGRADED_MAX_SCORE, NEUTRAL_SCORE, MAX_SCORE], dtype=np.int64)[verdicts]
    found: Ints = low + np.floor((high - low) * known + 0.5).astype(np.int64)
    return found


def no_prize_for_silence(scores: Ints, verdicts: Codes) -> Ints:
    """The scores of nodes that are compared: one of which nothing is known is not before the best healthy one with room.

    Where all the well known ones are below the middle (a pod that breaks into a device of an empty node is), every such pod
    would else go to the node whose agent is dead.
    """
    well = scores[(verdicts == HEALTHY) & (scores > LEAST_HEALTHY_SCORE)]
    if not len(well) or (best := int(well.max())) >= NEUTRAL_SCORE:
        return scores
    return np.where(verdicts == UNKNOWN, np.minimum(scores, best), scores)


def score_table(
    nodes: Iterable[NodeFacts], now: float, stale_after_seconds: float = STALE_AFTER_SECONDS
) -> dict[str, NodeScore]:
    """The scores of all nodes at one instant, by health and use alone."""
    return {each.name: score_of(each, now, stale_after_seconds) for each in nodes}


def score_of(facts: NodeFacts, now: float, stale_after_seconds: float) -> NodeScore:
    """One node's score by health and use alone."""
    return by_use(facts, judge(facts, now, stale_after_seconds))


def by_use(facts: NodeFacts, judged: Judgement) -> NodeScore:
    """The score of a node of which only health and use are known."""
    if judged.verdict == "healthy":
        score = NEUTRAL_SCORE + math.floor((MAX_SCORE - NEUTRAL_SCORE) * _use(facts))
        return NodeScore(score, f"healthy, {_use_words(facts)}", "healthy")
    score = NEUTRAL_SCORE if judged.verdict == "unknown" else 0
    if judged.verdict == "degraded":
        score = 1 + math.floor((DEGRADED_MAX_SCORE - 1) * _use(facts))
    return NodeScore(score, judged.reason, judged.verdict)


def _by_standing(facts: NodeFacts) -> Judgement | None:
    if facts.standing == "quarantined":
        return Judgement("sick", f"quarantined: {facts.standing_reason or 'no reason given'}")
    if facts.standing == "avoid":
        return Judgement("degraded", f"to be avoided: {facts.standing_reason or 'no reason given'}")
    return None


def _by_silence(facts: NodeFacts, now: float, stale_after_seconds: float) -> Judgement | None:
    if facts.received_seconds is None:
        return Judgement("unknown", "no report from its agent yet")
    age = now - facts.received_seconds
    if not age <= stale_after_seconds:  # a time that is not a number is stale too
        words = f"{age:.0f} s" if math.isfinite(age) else "an unknown time"
        return Judgement("unknown", f"no report for {words}")
    return None


def _by_findings(facts: NodeFacts) -> Judgement | None:
    if facts.worst is not None and facts.worst >= Severity.DEGRADED:
        reason = f"{facts.worst.label}: {facts.worst_text or 'a finding without a code'}"
        return Judgement("sick" if facts.worst >= Severity.CRITICAL else "degraded", reason)
    if facts.suspect_reason:
        return Judgement("degraded", f"suspect: {facts.suspect_reason}")
    return None


def _by_pods(facts: NodeFacts) -> Judgement | None:
    """What Kubernetes tells: the agent may be silent, or see nothing wrong."""
    return Judgement("degraded", facts.failing_reason) if facts.failing_reason else None


def _by_sight(facts: NodeFacts) -> Judgement:
    if facts.blind_reason:
        return Judgement("unknown", f"devices unseen: {facts.blind_reason}")
    return Judgement("healthy", "healthy")


def _use_words(facts: NodeFacts) -> str:
    return (
        "use not measured" if facts.use_ratio is None else f"{_use(facts):.0%} of its GPUs in use"
    )


def _use(facts: NodeFacts) -> float:
    use = facts.use_ratio
    if use is None or math.isnan(use):
        return 0.0
    return min(1.0, max(0.0, use))
