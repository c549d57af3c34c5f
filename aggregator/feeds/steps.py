"""Work that takes long for a large fleet, done in steps of a millisecond or two with the loop free between them."""

import asyncio
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Yields where it may be interrupted, and returns what it was for."""


def at_once(steps: Steps[T]) -> T:
    """Do it without a break."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


async def gently(steps: Steps[T]) -> T:
    """Do it with the loop free after each step."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)
