"""How much each node is used: fifteen minutes of CPU, memory and GPU duty. Pure: the clock comes in.

What the feeds for load-aware schedulers read. Reports are taken one by one, cheaply; averages, deviations and
percentiles are computed for all nodes at once, when a feed asks. The time is that of receipt, by our clock.

A node has one row of 180 slots of five seconds, for each of three shares: ``BYTES_PER_NODE``. The newest report in a
slot counts. A slot without a report is empty, never zero: a node that falls silent has ever less to say and then nothing.
"""

import math
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.readings import utilizations
from contract import report_pb2 as pb

SLOT_SECONDS = 5.0
SLOTS = 180
"""Fifteen minutes."""

HISTORY_SECONDS = SLOT_SECONDS * SLOTS

QUANTITIES = ("cpu", "memory", "gpu")
"""In this order wherever three values stand together; each a share, 0..1."""

BYTES_PER_NODE = SLOTS * len(QUANTITIES) * 4
"""Of history: 2,160; what is known of the newest report is about 0.5 KiB more."""

STEP_NODES = 50
"""Looked at in one step: about a millisecond."""

STEP_BACK_SLOTS = 12
"""A clock that was set back by less is waited for; by more, and the history starts anew."""

_FIRST_ROWS = 64

_Shares = NDArray[np.float32]


class Latest(msgspec.Struct, frozen=True, gc=False):
    """The newest report of one node, as far as use is concerned. A share that was not measured is NaN."""

    received_seconds: float
    """Unix time of receipt."""
    cpu_ratio: float
    memory_ratio: float
    gpu_ratio: float
    """Mean utilization of the GPUs (or NPUs) that could be read."""
    cpu_count: int
    memory_total_bytes: int
    gpu_count: int


class Summary(NamedTuple):
    """One quantity of one node over one window; shares 0..1, never NaN."""

    average: float
    deviation: float
    """Standard deviation of the samples."""


Three = tuple[Summary | None, Summary | None, Summary | None]
"""In the order of ``QUANTITIES``; ``None``: not measured once within the window."""


class Usage:
    """The use of all nodes that ever reported. One owner: the event loop."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._last_slots: dict[str, int] = {}
        self._shares: _Shares = _empty(_FIRST_ROWS)
        self._flat = self._shares.reshape(-1)
        """The same memory, value by value: so three are written in a third of the time."""
        self.latest: dict[str, Latest] = {}
        """By node."""
        self.first_seconds = math.inf
        """Unix time of the very first report; before it nothing is known of any node."""

    def take(
        self, report: pb.NodeReport, now: float, measured: Sequence[float] | None = None
    ) -> None:
        """Take in one report of a node whose identity is proven; about ten microseconds with eight GPUs.

        Args:
            report: as decoded. A share that is no number or outside 0..1 counts as not measured.
            now: Unix time of receipt.
            measured: the utilization of its GPUs, where somebody read it already.
        """
        name = report.node
        row = self._rows.get(name)
        if row is None:
            row = self._new_row(name)
        host = report.host
        cpu = memory = math.nan
        total = host.memory_total_bytes
        if host.HasField("cpu_utilization_ratio"):
            cpu = _share(host.cpu_utilization_ratio)
        if total and host.HasField("memory_available_bytes"):
            memory = _share(1.0 - host.memory_available_bytes / total)
        devices: Collection[pb.Gpu | pb.Npu] = report.gpus
        if not devices:
            devices, measured = report.npus, None
        gpu = _duty(utilizations(devices) if measured is None else measured)
        self.latest[name] = Latest(now, cpu, memory, gpu, host.cpu_count, total, len(devices))
        self.first_seconds = min(self.first_seconds, now)
        slot = int(now // SLOT_SECONDS)
        last = self._last_slots.get(name, slot)
        if last - STEP_BACK_SLOTS <= slot < last:
            return
        if slot != last:
            self._skip(row, last, slot)
        self._last_slots[name] = slot
        at = (row * SLOTS + slot % SLOTS) * len(QUANTITIES)
        self._flat[at], self._flat[at + 1], self._flat[at + 2] = cpu, memory, gpu

    def forget(self, name: str) -> None:
        """Drop a node that is no longer part of the cluster."""
        row = self._rows.pop(name, None)
        if row is None:
            return
        del self.latest[name], self._last_slots[name]
        self._shares[row] = np.nan
        self._free.append(row)

    def keep(self, names: Iterable[str]) -> None:
        """Drop every node but these."""
        for name in self._rows.keys() - set(names):
            self.forget(name)

    def window_in_steps(
        self, seconds: float, now: float
    ) -> Generator[None, None, dict[str, Three]]:
        """As ``window`` for all nodes, with a break after every ``STEP_NODES``."""
        names = list(self._rows)
        found: dict[str, Three] = {}
        for start in range(0, len(names), STEP_NODES):
            found |= self.window(seconds, now, names[start : start + STEP_NODES])
            yield
        return found

    def window(
        self, seconds: float, now: float, names: Sequence[str] | None = None
    ) -> dict[str, Three]:
        """By node, averages and deviations over the last ``seconds`` (at most 900) before ``now``.

        Nodes of which nothing was measured are not there. About 20 ms for a thousand nodes and fifteen minutes.

        Args:
            seconds: how far back.
            now: Unix time.
            names: which nodes; by default all.
        """
        there, shares = self._select(seconds, now, names)
        if not there:
            return {}
        counts = (~np.isnan(shares)).sum(axis=1)
        divisors = np.maximum(counts, 1)
        values = np.nan_to_num(shares, nan=0.0).astype(np.float64)
        average = values.sum(axis=1) / divisors
        squares = np.einsum("nsq,nsq->nq", values, values) / divisors
        deviation = np.sqrt(np.clip(squares - average**2, 0.0, None))
        found = {
            name: _three(
                Summary(mean, off) if count else None
                for mean, off, count in zip(means, offs, some, strict=True)
            )
            for name, means, offs, some in zip(
                there, average.tolist(), deviation.tolist(), counts.tolist(), strict=True
            )
        }
        return {name: three for name, three in found.items() if any(three)}

    def percentiles(
        self, seconds: float, now: float, of: Sequence[float], names: Sequence[str] | None = None
    ) -> Mapping[str, tuple[tuple[float, ...] | None, ...]]:
        """By node and in the order of ``QUANTITIES``, the shares below which so many percent of the samples lie.

        Nearest rank (never an invented value between two samples). ``None``: not measured within the window.
        About 20 ms for a thousand nodes and fifteen minutes.
        """
        there, shares = self._select(seconds, now, names)
        if not there:
            return {}
        ascending = np.sort(shares, axis=1)  # NaN goes last
        counts = (~np.isnan(shares)).sum(axis=1)
        picks = []
        for percent in of:
            rank = np.clip(np.ceil(counts * percent / 100.0).astype(int) - 1, 0, None)
            picks.append(np.take_along_axis(ascending, rank[:, None, :], axis=1)[:, 0, :])
        table = np.stack(picks, axis=2).astype(np.float64).tolist()
        return {
            name: tuple(
                tuple(values) if count else None for values, count in zip(row, some, strict=True)
            )
            for name, row, some in zip(there, table, counts.tolist(), strict=True)
        }

    def _select(
        self, seconds: float, now: float, wanted: Sequence[str] | None
    ) -> tuple[list[str], _Shares]:
        """Names of those that have anything to say, and their shares in the window as (node, slot, quantity); what lies outside is NaN."""
        newest = int(now // SLOT_SECONDS)
        width = max(1, min(SLOTS, int(seconds // SLOT_SECONDS)))
        asked = np.arange(newest - width + 1, newest + 1)
        names = [
            name
            for name in (self._last_slots if wanted is None else wanted)
            if self._last_slots.get(name, -1) > newest - width
        ]
        if not names:
            return [], _empty(0)
        rows = np.array([self._rows[name] for name in names])
        last = np.array([self._last_slots[name] for name in names])
        shares = self._shares[rows[:, None], (asked % SLOTS)[None, :]]
        # A place of the ring that the node has not come to again yet holds what is a whole round older.
        shares[asked[None, :] > last[:, None]] = np.nan
        return names, shares

    def _new_row(self, name: str) -> int:
        if self._free:
            row = self._free.pop()
        else:
            row = len(self._rows)
            if row == len(self._shares):
                self._shares = np.concatenate([self._shares, _empty(row)])
                self._flat = self._shares.reshape(-1)
        self._rows[name] = row
        return row

    def _skip(self, row: int, last: int, slot: int) -> None:
        """Empty the slots between two reports; a clock that was set back makes the row start anew."""
        if slot < last or slot - last >= SLOTS:
            self._shares[row] = np.nan
            return
        for each in range(last + 1, slot):
            self._shares[row, each % SLOTS] = np.nan


def _empty(rows: int) -> _Shares:
    return np.full((rows, SLOTS, len(QUANTITIES)), np.nan, dtype=np.float32)


def _share(value: float) -> float:
    """The value if it is a share; else NaN, as for one that was not measured."""
    return value if 0.0 <= value <= 1.0 else math.nan


def _duty(measured: Sequence[float]) -> float:
    """The mean of what was measured; NaN: nothing was."""
    shares = [each for each in measured if 0.0 <= each <= 1.0]
    return sum(shares) / len(shares) if shares else math.nan


def _three(each: Iterable[Summary | None]) -> Three:
    cpu, memory, gpu = each
    return cpu, memory, gpu
