"""Which pod sits on which device of one node, and what is left of each. Pure.

Known seats come first: the scheduler that shares devices wrote them down, or the kubelet tells. All others are guessed, the
largest first: whole devices where a process runs, else the first ones free; shares by best fit, as the schedulers that share
devices pack. A guess never shows more room than there is in sum, and a healthy device is thought taken before a sick one.
The result depends on who is there, never on who came first.
"""

from collections.abc import Collection, Sequence

import msgspec

from aggregator.scores.device_facts import DeviceFacts
from aggregator.scores.placed import PlacedPod
from aggregator.scores.requests import Passed
from aggregator.scores.values import WHOLE


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The devices of one node as its resource lists them."""

    resource: str = ""
    ids: tuple[str, ...] = ()
    """Of the devices, in order; fewer where the agent does not see all."""
    slots: int = 0
    """Devices, or time slices of them."""
    each: int = 1
    """Slots that one device makes."""
    missing: int = 0
    """Slots that the device plugin holds back as unhealthy."""


class Seats(msgspec.Struct, frozen=True, kw_only=True):
    """By slot."""

    free: tuple[int, ...] = ()
    """Thousandths, 0..1000; of a sick one none."""
    sick: tuple[bool, ...] = ()
    pods: tuple[tuple[PlacedPod, ...], ...] = ()
    """Of a node that is overfull, those for which there is no seat are on none."""
    ids: tuple[str, ...] = ()
    """Of the devices, as the agent names them; empty where it does not."""
    guessed: bool = False
    """Whether anything here is a guess."""


def seated(layout: Layout, pods: Collection[PlacedPod] | None, facts: DeviceFacts) -> Seats:
    """Seat all pods of a node; ``None``: they are not told, and what a process holds is taken."""
    if not layout.slots:
        return Seats()
    table = _Table(layout, facts)
    if pods is None:
        table.take_busy()
    else:
        table.seat(pods)
    table.hold_back()
    return Seats(
        free=tuple(0 if sick else free for free, sick in zip(table.free, table.sick, strict=True)),
        sick=tuple(table.sick),
        pods=tuple(tuple(each) for each in table.pods),
        ids=tuple(
            layout.ids[slot // layout.each] if slot // layout.each < len(layout.ids) else ""
            for slot in range(layout.slots)
        ),
        guessed=table.guessed,
    )


class _Table:
    """The slots of one node while they fill."""

    def __init__(self, layout: Layout, facts: DeviceFacts) -> None:
        self.layout = layout
        self.facts = facts
        self.free = [WHOLE] * layout.slots
        self.sick = [self._fact(facts.sick, slot) for slot in range(layout.slots)]
        self.busy = [self._fact(facts.busy, slot) for slot in range(layout.slots)]
        self.pods: list[list[PlacedPod]] = [[] for _ in range(layout.slots)]
        self.guessed = False
        self._devices = {device: number for number, device in enumerate(layout.ids)}

    def seat(self, pods: Collection[PlacedPod]) -> None:
        """Known seats, then guessed ones."""
        held = self._held_by_pod()
        unknown: list[tuple[PlacedPod, int]] = []
        for pod in sorted(pods, key=lambda each: each.key):
            devices = [
                number
                for each in (pod.devices or held.get(pod.key, ()))
                if (number := self._number(each)) is not None
            ]
            count = max(pod.ask.gpu_count, len(devices) if isinstance(pod.ask, Passed) else 0)
            for number in devices[:count]:
                self._take(self._slot_of(number), self._milli(pod, number), pod)
            if count > len(devices):
                unknown.append((pod, count - len(devices)))
        unknown.sort(key=lambda each: self._order(each[0]))
        for pod, count in unknown:
            self.guessed = True
            milli = self._milli(pod)
            for _ in range(count):
                if not any(self.free):
                    return
                self._take(self._best(milli, pod), milli, pod)

    def _order(self, pod: PlacedPod) -> tuple[int, int, float, str]:
        """Who chooses first where nobody knows."""
        return -self._milli(pod), -pod.ask.gpu_count, pod.created_seconds, pod.key

    def take_busy(self) -> None:
        """Nobody tells of pods: what a process holds is taken whole."""
        self.guessed = True
        self.free = [0 if busy else WHOLE for busy in self.busy]

    def hold_back(self) -> None:
        """Slots that the device plugin calls unhealthy and we do not: of those in use least, the last."""
        more = self.layout.missing - sum(self.sick)
        if more <= 0:
            return
        self.guessed = True
        well = [slot for slot in range(self.layout.slots) if not self.sick[slot]]
        well.sort(key=lambda slot: (-self.free[slot], -slot))
        for slot in well[:more]:
            self.sick[slot] = True

    def _held_by_pod(self) -> dict[str, list[str]]:
        held: dict[str, list[str]] = {}
        for device in sorted(self.facts.holders):
            for key in self.facts.holders[device]:
                held.setdefault(key, []).append(device)
        return held

    def _number(self, device: str) -> int | None:
        """Of a device, by UUID or by index."""
        number = self._devices.get(device)
        if number is None and device.isascii() and device.isdecimal() and len(device) < 5:
            number = int(device)
        inside = number is not None and number < self.layout.slots // self.layout.each
        return number if inside else None

    def _fact(self, facts: Sequence[bool], slot: int) -> bool:
        number = slot // self.layout.each
        return number < len(facts) and facts[number]

    def _milli(self, pod: PlacedPod, number: int = 0) -> int:
        """What it takes of each device; a share that nobody knows is all of it."""
        if not isinstance(pod.ask, Passed):
            return pod.ask.gpu_milli
        sizes = self.facts.memory_mib
        size = sizes[number] if number < len(sizes) else 0
        if not pod.ask.gpu_memory_mib or not size:
            return WHOLE
        return min(WHOLE, -(-pod.ask.gpu_memory_mib * WHOLE // size))

    def _slot_of(self, number: int) -> int:
        """Of a device's slots the one with most room."""
        first = number * self.layout.each
        return max(
            range(first, first + self.layout.each), key=lambda slot: (self.free[slot], -slot)
        )

    def _best(self, milli: int, pod: PlacedPod) -> int:
        """Where it most likely is: among slots with room for it the fullest; else the emptiest."""

        def rank(slot: int) -> tuple[bool, bool, bool, int, bool, int]:
            fits = self.free[slot] >= milli
            left = self.free[slot] if fits else -self.free[slot]
            return (
                pod in self.pods[slot],
                not fits,
                self.sick[slot],
                left,
                not self.busy[slot],
                slot,
            )

        return min(range(self.layout.slots), key=rank)

    def _take(self, slot: int, milli: int, pod: PlacedPod) -> None:
        self.free[slot] = max(0, self.free[slot] - milli)
        self.pods[slot].append(pod)
