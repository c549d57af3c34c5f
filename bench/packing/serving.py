"""Serving pods on as few GPUs as their measured use allows: how many are needed, and how long each is overloaded.

The pods and their use are those of a recorded day (Alibaba's 2026 GenAI trace: duty cycle and memory, one sample a minute).
The first half of the day is what is known when the pods are placed, the second half is what then happens. Placed by requests
alone, each pod has a GPU to itself, as it asked. Placed by measured use, it goes to the GPU that it fills most without passing
the overload risk that is allowed, by ``aggregator.scores.use``, the code that serves a cluster; memory counts in full, by its
high-water mark. An overload minute is a minute in which the pods of one GPU together want more than all of it.
"""

import csv
import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from aggregator.scores.rows import Floats
from aggregator.scores.use import DutyHistory, memory_fits, overload_risk
from bench.packing.trace import TraceError

DUTY_COLUMNS = ("timestamp_anon", "value", "container_ip")
MIN_MINUTES = 100
"""In each half of the day, for a pod to take part."""


class ServingPod(msgspec.Struct, frozen=True, eq=False):
    """One pod's day, a value a minute; NaN where nothing was measured."""

    name: str
    duty_ratio: Floats
    memory_bytes: Floats


class ServingOutcome(msgspec.Struct, frozen=True):
    """What one rule needed, and what happened."""

    rule: str
    """``requests`` or ``measured use``."""
    risk_allowed: float
    """Share of time; 0 for requests."""
    gpu_memory_gib: int
    pods: int
    gpus: int
    overload_minutes: int
    """Of all GPUs together, in the second half."""
    gpu_minutes: int
    """Of all GPUs together, in the second half."""
    worst_gpu_ratio: float
    """Share of the second half in which the unluckiest GPU was overloaded."""
    memory_overruns: int
    """GPUs on which memory was short at any minute."""

    @property
    def overload_ratio(self) -> float:
        """Share of the GPUs' time."""
        return self.overload_minutes / self.gpu_minutes if self.gpu_minutes else 0.0


def read_serving(duty: Path, memory: Path) -> list[ServingPod]:
    """The pods that were measured long enough in both halves of the day. Raises TraceError."""
    duties, memories = _series(duty), _series(memory)
    times = sorted({time for series in duties.values() for time in series})
    if len(times) < 2 * MIN_MINUTES:
        raise TraceError(f"{duty}: {len(times)} points in time; {2 * MIN_MINUTES} are needed")
    pods = []
    for name in sorted(set(duties) & set(memories)):
        pod = ServingPod(
            name,
            np.clip(np.array([duties[name].get(each, np.nan) for each in times]) / 100, 0.0, 1.0),
            np.array([memories[name].get(each, np.nan) for each in times]),
        )
        if all(int(np.isfinite(half).sum()) >= MIN_MINUTES for half in _halves(pod.duty_ratio)):
            pods.append(pod)
    if not pods:
        raise TraceError(f"{duty}: no pod has {MIN_MINUTES} samples in each half of the day")
    return pods


def serve(pods: Sequence[ServingPod], risk: float | None, gpu_memory_gib: int) -> ServingOutcome:
    """Place all pods, then let the second half of the day pass. ``risk`` is ``None`` for requests alone."""
    groups = [[pod] for pod in pods] if risk is None else _placed(pods, risk, gpu_memory_gib)
    over = [_overload(group) for group in groups]
    return ServingOutcome(
        rule="requests" if risk is None else "measured use",
        risk_allowed=risk or 0.0,
        gpu_memory_gib=gpu_memory_gib,
        pods=len(pods),
        gpus=len(groups),
        overload_minutes=sum(int(each.sum()) for each in over),
        gpu_minutes=sum(len(each) for each in over),
        worst_gpu_ratio=max(float(each.mean()) for each in over),
        memory_overruns=sum(_memory_short(group, gpu_memory_gib) for group in groups),
    )


def _placed(pods: Sequence[ServingPod], risk: float, gpu_memory_gib: int) -> list[list[ServingPod]]:
    histories = {pod.name: _history(pod) for pod in pods}
    groups: list[list[ServingPod]] = []
    for pod in pods:
        best: tuple[float, list[ServingPod]] | None = None
        for group in groups:
            together = [histories[each.name] for each in (*group, pod)]
            uses = [each.use() for each in together]
            if not memory_fits(uses, gpu_memory_gib * 2**30):
                continue
            found = overload_risk(together)
            if found <= risk and (best is None or found > best[0]):
                best = found, group
        if best:
            best[1].append(pod)
        else:
            groups.append([pod])
    return groups


def _history(pod: ServingPod) -> DutyHistory:
    """What was known of the pod when it was placed."""
    duty, memory = _halves(pod.duty_ratio)[0], _halves(pod.memory_bytes)[0]
    history = DutyHistory(0.0)
    for minute, (busy, held) in enumerate(zip(duty, memory, strict=True)):
        if np.isfinite(busy):
            history.add(60.0 * minute, float(busy), int(held) if np.isfinite(held) else None)
    return history


def _overload(group: Sequence[ServingPod]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Per minute of the second half, whether the pods want more than the whole GPU."""
    wanted = np.sum([np.nan_to_num(_halves(pod.duty_ratio)[1]) for pod in group], axis=0)
    return np.asarray(wanted > 1.0 + 1e-9)


def _memory_short(group: Sequence[ServingPod], gpu_memory_gib: int) -> bool:
    held = np.sum([np.nan_to_num(_halves(pod.memory_bytes)[1]) for pod in group], axis=0)
    return bool((held > gpu_memory_gib * 2**30).any())


def _halves(series: Floats) -> tuple[Floats, Floats]:
    middle = len(series) // 2
    return series[:middle], series[middle:]


def _series(path: Path) -> Mapping[str, Mapping[float, float]]:
    """Per pod: value by time."""
    found: dict[str, dict[float, float]] = {}
    try:
        with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [name for name in DUTY_COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise TraceError(f"{path}: line 1 does not name the column {', '.join(missing)}")
            for row in rows:
                try:
                    time, value = float(row["timestamp_anon"]), float(row["value"])
                except (TypeError, ValueError):
                    raise TraceError(
                        f"{path}: line {rows.line_num}: timestamp_anon and value must be numbers, "
                        f"not {row['timestamp_anon']!r} and {row['value']!r}"
                    ) from None
                found.setdefault(row["container_ip"], {})[time] = value
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file; name it with --duty and --memory") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as reason:
        raise TraceError(f"{path}: cannot be read as gzipped CSV: {reason}") from None
    return found
