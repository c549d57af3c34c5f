"""What keeps a round from doing too much: budgets, the rate limit, the breaker. One object per round.

Each question takes room when it is answered yes, so that a round's own decisions count against each other. A refusal's
text is the same from round to round while its reason is the same: it is written into Incidents.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from aggregator.policy.breaker import Breakers, BreakerState
from aggregator.policy.config import PolicyConfig, budget, drain_budget, reboot_budget
from aggregator.policy.health import NodeHealth
from aggregator.policy.ladder import Rung
from aggregator.policy.model import ClusterView, Incident, Taint
from contract.vocabulary import Phase, Severity

UNDER_WORK = frozenset({Phase.DRAINING, Phase.REPAIRING})
RATE_SECONDS = 60.0


class Refusal(msgspec.Struct, frozen=True):
    """Why not, now."""

    why: str
    """One word, for the metric: ``budget``, ``rate``, ``breaker``."""
    text: str
    """A sentence without counts that change by themselves."""


class Guards:
    """One round's bounds.

    Args:
        fleet: the newest reports, of the nodes that we may act on.
        view: the cluster as of now.
        open_incidents: by node, the one that counts.
        config: the policy's settings.
        now: Unix time.
    """

    def __init__(
        self,
        fleet: Iterable[NodeHealth],
        view: ClusterView,
        open_incidents: Mapping[str, Incident],
        config: PolicyConfig,
        now: float,
    ) -> None:
        self._config = config
        self._breakers = Breakers(fleet, view.incidents.values(), config, now)
        self._sizes = Counter(node.pool for node in view.nodes.values())
        pools = {name: node.pool for name, node in view.nodes.items()}
        present = [each for each in open_incidents.values() if each.node in pools]
        hard = {each.node for each in present if was_quarantined(each)}
        tainted = {node.name for node in view.nodes.values() if is_hard(node.taint)}
        self._quarantined = Counter(pools[name] for name in hard | tainted)
        self._worked_on = Counter(pools[each.node] for each in present if under_work(each))
        self._rebooting = Counter(pools[each.node] for each in present if _reboots(each))
        self._this_minute = sum(
            each.quarantined_seconds is not None and now - each.quarantined_seconds < RATE_SECONDS
            for each in view.incidents.values()
        )
        # When these were quarantined could not be written down: it may have been just now.
        self._this_minute += len(tainted - hard)

    def quarantine(self, health: NodeHealth) -> Refusal | None:
        """Ask to put a node, which is not yet, under hard quarantine."""
        codes = _codes(health)
        if text := self._breakers.refuses(codes):
            return Refusal("breaker", text)
        pool, most = health.pool, self._config.quarantines_per_minute
        allowed = budget(self._sizes[pool], self._config)
        if self._quarantined[pool] >= allowed:
            used = self._quarantined[pool]
            return Refusal(
                "budget", f"{used} of at most {allowed} nodes of pool {pool!r} are quarantined"
            )
        if most and self._this_minute >= most:
            return Refusal("rate", f"no more than {most} quarantines a minute")
        self._quarantined[pool] += 1
        self._this_minute += 1
        self._breakers.took(codes)
        return None

    def work(self, health: NodeHealth, code: str) -> Refusal | None:
        """Ask to begin a drain or a repair of a node that is not under work yet.

        Args:
            health: of the node.
            code: of the finding that it is done for; another code of the node is no reason to do it.
        """
        if text := self._breakers.refuses([code]):
            return Refusal("breaker", text)
        refusal = self._take(
            self._worked_on,
            health.pool,
            drain_budget(self._sizes[health.pool], self._config),
            "drained or repaired",
        )
        if refusal is None:
            self._breakers.took([code])
        return refusal

    def more_work(self, code: str) -> Refusal | None:
        """Ask to begin the next rung on a node that is under work: it has its room, and is a probe already."""
        if self._breakers.state(code) is BreakerState.OPEN:
            return Refusal("breaker", self._breakers.refuses([code]))
        return None

    def reboot(self, health: NodeHealth) -> Refusal | None:
        """Ask to reboot a node."""
        return self._take(
            self._rebooting,
            health.pool,
            reboot_budget(self._sizes[health.pool], self._config),
            "rebooted",
        )

    @staticmethod
    def _take(used: Counter[str], pool: str, allowed: int, done: str) -> Refusal | None:
        if used[pool] >= allowed:
            return Refusal("budget", f"at most {allowed} nodes of pool {pool!r} are {done} at once")
        used[pool] += 1
        return None


def was_quarantined(incident: Incident) -> bool:
    """Whether this open incident keeps its node from new pods, or did."""
    return incident.phase is Phase.QUARANTINED or incident.quarantined_seconds is not None


def under_work(incident: Incident) -> bool:
    """Whether its node is being drained or repaired, or waits for its proof before the soak."""
    proving = incident.phase is Phase.VERIFYING and incident.soak_since_seconds is None
    return proving or incident.phase in UNDER_WORK


def is_hard(taint: Taint | None) -> bool:
    """Whether the node already takes no new pods, and so already counts against the budget."""
    return taint is not None and taint.effect != "PreferNoSchedule"


def _reboots(incident: Incident) -> bool:
    return any(each.open and each.rung == Rung.REBOOT_NODE for each in incident.attempts)


def _codes(health: NodeHealth) -> list[str]:
    return [each.code for each in health.at_least(Severity.CRITICAL)]
