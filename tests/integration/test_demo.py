"""`make demo` as a newcomer runs it: it ends by itself, tells the truth, and Prometheus can scrape its whole fleet."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from typing import TYPE_CHECKING

import aiohttp

from dashboards.queries import check_queries
from tests.prometheus import server

if TYPE_CHECKING:
    from pathlib import Path

DEMO_SECONDS = 25
PANELS = ("Nodes", "GPUs", "Unhealthy nodes", "Quarantined", "Leaders", "Held but idle")
FIELDS = [
    *("nodes", "gpus", "reports", "findings", "incidents_opened", "incidents_closed"),
    *("detect_to_decision_ms_p50", "detect_to_decision_ms_p99"),
]


async def _lines(stream: asyncio.StreamReader) -> list[str]:
    return [line.decode() async for line in stream]


async def test_the_demo_shows_faults_decisions_and_every_panel_of_the_dashboard(
    tmp_path: Path,
) -> None:
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "demo"),
        env={**os.environ, "DEMO_SECONDS": str(DEMO_SECONDS), "DEMO_PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert demo.stdout is not None
    addresses: list[str] = []
    while len(addresses) < 3:
        line = await demo.stdout.readline()
        assert line, "the demo ended before it said where it serves"
        addresses += re.findall(r"http://([\w.:]+)", line.decode())
    page, _, agents = addresses
    rest = asyncio.create_task(_lines(demo.stdout))
    targets = {f"{page}/metrics": "aggregator"} | {
        f"{agents}{path}": path for path in await _node_pages(agents)
    }
    assert len(targets) == 33
    async with server.prometheus(tmp_path, targets) as url:
        await server.until_value(url, 'fleetmedic_node_quarantined{node="sim-d-06"} == 1')
        await server.until_value(url, "count(fleetmedic_gpu_lost) == 256")
        answers = await check_queries(url)
    assert [(each.query.panel, each.error) for each in answers if each.error] == []
    shown = {each.query.panel: each.values for each in answers}
    assert [panel for panel in PANELS if not shown[panel]] == []

    assert await demo.wait() == 0
    summary = json.loads((await rest)[-1])
    assert list(summary) == FIELDS
    assert (summary["nodes"], summary["gpus"]) == (33, 256)
    assert summary["incidents_opened"] >= 10
    assert summary["incidents_closed"] >= 1
    assert 0 < summary["detect_to_decision_ms_p50"] <= summary["detect_to_decision_ms_p99"]


async def _node_pages(agents: str) -> list[str]:
    """The paths of all simulated nodes' pages, once the simulation serves them."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:
            try:
                async with session.get(f"http://{agents}/targets") as response:
                    groups = await response.json()
                    return [group["labels"]["__metrics_path__"] for group in groups]
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)
