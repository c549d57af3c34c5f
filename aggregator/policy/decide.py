"""The whole decision: (fleet, cluster, config, now) → intents and what was declined. Pure.

It is level-triggered: run on what the cluster shows, at any time, after any crash, it asks for what is missing
and nothing else. The same inputs give the same answer.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from aggregator.policy.config import PolicyConfig, budget
from aggregator.policy.health import SOURCE_OF_DOMAIN, NodeHealth, conditions
from aggregator.policy.incidents import (
    STEPPED,
    Step,
    departed,
    duplicate,
    open_incident,
    step,
    wants_quarantine,
)
from aggregator.policy.model import (
    ClusterNode,
    ClusterView,
    Incident,
    Intent,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetTaint,
    Taint,
)
from contract.vocabulary import Phase, Severity, SourceState


class Declined(msgspec.Struct, frozen=True):
    """Something the findings ask for that is not done, and why."""

    node: str
    reason: str


class Decision(msgspec.Struct, frozen=True):
    """One round's outcome."""

    intents: tuple[Intent, ...] = ()
    declined: tuple[Declined, ...] = ()


def decide(
    fleet: Iterable[NodeHealth], view: ClusterView, config: PolicyConfig, now: float
) -> Decision:
    """Decide for every node that has a place in the cluster.

    Args:
        fleet: every node that ever reported to this process.
        view: the cluster as of now; nothing is decided on an unsynced one.
        config: the policy's settings.
        now: Unix time.
    """
    if not view.synced:
        return Decision()
    present = [(health, view.nodes[health.name]) for health in fleet if health.name in view.nodes]
    open_incidents, doubles = _open_incidents(view)
    room = _Room(view, open_incidents, config)
    earlier = _earlier_quarantines(view, config, now)
    intents: list[Intent] = [
        departed(each, now)
        for each in open_incidents.values()
        if each.node not in view.nodes and not each.hold and each.phase in STEPPED
    ]
    declined: list[Declined] = []
    for health, node in sorted(present, key=_urgency):
        intents += conditions(health, node, silent_after_seconds=config.silent_after_seconds)
        if health.age_seconds > config.silent_after_seconds:
            continue
        incident = open_incidents.get(health.name)
        if incident is not None and (incident.hold or incident.phase not in STEPPED):
            continue
        known = incident
        if incident is None:
            if not health.at_least(Severity.DEGRADED):
                intents += _orphaned_taint(health, node, config)
                continue
            incident = open_incident(health, now)
        may_quarantine = (
            not wants_quarantine(incident, health) or _is_hard(node.taint) or room.take(health.pool)
        )
        taken = step(
            incident,
            health,
            taint=node.taint,
            may_quarantine=may_quarantine,
            why_not=room.why_not(health.pool),
            release_after_seconds=_release_after(earlier[health.name], config),
            config=config,
            now=now,
        )
        intents += _intents(known, taken, node)
        intents += (duplicate(each, now) for each in doubles.get(health.name, ()))
        if taken.declined and (known is None or known.next_step != taken.incident.next_step):
            declined.append(Declined(node.name, taken.declined))
    return Decision(tuple(intents), tuple(declined))


def _open_incidents(view: ClusterView) -> tuple[dict[str, Incident], dict[str, list[Incident]]]:
    """The open incident of each node, and what there is beside it: a lost answer can leave two.

    Those that people hold or have to mend count first, then the one that went furthest, then the oldest.
    """
    found: dict[str, Incident] = {}
    doubles: dict[str, list[Incident]] = {}
    for each in sorted(view.incidents.values(), key=_standing):
        if each.open and found.setdefault(each.node, each) is not each:
            doubles.setdefault(each.node, []).append(each)
    return found, doubles


def _standing(incident: Incident) -> tuple[bool, bool, float, str]:
    ours = not incident.hold and incident.phase in STEPPED
    return (ours, incident.phase is Phase.SUSPECT, incident.opened_seconds, incident.name)


class _Room:
    """How much of each pool's budget is left in this round."""

    def __init__(
        self, view: ClusterView, open_incidents: dict[str, Incident], config: PolicyConfig
    ) -> None:
        self._sizes = Counter(node.pool for node in view.nodes.values())
        self._config = config
        under = {each.node for each in open_incidents.values() if _was_quarantined(each)}
        under |= {node.name for node in view.nodes.values() if _is_hard(node.taint)}
        self._used = Counter(view.nodes[name].pool for name in under if name in view.nodes)

    def take(self, pool: str) -> bool:
        if self._used[pool] >= budget(self._sizes[pool], self._config):
            return False
        self._used[pool] += 1
        return True

    def why_not(self, pool: str) -> str:
        allowed = budget(self._sizes[pool], self._config)
        return f"{self._used[pool]} of at most {allowed} nodes of pool {pool!r} are quarantined"


def _was_quarantined(incident: Incident) -> bool:
    return incident.phase is Phase.QUARANTINED or incident.quarantined_seconds is not None


def _is_hard(taint: Taint | None) -> bool:
    """Whether the node already takes no new pods, and so already counts against the budget."""
    return taint is not None and taint.effect != "PreferNoSchedule"


def _urgency(pair: tuple[NodeHealth, ClusterNode]) -> tuple[int, float, str]:
    """Worst first, then longest suffering: who gets what is left of a budget."""
    health, _ = pair
    if not health.findings:
        return (0, 0.0, health.name)
    worst = health.findings[0]
    return (-worst.severity, worst.since_seconds, health.name)


def _earlier_quarantines(view: ClusterView, config: PolicyConfig, now: float) -> Counter[str]:
    """Per node, how many quarantines that are over began within the flap window."""
    return Counter(
        each.node
        for each in view.incidents.values()
        if not each.open
        and each.quarantined_seconds is not None
        and now - each.quarantined_seconds < config.flap_window_seconds
    )


def _release_after(earlier: int, config: PolicyConfig) -> float:
    """The release time, doubled for each earlier quarantine."""
    return min(config.release_after_seconds * 2.0 ** min(earlier, 30), _most(config))


def _most(config: PolicyConfig) -> float:
    return max(config.flap_most_seconds, config.release_after_seconds)


def _orphaned_taint(health: NodeHealth, node: ClusterNode, config: PolicyConfig) -> list[Intent]:
    """Our taint on a healthy, reporting node without an open incident: left over from a crash."""
    blind = any(
        each.state >= SourceState.FAILING and each.name in SOURCE_OF_DOMAIN.values()
        for each in health.sources
    )
    if node.taint is None or blind or health.clear_seconds < config.release_after_seconds:
        return []
    return [RemoveTaint(node=node.name, reason="no open incident and no finding on this node")]


def _intents(known: Incident | None, taken: Step, node: ClusterNode) -> list[Intent]:
    """What must be written to get from what is known to what the step wants; the taint comes first."""
    incident = taken.incident
    intents: list[Intent] = []
    if _differs(node.taint, taken.taint):
        if taken.taint is None:
            intents.append(RemoveTaint(node=node.name, reason=taken.why))
        else:
            intents.append(SetTaint(node=node.name, taint=taken.taint, reason=taken.why))
    if known != incident:
        intents.append(SaveIncident(incident=incident, reason=f"{incident.phase}: {taken.why}"))
    before = known.phase if known is not None else None
    if incident.phase is not before and (text := incident.timeline[-1].text):
        if incident.phase is Phase.QUARANTINED:
            intents.append(
                RecordEvent(node=node.name, type="Warning", event_reason="Quarantined", reason=text)
            )
        elif incident.phase is Phase.CLOSED:
            intents.append(
                RecordEvent(node=node.name, type="Normal", event_reason="Released", reason=text)
            )
    return intents


def _differs(have: Taint | None, want: Taint | None) -> bool:
    """A new code alone is not worth a write: every taint change wakes the scheduler's queue."""
    return (have.effect if have else None) != (want.effect if want else None)
