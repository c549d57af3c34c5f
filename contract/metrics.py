"""Metrics as both processes write them: what a family is, and the Prometheus text it becomes.

Lean on purpose: both sides render once per tick and serve the bytes to every scrape, so nothing here
needs locks, a registry or child objects, and a device that is gone is simply not written again.
The tests read what it writes with prometheus-client's parser and with ``promtool check metrics``.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import Literal, TypeVar

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What a scrape is answered with."""

MAX_LABEL_TEXT = 128
"""Characters kept of a label value."""

MAX_KEYS = 200
"""Different keys that one ``Tally`` keeps apart."""

K = TypeVar("K")

Row = tuple[str, float]
"""One sample: its labels as ``labels`` writes them, and its value."""


class Metric(msgspec.Struct, frozen=True):
    """One metric family."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str


def gauge(name: str, text: str) -> Metric:
    """A value that goes up and down."""
    return Metric(name, "gauge", text)


def counter(name: str, text: str) -> Metric:
    """A value that only grows, until its process or its driver starts anew."""
    return Metric(name, "counter", text)


def histogram(name: str, text: str) -> Metric:
    """Counts per bucket of a value's size."""
    return Metric(name, "histogram", text)


class Tally(dict[K, int]):
    """Counts per key, for a bounded number of keys: text from outside cannot grow it for ever."""

    def __init__(self, overflow: K) -> None:
        super().__init__()
        self._overflow = overflow

    def add(self, key: K, amount: int = 1) -> None:
        """Count ``key``; once there are ``MAX_KEYS`` keys, a new one counts as the overflow key."""
        if key not in self and len(self) >= MAX_KEYS:
            key = self._overflow
        self[key] = self.get(key, 0) + amount


class Buckets:
    """A histogram with fixed bounds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Per bucket, not cumulated; the last one is for what is above every bound."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        place = next((i for i, bound in enumerate(self.bounds) if value <= bound), -1)
        self.counts[place] += 1
        self.sum += value


class Page:
    """One page of Prometheus text, written family by family."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, metric: Metric, rows: Iterable[Row]) -> None:
        """Write one family, or nothing when it has no sample."""
        name = metric.name
        lines = [f"{name}{text} {value}" for text, value in rows]
        if lines:
            self._head(metric)
            self._lines += lines

    def one(self, metric: Metric, value: float, text: str = "") -> None:
        """Write a family of a single sample."""
        self._head(metric)
        self._lines.append(f"{metric.name}{text} {value}")

    def histogram(self, metric: Metric, buckets: Buckets) -> None:
        """Write a histogram without labels."""
        self._head(metric)
        bounds = [*(repr(bound) for bound in buckets.bounds), "+Inf"]
        cumulated = list(accumulate(buckets.counts))
        self._lines += [
            f'{metric.name}_bucket{{le="{bound}"}} {count}'
            for bound, count in zip(bounds, cumulated, strict=True)
        ]
        self._lines += [f"{metric.name}_sum {buckets.sum}", f"{metric.name}_count {cumulated[-1]}"]

    def render(self) -> bytes:
        """The page, ready to serve. Text that is not valid Unicode costs a ``?``, never the page."""
        return ("\n".join(self._lines) + "\n").encode("utf-8", "replace")

    def _head(self, metric: Metric) -> None:
        self._lines.append(
            f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}"
        )


def labels(**pairs: object) -> str:
    """Labels as they stand in the text: ``{node="a",gpu="0"}``; a value is escaped and cut."""
    return "{" + ",".join([f'{name}="{escape(str(value))}"' for name, value in pairs.items()]) + "}"


def escape(value: str) -> str:
    """A label value as the text format wants it."""
    value = value[:MAX_LABEL_TEXT]
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return value
