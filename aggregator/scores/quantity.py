"""Kubernetes' quantities, as people and the API server write them: ``500m``, ``2Gi``, ``1e3``. Pure, and total.

The grammar is that of ``k8s.io/apimachinery/pkg/api/resource``. The Kubernetes client has a parser too, but scores know no
Kubernetes, and that one takes ``1e999999999`` at its word.
"""

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

NANO = 10**9
"""Amounts are whole numbers of billionths: finer ones are rounded up, as Kubernetes does."""

_FORM = re.compile(
    r"([+-]?)([0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})"
    r"([eE][+-]?[0-9]{1,3}|[KMGTPE]i|[numkMGTPE]?)"
)
_SUFFIXES = {"": Fraction(1)}
_SUFFIXES |= {
    name: Fraction(1000) ** power
    for name, power in zip("numkMGTPE", (-3, -2, -1, 1, 2, 3, 4, 5, 6), strict=True)
}
_SUFFIXES |= {f"{name}i": Fraction(1024) ** (power + 1) for power, name in enumerate("KMGTPE")}
_LONGEST = 90
"""Characters that ``_FORM`` can match; longer texts are not kept, which a client could fill memory with."""
_LARGEST = 2**63 - 1
"""What Kubernetes caps a quantity at."""


def parse_nano(value: Any) -> int | None:
    """The amount in billionths, at most 2⁶³-1 whole ones either way; ``None`` where this is no quantity."""
    if isinstance(value, str):
        return _parse(value) if len(value) <= _LONGEST else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) > _LARGEST:
        return None
    return _parse(str(value))


@lru_cache(maxsize=4096)  # a cluster writes the same few hundred amounts over and over
def _parse(text: str) -> int | None:
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    sign, digits, suffix = match.groups()
    scale = _SUFFIXES[suffix] if suffix in _SUFFIXES else Fraction(10) ** int(suffix[1:])
    amount = min(math.ceil(Fraction(digits.removesuffix(".")) * scale * NANO), _LARGEST * NANO)
    return -amount if sign == "-" else amount
