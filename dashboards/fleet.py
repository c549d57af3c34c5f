"""The fleet dashboard, top to bottom as one reads it at 3 a.m.: how bad, where, since when, and can I trust it."""

import json
from typing import Any

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from dashboards.hardware import hardware, network, use
from dashboards.health import now, treatment, trust, wrong
from dashboards.panels import SOURCE
from dashboards.schedulers import schedulers


def dashboard() -> build.Dashboard:
    """The whole dashboard."""
    page = (
        build.Dashboard("Fleetmedic / Fleet")
        .uid("fleetmedic-fleet")
        .tags(["fleetmedic", "gpu"])
        .timezone("browser")
        .refresh("30s")
        .time("now-6h", "now")
        .with_variable(
            build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
        .with_variable(_node_variable())
    )
    for title, panels in (
        now(),
        wrong(),
        treatment(),
        schedulers(),
        use(),
        hardware(),
        network(),
        trust(),
    ):
        page.with_row(build.Row(title))
        for panel in panels:
            page.with_panel(panel)
    return page


def to_json() -> str:
    """The dashboard as Grafana imports it."""
    built: Any = json.loads(JSONEncoder().encode(dashboard().build()))
    for number, panel in enumerate(built["panels"], start=1):
        panel["id"] = number
    for variable in built["templating"]["list"]:
        del variable["id"]  # all zeros, and so twice the same
    return json.dumps(built, indent=2, sort_keys=True) + "\n"


def _node_variable() -> build.QueryVariable:
    return (
        build.QueryVariable("node")
        .label("Node")
        .datasource(SOURCE)
        .query("label_values(fleetmedic_node_gpus, node)")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )
