"""How busy a GPU was over the last seconds: the mean of the samples that the driver takes by itself, one each 200 ms.

``nvmlDeviceGetUtilizationRates`` tells the newest of them alone. Asked once a second about a load that runs for half of every
second, it said 0.93 to 0.98 for 13 s on end, and 0 to whoever asked half a second later (an H200, 580.159.04). The driver keeps
14 s of samples, and their mean has every one in it.

How old the number may be: it is of the seconds between two readings, ten at a sample per second, and stands until the next one.
Beside a reading of this moment (clocks, power, traffic) it would be wrong for as long, so the checks take the utilization.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import pynvml as nvml

from .fields import MEMBERS
from .values import INVALID_ARGUMENT, NOT_FOUND, RARELY, SLOW, UNSUPPORTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .parent import Dial
    from .values import Values

LONGEST_SECONDS = 10.5
"""Between two readings, unless samples are asked for more seldom. A call costs an H200's driver 2 ms of CPU however few samples it
brings, so we wait; the driver's 14 s leave 3.5 for a call that is slow. Where the samples asked of us are further apart than that, it
is the driver's last 14 s."""
SPREAD = 10
"""GPUs that are not read in the same second."""
NO_PERMISSION = 4
LASTING = UNSUPPORTED | {NO_PERMISSION}
"""What is so of a driver, or of a GPU under MIG, for longer."""
PASSING = frozenset({NOT_FOUND, INVALID_ARGUMENT})
"""No samples: a GPU that has only just been woken has none. A driver that counts none says the second to who then asks for that many."""


class Duty:
    """One GPU's samples: those since the reading before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = 0.0
        self._asked = -math.inf
        self._first = True
        self._seen = 0
        """Time stamp of the newest sample that is not to be told again; 0: all are."""
        self._retry = 0
        self._last: Values = {}

    def read(self, handle: Any, index: int, tick: int, dial: Dial) -> Values:
        """The mean in percent, or nothing where there is none; asked once the next look would be too late."""
        now = self._clock()
        pause, self._looked = now - self._looked, now
        if tick < self._retry or now + pause - self._asked <= LONGEST_SECONDS:
            return self._last
        self._last, self._asked = {}, -math.inf
        dial.turn("nvmlDeviceGetSamples", index)
        try:
            samples = self._newer(handle)
        except nvml.NVMLError as error:
            if error.value not in LASTING | PASSING:
                raise
            self._retry = tick + (RARELY if error.value in LASTING else SLOW)
            return self._last
        mean, newest = mean_after(self._seen, samples)
        # The second reading comes early, for the GPUs not to be read in the same second, and takes all that the driver has once more.
        early = index % SPREAD if self._first else 0
        self._first, self._seen, self._asked = False, 0 if early else newest, now - early
        if mean is not None:
            self._last = {"duty_cycle_percent": round(mean, 2)}
        return self._last

    def _newer(self, handle: Any) -> list[tuple[int, float]]:
        try:
            return _samples(handle, self._seen)
        except nvml.NVMLError as error:
            if error.value != NOT_FOUND or not self._seen:
                raise
        # The clock was set back, and all are older than what we saw; or the driver takes none any more.
        kept = _samples(handle, 0)
        if any(stamp >= self._seen for stamp, _ in kept):
            return []
        self._seen = 0
        return kept


def mean_after(seen: int, samples: Iterable[tuple[int, float]]) -> tuple[float | None, int]:
    """The mean of the samples newer than ``seen``, and the time stamp of the newest.

    Args:
        seen: in the unit of the samples' time stamps.
        samples: (time stamp, percent), in any order; what is no percentage is left out.
    """
    newer = [(stamp, percent) for stamp, percent in samples if stamp > seen]
    percents = [percent for _, percent in newer if 0 <= percent <= 100]
    newest = max((stamp for stamp, _ in newer), default=seen)
    return (sum(percents) / len(percents) if percents else None), newest


def _samples(handle: Any, seen: int) -> list[tuple[int, float]]:
    kind, samples = nvml.nvmlDeviceGetSamples(handle, nvml.NVML_GPU_UTILIZATION_SAMPLES, seen)
    member = MEMBERS[kind] if kind < len(MEMBERS) else ""
    return [
        (each.timeStamp, getattr(each.sampleValue, member) if member else math.nan)
        for each in samples
    ]
