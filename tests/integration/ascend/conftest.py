"""An eight-chip 910B node behind the stand-in, and sources that read it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.sources.ascend import AscendSource
from contract.vocabulary import Event
from tests.dcmi.standin import Scenario, ascend_node
from tests.integration.ascend.rig import Make, Tool, alive


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(tmp_path / "scenario", ascend_node())


@pytest.fixture
def events() -> asyncio.Queue[Event]:
    return asyncio.Queue()


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    return Tool(tmp_path / "tool")


@pytest.fixture
async def make(scenario: Scenario, events: asyncio.Queue[Event]) -> AsyncIterator[Make]:
    """Sources that are closed at the end, with retries so quick that no test waits for one."""
    sources: list[AscendSource] = []

    def build(**options: Any) -> AscendSource:
        quick = {"deadline_seconds": 5.0, "backoff_seconds": 0.02, "absent_retry_seconds": 0.02}
        given = {"environment": scenario.env(), "hccn_tool": "", **quick, **options}
        sources.append(
            AscendSource(
                emit=events.put_nowait, clock=time.time, random=random.Random(7).random, **given
            )
        )
        return sources[-1]

    yield build
    for source in sources:
        pids = source.child_pids
        await source.close()
        assert not [pid for pid in pids if alive(pid)]
