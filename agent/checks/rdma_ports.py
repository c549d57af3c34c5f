"""Ports that are down, gone or slow, and what is wrong with their adapters. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from agent.catalogue import Catalogue
from agent.checks import Observation
from agent.snapshot import RdmaPort
from agent.snapshot.rdma import RoceAddress

SOURCE = "rdma"

ACTIVE_STATES = frozenset({"ACTIVE", "ACTIVE_DEFER"})

ADDRESS_RANKS: Mapping[RoceAddress, int] = {"none": 0, "link-local": 1, "routable": 2}
"""``RdmaPort.roce_v2_address``, from the least to the most that a port can reach."""

_WAITING_STATES = frozenset({"INIT", "ARMED"})
"""The link is up; a subnet manager has yet to make the port active."""

_DOWN = frozenset({"down", "lowerlayerdown"})

_ROUNDING = 0.99
"""Rates and speeds are compared as numbers that went through text."""


def states(
    ports: Sequence[RdmaPort],
    active_netdevs: frozenset[str],
    best_rates: Mapping[str, float],
    catalogue: Catalogue,
) -> Iterator[Observation]:
    """Ports that are not active, or active and less than they were.

    Args:
        ports: all that are judged.
        active_netdevs: ``<subject> <interface>`` ever seen up.
        best_rates: subject → the highest rate ever, in bits per second.
        catalogue: of codes.
    """
    not_active = [port for port in ports if port.state and port.state not in ACTIVE_STATES]
    shared = ""
    if len(not_active) == len(ports) > 1:
        shared = (
            f"; all {len(ports)} ports of this node alike, which points at the fabric or the driver"
        )
    for port in not_active:
        yield _not_active(port, shared, catalogue)
    active = [port for port in ports if port.state in ACTIVE_STATES]
    for port in active:
        yield from _netdevs_down(port, active_netdevs, catalogue)
    for _, kind in groupby(sorted(active, key=_kind), key=_kind):
        yield from _slow(tuple(kind), best_rates, catalogue)


def _not_active(port: RdmaPort, shared: str, catalogue: Catalogue) -> Observation:
    if is_disabled(port):
        names = ", ".join(each.name for each in port.netdevs)
        return Observation(
            code=catalogue.codes["rdma-netdev-disabled"],
            subject=port.subject,
            evidence=f"the port was ACTIVE, is {port.state}: {names} is switched off (ip link)",
            source=SOURCE,
        )
    evidence = (
        f"{port.link_layer or 'port'} was ACTIVE, is {port.state}"
        f" ({port.physical_state or 'physical state unreadable'})"
    )
    waiting = (
        port.state in _WAITING_STATES
        and port.physical_state == "LinkUp"
        and port.link_layer == "InfiniBand"
    )
    if waiting and port.subnet_manager_lid is not None:
        evidence += f", subnet manager LID {port.subnet_manager_lid}"
    return Observation(
        code=catalogue.codes["rdma-no-subnet-manager" if waiting else "rdma-port-down"],
        subject=port.subject,
        evidence=evidence + shared,
        source=SOURCE,
    )


def is_disabled(port: RdmaPort) -> bool:
    """Whether somebody has switched this RoCE port's interfaces off, which takes the port down."""
    return (
        port.link_layer == "Ethernet"
        and bool(port.netdevs)
        and all(each.enabled is False for each in port.netdevs)
    )


def missing(gone: Iterable[str], known: int, catalogue: Catalogue) -> Iterator[Observation]:
    """Ports that are not listed any more.

    Args:
        gone: their subjects.
        known: how many ports this node is known to have.
        catalogue: of codes.
    """
    subjects = sorted(gone)
    shared = f"; all {known} ports of this node alike" if len(subjects) == known > 1 else ""
    for subject in subjects:
        yield Observation(
            code=catalogue.codes["rdma-port-missing"],
            subject=subject,
            evidence=f"the port was ACTIVE and is gone from sysfs{shared}",
            source=SOURCE,
        )


def _netdevs_down(
    port: RdmaPort, active_netdevs: frozenset[str], catalogue: Catalogue
) -> Iterator[Observation]:
    if port.link_layer != "Ethernet":
        return  # IPoIB may be down, or never configured, while RDMA works
    down = [
        each
        for each in port.netdevs
        if each.operational_state in _DOWN and f"{port.subject} {each.name}" in active_netdevs
    ]
    if down:
        names = ", ".join(f"{each.name} is {each.operational_state}" for each in down)
        of = f", {len(down)} of {len(port.netdevs)} members of its bond" if port.is_bond else ""
        yield Observation(
            code=catalogue.codes["rdma-netdev-down"],
            subject=port.subject,
            evidence=f"the port is {port.state}, {names}{of}",
            source=SOURCE,
        )


def _slow(
    kind: tuple[RdmaPort, ...], best_rates: Mapping[str, float], catalogue: Catalogue
) -> Iterator[Observation]:
    rated = [(port, port.rate_bits_per_second) for port in kind if port.rate_bits_per_second]
    widest = max((port.link_width or 0 for port in kind), default=0)
    siblings = catalogue.codes["rdma-link-below-siblings"].limits["siblings"]
    for port, rate in rated:
        best = best_rates.get(port.subject, rate)
        others = [other for each, other in rated if each is not port]
        if rate < best * _ROUNDING:
            code, limit = "rdma-link-slow", f"was {_gigabits(best)} Gb/s"
        elif port.link_width == 1 < widest:
            code, limit = "rdma-link-slow", f"its siblings use {widest} lanes"
        elif len(others) >= siblings and len(set(others)) == 1 and rate < others[0] * _ROUNDING:
            code = "rdma-link-below-siblings"
            limit = f"all {len(others)} siblings at {_gigabits(others[0])} Gb/s"
        else:
            continue
        trained = f" ({port.link_width}X {port.link_speed})" if port.link_width else ""
        yield Observation(
            code=catalogue.codes[code],
            subject=port.subject,
            evidence=f"active at {_gigabits(rate)} Gb/s{trained}, {limit}",
            source=SOURCE,
        )


def _gigabits(bits_per_second: float) -> str:
    return f"{bits_per_second / 1e9:g}"


def adapters(ports: Sequence[RdmaPort], catalogue: Catalogue) -> Iterator[Observation]:
    """What is wrong with the adapters of these ports."""
    for _, board in groupby(sorted(ports, key=_board), key=_board):
        alike = tuple(board)
        yield from _pcie(alike, catalogue)
        yield from _firmware(alike, catalogue)


def addresses(
    ports: Sequence[RdmaPort], best_addresses: Mapping[str, RoceAddress], catalogue: Catalogue
) -> Iterator[Observation]:
    """RoCE ports that work and have lost the address by which others reach them.

    Args:
        ports: all that are judged.
        best_addresses: subject → the best address it ever had.
        catalogue: of codes.
    """
    for port in ports:
        kind, best = port.roce_v2_address, best_addresses.get(port.subject, "none")
        if port.state not in ACTIVE_STATES or kind is None:
            continue
        if ADDRESS_RANKS[kind] < ADDRESS_RANKS[best]:
            names = ", ".join(each.name for each in port.netdevs) or "no interface"
            yield Observation(
                code=catalogue.codes["rdma-gid-missing"],
                subject=port.subject,
                evidence=f"the best RoCE v2 address in its GID table is {kind}, was {best} ({names})",
                source=SOURCE,
            )


def _pcie(alike: tuple[RdmaPort, ...], catalogue: Catalogue) -> Iterator[Observation]:
    links = {
        port.pci_address: (port.pcie_transfers_per_second, port.pcie_width)
        for port in alike
        if port.pcie_transfers_per_second is not None and port.pcie_width is not None
    }
    built_so = len(links) > 1 and len(set(links.values())) == 1
    for port in alike:
        speed, fastest = port.pcie_transfers_per_second, port.pcie_transfers_per_second_max
        width, widest = port.pcie_width, port.pcie_width_max
        slow = speed is not None and fastest is not None and speed < fastest * _ROUNDING
        narrow = width is not None and widest is not None and width < widest
        if slow or narrow:
            shared = f"; so are all {len(links)} adapters of this board" if built_so else ""
            yield Observation(
                code=catalogue.codes["rdma-pcie-limited" if built_so else "rdma-pcie-link"],
                subject=port.subject,
                evidence=f"{port.pci_address} runs at {_pcie_link(speed, width)}, both ends can do"
                f" {_pcie_link(fastest, widest)}{shared}",
                source=SOURCE,
            )


def _pcie_link(transfers_per_second: float | None, width: int | None) -> str:
    speed = "?" if transfers_per_second is None else f"{transfers_per_second / 1e9:g}"
    return f"{speed} GT/s x{'?' if width is None else width}"


def _firmware(alike: tuple[RdmaPort, ...], catalogue: Catalogue) -> Iterator[Observation]:
    by_device = {port.device: port.firmware for port in alike if port.firmware and port.board}
    votes = Counter(by_device.values())
    if len(votes) < 2:
        return
    usual = max(votes, key=lambda version: (votes[version], version))
    for port in alike:
        if by_device.get(port.device, usual) != usual:
            yield Observation(
                code=catalogue.codes["rdma-firmware-differs"],
                subject=port.subject,
                evidence=f"firmware {port.firmware}, {votes[usual]} of {len(by_device)} adapters of"
                f" board {port.board} run {usual}",
                source=SOURCE,
            )


def _kind(port: RdmaPort) -> tuple[str, ...]:
    return (*_board(port), port.link_layer)


def _board(port: RdmaPort) -> tuple[str, ...]:
    """Adapters of the same board can be compared; one that does not say what it is has no siblings."""
    return (port.adapter_type, port.board) if port.adapter_type else (port.device,)
