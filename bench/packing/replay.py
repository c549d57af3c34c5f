"""One run: pods come one by one and none leaves by itself; how much of the fleet's GPUs was handed out. Pure, given the seed."""

import random

import msgspec

from aggregator.scores.fragmentation import Fragmentation
from aggregator.scores.values import PodShape
from bench.packing.failures import Event, failures
from bench.packing.policies import POLICIES, VARIANTS
from bench.packing.rivals import Place, Policy
from bench.packing.trace import Trace, arrivals, typical_pods

WHOLE_NODE = 8


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to run."""

    policy: str
    seed: int
    demand: float
    """Asked for by all pods together, as a multiple of the fleet's GPUs."""
    failing_percent: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy made of one seed. Shares are in percent of all GPUs, the failed ones included."""

    task: Task
    allocated_percent: float
    """When all pods have come."""
    asked_curve: tuple[float, ...]
    """Demand so far, at each point of the curves."""
    allocated_curve: tuple[float, ...]
    fragmented_curve: tuple[float, ...]
    """Idle GPUs that typical pods cannot use: FGD's measure, for every policy."""
    refused: int
    """Pods that fitted nowhere when they came, or came again."""
    killed: int
    """Pods that ran on a GPU when it failed."""
    whole_node_asked: int
    """Pods that asked for ``WHOLE_NODE`` GPUs or more when they first came."""
    whole_node_placed: int
    """Those of them that found a place then."""


class Run:
    """The state of one run."""

    def __init__(self, trace: Trace, task: Task) -> None:
        self._policy: Policy = {**POLICIES, **VARIANTS}[task.policy](
            trace, random.Random(task.seed)
        )
        self._fleet = self._policy.fleet
        self._task = task
        self._capacity = trace.gpu_milli
        self._measure = Fragmentation(typical_pods(trace.pods), self._fleet.kinds)
        self._pods: dict[int, list[tuple[PodShape, Place]]] = {}
        self._asked = self._allocated = self._refused = self._killed = 0
        self._whole_asked = self._whole_placed = 0
        self._points: list[tuple[float, float, float]] = []

    def came(self, shape: PodShape) -> None:
        """A pod came."""
        placed = self._place(shape)
        if shape.gpu_count >= WHOLE_NODE:
            self._whole_asked += 1
            self._whole_placed += placed
        before, self._asked = self._asked, self._asked + shape.gpu_milli_total
        if self._asked * 100 // self._capacity > before * 100 // self._capacity:
            self.note()

    def happened(self, event: Event) -> None:
        """A GPU showed signs, or failed: its pods die and come again at once."""
        if not event.failed:
            self._policy.warned(event.node, event.device)
            return
        self._policy.lost(event.node, event.device)
        here = self._pods.get(event.node, [])
        dead = [each for each in here if event.device in each[1][1]]
        self._pods[event.node] = [each for each in here if event.device not in each[1][1]]
        for shape, (node, devices) in dead:
            self._fleet.give(node, shape, devices)
            self._policy.placed(node, shape, -1)
            self._allocated -= shape.gpu_milli_total
        self._killed += len(dead)
        for shape, _ in dead:
            self._place(shape)

    def note(self) -> None:
        """A point of the curves now."""
        percent = 100 / self._capacity
        fragmented = float(self._measure(self._fleet.rows).sum())
        self._points.append(
            (self._asked * percent, self._allocated * percent, fragmented * percent)
        )

    def outcome(self) -> Outcome:
        """When all is over."""
        self.note()
        asked, allocated, fragmented = zip(*self._points, strict=True)
        return Outcome(
            task=self._task,
            allocated_percent=allocated[-1],
            asked_curve=asked,
            allocated_curve=allocated,
            fragmented_curve=fragmented,
            refused=self._refused,
            killed=self._killed,
            whole_node_asked=self._whole_asked,
            whole_node_placed=self._whole_placed,
        )

    def _place(self, shape: PodShape) -> bool:
        """Whether it found a place."""
        place = self._policy.choose(shape)
        if place is None:
            self._refused += 1
            return False
        node, devices = place
        self._fleet.take(node, shape, devices)
        self._policy.placed(node, shape, 1)
        self._allocated += shape.gpu_milli_total
        self._pods.setdefault(node, []).append((shape, place))
        return True


def replay(trace: Trace, task: Task) -> Outcome:
    """One policy, one seed."""
    run = Run(trace, task)
    pods = arrivals(trace, task.demand, task.seed)
    events = failures(trace, task.failing_percent, task.seed, len(pods))
    place = 0
    for at, shape in enumerate(pods):
        while place < len(events) and events[place].at <= at:
            run.happened(events[place])
            place += 1
        run.came(shape)
    return run.outcome()
