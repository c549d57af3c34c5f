"""The overrides in force: the last file that could be used. Pure state; the file comes in as bytes."""

from agent.catalogue import Catalogue
from agent.overrides import Judgement, Overrides, apply
from agent.overrides_file import OverridesError, parse


class OverrideKeeper:
    """Holds the last good overrides, and why the newest file is not among them.

    Args:
        catalogue: what is overridden.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.overrides = Overrides()
        """The last good ones."""
        self.error = ""
        """Why the newest file is refused, one line per mistake; empty: it is in force."""
        self._catalogue = catalogue
        self._last: tuple[tuple[str, str, str], Overrides, Judgement] | None = None

    @property
    def valid(self) -> bool:
        """Whether the newest file is in force."""
        return not self.error

    def offer(self, text: bytes) -> bool:
        """Take a file that was read anew; a refused one leaves the last good overrides in force.

        Returns:
            Whether there is news: other overrides in force, or another word on the file.
        """
        before = (self.overrides, self.error)
        try:
            offered = parse(text, self._catalogue)
        except OverridesError as error:
            self.error = str(error)
        else:
            self.error = ""
            if offered != self.overrides:
                self.overrides = offered
        return before != (self.overrides, self.error)

    def judgement(self, *, pool: str, model: str, node: str) -> Judgement:
        """What a node judges by now; the same object until something changes."""
        key = (pool, model, node)
        if self._last is None or self._last[0] != key or self._last[1] is not self.overrides:
            self._last = (
                key,
                self.overrides,
                apply(self._catalogue, self.overrides, pool=pool, model=model, node=node),
            )
        return self._last[2]
