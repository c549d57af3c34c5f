"""A fleet, and an extender over its mirror that has answers ready, asked as kube-scheduler asks."""

import json
from collections.abc import Sequence
from typing import Any

from aggregator.feeds.extender import Extender
from aggregator.feeds.extender_fleet import FleetReplies
from aggregator.feeds.extender_hosts import FULL_NAMES
from aggregator.stats import AggregatorStats
from contract.vocabulary import Severity
from tests.controlplane.manifests import extender_args
from tests.mirrored import Wire
from tests.score_builders import GPU, NOW, facts, put, room

NAMES = [f"n{number:03d}" for number in range(FULL_NAMES + 60)]
HEALTH: dict[str, dict[str, Any]] = {
    "well": {},
    "weak": {"worst": Severity.DEGRADED},
    "sick": {"worst": Severity.FATAL},
    "silent": {"received_seconds": NOW - 100},
}


def fleet(health: Sequence[tuple[str, int]]) -> Wire:
    """Nodes by health and free GPUs of eight."""
    wire = Wire()
    for name, (how, free) in zip(NAMES, health, strict=True):
        put(wire.book, facts(name, **HEALTH[how]), room(name, [1000] * free + [0] * (8 - free)))
    wire.book.settle(NOW)
    wire.push()
    return wire


def alike(free: int = 4) -> Wire:
    return fleet([("well", free)] * len(NAMES))


class Asked:
    """The extender of the process beside the aggregator; what comes in between two questions it is told at once."""

    def __init__(self, wire: Wire, *, scale: int = 100, **changes: Any) -> None:
        self.wire = wire
        self.stats = AggregatorStats()
        self.now = NOW
        self.fleet = FleetReplies(wire.mirror, scale)
        self.extender = Extender(
            wire.mirror,
            self.stats,
            clock=lambda: self.now,
            scale=scale,
            fleet=self.fleet,
            **changes,
        )
        self.ready = False
        """Whether the newest answer was given before the names were read."""

    def ask(self, names: Sequence[str] = NAMES, *, gpus: int = 1, **spec: Any) -> dict[str, int]:
        """The numbers as kube-scheduler counts them: a host that is left out has none."""
        question = self.extender.read("prioritize", request_of(names, gpus, **spec))
        if question.needs is not None:
            self.wire.want(question.needs)
            self.wire.push()
        said = json.loads(self.extender.reply(question))
        self.ready = question.unread is not None
        self.extender.look_at_names(question)
        told = {each["Host"]: each["Score"] for each in said}
        return {name: told.get(name, 0) for name in names}


def request_of(names: Sequence[str], gpus: int = 1, **spec: Any) -> bytes:
    """A pod that asks for whole GPUs."""
    limits = {"limits": {GPU: str(gpus)}}
    return extender_args({"spec": {"containers": [{"resources": limits}], **spec}}, names)


def settled(asked: Asked, names: Sequence[str] = NAMES, **options: Any) -> dict[str, int]:
    """Asked twice: the names were looked at after the first answer."""
    asked.ask(names, **options)
    return asked.ask(names, **options)
