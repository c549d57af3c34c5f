"""The whole decision: (fleet, cluster, config, now) → intents, orders and what was declined. Pure.

It is level-triggered: run on what the cluster shows, at any time, after any crash, it asks for what is missing
and nothing else. The same inputs give the same answer.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable
from functools import cached_property

import msgspec

from aggregator.policy.attempts import after_all
from aggregator.policy.case import Case, Declined, Step
from aggregator.policy.config import PolicyConfig
from aggregator.policy.devices.relax import still_keeps
from aggregator.policy.devices.story import with_relaxing_told
from aggregator.policy.guards import Guards, is_hard
from aggregator.policy.health import SOURCE_OF_DOMAIN, NodeHealth, conditions
from aggregator.policy.incidents import (
    departed,
    duplicate,
    open_incident,
    suspect,
    with_codes_noted,
    with_findings,
)
from aggregator.policy.model import (
    ClusterNode,
    ClusterView,
    DirectiveOrder,
    DrainOrder,
    ForgetIncident,
    Incident,
    Intent,
    Notify,
    RemoveTaint,
    SaveIncident,
    Uncordon,
)
from aggregator.policy.outcome import intents_of
from aggregator.policy.people import is_peoples, muted_codes, overrule, overruled, without
from aggregator.policy.treatment import (
    draining,
    lost,
    needs_human,
    quarantined,
    repairing,
    unheard,
)
from aggregator.policy.verification import verifying
from contract.vocabulary import Phase, Severity, SourceState

MAX_FORGOTTEN = 50
"""Closed incidents deleted in one round."""

STEPS: dict[Phase, Callable[[Incident, Case], Step]] = {
    Phase.SUSPECT: suspect,
    Phase.QUARANTINED: quarantined,
    Phase.DRAINING: draining,
    Phase.REPAIRING: repairing,
    Phase.VERIFYING: verifying,
    Phase.NEEDS_HUMAN: needs_human,
}


class Decision(msgspec.Struct, frozen=True):
    """One round's outcome."""

    intents: tuple[Intent, ...] = ()
    declined: tuple[Declined, ...] = ()
    drains: tuple[DrainOrder, ...] = ()
    """All that should be going on now."""
    directives: tuple[DirectiveOrder, ...] = ()
    """All whose outcome is waited for."""


def decide(
    fleet: Iterable[NodeHealth],
    view: ClusterView,
    config: PolicyConfig,
    now: float,
    *,
    busy: Container[str] = (),
) -> Decision:
    """Decide for every node that has a place in the cluster.

    Args:
        fleet: every node that ever reported to this process.
        view: the cluster as of now; nothing is decided on an unsynced one, or once a person stopped everything.
        config: the policy's settings.
        now: Unix time.
        busy: nodes about which nothing is decided now. What they show counts all the same.
    """
    if not view.synced or view.stopped:
        return Decision()
    return _Round(fleet, view, config, now).decision(busy)


class _Round:
    """One decision under way."""

    def __init__(
        self, fleet: Iterable[NodeHealth], view: ClusterView, config: PolicyConfig, now: float
    ) -> None:
        self._view = view
        self._config = config
        self._now = now
        self._fleet = [health for health in fleet if health.name in view.nodes]
        self._open, self._doubles = _open_incidents(view)
        self._closed: dict[str, list[Incident]] = defaultdict(list)
        for each in view.incidents.values():
            if not each.open:
                self._closed[each.node].append(each)
        self._intents: list[Intent] = []
        self._declined: list[Declined] = []
        self._drains: list[DrainOrder] = []
        self._directives: list[DirectiveOrder] = []

    @cached_property
    def _muted(self) -> dict[str, frozenset[str]]:
        """By node, the codes that are left alone there; made, like the next two, when the first node needs it."""
        return {
            name: codes
            for name, each in self._closed.items()
            if (codes := muted_codes(each, self._now))
        }

    @cached_property
    def _earlier(self) -> Counter[str]:
        return _earlier_quarantines(self._view, self._config, self._now)

    @cached_property
    def _guards(self) -> Guards:
        """For 5,000 healthy nodes they would take half of the round."""
        return Guards(self._ours(), self._view, self._open, self._config, self._now)

    def _ours(self) -> list[NodeHealth]:
        """What the nodes show that are not left to people: what those show for ever is no crowd."""
        return [
            self._unmuted(each)
            for each in self._fleet
            if self._view.nodes[each.name].managed
            and not ((known := self._open.get(each.name)) and is_peoples(known))
        ]

    def _unmuted(self, health: NodeHealth) -> NodeHealth:
        codes = self._muted.get(health.name)
        return without(health, codes) if codes else health

    def decision(self, busy: Container[str]) -> Decision:
        self._intents += [
            departed(each, self._now)
            for each in self._open.values()
            if each.node not in self._view.nodes and not is_peoples(each)
        ]
        for health in sorted(self._fleet, key=_urgency):
            if health.name not in busy:
                self._node(health, self._view.nodes[health.name])
        self._never_reported(busy)
        self._intents += self._forgotten()
        return Decision(
            tuple(self._intents),
            tuple(self._declined),
            tuple(self._drains),
            tuple(self._directives),
        )

    def _node(self, health: NodeHealth, node: ClusterNode) -> None:
        silence = self._config.silent_after_seconds
        self._intents += conditions(health, node, silent_after_seconds=silence)
        incident = self._open.get(node.name)
        if incident is not None and is_peoples(incident):
            return
        health = self._unmuted(health)
        if text := overruled(incident, node):
            self._overruled(incident, health, node, text)
        elif health.age_seconds > silence:
            if incident is not None:
                self._take(incident, lost(incident, self._case(health, node)), node)
        elif incident is not None:
            self._intents += (duplicate(each, self._now) for each in self._doubles[node.name])
            self._take(incident, self._step(incident, health, node), node)
        elif health.at_least(Severity.DEGRADED):
            opened = open_incident(health, self._now)
            self._take(None, self._step(opened, health, node), node)
        else:
            muted = node.name in self._muted
            self._intents += _leftovers(health, node, self._config, muted=muted)

    def _never_reported(self, busy: Container[str]) -> None:
        """Nodes that were relaxed by another process and have not reported to this one."""
        heard = {each.name for each in self._fleet}
        for name, incident in self._open.items():
            node = self._view.nodes.get(name)
            if node is None or name in heard or name in busy:
                continue
            if is_peoples(incident) or overruled(incident, node):
                continue
            health = NodeHealth(name=name, pool=node.pool, age_seconds=math.inf)
            self._take(incident, unheard(incident, self._case(health, node)), node)

    def _case(self, health: NodeHealth, node: ClusterNode) -> Case:
        return Case(
            health=health,
            node=node,
            history=[each for one in self._closed[node.name] for each in one.attempts],
            drain=self._view.drains.get(node.name),
            guards=self._guards,
            devices_kept=self._devices_kept(node.name),
            already_hard=is_hard(node.taint),
            release_after_seconds=_release_after(self._earlier[node.name], self._config),
            config=self._config,
            now=self._now,
        )

    def _devices_kept(self, node: str) -> frozenset[str] | None:
        known = self._view.device_quarantines
        return None if known is None else known.get(node, frozenset())

    def _step(self, incident: Incident, health: NodeHealth, node: ClusterNode) -> Step:
        incident = with_findings(incident, health.at_least(Severity.DEGRADED), self._now)
        incident = with_codes_noted(incident, health, self._now)
        if not incident.release and incident.release_taken_seconds is not None:
            incident = msgspec.structs.replace(incident, release_taken_seconds=None)
        if _lapsed(incident, node, self._devices_kept(node.name)):
            anew = after_all(incident, self._now)
            incident = msgspec.structs.replace(incident, quarantined_seconds=anew)
        return STEPS[incident.phase](incident, self._case(health, node))

    def _take(self, known: Incident | None, step: Step | None, node: ClusterNode) -> None:
        if step is None:
            return
        kept = self._devices_kept(node.name)
        step = with_relaxing_told(known, step, node, kept, self._now)
        self._intents += self._notified(step) or intents_of(known, step, node)
        self._drains += [step.drain] if step.drain else []
        self._directives += [step.directive] if step.directive else []
        news = known is None or known.next_step != step.incident.next_step
        if step.declined is not None and news:
            self._declined.append(step.declined)

    def _notified(self, step: Step) -> list[Intent]:
        """Tell the webhook, and only then write down that it was told."""
        incident = step.incident
        saved = self._view.incidents.get(incident.name) == incident
        waits = incident.phase is Phase.NEEDS_HUMAN and incident.told_seconds is None
        if not (self._config.webhook and saved and waits):
            return []
        told = msgspec.structs.replace(incident, told_seconds=self._now)
        reason = f"a person is needed: {incident.needs}"
        return [
            Notify(incident=incident, reason=reason),
            SaveIncident(incident=told, reason=reason),
        ]

    def _overruled(
        self, incident: Incident | None, health: NodeHealth, node: ClusterNode, text: str
    ) -> None:
        if incident is None and health.at_least(Severity.DEGRADED) and node.managed:
            incident = open_incident(health, self._now)
        if incident is None:
            self._intents += _take_back(node, text)
            return
        known = self._view.incidents.get(incident.name)
        over = overrule(incident, node, text, self._config, self._now)
        intents = intents_of(known, Step(incident=over, taint=None, why=text, cordon=False), node)
        if not over.cancel:
            # What a person took off is the only trace of that until it is written down.
            intents.sort(key=lambda each: not isinstance(each, SaveIncident))
        self._intents += intents

    def _forgotten(self) -> list[ForgetIncident]:
        """Closed long ago, and not needed any more to count attempts or to keep a person's word."""
        windows = [each.window_seconds for each in self._config.ladder.bounds.values()]
        keep = max([self._config.keep_closed_seconds, self._config.flap_window_seconds, *windows])
        old = [
            each
            for listed in self._closed.values()
            for each in listed
            if each.closed_seconds is not None
            and self._now - max(each.closed_seconds, each.muted_until_seconds or 0.0) > keep
        ]
        old.sort(key=lambda each: (each.closed_seconds or 0.0, each.name))
        return [
            ForgetIncident(node=each.node, name=each.name, reason="it was closed long ago")
            for each in old[:MAX_FORGOTTEN]
        ]


def _open_incidents(view: ClusterView) -> tuple[dict[str, Incident], dict[str, list[Incident]]]:
    """The open incident of each node, and what there is beside it: a lost answer can leave two.

    Those that people hold or have to mend count first, then the one that went furthest, then the oldest.
    """
    found: dict[str, Incident] = {}
    doubles: dict[str, list[Incident]] = defaultdict(list)
    for each in sorted((each for each in view.incidents.values() if each.open), key=_standing):
        if found.setdefault(each.node, each) is not each:
            doubles[each.node].append(each)
    return found, doubles


def _standing(incident: Incident) -> tuple[bool, bool, bool, float, str]:
    return (
        not is_peoples(incident),
        not incident.attempts,
        incident.phase is Phase.SUSPECT,
        incident.opened_seconds,
        incident.name,
    )


def _lapsed(incident: Incident, node: ClusterNode, devices_kept: frozenset[str] | None) -> bool:
    """Whether pods may have come since the node was drained: the hard taint that says they did not is gone."""
    if incident.soak_since_seconds is not None or is_hard(node.taint):
        return False
    if still_keeps(incident, node, devices_kept):
        return False
    since = incident.quarantined_seconds
    return since is not None and any(each.started_seconds >= since for each in incident.attempts)


def _urgency(health: NodeHealth) -> tuple[int, float, str]:
    """Worst first, then longest suffering: who gets what is left of a budget."""
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
    most = max(config.flap_most_seconds, config.release_after_seconds)
    return min(config.release_after_seconds * 2.0 ** min(earlier, 30), most)


def _leftovers(
    health: NodeHealth, node: ClusterNode, config: PolicyConfig, *, muted: bool
) -> list[Intent]:
    """What is ours on a reporting node without an open incident: left over from a crash.

    Where a person's act mutes what it shows, it goes at once; else once the node is seen to be healthy.
    """
    if not (node.cordoned_by or node.quarantined_by or node.taint is not None):
        return []
    if muted:
        return _take_back(node, "a person overruled us, and no incident is open on this node")
    blind = any(
        each.state >= SourceState.FAILING and each.name in SOURCE_OF_DOMAIN.values()
        for each in health.sources
    )
    if blind or health.clear_seconds < config.release_after_seconds:
        return []
    return _take_back(node, "no open incident and no finding on this node")


def _take_back(node: ClusterNode, reason: str) -> list[Intent]:
    """Take everything that is ours off a node."""
    intents: list[Intent] = []
    if node.cordoned_by:
        intents.append(Uncordon(node=node.name, reason=reason))
    if node.taint is not None or node.quarantined_by:
        intents.append(RemoveTaint(node=node.name, reason=reason))
    return intents
