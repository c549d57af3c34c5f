"""Python's garbage collector, kept from looking through the whole picture of the fleet again and again.

With 5,000 nodes there are 290,000 objects that live for hours. A full collection goes through all of them: 100 to 170 ms in
which no thread runs, the scheduler's neither, several times an hour. They hold no cycles worth collecting, so they are
frozen, which takes them out of its sight: a full collection is 0.3 to 1 ms then. What they hold is freed as before, by its
count of references; cycles among them are looked for once in ``THAW_SECONDS``.
"""

import asyncio
import gc
from collections.abc import Callable

LOOK_SECONDS = 10.0
"""Between two looks at how many nodes there are."""

GROWTH = 1.1
"""Times as many nodes as were frozen are worth another 0.2 s."""

YOUNG_OBJECTS = 20_000
"""More containers made than freed after which the young ones are looked through. Python's own 700 did so many times a second, for
objects that their counts of references free anyway; these hold a few megabytes at most."""

THAW_SECONDS = 3600.0
"""After which everything is looked through once."""


class Collector:
    """Freezes what is there once the fleet has stopped growing. One per process: the collector is the interpreter's.

    Args:
        size: how many nodes are known now.
    """

    def __init__(self, size: Callable[[], int]) -> None:
        self._size = size
        self._seen = 0
        self._frozen = 0
        self._thaw_due = 0.0

    async def run(self) -> None:
        """Until cancelled; what was frozen is given back then."""
        loop = asyncio.get_running_loop()
        young, *older = gc.get_threshold()
        gc.set_threshold(max(young, YOUNG_OBJECTS), *older)
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                self.look(loop.time())
        finally:
            gc.set_threshold(young, *older)
            gc.unfreeze()

    def look(self, now: float) -> bool:
        """Whether it froze: many nodes came since the last time and none since the last look, or it is long ago.

        Args:
            now: monotonic seconds.
        """
        size, seen = self._size(), self._seen
        self._seen = size
        settled = size == seen and size > self._frozen * GROWTH
        if not size or not (settled or (self._frozen and now >= self._thaw_due)):
            return False
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._frozen, self._thaw_due = size, now + THAW_SECONDS
        return True
