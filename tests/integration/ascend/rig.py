"""What these tests share: when they run, how long they wait, a hccn_tool of theirs."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.sources import Reading, SourceError
from agent.sources.ascend import AscendSource
from tests.nvml.build import compiler

NEEDS_STANDIN = [
    pytest.mark.skipif(compiler() is None, reason="the DCMI stand-in needs a C compiler"),
    pytest.mark.timeout(30),
]

HEALTH = "dcmi_get_device_health"

Make = Callable[..., AscendSource]


class Tool:
    """A hccn_tool that prints what a test wrote for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.path = folder / "hccn_tool"
        self.path.write_text(
            f'#!/bin/sh\ncd {folder}\necho "$*" >> asked\n'
            'file="$2.$3"; [ -e "$file" ] || file="all.$3"\n'
            '[ -e "$file" ] || exit 1\n'
            'if grep -q HANG "$file"; then exec sleep 3600; fi\n'
            'cat "$file"\n'
        )
        self.path.chmod(0o755)

    def say(self, option: str, text: str, *, chip: int | str = "all") -> None:
        fresh = self._folder / f".{chip}.{option}"
        fresh.write_text(text)
        fresh.replace(self._folder / f"{chip}.{option}")

    def asked(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "asked").read_text().splitlines()
        return []


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def until(source: AscendSource, wanted: Callable[[Any], bool], seconds: float = 20.0) -> Any:
    """Reads until the outcome, a reading or an error, is the wanted one, and returns it."""
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


async def until_well(source: AscendSource) -> Reading:
    outcome = await until(source, lambda outcome: isinstance(outcome, Reading))
    assert isinstance(outcome, Reading)
    return outcome
