"""How full, by measured use, the devices are that a pod which shares one could go to. Pure.

For each device with room for the newcomer by requests: the risk that what is there and the newcomer together want more
than the device has (``use.overload_risk``, here for many devices at once on a grid of ``GRID`` quantiles), and whether the
memory that they took at most fits. A device nobody is on carries the newcomer alone. A device with a training pod is left
out, and so is one whose use is not known. Where seats are guessed, a training pod on a part of a device may be on any of
the node's: all are left out.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from aggregator.scores.model import Floats
from aggregator.scores.placed import PlacedPod
from aggregator.scores.rooms import RoomBook
from aggregator.scores.table import NodeTable, Places
from aggregator.scores.terms import Load, Newcomer
from aggregator.scores.use import (
    CORRELATION,
    MIN_SAMPLES,
    STEPS,
    DutyHistory,
    Use,
    UseBook,
    memory_fits,
    why_not_by_use,
)
from aggregator.scores.values import WHOLE, PodShape

GRID = 200
"""Quantiles at which duty cycles are added up: the risk is told to a quarter of a percent."""

_MIB = 2**20


class Loads:
    """Measured use, as the term ``use`` asks for it."""

    def __init__(self, table: NodeTable, rooms: RoomBook, uses: UseBook, max_risk: float) -> None:
        self._table = table
        self._rooms = rooms
        self._uses = uses
        self._max_risk = max_risk

    def why_not(self, pod: Newcomer) -> str:
        """Why the newcomer is not packed by use; empty: it is."""
        if not pod.workload:
            return "nothing outlives the pod by which its use could be remembered, or it is for training"
        return why_not_by_use("unknown", pod.shape, self._uses.of_workload(pod.workload))

    def values(self, pod: Newcomer, rows: Places) -> Floats:
        """Shape (n,): how full the fullest device within the risk would be; 0: none is; NaN: not known."""
        found = np.full(len(rows), np.nan)
        newcomer = self._uses.of_workload(pod.workload)
        if newcomer is None or self.why_not(pod):
            return found
        own = newcomer.use().duty_p95
        devices = list(self._devices(pod, rows))
        risks = overload_risks(
            [each.history.shares for each in devices if each.history], newcomer.shares
        )
        used = iter(risks)
        for each in devices:
            risk = float(next(used)) if each.history else 0.0
            within = risk <= self._max_risk and self._memory_fits(each, newcomer.use())
            there = each.history.use().duty_p95 if each.history else 0.0
            value = min(1.0, there + own) if within else 0.0
            found[each.place] = np.fmax(found[each.place], value)
        return found

    def loads(self, pod: Newcomer, row: int) -> list[Load]:
        """Device by device, for people; empty where nothing is known."""
        newcomer = self._uses.of_workload(pod.workload)
        if newcomer is None:
            return []
        found = []
        for each in self._devices(pod, np.array([row], dtype=np.int64)):
            history = each.history
            risk = float(overload_risks([history.shares], newcomer.shares)[0]) if history else 0.0
            p95 = history.use().duty_p95 if history else 0.0
            found.append(Load(each.device, p95, risk, self._memory_fits(each, newcomer.use())))
        return found

    def _memory_fits(self, there: "_Device", newcomer: Use) -> bool:
        uses = [newcomer, there.history.use()] if there.history else [newcomer]
        return not there.memory_mib or memory_fits(uses, there.memory_mib * _MIB)

    def _devices(self, pod: Newcomer, rows: Places) -> Iterator["_Device"]:
        """Those with room by requests whose use is known."""
        for place, row in enumerate(rows.tolist()):
            free = self._table.free[row]
            open_ = np.flatnonzero(free >= pod.shape.gpu_milli).tolist()
            if not open_:
                continue
            name, room = self._table.names[row], self._table.rooms[row]
            if room and room.guessed and any(map(_trains_on_a_part, self._rooms.pods_on(name))):
                continue  # it may be on any of them
            seats, ids = self._rooms.device_pods(name), self._rooms.device_ids(name)
            facts = self._rooms.facts(name)
            memories = dict(zip(facts.ids, facts.memory_mib, strict=False))
            for device in open_:
                pods = seats[device] if device < len(seats) else ()
                known_as = ids[device] if device < len(ids) else ""
                memory = memories.get(known_as, 0)
                if not pods:
                    yield _Device(place, device, None, memory)
                    continue
                history = self._uses.of_device(name, known_as) if known_as else None
                known = history is not None and history.samples >= MIN_SAMPLES
                if known and not any(each.kind == "training" for each in pods):
                    yield _Device(place, device, history, memory)


def _trains_on_a_part(pod: PlacedPod) -> bool:
    ask = pod.ask
    part = not isinstance(ask, PodShape) or 0 < ask.gpu_milli < WHOLE
    return pod.kind == "training" and ask.gpu_count > 0 and part


class _Device(NamedTuple):
    place: int
    """Of its node, among those asked for."""
    device: int
    history: DutyHistory | None
    """``None``: nobody is on it."""
    memory_mib: int
    """0: not known, and not held against it."""


def overload_risks(devices: Sequence[Floats], newcomer: Floats) -> Floats:
    """As ``use.overload_risk`` of each device and one newcomer.

    Args:
        devices: shares of time by duty cycle, ``STEPS`` + 1 of each.
        newcomer: the same of the newcomer.

    Returns:
        shape (len(devices),), 0..1.
    """
    if not devices:
        return np.zeros(0)
    shares = np.stack(devices)
    beyond = np.concatenate([[0.0], np.cumsum(newcomer[::-1])[:-1]])  # P[newcomer > STEPS - step]
    independent = shares @ beyond
    grid = (np.arange(GRID) + 0.5) / GRID
    reached = np.cumsum(shares, axis=1)
    theirs = np.stack([np.searchsorted(each, grid) for each in reached])
    own = np.searchsorted(np.cumsum(newcomer), grid)
    comonotone = (theirs + own > STEPS).mean(axis=1)
    risks = (1 - CORRELATION) * independent + CORRELATION * comonotone
    bounded: Floats = np.clip(risks, 0.0, 1.0)
    return bounded
