"""RDMA checks: a port that was active and is not, one that vanished, a link that flapped between readings."""

from collections.abc import Iterator

import msgspec

from agent.catalogue import Catalogue
from agent.checks import Memory, Observation, source_is_ok
from agent.snapshot import RdmaPort, Snapshot

SOURCE = "rdma"

ACTIVE_STATES = frozenset({"ACTIVE", "ACTIVE_DEFER"})


def check(
    snapshot: Snapshot, memory: Memory, catalogue: Catalogue
) -> tuple[list[Observation], Memory]:
    """Everything wrong with this node's RDMA ports now, and what to remember."""
    if not source_is_ok(snapshot, SOURCE):
        return [], memory
    observations = list(_ports(snapshot.rdma_ports, memory, catalogue))
    return observations, msgspec.structs.replace(
        memory,
        # A counter that cannot be read for once keeps its last value, or a flap would go unseen.
        link_downed_total=memory.link_downed_total
        | {
            port.subject: port.link_downed_total
            for port in snapshot.rdma_ports
            if port.link_downed_total is not None
        },
        active_ports=memory.active_ports
        | {port.subject for port in snapshot.rdma_ports if port.state in ACTIVE_STATES},
    )


def _ports(
    ports: tuple[RdmaPort, ...], memory: Memory, catalogue: Catalogue
) -> Iterator[Observation]:
    for port in ports:
        if port.subject in memory.active_ports and port.state not in ACTIVE_STATES:
            yield Observation(
                code=catalogue.codes["rdma-port-down"],
                subject=port.subject,
                evidence=f"{port.link_layer or 'port'} was ACTIVE, is {port.state or 'unreadable'}"
                f" ({port.physical_state or 'physical state unreadable'})",
                source=SOURCE,
            )
        before = memory.link_downed_total.get(port.subject)
        # A smaller value means the driver was reloaded, which is no error of the link.
        if (
            before is not None
            and port.link_downed_total is not None
            and port.link_downed_total > before
        ):
            yield Observation(
                code=catalogue.codes["rdma-link-flap"],
                subject=port.subject,
                evidence=f"link_downed rose from {before} to {port.link_downed_total}",
                source=SOURCE,
                occurrence=True,
            )
    present = {port.subject for port in ports}
    for subject in sorted(memory.active_ports - present):
        yield Observation(
            code=catalogue.codes["rdma-port-missing"],
            subject=subject,
            evidence="the port was ACTIVE and is gone from sysfs",
            source=SOURCE,
        )
