"""From the fleet's picture and the cluster's to the facts a score depends on. Pure."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import NamedTuple

from aggregator.fleet import Fleet, NodeState
from aggregator.policy.model import ClusterNode, ClusterView, Incident
from aggregator.readings import duty_ratio
from aggregator.scores.model import Judgement, NodeFacts, Standing, judge
from contract import report_pb2 as pb
from contract.vocabulary import Phase, SourceState, SourceStatus

DEVICE_SOURCES = frozenset({"nvidia", "ascend"})
"""Sources without which nothing is known of the accelerators."""

OUT_OF_SERVICE = frozenset({Phase.QUARANTINED, Phase.DRAINING, Phase.REPAIRING, Phase.VERIFYING})
"""Phases in which a node takes no new pods; so does one that waits for people after quarantine."""

HALF_OF_THE_BUSES = 0x80
"""Firmware of two-socket machines gives PCI buses below this to the first socket, the others to the second."""

CARRYING = frozenset({"ACTIVE", "ACTIVE_DEFER"})
"""States of an RDMA port in which it carries traffic."""

MAX_PORTS = 64
MAX_DEVICES = 64
"""Taken of one report, so that one node's nonsense stays small."""


_Inputs = tuple[pb.NodeReport | None, float, bool, ClusterNode | None, Incident | None, str]


class Silence(NamedTuple):
    """By which a node's report is too old to say anything."""

    now: float
    """Unix time."""
    after_seconds: float


def fleet_facts(fleet: Fleet, view: ClusterView) -> Iterator[NodeFacts]:
    """The facts of every node that reported or that the cluster lists with GPUs."""
    incidents = open_incidents(view)
    for name in known_nodes(fleet, view):
        yield node_facts(name, fleet.get(name), view.nodes.get(name), incidents.get(name))


class FactBook:
    """The facts of every node, built again only after one of their inputs was replaced. One owner: the event loop."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[_Inputs, NodeFacts, Judgement]] = {}

    def look(
        self,
        name: str,
        fleet: Fleet,
        view: ClusterView,
        incident: Incident | None,
        silent: Silence,
        *,
        readings: bool = True,
        failing: str = "",
    ) -> tuple[NodeFacts, Judgement] | None:
        """What is known of a node now and what it means; ``None``: the same as last time.

        Args:
            name: of the node.
            fleet: what the agents reported.
            view: what the cluster says.
            incident: the node's open one.
            silent: the time now, and how long a silence makes a node unknown.
            readings: whether new readings alone are a reason to look; else they wait for another time.
            failing: how pods fail there at once; empty: they do not.
        """
        state, cluster = fleet.get(name), view.nodes.get(name)
        received = state.received_seconds if state else 0.0
        stale = not silent.now - received <= silent.after_seconds
        inputs = (state.report if state else None, received, stale, cluster, incident, failing)
        known = self._known.get(name)
        if known is not None and not readings:  # its report still waits for its turn
            inputs = (*known[0][:2], *inputs[2:])
        if known is not None and not stale and _same(known[0], inputs):
            self._known[name] = (inputs, *known[1:])
            return None
        facts = node_facts(name, state, cluster, incident, failing)
        judged = judge(facts, silent.now, silent.after_seconds)
        self._known[name] = (inputs, facts, judged)
        return None if known is not None and known[1:] == (facts, judged) else (facts, judged)

    def due(
        self,
        names: Iterable[str],
        fleet: Fleet,
        view: ClusterView,
        incidents: Mapping[str, Incident],
        silent: Silence,
        *,
        reported: Container[str],
        failing: Mapping[str, str],
    ) -> Iterator[str]:
        """Those of these nodes that are worth a look; for all others ``look`` would say ``None``, at three times the price.

        What is replaced whole is compared by identity here. Arguments as of ``look``; ``reported`` are those whose readings are looked at.
        """
        now, after_seconds = silent
        for name in names:
            known = self._known.get(name)
            if known is None or name in reported:
                yield name
                continue
            state, (_, _, was_stale, cluster, incident, said) = fleet.get(name), known[0]
            received = state.received_seconds if state else 0.0
            if (
                not now - received <= after_seconds
                or was_stale
                or cluster is not view.nodes.get(name)
                or incident is not incidents.get(name)
                or said != failing.get(name, "")
            ):
                yield name

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def keep_only(self, names: Set[str]) -> list[str]:
        """Forget all others; who they were."""
        gone = [name for name in self._known if name not in names]
        for name in gone:
            del self._known[name]
        return gone


def _same(old: _Inputs, new: _Inputs) -> bool:
    """Reports are compared by identity: they are replaced whole."""
    return old[0] is new[0] and old[1:] == new[1:]


def known_nodes(fleet: Fleet, view: ClusterView) -> list[str]:
    """Every node we have something to say about, by name; plain CPU nodes without an agent are not."""
    names = set(fleet.names())
    names.update(name for name, node in view.nodes.items() if node.gpu_capacity or node.taint)
    return sorted(names)


def open_incidents(view: ClusterView) -> dict[str, Incident]:
    """The open incident per node; there is at most one."""
    return {each.node: each for each in view.incidents.values() if each.open}


def node_facts(
    name: str,
    state: NodeState | None,
    cluster: ClusterNode | None,
    incident: Incident | None,
    failing: str = "",
) -> NodeFacts:
    """The facts of one node, of whatever is known about it; ``failing``: how pods fail there at once."""
    standing, reason = standing_of(cluster, incident)
    if state is None or state.reports_total == 0:
        return NodeFacts(
            name=name,
            standing=standing,
            standing_reason=reason,
            suspect_reason=suspect_reason(incident),
            failing_reason=failing,
            gpu_count=cluster.gpu_capacity if cluster else 0,
        )
    worst = state.findings[0] if state.findings else None
    ports_up, ports_total = ports(state)
    return NodeFacts(
        name=name,
        standing=standing,
        standing_reason=reason,
        suspect_reason=suspect_reason(incident),
        failing_reason=failing,
        worst=worst.severity if worst else None,
        worst_text=f"{worst.code} on {worst.subject}" if worst else "",
        received_seconds=state.received_seconds,
        blind_reason=blind_reason(state.sources),
        use_ratio=use_ratio(state.report.gpus),
        gpu_count=len(state.report.gpus),
        ports_up=ports_up,
        ports_total=ports_total,
        neighbourhoods=neighbourhoods(state.report.gpus),
    )


def standing_of(cluster: ClusterNode | None, incident: Incident | None) -> tuple[Standing, str]:
    """How a node stands in the cluster by our doing, and why."""
    if cluster and cluster.taint and cluster.taint.effect != "PreferNoSchedule":
        return "quarantined", cluster.taint.code
    if incident and (
        incident.phase in OUT_OF_SERVICE
        or (incident.phase is Phase.NEEDS_HUMAN and incident.quarantined_seconds is not None)
    ):
        return "quarantined", incident.findings[0].code if incident.findings else incident.name
    if cluster and cluster.taint:
        return "avoid", cluster.taint.code
    return "", ""


def suspect_reason(incident: Incident | None) -> str:
    """The code for which a node is suspected and nothing was done yet; empty: it is not."""
    if incident is None or incident.phase is not Phase.SUSPECT:
        return ""
    return incident.findings[0].code if incident.findings else incident.name


def ports(state: NodeState) -> tuple[int, int | None]:
    """RDMA ports that carry traffic, and how many there are; ``None``: they could not be read.

    A report without the ``rdma`` source and without a port tells nothing; with it and without a port there is none.
    """
    there = state.report.rdma_ports[:MAX_PORTS]
    known = next((each.state for each in state.sources if each.name == "rdma"), None)
    if (known is None and not there) or (known is not None and known >= SourceState.FAILING):
        return 0, None
    return sum(port.state in CARRYING for port in there), len(there)


def neighbourhoods(gpus: Sequence[pb.Gpu]) -> tuple[int, ...]:
    """By device index, which half of the machine a GPU sits in: 0 or 1; empty where nothing tells.

    A report has no NUMA nodes, only PCI addresses. On two-socket machines the first socket's buses are below
    0x80, the second's above (HGX boards: 1b 43 52 61 | 9d c3 d1 df). That is believed only where all GPUs are in
    one PCI domain and half of them on each side; virtual machines and other layouts tell nothing.
    """
    return _halves(tuple((each.index, each.pci_bus_id) for each in gpus[:MAX_DEVICES]))


@lru_cache(maxsize=1024)  # machines of one make have the same addresses
def _halves(addresses: tuple[tuple[int, str], ...]) -> tuple[int, ...]:
    found: dict[int, int] = {}
    domains = set()
    for index, address in addresses:
        domain, _, rest = address.partition(":")
        try:
            bus = int(rest.partition(":")[0], 16)
        except ValueError:
            return ()
        domains.add(domain)
        found[index] = int(bus >= HALF_OF_THE_BUSES)
    halves = tuple(found.get(index, -1) for index in range(len(found)))
    if len(domains) != 1 or not halves or -1 in halves or sum(halves) * 2 != len(halves):
        return ()
    return halves


def blind_reason(sources: Sequence[SourceStatus]) -> str:
    """Why the accelerators could not be read; empty when nothing says so."""
    for source in sources:
        if source.name in DEVICE_SOURCES and source.state >= SourceState.FAILING:
            return f"{source.name} is {source.state.label}"
    return ""


def use_ratio(gpus: Sequence[pb.Gpu]) -> float | None:
    """The share of GPUs in use: held by a process where that is known, else as busy as measured.

    A GPU that a process holds without computing is in use: the next pod cannot have it.
    """
    told = [
        float(gpu.process_count > 0) if gpu.HasField("process_count") else duty_ratio(gpu)
        for gpu in gpus
    ]
    shares = [each for each in told if each is not None]
    return sum(shares) / len(shares) if shares else None
