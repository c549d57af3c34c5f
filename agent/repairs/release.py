"""The NVIDIA source, let go of while a GPU is reset: the driver resets none that an NVML client holds open."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from agent.checks.gpu_driver import LET_GO
from agent.snapshot import Gpu
from agent.sources import Reading, Source, SourceFailingError


class ReleasableSource:
    """A source that can be closed for a while; what it knows of this node's GPUs goes on to the next one.

    Args:
        make: a new source, given the GPUs that the node should have.
        expected: those known at the start.
    """

    def __init__(
        self, make: Callable[[Iterable[Gpu]], Source], *, expected: Iterable[Gpu] = ()
    ) -> None:
        self._make = make
        self._expected = tuple(expected)
        self._source = make(self._expected)
        self._released_for = ""
        self._closed = False

    @property
    def name(self) -> str:
        """As the source's own."""
        return self._source.name

    async def read(self) -> Reading:
        """As the source's own.

        Raises:
            SourceAbsentError, SourceStuckError: as the source's own.
            SourceFailingError: also while it is let go of.
        """
        if self._released_for:
            raise SourceFailingError(f"{LET_GO} {self._released_for}")
        try:
            reading = await self._source.read()
        except SourceFailingError as error:
            if self._released_for:  # meanwhile
                raise SourceFailingError(f"{LET_GO} {self._released_for}") from error
            raise
        self._expected = reading.gpus or self._expected
        return reading

    async def close(self) -> None:
        """Let go for good."""
        self._closed = True
        await self._source.close()

    @asynccontextmanager
    async def released(self, why: str) -> AsyncIterator[None]:
        """Hold nothing open in here.

        Args:
            why: completes "let go of while …".
        """
        self._released_for = why
        try:
            await self._source.close()
            yield
        finally:
            if not self._closed:
                self._source = self._make(self._expected)
            self._released_for = ""
