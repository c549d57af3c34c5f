"""Every query of the dashboard, asked of a real Prometheus that scrapes what our exporters serve."""

import time
from pathlib import Path

from dashboards.queries import check_queries
from tests.prometheus import sample, server

SCRAPED = 'min(count_over_time(up{job="fleetmedic"}[1m])) >= 3'

FIGURES = {
    "Nodes": 4,
    "GPUs": 16,
    "Unhealthy nodes": 2,
    "Quarantined": 2,
    "Need a person": 1,
    "Silent agents": 2,
    "Asked, not answered": 1,
    "Failing feeds": 0,
    "Devices quarantined": 2,
    "Held but idle": 3,
    "Leaders": 1,
}
"""What the figures say of the made-up fleet."""


async def test_every_panel_shows_something_for_a_fleet_in_trouble(tmp_path: Path) -> None:
    pages = sample.pages(time.time())
    async with server.serving(pages) as address:
        targets = {f"{address}{path}": path for path in pages}
        async with server.prometheus(tmp_path, targets) as url:
            await server.until_value(url, SCRAPED)
            (up,) = await server.until_value(url, "sum(up)")
            assert float(up["value"][1]) == len(pages), "a page was not accepted"

            answers = await check_queries(url)

    assert len(answers) > 30
    assert [(each.query.panel, each.error) for each in answers if each.error] == []
    assert [each.query.panel for each in answers if not each.values] == []
    shown = {each.query.panel: each.values[0] for each in answers}
    assert {name: shown[name] for name in FIGURES} == FIGURES
