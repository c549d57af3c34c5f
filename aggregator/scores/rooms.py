"""How much room each node has, kept up to date change by change. Pure: no clock, no I/O. One owner.

Only nodes about which something new was said are worked out again. What is free comes from requests alone, as for a scheduler:
allocatable less what the pods there ask for. Three things come from the node's agent: which device is sick, which pod holds
which device, and, where no pods can be read, which devices a process holds. ``aggregator.scores.seats`` decides who sits where
when nobody tells.
"""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from aggregator.policy.model import ClusterNode
from aggregator.scores.accelerators import gpu_resource
from aggregator.scores.capacity import MAX_NODE_DEVICES
from aggregator.scores.device_facts import DeviceFacts
from aggregator.scores.placed import PlacedPod
from aggregator.scores.seats import Layout, Seats, seated
from aggregator.scores.values import NodeRoom

ASSUMED_CPU_MILLI = 256_000
ASSUMED_MEMORY_MIB = 2 << 20
"""Of a node that tells neither by its Node object nor by its agent: devices decide then."""

NO_FACTS = DeviceFacts()


class RoomBook:
    """Nodes, pods and device facts in; ``NodeRoom``s out. The order in which they come does not matter.

    Args:
        pods_known: whether pods are told at all; without them a device that a process holds counts as taken, and cpu and memory
            as free.
    """

    def __init__(self, *, pods_known: bool = True) -> None:
        self._pods_known = pods_known
        self._nodes: dict[str, ClusterNode] = {}
        self._facts: dict[str, DeviceFacts] = {}
        self._quarantined: Mapping[str, frozenset[str]] = {}
        self._pods: dict[str, PlacedPod] = {}
        self._on_node: dict[str, dict[str, PlacedPod]] = {}
        self._rooms: dict[str, tuple[NodeRoom, Seats]] = {}
        self._stale: set[str] = set()
        """Nodes whose room has to be worked out before it is given again."""
        self._changed: set[str] = set()

    @property
    def pods_known(self) -> bool:
        """Whether pods are told at all."""
        return self._pods_known

    @pods_known.setter
    def pods_known(self, known: bool) -> None:
        if known != self._pods_known:
            self._pods_known = known
            self._touch(*self._nodes)

    def set_nodes(self, nodes: Mapping[str, ClusterNode]) -> None:
        """All nodes there are: those that are not in it are gone. What did not change costs a comparison."""
        for name in (self._nodes.keys() | self._facts.keys()) - nodes.keys():
            self.drop_node(name)
        for node in nodes.values():
            self.set_node(node)

    def set_node(self, node: ClusterNode) -> None:
        """A node is there, or is another one now; taints, labels and conditions of it change no room."""
        known = self._nodes.get(node.name)
        self._nodes[node.name] = node
        if known is node:
            return
        if known is None or (known.capacity, known.gpu_capacity) != (
            node.capacity,
            node.gpu_capacity,
        ):
            self._touch(node.name)

    def drop_node(self, name: str) -> None:
        """A node is gone, with what its agent said; its pods are told of one by one."""
        if self._nodes.pop(name, None) is not None:
            self._touch(name)
        self._facts.pop(name, None)

    def set_devices(self, node: str, facts: DeviceFacts | None) -> None:
        """What a node's agent says now; ``None``: it said nothing yet, or is gone."""
        if self._facts.get(node) == facts:
            return
        if facts is None:
            del self._facts[node]
        else:
            self._facts[node] = facts
        self._touch(node)

    def set_quarantined(self, devices: Mapping[str, frozenset[str]]) -> None:
        """All devices that are kept from new pods by themselves: node → as findings name them. No room, though they may be well."""
        before, self._quarantined = self._quarantined, devices
        if before is not devices:
            differ = before.items() ^ devices.items()
            self._touch(*{name for name, _ in differ})

    def set_pod(self, pod: PlacedPod) -> None:
        """A pod is there, or is another one now."""
        known = self._pods.get(pod.key)
        if known == pod:
            return
        if known is not None:
            self._leave(known)
        self._pods[pod.key] = pod
        if pod.node:
            self._on_node.setdefault(pod.node, {})[pod.key] = pod
            self._touch(pod.node)

    def drop_pod(self, key: str) -> None:
        """A pod is gone, or ran to its end; by ``namespace/name``."""
        known = self._pods.pop(key, None)
        if known is not None:
            self._leave(known)

    def take_changed(self) -> frozenset[str]:
        """Nodes whose room may be another one than at the last call, those that are gone included."""
        changed, self._changed = frozenset(self._changed), set()
        return changed

    def room(self, node: str) -> NodeRoom | None:
        """What one node has left; ``None``: there is no such node."""
        entry = self._entry(node)
        return entry[0] if entry else None

    def rooms(self) -> Iterator[NodeRoom]:
        """Of all nodes, in no order."""
        for name in self._nodes:
            entry = self._entry(name)
            if entry:
                yield entry[0]

    def pods_on(self, node: str) -> Collection[PlacedPod]:
        """The pods bound to a node."""
        return self._on_node.get(node, {}).values()

    def device_pods(self, node: str) -> tuple[tuple[PlacedPod, ...], ...]:
        """By index of the device in the node's room, the pods on it, as far as is known or guessed."""
        entry = self._entry(node)
        return entry[1].pods if entry else ()

    def device_ids(self, node: str) -> tuple[str, ...]:
        """By index of the device in the node's room, how its agent names it; empty where it does not."""
        entry = self._entry(node)
        return entry[1].ids if entry else ()

    def facts(self, node: str) -> DeviceFacts:
        """What its agent said last."""
        return self._facts.get(node, NO_FACTS)

    @property
    def pods(self) -> Mapping[str, PlacedPod]:
        """All pods by ``namespace/name``; changes under the reader's hands."""
        return MappingProxyType(self._pods)

    def _leave(self, pod: PlacedPod) -> None:
        there = self._on_node.get(pod.node)
        if there is not None and there.pop(pod.key, None) is not None:
            self._touch(pod.node)
            if not there:
                del self._on_node[pod.node]

    def _touch(self, *nodes: str) -> None:
        self._stale.update(nodes)
        self._changed.update(nodes)

    def _entry(self, name: str) -> tuple[NodeRoom, Seats] | None:
        if name in self._stale or name not in self._rooms:
            self._stale.discard(name)
            node = self._nodes.get(name)
            if node is None:
                self._rooms.pop(name, None)
                return None
            pods = self._on_node.get(name, {}).values() if self._pods_known else None
            facts = self._facts.get(name, NO_FACTS)
            if kept := self._quarantined.get(name):
                facts = facts.without(kept)
            self._rooms[name] = make_room(node, facts, pods)
        return self._rooms.get(name)


def make_room(
    node: ClusterNode, facts: DeviceFacts, pods: Collection[PlacedPod] | None
) -> tuple[NodeRoom, Seats]:
    """One node's room from all that is known of it.

    Args:
        node: the Node object.
        facts: what its agent said last.
        pods: those bound to it that have not ended; ``None``: pods are not told.
    """
    layout = layout_of(node, facts)
    seats = seated(layout, pods, facts)
    cpu_milli = node.capacity.cpu_milli or facts.cpu_milli or ASSUMED_CPU_MILLI
    memory_mib = node.capacity.memory_mib or facts.host_memory_mib or ASSUMED_MEMORY_MIB
    told = pods or ()
    room = NodeRoom(
        name=node.name,
        resource=layout.resource,
        model=(node.capacity.model or facts.model) if layout.resource else "",
        cpu_milli=cpu_milli,
        memory_mib=memory_mib,
        cpu_free_milli=max(0, cpu_milli - sum(each.ask.cpu_milli for each in told)),
        memory_free_mib=max(0, memory_mib - sum(each.ask.memory_mib for each in told)),
        gpus=seats.free,
        sick=seats.sick if any(seats.sick) else (),
        guessed=seats.guessed or pods is None,
    )
    return room, seats


def layout_of(node: ClusterNode, facts: DeviceFacts) -> Layout:
    """Which devices a node has: as many as it lists, or as stand behind what it lists; in the agent's order where they agree.

    A node without a Node object's word (observe mode) has what its agent sees. Devices of dynamic resources are listed nowhere
    here: pods that claim them are passed over.
    """
    capacity = node.capacity
    # A resource whose plugin was taken away stays listed, with none.
    listed_now = [name for name, count in capacity.devices.items() if count]
    resource = gpu_resource(listed_now or capacity.devices)
    if not resource:
        by_agent = not capacity.cpu_milli
        return Layout(
            resource=facts.resource if by_agent else "",
            ids=facts.ids if by_agent else (),
            slots=len(facts.ids) if by_agent else 0,
        )
    seen = len(facts.ids)
    if capacity.physical_devices:
        slots = max(capacity.physical_devices, seen)
        return Layout(resource=resource, ids=facts.ids, slots=slots)
    allocatable = capacity.devices[resource]
    listed = min(max(allocatable, node.gpu_capacity), MAX_NODE_DEVICES)
    if capacity.sliced and seen and listed > seen and listed % seen == 0:
        return Layout(
            resource=resource,
            ids=facts.ids,
            slots=listed,
            each=listed // seen,
            missing=listed - allocatable,
        )
    slots = max(listed, seen)
    return Layout(resource=resource, ids=facts.ids, slots=slots, missing=slots - allocatable)
