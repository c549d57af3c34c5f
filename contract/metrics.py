"""Metrics as both processes write them: what a family is, and pages of them for prometheus-client to expose.

Both sides write a page from values and serve its bytes to every scrape, so there is no registry, no lock and no
child object whose series would outlive its device.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import Literal, TypeVar

import msgspec
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric as Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What a scrape is answered with."""

MAX_LABEL_TEXT = 128
"""Characters kept of a label value."""

MAX_KEYS = 200
"""Different keys that one ``Tally`` keeps apart."""

K = TypeVar("K")

Labels = dict[str, str]
"""Label names and values."""

NO_LABELS: Labels = {}

Row = tuple[Labels, float]
"""One sample."""


class Metric(msgspec.Struct, frozen=True):
    """One metric family."""

    name: str
    kind: Literal["gauge", "counter", "histogram", "unknown"]
    help: str


def gauge(name: str, text: str) -> Metric:
    """A value that goes up and down."""
    return Metric(name, "gauge", text)


def counter(name: str, text: str) -> Metric:
    """A value that only grows, until its process or its driver starts anew."""
    return Metric(name, "counter", text)


def untyped(name: str, text: str) -> Metric:
    """A value under somebody else's name, which says nothing about its type."""
    return Metric(name, "unknown", text)


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
    """One page of metrics: families in the order they were written, exposed by prometheus-client.

    A page is made anew each time, so a device that is gone is simply not on it any more.
    """

    def __init__(self) -> None:
        self._families: list[Family] = []

    def family(self, metric: Metric, rows: Iterable[Row]) -> None:
        """Write one family, or nothing when it has no sample."""
        family = self._new(metric)
        for labels_, value in rows:
            family.add_sample(metric.name, labels_, value)
        if family.samples:
            self._families.append(family)

    def one(self, metric: Metric, value: float, labels_: Labels = NO_LABELS) -> None:
        """Write a family of a single sample."""
        self.family(metric, [(labels_, value)])

    def histogram(self, metric: Metric, buckets: Buckets) -> None:
        """Write a histogram without labels."""
        family = self._new(metric)
        cumulated = list(accumulate(buckets.counts))
        for bound, count in zip([*map(repr, buckets.bounds), "+Inf"], cumulated, strict=True):
            family.add_sample(f"{metric.name}_bucket", {"le": bound}, count)
        family.add_sample(f"{metric.name}_sum", {}, buckets.sum)
        family.add_sample(f"{metric.name}_count", {}, cumulated[-1])
        self._families.append(family)

    def collect(self) -> Iterable[Family]:
        """What prometheus-client asks of a collector."""
        return self._families

    def render(self) -> bytes:
        """The page, ready to serve."""
        return generate_latest(self)

    @staticmethod
    def _new(metric: Metric) -> Family:
        return Family(metric.name.removesuffix("_total"), metric.help, metric.kind)


def labels(**pairs: object) -> Labels:
    """Label values as text, cut to length; what is not valid Unicode costs a ``?``, never the page."""
    return {name: _text(value) for name, value in pairs.items()}


def _text(value: object) -> str:
    text = str(value)[:MAX_LABEL_TEXT]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
