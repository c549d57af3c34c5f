"""The breaker: the same code on many nodes at once is a bad driver, sensor or release, not so much broken hardware.

It has no memory of its own, so a restart or another leader finds it as it was. Per code it is

- open while the code appeared on ``breaker_nodes`` nodes within the window: nothing new is done for it;
- half open while so many nodes show it still, but no longer so many new ones: one node per probe interval;
- closed otherwise.

When a code appeared on a node is written into the node's Incident once (``noted_seconds``); what is not written yet
appears now.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum

from aggregator.policy.config import PolicyConfig
from aggregator.policy.health import NodeHealth
from aggregator.policy.model import Incident
from contract.vocabulary import Severity


class BreakerState(StrEnum):
    """Of one code."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


class Breakers:
    """The breaker of every code, as of one round.

    Args:
        fleet: the newest reports.
        incidents: open and closed.
        config: the policy's settings.
        now: Unix time.
    """

    def __init__(
        self,
        fleet: Iterable[NodeHealth],
        incidents: Iterable[Incident],
        config: PolicyConfig,
        now: float,
    ) -> None:
        self._config = config
        self._now = now
        self._recent: dict[str, set[str]] = defaultdict(set)
        self._showing: dict[str, set[str]] = defaultdict(set)
        self._probed: dict[str, float] = {}
        noted: dict[str, set[str]] = defaultdict(set)
        for incident in incidents:
            self._note(incident, noted)
        for health in fleet:
            if health.age_seconds > config.silent_after_seconds:
                continue
            for finding in health.at_least(Severity.CRITICAL):
                self._showing[finding.code].add(health.name)
                if health.name not in noted[finding.code]:
                    self._recent[finding.code].add(health.name)

    def _note(self, incident: Incident, noted: Mapping[str, set[str]]) -> None:
        for code, seconds in incident.noted_seconds.items():
            if incident.open:
                noted[code].add(incident.node)
            if self._now - seconds < self._config.breaker_window_seconds:
                self._recent[code].add(incident.node)
            if incident.quarantined_seconds is not None:
                newest = max(self._probed.get(code, 0.0), incident.quarantined_seconds)
                self._probed[code] = newest
        for each in incident.attempts:
            newest = max(self._probed.get(each.code, 0.0), each.started_seconds)
            self._probed[each.code] = newest

    def state(self, code: str) -> BreakerState:
        """Of this code, now."""
        most = self._config.breaker_nodes
        if not most:
            return BreakerState.CLOSED
        recent = self._recent.get(code, set())
        if len(recent) >= most:
            return BreakerState.OPEN
        if len(recent | self._showing.get(code, set())) >= most:
            return BreakerState.HALF_OPEN
        return BreakerState.CLOSED

    def refuses(self, codes: Iterable[str]) -> str:
        """Why nothing new may be done for these codes of one node, as a sentence; empty: it may.

        One code that is not held back is reason enough to act.
        """
        words = [self._refusal(code) for code in dict.fromkeys(codes)]
        return words[0] if words and all(words) else ""

    def took(self, codes: Iterable[str]) -> None:
        """Something new was done for these codes in this round."""
        self._probed.update(dict.fromkeys(codes, self._now))

    def not_closed(self) -> dict[str, BreakerState]:
        """Every code whose breaker is not closed."""
        states = {code: self.state(code) for code in {*self._recent, *self._showing}}
        return {code: each for code, each in states.items() if each is not BreakerState.CLOSED}

    def _refusal(self, code: str) -> str:
        config = self._config
        state = self.state(code)
        if state is BreakerState.OPEN:
            return (
                f"the breaker for {code} is open: it appeared on {config.breaker_nodes} or more nodes "
                f"within {config.breaker_window_seconds:g} s, so a driver, sensor or release is suspected"
            )
        since = self._now - self._probed.get(code, float("-inf"))
        if state is BreakerState.HALF_OPEN and since < config.breaker_probe_seconds:
            return (
                f"the breaker for {code} is half open: one node per "
                f"{config.breaker_probe_seconds:g} s"
            )
        return ""
