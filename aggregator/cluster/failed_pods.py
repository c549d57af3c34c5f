"""Pods that failed at once, as the API server tells of them: those that have failed by one more watch, those that cannot start by the way.

A watch that leaves failed pods out tells of one that fails as if it were deleted, with the object as it was before. So failed
pods have a watch of their own. Of each that is still there the place in the collection is kept, 170 bytes (Kubernetes keeps at most
12,500 pods that have ended), and nothing else: what failed lately is with ``aggregator.scores.failures``.
"""

from collections import deque
from collections.abc import Callable, Sequence

from aggregator.cluster.client import Api, Json
from aggregator.cluster.reflector import Reflector, Timings
from aggregator.scores.failed_pods import PodFailure, Seconds, failure_of
from aggregator.scores.failures import WINDOW_SECONDS

HAVE_FAILED = {"fieldSelector": "status.phase=Failed"}
MAX_WAITING = 10_000
"""Failures that nobody has taken yet; of more the newest."""


class FailedPods:
    """Follows failed pods until cancelled. One owner: the event loop.

    Args:
        api: the way to the server.
        path: of all pods.
        seconds: reads a time of the server's.
        by_tenant: whether a namespace is one witness, or each workload is.
        clock: monotonic seconds.
        wall: Unix time.
        random: 0 ≤ x < 1.
        timings: how patient to be.
        key: what tells pods apart.
        page: how many pods to read at once.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        *,
        seconds: Seconds,
        by_tenant: bool,
        clock: Callable[[], float],
        wall: Callable[[], float],
        random: Callable[[], float],
        timings: Timings,
        key: Callable[[Json], str],
        page: int,
    ) -> None:
        self._seconds = seconds
        self._by_tenant = by_tenant
        self._wall = wall
        self._waiting: deque[PodFailure] = deque(maxlen=MAX_WAITING)
        self._reflector: Reflector[None] = Reflector(
            api,
            path,
            self.saw,
            on_change=_nobody,
            clock=clock,
            random=random,
            timings=timings,
            query=HAVE_FAILED,
            key=key,
            page=page,
        )

    async def run(self) -> None:
        """Follow failed pods until cancelled; no answer of the server ends it."""
        await self._reflector.run()

    def refresh(self) -> None:
        """List again at once."""
        self._reflector.refresh()

    def saw(self, pod: Json) -> None:
        """A Pod object as it is now, failed or not; what it says twice is told twice."""
        failure = failure_of(pod, self._seconds, by_tenant=self._by_tenant)
        if failure is not None and self._wall() - failure.at_seconds <= WINDOW_SECONDS:
            self._waiting.append(failure)

    def take(self) -> Sequence[PodFailure]:
        """What was seen since the last call."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


def _nobody() -> None:
    """Nobody listens: whoever wants to know asks."""
