"""The queries of a dashboard: taken out of its JSON, and asked of a real Prometheus."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

FILE = Path(__file__).with_name("fleet.json")

VARIABLES = {"$node": ".*", "$__rate_interval": "1m"}
"""What Grafana would put in for them when everything is chosen."""

METRIC = re.compile(r"\b(?:fleetmedic|DCGM)_\w+")


class PanelQuery(msgspec.Struct, frozen=True):
    """One query of one panel, with Grafana's variables still in it."""

    panel: str
    expr: str


class Answer(msgspec.Struct, frozen=True):
    """What Prometheus said to one query."""

    query: PanelQuery
    error: str
    """Empty when it was understood."""
    values: tuple[float, ...] = ()
    """One per series that came back."""


def load(file: Path = FILE) -> dict[str, Any]:
    """The dashboard as committed."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def panel_queries(dashboard: Mapping[str, Any]) -> Iterator[PanelQuery]:
    """Every query of every panel, those in rows too."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield PanelQuery(panel["title"], target["expr"])
        yield from panel_queries({"panels": panel.get("panels", ())})


def variable_queries(dashboard: Mapping[str, Any]) -> Iterator[str]:
    """What the variables ask."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


def metric_names(expr: str) -> set[str]:
    """The metrics of ours that an expression asks for."""
    return set(METRIC.findall(expr))


async def check_queries(
    prometheus_url: str, dashboard: Mapping[str, Any] | None = None
) -> list[Answer]:
    """Ask every query of the dashboard, once, as an instant query.

    Args:
        prometheus_url: of a Prometheus that has scraped what is to be seen, twice at least for rates.
        dashboard: the one to check; else the committed one.
    """
    async with aiohttp.ClientSession() as session:
        return [
            await _ask(session, prometheus_url, query)
            for query in panel_queries(load() if dashboard is None else dashboard)
        ]


async def _ask(session: aiohttp.ClientSession, url: str, query: PanelQuery) -> Answer:
    expr = query.expr
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    async with session.get(f"{url}/api/v1/query", params={"query": expr}) as response:
        said = await response.json()
    if said["status"] != "success":
        return Answer(query, error=said["error"])
    found = said["data"]["result"]
    return Answer(query, error="", values=tuple(float(each["value"][1]) for each in found))
