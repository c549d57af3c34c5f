"""Nodes about which there is nothing to decide, so that a round need not look at each of thousands again. Pure.

``decide`` has nothing for a node without a finding, an incident or a mark of ours, whose conditions are as they should be.
That rests on four things, and on time only by one of them: its sources, its Node object, whether an incident of it is open,
and whether it has fallen silent. The first two are replaced whole, so the same objects mean the same answer.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from aggregator.policy.health import NodeHealth, conditions
from aggregator.policy.model import ClusterNode, ClusterView, Incident
from contract.vocabulary import Finding, SourceStatus


class Reported(Protocol):
    """What the rule asks of a node that reported."""

    name: str
    findings: tuple[Finding, ...]
    sources: tuple[SourceStatus, ...]
    received_seconds: float
    """Unix time of the newest report."""


R = TypeVar("R", bound=Reported)

_Basis = tuple[tuple[SourceStatus, ...], ClusterNode, bool]
"""Sources, the Node object, silent."""


class QuietNodes:
    """Remembers which nodes were quiet, and for what reasons. One owner."""

    def __init__(self, silent_after_seconds: float) -> None:
        self._silent_after_seconds = silent_after_seconds
        self._quiet: dict[str, _Basis] = {}
        self._incidents: Mapping[str, Incident] = {}
        self._troubled: frozenset[str] = frozenset()

    def others(self, fleet: Iterable[R], view: ClusterView, now: float) -> list[R]:
        """The nodes that ``decide`` may have something for, in their order; it decides on them as it would on all.

        Args:
            fleet: every node that ever reported.
            view: what will be decided on.
            now: Unix time.
        """
        self._note_incidents(view.incidents)
        before, quiet, others = self._quiet, dict[str, _Basis](), list[R]()
        nodes, troubled, silence = view.nodes, self._troubled, self._silent_after_seconds
        for each in fleet:
            name = each.name
            node = nodes.get(name)
            if node is None:
                continue  # nothing is decided about a node that is not in the cluster
            if each.findings or name in troubled:
                others.append(each)
                continue
            silent = now - each.received_seconds > silence
            basis = before.get(name)
            if (
                basis is None
                or basis[0] is not each.sources
                or basis[1] is not node
                or basis[2] is not silent
            ):
                if not _nothing_to_do(each.sources, node, silent=silent):
                    others.append(each)
                    continue
                basis = (each.sources, node, silent)
            quiet[name] = basis
        self._quiet = quiet
        return others

    def _note_incidents(self, incidents: Mapping[str, Incident]) -> None:
        """Thousands of closed ones are kept; the mapping is replaced whole when one changes."""
        if incidents is not self._incidents:
            self._incidents = incidents
            self._troubled = frozenset(each.node for each in incidents.values() if each.open)


def _nothing_to_do(sources: tuple[SourceStatus, ...], node: ClusterNode, *, silent: bool) -> bool:
    """Of a node without findings and without an open incident."""
    if node.taint is not None or node.quarantined_by or node.cordoned_by:
        return False
    health = NodeHealth(name=node.name, pool=node.pool, sources=sources, age_seconds=float(silent))
    return not any(conditions(health, node, silent_after_seconds=0.5))
