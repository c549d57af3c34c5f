"""Nodes and pods from files in the format of Alibaba's cluster-trace-gpu-v2023 ("openb"), and the order in which they come.

Nodes: ``sn,cpu_milli,memory_mib,gpu,model``. Pods: ``name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec``; ``gpu_spec`` names
the models that will do, parted by ``|``, and is empty for any. Other columns are not read.
"""

import csv
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from aggregator.scores.typical import Typical
from aggregator.scores.values import WHOLE, NodeRoom, PodShape

RESOURCE = "nvidia.com/gpu"
POPULAR = 0.95
"""The published runs call those pods typical that make up this share of all, most common first."""


class TraceError(ValueError):
    """A file that cannot be used: which, where, and what to do about it."""


class Trace(msgspec.Struct, frozen=True):
    """A fleet and a workload."""

    rooms: tuple[NodeRoom, ...]
    pods: tuple[PodShape, ...]

    @property
    def gpu_milli(self) -> int:
        """Thousandths of a GPU in the whole fleet."""
        return sum(sum(room.gpus) for room in self.rooms)


def read_trace(nodes: Path, pods: Path) -> Trace:
    """Both files. Raises TraceError."""
    trace = Trace(tuple(_read(nodes, NODE_COLUMNS, _room)), tuple(_read(pods, POD_COLUMNS, _shape)))
    if not trace.gpu_milli:
        raise TraceError(f"{nodes}: no node has a GPU, so that no share of them can be allocated")
    if not any(shape.gpu_count for shape in trace.pods):
        raise TraceError(f"{pods}: no pod asks for a GPU, so that there is no demand to raise")
    twice = _first_twice(room.name for room in trace.rooms)
    if twice:
        raise TraceError(f"{nodes}: two nodes are named {twice!r}; give each node once")
    return trace


def arrivals(trace: Trace, demand: float, seed: int) -> list[PodShape]:
    """The pods in the order of their coming: shuffled, then sampled again until they ask for ``demand`` times the fleet.

    This is the protocol of the published runs: the whole workload in random order, then copies of random pods up to the
    first that would go over; where the workload alone asks for more, random pods are left out.
    """
    dice = random.Random(seed)
    pods = list(trace.pods)
    dice.shuffle(pods)
    target = demand * trace.gpu_milli
    asked = sum(shape.gpu_milli_total for shape in pods)
    while asked > target:
        asked -= pods.pop(dice.randrange(len(pods))).gpu_milli_total
    while True:
        pod = dice.choice(trace.pods)
        if asked + pod.gpu_milli > target:
            return pods
        asked += pod.gpu_milli_total
        pods.append(pod)


def typical_pods(pods: Sequence[PodShape], popular: float = POPULAR) -> Typical:
    """The histogram of the most common shapes that together make up this share of the pods; memory does not count."""
    counts: dict[PodShape, float] = {}
    for pod in pods:
        shape = msgspec.structs.replace(pod, memory_mib=0)
        counts[shape] = counts.get(shape, 0.0) + 1.0
    kept: dict[PodShape, float] = {}
    for shape in sorted(counts, key=lambda each: (counts[each], each), reverse=True):
        if sum(kept.values()) >= popular * len(pods):
            break
        kept[shape] = counts[shape]
    return Typical.of(kept)


NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec")

Row = dict[str, str]
T = TypeVar("T")


def _read(path: Path, columns: tuple[str, ...], parse: Callable[[Row], T]) -> Iterator[T]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [name for name in columns if name not in (rows.fieldnames or ())]
            if missing:
                raise TraceError(
                    f"{path}: line 1 does not name the column {', '.join(missing)}; "
                    f"the format is {','.join(columns)}, other columns are not read"
                )
            found = False
            for row in rows:
                found = True
                try:
                    yield parse({name: row[name] or "" for name in columns})
                except ValueError as reason:
                    raise TraceError(f"{path}: line {rows.line_num}: {reason}") from None
            if not found:
                raise TraceError(f"{path}: there is nothing below the heading")
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file; name the trace with --nodes and --pods") from None
    except (OSError, UnicodeDecodeError, csv.Error) as reason:
        raise TraceError(f"{path}: cannot be read as CSV: {reason}") from None


def _room(row: Row) -> NodeRoom:
    if not row["sn"]:
        _refuse("sn is empty; every node needs a name")
    cpu, memory = _number(row, "cpu_milli"), _number(row, "memory_mib")
    gpus = _number(row, "gpu", most=64)
    return NodeRoom(
        name=row["sn"],
        resource=RESOURCE if gpus else "",
        model=row["model"] if gpus else "",
        cpu_milli=cpu,
        memory_mib=memory,
        cpu_free_milli=cpu,
        memory_free_mib=memory,
        gpus=(WHOLE,) * gpus,
    )


def _shape(row: Row) -> PodShape:
    count = _number(row, "num_gpu", most=64)
    milli = 0
    if count:
        milli = min(WHOLE, _number(row, "gpu_milli", least=1))
        if count > 1 and milli < WHOLE:
            _refuse(f"num_gpu {count} with gpu_milli {milli}: only a pod with one GPU can share it")
    return PodShape(
        cpu_milli=_number(row, "cpu_milli"),
        memory_mib=_number(row, "memory_mib"),
        gpu_count=count,
        gpu_milli=milli,
        models=tuple(sorted({each for each in row["gpu_spec"].split("|") if each}))
        if count
        else (),
    )


def _number(row: Row, name: str, *, least: int = 0, most: int = 10**12) -> int:
    try:
        number = int(row[name])
    except ValueError:
        number = -1
    if not least <= number <= most:
        _refuse(f"{name} is {row[name]!r}; it must be a whole number from {least} to {most}")
    return number


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)


def _first_twice(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return next((one for one, other in pairwise(ordered) if one == other), "")
