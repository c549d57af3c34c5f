"""What the figures share: percentiles, a line for people, a line for machines, the machine they came from."""

import os
import platform
from collections.abc import Sequence

import msgspec


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies; with 100 values and share 0.99, the largest."""
    ascending = sorted(values)
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def machine() -> str:
    """Where this ran, in a few words."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}"


def report(
    name: str, *, text: str, ratio: float, aims: dict[str, bool], **values: object
) -> dict[str, bool]:
    """Print one figure: a sentence, then one JSON object; returns which aims were met."""
    verdict = ", ".join(f"{aim}: {'met' if met else 'MISSED'}" for aim, met in aims.items())
    print(f"{name}: {text}; ratio to its floor {ratio:.2f}x ({verdict})", flush=True)
    line = {"figure": name, "ratio": round(ratio, 3), **values, "aims": aims, "machine": machine()}
    print(msgspec.json.encode(line).decode(), flush=True)
    return aims
