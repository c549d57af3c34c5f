"""One node's score: an integer 0..10, larger is the better place for the next GPU pod. Pure.

The first rule that fits decides; ``use`` is the share of the node's GPUs that are in use, 0..1::

    quarantined (our taint, or an incident past suspicion)      0
    our taint only asks to avoid the node                       1 + [use ≥ 1/2]      1..2
    no report within ``stale_after_seconds``, or never one      5                    neutral
    a fatal or critical finding                                 0
    a degraded finding                                          1 + [use ≥ 1/2]      1..2
    the device source fails, so that the hardware is unseen     5                    neutral
    healthy                                                     5 + floor(5 · use)   5..10

Healthy nodes are ranked fullest first, so that empty nodes stay whole for jobs that need eight GPUs at
once. Ten is reserved for nodes on which every GPU is in use already: only pods that share a GPU still fit
there, and there they do not break into a free one. An empty healthy node equals an unknown one: silence is
neither rewarded nor punished. What Kubernetes knows by itself (our taint) outlives the agent's silence;
what only the agent saw does not.
"""

import math
from collections.abc import Iterable
from typing import Literal

import msgspec

from contract.vocabulary import Severity

MAX_SCORE = 10
NEUTRAL_SCORE = 5
DEGRADED_MAX_SCORE = 2
STALE_AFTER_SECONDS = 30.0
"""Six reports missed at the usual rhythm."""

Standing = Literal["", "avoid", "quarantined"]
"""How the node stands in the cluster by our own doing; empty: in service."""

Verdict = Literal["sick", "degraded", "unknown", "healthy"]


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the score of one node depends on."""

    name: str
    standing: Standing = ""
    standing_reason: str = ""
    worst: Severity | None = None
    """Of the findings in the newest report; ``None`` when there are none."""
    worst_text: str = ""
    """Code and subject of that finding, for people."""
    received_seconds: float | None = None
    """Unix time of the newest report; ``None`` when there never was one."""
    blind_reason: str = ""
    """Why the devices could not be read; empty when they could."""
    use_ratio: float | None = None
    """Share of the node's GPUs in use, 0..1; ``None`` when not measured."""
    gpu_count: int = 0


class NodeScore(msgspec.Struct, frozen=True):
    """A score and why."""

    score: int
    reason: str
    """One clause a person can read; shown on the page and in the scheduler's events."""
    verdict: Verdict

    @property
    def hard(self) -> bool:
        """Whether no new GPU pod belongs here at all."""
        return self.verdict == "sick"


def score_table(
    nodes: Iterable[NodeFacts], now: float, stale_after_seconds: float = STALE_AFTER_SECONDS
) -> dict[str, NodeScore]:
    """The scores of all nodes at one instant, by name: made once per tick, then only looked up."""
    return {each.name: score_of(each, now, stale_after_seconds) for each in nodes}


def score_of(facts: NodeFacts, now: float, stale_after_seconds: float) -> NodeScore:
    """One node's score by the rules above."""
    return (
        _by_standing(facts)
        or _by_silence(facts, now, stale_after_seconds)
        or _by_findings(facts)
        or _by_use(facts)
    )


def _by_standing(facts: NodeFacts) -> NodeScore | None:
    if facts.standing == "quarantined":
        return NodeScore(0, f"quarantined: {facts.standing_reason or 'no reason given'}", "sick")
    if facts.standing == "avoid":
        reason = f"to be avoided: {facts.standing_reason or 'no reason given'}"
        return NodeScore(_degraded_score(facts), reason, "degraded")
    return None


def _by_silence(facts: NodeFacts, now: float, stale_after_seconds: float) -> NodeScore | None:
    if facts.received_seconds is None:
        return NodeScore(NEUTRAL_SCORE, "no report from its agent yet", "unknown")
    age = now - facts.received_seconds
    if not age <= stale_after_seconds:  # a time that is not a number is stale too
        words = f"{age:.0f} s" if math.isfinite(age) else "an unknown time"
        return NodeScore(NEUTRAL_SCORE, f"no report for {words}", "unknown")
    return None


def _by_findings(facts: NodeFacts) -> NodeScore | None:
    if facts.worst is None or facts.worst < Severity.DEGRADED:
        return None
    reason = f"{facts.worst.label}: {facts.worst_text or 'a finding without a code'}"
    if facts.worst >= Severity.CRITICAL:
        return NodeScore(0, reason, "sick")
    return NodeScore(_degraded_score(facts), reason, "degraded")


def _by_use(facts: NodeFacts) -> NodeScore:
    if facts.blind_reason:
        return NodeScore(NEUTRAL_SCORE, f"devices unseen: {facts.blind_reason}", "unknown")
    use = _use(facts)
    score = NEUTRAL_SCORE + math.floor((MAX_SCORE - NEUTRAL_SCORE) * use)
    words = "use not measured" if facts.use_ratio is None else f"{use:.0%} of its GPUs in use"
    return NodeScore(score, f"healthy, {words}", "healthy")


def _degraded_score(facts: NodeFacts) -> int:
    return DEGRADED_MAX_SCORE if _use(facts) >= 0.5 else 1


def _use(facts: NodeFacts) -> float:
    use = facts.use_ratio
    if use is None or math.isnan(use):
        return 0.0
    return min(1.0, max(0.0, use))
