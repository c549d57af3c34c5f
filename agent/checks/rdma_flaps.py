"""Links that went down between two readings. Pure.

``link_downed`` tells of a link that was down for a moment only, but stops at 255 on most adapters, and RoCE ports may
not count it at all. The carrier counter of a RoCE port's network interface tells the same and does not stop. On InfiniBand
that interface (IPoIB) also loses its carrier when only the subnet changes, so there it is asked only where
``link_downed`` cannot tell. Where neither can, what the readings themselves show must do.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from agent.catalogue import Catalogue
from agent.checks import Observation
from agent.checks.rdma_counters import link_downed_is_saturated
from agent.checks.rdma_ports import ACTIVE_STATES, SOURCE, is_disabled
from agent.snapshot import RdmaPort

SETTLE_SECONDS = 30.0
"""A link that trains counts errors, and slow counters are read up to ten readings late."""


class FlapMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered, by the ports' subjects."""

    totals: dict[str, int] = {}
    """``<subject> <counter>`` → as it was read last."""
    episodes: dict[str, float] = {}
    """Unix time at which the newest episode began."""
    settled_seconds: dict[str, float] = {}
    """Unix time from which the link's error counters mean something."""
    was_down: frozenset[str] = frozenset()
    """Ports that were not active at the last reading."""
    unsettled: frozenset[str] = frozenset()
    """Ports whose error counters mean nothing at this reading."""

    def without(self, subject: str) -> "FlapMemory":
        """Without one port."""
        return FlapMemory(
            totals={
                key: value
                for key, value in self.totals.items()
                if not key.startswith(f"{subject} ")
            },
            episodes={key: at for key, at in self.episodes.items() if key != subject},
            settled_seconds={key: at for key, at in self.settled_seconds.items() if key != subject},
            was_down=self.was_down - {subject},
            unsettled=self.unsettled - {subject},
        )


def no_carrier_is_counted(port: RdmaPort) -> bool:
    """Whether no network interface stands in for ``link_downed``."""
    return all(each.carrier_downs_total is None for each in port.netdevs)


def flaps(
    ports: Sequence[RdmaPort],
    memory: FlapMemory,
    wide: frozenset[str],
    catalogue: Catalogue,
    now: float,
) -> tuple[tuple[Observation, ...], FlapMemory]:
    """Flaps since the reading before, and what to remember.

    Args:
        ports: all that are judged.
        memory: so far.
        wide: counters known not to saturate at their narrow width.
        catalogue: of codes.
        now: Unix time of the reading.
    """
    code = catalogue.codes["rdma-link-flap"]
    totals, episodes = dict(memory.totals), dict(memory.episodes)
    settled = {subject: at for subject, at in memory.settled_seconds.items() if at > now}
    found = []
    for port in ports:
        subject = port.subject
        words = _words(port, memory, wide)
        if words:
            began = episodes.get(subject)
            new = began is None or not 0 <= now - began < code.limits["episode_seconds"]
            if new:
                episodes[subject] = now
            found.append(
                Observation(
                    code=code,
                    subject=subject,
                    evidence="; ".join(words),
                    source=SOURCE,
                    occurrence=new,
                )
            )
        if words or port.state not in ACTIVE_STATES:
            settled[subject] = now + SETTLE_SECONDS
        # A counter that cannot be read for once keeps its last value, or a flap would go unseen.
        totals.update(_totals(port))
    return tuple(found), FlapMemory(
        totals=totals,
        episodes=episodes,
        settled_seconds=settled,
        was_down=frozenset(
            port.subject
            for port in ports
            if port.state not in ACTIVE_STATES and (port.state or port.subject in memory.was_down)
        ),
        unsettled=frozenset(settled),
    )


def _totals(port: RdmaPort) -> Iterator[tuple[str, int]]:
    if port.link_downed_total is not None:
        yield f"{port.subject} link_downed", port.link_downed_total
    for each in port.netdevs:
        if each.carrier_downs_total is not None:
            yield f"{port.subject} {each.name}", each.carrier_downs_total


def _words(port: RdmaPort, memory: FlapMemory, wide: frozenset[str]) -> list[str]:
    if is_disabled(port):
        return []
    words = []
    before = memory.totals.get(f"{port.subject} link_downed")
    if _rose(before, port.link_downed_total):
        words.append(f"link_downed rose from {before} to {port.link_downed_total}")
    deaf = port.link_downed_total is None or link_downed_is_saturated(port, wide)
    if port.link_layer == "Ethernet" or deaf:
        words += _carriers(port, memory.totals)
    if deaf and no_carrier_is_counted(port) and port.subject in memory.was_down:
        words += ["was down, is active again"] if port.state in ACTIVE_STATES else []
    return words


def _carriers(port: RdmaPort, totals: Mapping[str, int]) -> Iterator[str]:
    for each in port.netdevs:
        before = totals.get(f"{port.subject} {each.name}")
        if _rose(before, each.carrier_downs_total):
            yield f"carrier losses of {each.name} rose from {before} to {each.carrier_downs_total}"


def _rose(before: int | None, after: int | None) -> bool:
    """A smaller value means that the driver was loaded anew, which is no error of the link."""
    return before is not None and after is not None and after > before
