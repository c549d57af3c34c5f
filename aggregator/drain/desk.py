"""What the drains of all nodes share: one rate, a few slots, and what was asked of whom already."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from aggregator.cluster.workloads import Workloads
from aggregator.policy.drain.rules import DrainRules

MAX_PARALLEL_CALLS = 32
BACKOFF_FIRST_SECONDS = 2.0
BACKOFF_MOST_SECONDS = 30.0


class Bucket:
    """A token bucket over all evictions: at most so many per second, and as many at once."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._free_at: float | None = None
        """Loop time at which everything taken so far is paid for."""

    async def take(self, tokens: int = 1) -> None:
        """Wait for one's turn. Cancelled while waiting: nothing that was taken is lost for long."""
        now = asyncio.get_running_loop().time()
        paid = now if self._free_at is None else max(self._free_at, now)
        slack = (self._burst - 1) / self._per_second
        self._free_at = paid + tokens / self._per_second
        await asyncio.sleep(max(0.0, paid - slack - now))


class Desk:
    """Shared by all drains of this process. One owner: the event loop."""

    def __init__(
        self,
        *,
        workloads: Workloads,
        rules: DrainRules,
        evictions_per_second: float,
        wall: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.workloads = workloads
        self.rules = rules
        self.wall = wall
        self.bucket = Bucket(evictions_per_second)
        self.slots = asyncio.Semaphore(MAX_PARALLEL_CALLS)
        self.attempts: frozenset[str] = frozenset()
        """Of all drains that go on now; what a pod was asked under another one is of the past."""
        self.asked: dict[str, tuple[str, float]] = {}
        """By a pod's UID: the attempt under which it was asked for something, and when (Unix time)."""
        self.settles: dict[str, float] = {}
        """By service: loop time before which its replacement may not be listed yet."""
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._random = random

    def lock(self, key: str) -> asyncio.Lock:
        """One gang's or service's: what is decided about it is decided by one drain at a time."""
        return self._locks[key]

    def goes_on(self, attempts: frozenset[str]) -> None:
        """These drains go on now; what is known of others is forgotten."""
        self.attempts = attempts
        self.asked = {uid: each for uid, each in self.asked.items() if each[0] in attempts}
        if not attempts:
            self.settles.clear()
            self._locks.clear()

    def backoff_seconds(self, tries: int) -> float:
        """How long to wait after so many tries (from 0); the upper half is left to chance."""
        most = min(BACKOFF_MOST_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(tries, 10))
        return most * (1 + self._random()) / 2
