"""A counter seen over a while: how far it rose within a window, over driver reloads."""

from typing import Self

import msgspec


class Window(msgspec.Struct, frozen=True):
    """Samples of one counter that only grows, or starts again from zero when its driver is loaded anew."""

    samples: tuple[tuple[float, float], ...] = ()
    """(Unix time, rise since the window's first sample), oldest first."""
    last: float | None = None
    """The counter as it was read last."""

    def add(
        self, at_seconds: float, value: float | None, *, span_seconds: float, slots: int = 60
    ) -> Self:
        """The window with one more reading; ``None`` (not read) leaves it as it is.

        Args:
            at_seconds: Unix time of the reading.
            value: what the counter said.
            span_seconds: how far back the window reaches.
            slots: samples kept at most; between two of them only the newest reading counts.
        """
        if value is None:
            return self
        rise = 0.0 if self.last is None else value - self.last if value >= self.last else value
        total = (self.samples[-1][1] if self.samples else 0.0) + rise
        kept = list(self.samples)
        if len(kept) >= 2 and kept[-1][0] - kept[-2][0] < span_seconds / slots:
            kept.pop()
        kept.append((at_seconds, total))
        start = at_seconds - span_seconds
        while len(kept) > 2 and kept[1][0] <= start:
            kept.pop(0)
        return type(self)(tuple(kept), value)

    @property
    def rise(self) -> float:
        """How far the counter rose within the window."""
        return self.samples[-1][1] - self.samples[0][1] if self.samples else 0.0

    @property
    def seconds(self) -> float:
        """How long the window has been watched."""
        return self.samples[-1][0] - self.samples[0][0] if self.samples else 0.0

    @property
    def per_second(self) -> float | None:
        """The mean rate; ``None`` before two readings."""
        return self.rise / self.seconds if self.seconds > 0 else None
