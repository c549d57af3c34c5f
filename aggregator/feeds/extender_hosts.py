"""The reply to ``prioritize``: a number for each host that is told. Pure."""

from collections.abc import Iterable

import msgspec

FULL_NAMES = 100
"""Hosts up to which all are told: what a person asks by hand reads as people expect."""


class _Host(msgspec.Struct, rename="pascal", gc=False):
    host: str
    score: int


_encode = msgspec.json.Encoder().encode


def told(names: Iterable[str], numbers: Iterable[int]) -> bytes:
    """The reply.

    Args:
        names: of the hosts.
        numbers: theirs, whole ones; as many.
    """
    return _encode(list(map(_Host, names, numbers)))
