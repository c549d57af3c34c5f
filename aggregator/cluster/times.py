"""Unix time as floats on our side, RFC 3339 in UTC on Kubernetes' side."""

import datetime
import math
import re

_FORM = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_LATEST = 253_402_300_799
"""The last second of the year 9999."""


def to_seconds(text: str) -> float:
    """Unix time of an RFC 3339 text; digits below a nanosecond are dropped.

    Raises:
        ValueError: it is no such text.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is not a time as in 2026-01-31T23:59:59.5Z")
    day, clock, fraction, zone = found.groups()
    whole = datetime.datetime.fromisoformat(f"{day}T{clock}{zone.upper()}").timestamp()
    return whole + int((fraction or "").ljust(9, "0")) / 1_000_000_000


def exact(seconds: float) -> str:
    """RFC 3339 with nine digits: reading it back gives the very same float.

    A float of today's Unix time steps by 240 ns, so nanoseconds lose nothing, and what was saved
    equals what is read. Times before 1970 and after 9999 are clamped.
    """
    whole, nanos = _split(seconds)
    return f"{_stamp(whole)}.{nanos:09d}".rstrip("0").rstrip(".") + "Z"


def micro(seconds: float) -> str:
    """RFC 3339 with microseconds, as ``MicroTime`` wants it."""
    whole, nanos = _split(seconds)
    return f"{_stamp(whole)}.{nanos // 1000:06d}Z"


def whole(seconds: float) -> str:
    """RFC 3339 in whole seconds, as ``metav1.Time`` wants it."""
    return f"{_stamp(_split(seconds)[0])}Z"


def _stamp(whole: int) -> str:
    return datetime.datetime.fromtimestamp(whole, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _split(seconds: float) -> tuple[int, int]:
    """Seconds and nanoseconds; exact, because both steps are."""
    if math.isnan(seconds) or seconds < 0:
        return 0, 0
    if seconds >= _LATEST:
        return _LATEST, 0
    whole = int(seconds)
    nanos = round((seconds - whole) * 1_000_000_000)
    return (whole + 1, 0) if nanos == 1_000_000_000 else (whole, nanos)
