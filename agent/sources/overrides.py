"""The overrides file as a source: read when it changes, refused with reasons, the last good one in force."""

from agent.catalogue import Catalogue
from agent.overrides import Judgement
from agent.overrides_keeper import OverrideKeeper
from agent.sources import Reading, SourceFailingError
from agent.sources.watched_file import WatchedFile


class OverridesSource:
    """One file of overrides, for this node."""

    name = "overrides"

    def __init__(self, path: str, *, catalogue: Catalogue, pool: str, node: str) -> None:
        self._file = WatchedFile(path)
        self._keeper = OverrideKeeper(catalogue)
        self._pool = pool
        self._node = node

    async def read(self) -> Reading:
        """Look whether the file changed.

        Raises:
            SourceFailingError: it cannot be read, or not be used; one mistake after the other, each with its remedy.
        """
        text = await self._file.changed()
        if text is not None:
            self._keeper.offer(text)
        if problem := self._file.error or self._keeper.error:
            raise SourceFailingError("; ".join(problem.splitlines()))
        return Reading()

    def awaited(self, *, model_may_come: bool) -> str:
        """What is not known yet, so that this node would be judged by too little; empty: nothing.

        Args:
            model_may_come: no GPU has named its model yet, and one may.
        """
        if not self._file.answered:
            return "the overrides file has not been read"
        if model_may_come and any(each.models for each in self._keeper.overrides.entries):
            return "no GPU has named its model, which the overrides ask for"
        return ""

    def judgement(self, model: str) -> Judgement:
        """What this node judges by, with GPUs of this model; the same object until something changes."""
        return self._keeper.judgement(pool=self._pool, model=model, node=self._node)

    async def close(self) -> None:
        """Leave a reading that is under way behind."""
        self._file.close()
