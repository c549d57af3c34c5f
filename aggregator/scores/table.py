"""The fleet as arrays: what the terms of the score read, a row per node. Pure; one owner.

A node keeps its row for life; the row of one that left is given to the next newcomer. Rows that no node has are
marked as such and never scored.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from aggregator.scores.ailing import Ailment
from aggregator.scores.model import (
    NEUTRAL_SCORE,
    SICK,
    UNKNOWN,
    VERDICTS,
    Codes,
    Floats,
    Judgement,
    NodeFacts,
    by_use,
)
from aggregator.scores.values import WHOLE, NodeRoom

DEVICES = 16
"""Devices told apart on one node at first; more widen the arrays."""

Places = NDArray[np.int64]
"""Rows of nodes in the arrays."""

_SCATTER = 2_654_435_761
"""Odd and without pattern: rows times this, cut to 32 bits, stand in an order that has nothing to do with kind or rack."""


def filling_order(rows: Places) -> Places:
    """Of nodes that are equally good, the one with the smallest number is filled first.

    Rows stand in the order in which nodes came, like nodes side by side; filling by that costs 0.05 % of all GPUs (docs/packing.md).
    """
    return rows * _SCATTER % 2**32


class NodeTable:
    """Facts and rooms of the fleet; ``free`` and the rest are read by row."""

    def __init__(self, capacity: int = 64) -> None:
        self.index: dict[str, int] = {}
        """Name → row."""
        self.names: list[str] = [""] * capacity
        """By row; empty: nobody's."""
        self.facts: list[NodeFacts | None] = [None] * capacity
        self.judged: list[Judgement | None] = [None] * capacity
        self.rooms: list[NodeRoom | None] = [None] * capacity
        self.verdicts: Codes = np.full(capacity, UNKNOWN, dtype=np.int8)
        self.by_health = np.full(capacity, NEUTRAL_SCORE, dtype=np.int64)
        """The score by health and use alone."""
        self.free: NDArray[np.int16] = np.full((capacity, DEVICES), -1, dtype=np.int16)
        """Free thousandths by device; -1: there is no such device, or it is sick."""
        self.halves: NDArray[np.int8] = np.full((capacity, DEVICES), -1, dtype=np.int8)
        """Neighbourhood by device; -1: not known."""
        self.ports_share: Floats = np.full(capacity, np.nan)
        """RDMA ports that carry traffic, of all; NaN: not known. A node without any has none up: 0."""
        self.ports_total = np.zeros(capacity, dtype=np.int64)
        self.kinds = np.zeros(capacity, dtype=np.int64)
        """Nodes of one number have the same devices: resource name and model."""
        self.ailing: dict[int, Ailment] = {}
        """By row, what is wrong; nodes that may take any pod have no entry."""
        self._bare: NDArray[np.bool_] = np.ones(capacity, dtype=np.bool_)
        self._kind_numbers: dict[tuple[str, str], int] = {}
        self._vacant = list(range(capacity - 1, -1, -1))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def capacity(self) -> int:
        """Rows of the arrays, nobody's included."""
        return len(self.names)

    def rows(self) -> Places:
        """Of all nodes."""
        return np.fromiter(self.index.values(), dtype=np.int64, count=len(self.index))

    def row(self, name: str) -> int:
        """The row of a node; one is given to it where it has none."""
        found = self.index.get(name)
        if found is None:
            if not self._vacant:
                self._grow()
            found = self.index[name] = self._vacant.pop()
            self.names[found] = name
        return found

    def take(self, row: int, facts: NodeFacts, judged: Judgement) -> bool:
        """Take in what is known of a node's health; whether its score may have changed."""
        before, verdict = self.facts[row], self.judged[row]
        self.facts[row], self.judged[row] = facts, judged
        self.by_health[row] = by_use(facts, judged).score
        self.verdicts[row] = VERDICTS.index(judged.verdict)
        self._examine(row)
        same = (
            before is not None
            and verdict is not None
            and verdict.verdict == judged.verdict
            and before.ports_up == facts.ports_up
            and before.ports_total == facts.ports_total
            and before.neighbourhoods == facts.neighbourhoods
        )
        if same:
            return False
        total = facts.ports_total
        self.ports_total[row] = total or 0
        self.ports_share[row] = np.nan if total is None else facts.ports_up / max(1, total)
        self._neighbourhoods(row)
        return True

    def furnish(self, row: int, room: NodeRoom | None) -> bool:
        """Take in what is left on a node; whether it changed."""
        if room == self.rooms[row]:
            return False
        self.rooms[row] = room
        self._bare[row] = room is None
        self.free[row] = -1
        if room is not None:
            self._widen(len(room.gpus))
            devices = np.array(room.gpus, dtype=np.int16)
            sick = np.array(room.sick, dtype=bool)[: len(devices)]
            devices[: len(sick)][sick] = -1
            self.free[row, : len(devices)] = devices
            kind = (room.resource, room.model)
            self.kinds[row] = self._kind_numbers.setdefault(kind, len(self._kind_numbers))
        self._examine(row)
        self._neighbourhoods(row)
        return True

    def drop(self, name: str) -> int | None:
        """Forget a node; the row that it had."""
        row = self.index.pop(name, None)
        if row is None:
            return None
        self.names[row] = ""
        self.facts[row] = self.judged[row] = self.rooms[row] = None
        self.verdicts[row] = UNKNOWN
        self.free[row] = self.halves[row] = -1
        self.ports_share[row] = np.nan
        self.ports_total[row] = 0
        self._bare[row] = True
        self.ailing.pop(row, None)
        self._vacant.append(row)
        return row

    def unfurnished(self) -> NDArray[np.bool_]:
        """By row, whether nothing is known of the node's room; to be read only."""
        return self._bare

    def whole(self, rows: Places) -> NDArray[np.int64]:
        """Free whole devices of each of these nodes."""
        count: NDArray[np.int64] = (self.free[rows] >= WHOLE).sum(axis=1)
        return count

    def empty(self, rows: Places) -> NDArray[np.bool_]:
        """Which of these nodes have two or more devices and nothing on any of them."""
        devices = self.free[rows]
        there = devices >= 0
        clear: NDArray[np.bool_] = (there.sum(axis=1) >= 2) & (
            (devices >= WHOLE) | ~there  # a sick device is no capacity, and does not spoil the rest
        ).all(axis=1)
        return clear

    def _examine(self, row: int) -> None:
        """Note anew what is wrong with a node."""
        facts, judged, room = self.facts[row], self.judged[row], self.rooms[row]
        sick = bool(self.verdicts[row] == SICK)
        impaired = room if room is not None and any(room.sick) else None
        if not sick and impaired is None:
            self.ailing.pop(row, None)
            return
        free = self.free[row]
        self.ailing[row] = Ailment(
            reason=judged.reason if sick and judged is not None else "",
            quarantined=facts is not None and facts.standing == "quarantined",
            devices=len(impaired.gpus) if impaired else 0,
            sick_devices=sum(impaired.sick) if impaired else 0,
            free_milli=tuple(free[free >= 0].tolist()) if impaired else (),
            guessed=impaired is not None and impaired.guessed,
            silent=bool(self.verdicts[row] == UNKNOWN),
        )

    def _neighbourhoods(self, row: int) -> None:
        """They count only where report and books speak of the same devices."""
        facts, room = self.facts[row], self.rooms[row]
        known = facts.neighbourhoods if facts else ()
        self.halves[row] = -1
        if room is not None and known and len(known) == len(room.gpus):
            self.halves[row, : len(known)] = known

    def _widen(self, devices: int) -> None:
        missing = devices - self.free.shape[1]
        if missing > 0:
            pad = ((0, 0), (0, missing))
            self.free = np.pad(self.free, pad, constant_values=-1)
            self.halves = np.pad(self.halves, pad, constant_values=-1)

    def _grow(self) -> None:
        old = self.capacity
        self.names += [""] * old
        self.facts += [None] * old
        self.judged += [None] * old
        self.rooms += [None] * old
        self.verdicts = np.pad(self.verdicts, (0, old), constant_values=UNKNOWN)
        pad = ((0, old), (0, 0))
        self.by_health = np.pad(self.by_health, (0, old), constant_values=NEUTRAL_SCORE)
        self.free = np.pad(self.free, pad, constant_values=-1)
        self.halves = np.pad(self.halves, pad, constant_values=-1)
        self.ports_share = np.pad(self.ports_share, (0, old), constant_values=np.nan)
        self.ports_total = np.pad(self.ports_total, (0, old))
        self.kinds = np.pad(self.kinds, (0, old))
        self._bare = np.pad(self._bare, (0, old), constant_values=True)
        self._vacant = list(range(2 * old - 1, old - 1, -1))

    def __iter__(self) -> Iterator[str]:
        """Names of all nodes."""
        return iter(self.index)
