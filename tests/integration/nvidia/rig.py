"""What these tests share: when they run, how long they wait, and until what."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest

from agent.sources import Reading, SourceError
from agent.sources.nvidia import NvidiaSource
from tests.nvml.standin import compiler

NEEDS_STANDIN = [
    pytest.mark.skipif(compiler() is None, reason="the NVML stand-in needs a C compiler"),
    pytest.mark.timeout(30),
]

TEMPERATURE = "nvmlDeviceGetTemperatureV"

Make = Callable[..., NvidiaSource]


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def until(
    source: NvidiaSource, wanted: Callable[[Reading | SourceError], bool], seconds: float = 20.0
) -> Any:
    """Reads until the outcome is the wanted one, and returns it."""
    outcome: Reading | SourceError | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                try:
                    outcome = await source.read()
                except SourceError as error:
                    outcome = error
                if wanted(outcome):
                    return outcome
                await asyncio.sleep(0.01)
    raise AssertionError(f"not within {seconds} s; last: {outcome}")


async def until_well(source: NvidiaSource) -> Reading:
    outcome = await until(source, lambda outcome: isinstance(outcome, Reading))
    assert isinstance(outcome, Reading)
    return outcome
