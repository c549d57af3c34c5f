"""RDMA checks: what of all is judged, and what is remembered of it.

Judged are ports that were ever active: an unwired port is no finding. A virtual function shows its parent's state, so
only the parent is judged. An excluded port is left alone. ``rdma_ports.py`` judges states, rates and adapters,
``rdma_flaps.py`` links that went down between two readings, ``rdma_counters.py`` everything that counts errors.
"""

import msgspec

from agent.checks import Checked, Context, source_is_ok
from agent.checks.rdma_counters import (
    CounterMemory,
    errors,
    learned_widths,
    link_downed_is_saturated,
)
from agent.checks.rdma_flaps import FlapMemory, flaps, no_carrier_is_counted
from agent.checks.rdma_ports import (
    ACTIVE_STATES,
    ADDRESS_RANKS,
    SOURCE,
    adapters,
    addresses,
    missing,
    states,
)
from agent.snapshot import RdmaPort, Snapshot
from agent.snapshot.rdma import RoceAddress

__all__ = ["Memory", "check", "forget"]


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the ports, by their subjects."""

    boot_id: str = ""
    """Counters start again with each boot."""
    active_ports: frozenset[str] = frozenset()
    """Ports ever seen active: only those can be *down*."""
    active_netdevs: frozenset[str] = frozenset()
    """``<subject> <interface>`` ever seen up."""
    may_leave: dict[str, str] = {}
    """Ports that vanish when a pod is given them, and their PCI addresses."""
    best_rates_bits_per_second: dict[str, float] = {}
    """The highest rate at which each port was ever active."""
    best_addresses: dict[str, RoceAddress] = {}
    """The best RoCE v2 address that each port ever had while active."""
    flaps: FlapMemory = FlapMemory()
    counters: CounterMemory = CounterMemory()


def forget(memory: Memory, subject: str) -> Memory:
    """A person said that this is over: a port that was taken out, or made slower, on purpose."""
    return msgspec.structs.replace(
        memory,
        active_ports=memory.active_ports - {subject},
        active_netdevs=frozenset(
            each for each in memory.active_netdevs if not each.startswith(f"{subject} ")
        ),
        best_rates_bits_per_second={
            each: rate
            for each, rate in memory.best_rates_bits_per_second.items()
            if each != subject
        },
        best_addresses={
            each: kind for each, kind in memory.best_addresses.items() if each != subject
        },
        flaps=memory.flaps.without(subject),
        counters=memory.counters.without(subject),
    )


def check(snapshot: Snapshot, memory: Memory, context: Context) -> Checked[Memory]:
    """Everything wrong with this node's RDMA ports now."""
    if not source_is_ok(snapshot, SOURCE):
        return Checked(memory=memory)
    memory = _of_this_boot(memory, snapshot.boot_id)
    own = tuple(
        port for port in snapshot.rdma_ports if not port.excluded and not port.is_virtual_function
    )
    memory = _learned(memory, snapshot.rdma_ports, own)
    judged = tuple(
        port
        for port in own
        if port.subject in memory.active_ports and not _is_away(port, memory.active_netdevs)
    )
    catalogue, now = context.catalogue, snapshot.taken_seconds
    flap_memory = memory.flaps
    for port in own:
        if _is_away(port, memory.active_netdevs):  # what it counted there is not to be compared
            flap_memory = flap_memory.without(port.subject)
    flapped, flap_memory = flaps(judged, flap_memory, memory.counters.wide, catalogue, now)
    wrong, counter_memory = errors(judged, memory.counters, flap_memory.unsettled, catalogue, now)
    present = frozenset(port.subject for port in snapshot.rdma_ports)
    observations = (
        *states(judged, memory.active_netdevs, memory.best_rates_bits_per_second, catalogue),
        *missing(
            memory.active_ports - present - _in_pods(memory, snapshot),
            len(memory.active_ports),
            catalogue,
        ),
        *flapped,
        *wrong,
        *adapters(judged, catalogue),
        *addresses(judged, memory.best_addresses, catalogue),
    )
    return Checked(
        observations=observations,
        memory=msgspec.structs.replace(memory, flaps=flap_memory, counters=counter_memory),
        blind=frozenset(
            port.subject
            for port in snapshot.rdma_ports
            if _is_blind(port, memory.counters.wide) or _is_away(port, memory.active_netdevs)
        ),
    )


def _is_away(port: RdmaPort, active_netdevs: frozenset[str]) -> bool:
    """Whether a RoCE port's interface was given to a pod, whose matter its state is then."""
    return (
        port.link_layer == "Ethernet"
        and not port.netdevs
        and any(each.startswith(f"{port.subject} ") for each in active_netdevs)
    )


def _in_pods(memory: Memory, snapshot: Snapshot) -> frozenset[str]:
    """Ports that may well be in a pod: their PCI functions have not vanished with them."""
    if not source_is_ok(snapshot, "pci"):
        return frozenset(memory.may_leave)
    there = {each.address for each in snapshot.pci_devices}
    return frozenset(subject for subject, address in memory.may_leave.items() if address in there)


def _is_blind(port: RdmaPort, wide: frozenset[str]) -> bool:
    """Whether it cannot be judged on its own: left alone, its state unreadable, or its flaps invisible."""
    return (
        port.excluded
        or port.is_virtual_function
        or not port.state
        or (link_downed_is_saturated(port, wide) and no_carrier_is_counted(port))
    )


def _of_this_boot(memory: Memory, boot_id: str) -> Memory:
    if boot_id in ("", memory.boot_id):
        return memory
    known = memory.boot_id != ""
    return msgspec.structs.replace(
        memory,
        boot_id=boot_id,
        flaps=FlapMemory() if known else memory.flaps,
        counters=CounterMemory(wide=memory.counters.wide) if known else memory.counters,
    )


def _learned(memory: Memory, ports: tuple[RdmaPort, ...], own: tuple[RdmaPort, ...]) -> Memory:
    """What this snapshot adds to what is known of the node."""
    active = [port for port in own if port.state in ACTIVE_STATES]
    left_alone = {port.subject for port in ports if port.excluded or port.is_virtual_function}
    active_ports = (memory.active_ports | {port.subject for port in active}) - left_alone
    netdevs = memory.active_netdevs | {
        f"{port.subject} {each.name}"
        for port in active
        for each in port.netdevs
        if each.operational_state == "up"
    }
    best = memory.best_rates_bits_per_second
    faster = {
        port.subject: port.rate_bits_per_second
        for port in active
        if port.rate_bits_per_second is not None
        and port.rate_bits_per_second > best.get(port.subject, 0.0)
    }
    best_addresses = memory.best_addresses
    better = {
        port.subject: port.roce_v2_address
        for port in active
        if port.roce_v2_address is not None
        and ADDRESS_RANKS[port.roce_v2_address]
        > ADDRESS_RANKS[best_addresses.get(port.subject, "none")]
    }
    leavers = {port.subject: port.pci_address for port in own if port.may_leave}
    stayers = {port.subject for port in own if not port.may_leave} & memory.may_leave.keys()
    may_leave = memory.may_leave
    if stayers or not leavers.items() <= may_leave.items():
        known = {each: at for each, at in may_leave.items() if each not in stayers}
        may_leave = known | leavers
    wide = learned_widths(own, memory.counters.wide)
    return msgspec.structs.replace(
        memory,
        active_ports=active_ports,
        active_netdevs=netdevs,
        may_leave=may_leave,
        best_rates_bits_per_second=best | faster if faster else best,
        best_addresses=best_addresses | better if better else best_addresses,
        counters=msgspec.structs.replace(memory.counters, wide=wide)
        if wide is not memory.counters.wide
        else memory.counters,
    )
