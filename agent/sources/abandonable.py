"""Blocking reads that may never return, kept off the event loop.

``statfs`` on a dead network mount and a counter of an adapter whose firmware died can block for ever in the kernel.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from agent.sources import SourceStuckError

T = TypeVar("T")


class Abandonable(Generic[T]):
    """Runs one function in a thread that may be left behind; never two at once.

    Args:
        work: what to run; it may raise.
        what: the words for it in "… gives no answer for 2 s".
        deadline_seconds: how long a caller waits. Work that is late is waited for again by the next
            caller, so a dead device costs one thread and not one per tick.
    """

    def __init__(self, work: Callable[[], T], *, what: str, deadline_seconds: float) -> None:
        self._work = work
        self._what = what
        self._deadline_seconds = deadline_seconds
        self._pending: asyncio.Future[T] | None = None

    async def run(self) -> T:
        """The function's result.

        Raises:
            SourceStuckError: there is none within the deadline.
        """
        if self._pending is None:
            self._pending = self._start()
        done, _ = await asyncio.wait({self._pending}, timeout=self._deadline_seconds)
        if not done:
            raise SourceStuckError(f"{self._what} gives no answer for {self._deadline_seconds:g} s")
        pending, self._pending = self._pending, None
        return pending.result()

    def abandon(self) -> None:
        """Leave pending work behind; its thread keeps nobody from ending the process."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    def _start(self) -> asyncio.Future[T]:
        # Not the loop's executor: its threads are waited for when the process ends.
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def tell(settle: Callable[[], None]) -> None:
            if not future.done():
                settle()

        def body() -> None:
            try:
                result = self._work()
            except Exception as caught:  # noqa: BLE001 - handed to whoever waits
                error = caught
                settle: Callable[[], None] = lambda: future.set_exception(error)  # noqa: E731
            else:
                settle = lambda: future.set_result(result)  # noqa: E731
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, settle)

        threading.Thread(target=body, name=f"abandonable {self._what}", daemon=True).start()
        return future
