"""The few kinds of panel that the dashboard is made of."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"

Steps = tuple[tuple[float, str], ...]
"""From which value on which colour."""

Section = tuple[str, Sequence[Builder[model.Panel]]]
"""A row's title and its panels."""

N = '{node=~"$node"}'
"""The choice of nodes, on metrics that carry no other condition."""

SILENT_SECONDS = 60
"""From this age on a report says nothing about now."""

FULL, HALF, THIRD, QUARTER, EIGHTH = 24, 12, 8, 6, 3


def number(
    title: str, expr: str, text: str, *, unit: str = "short", steps: Steps = (), base: str = GREEN
) -> stat.Panel:
    """One figure, as it is now: ``base`` coloured below the first step."""
    panel = (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(EIGHTH)
        .height(4)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(looks.BigValueGraphMode.NONE)
        .color_mode(looks.BigValueColorMode.VALUE)
        .thresholds(_thresholds(base, steps))
    )
    return panel.with_target(_query(expr).instant())


def lines(
    title: str,
    text: str,
    *queries: tuple[str, str],
    unit: str = "short",
    span: int = HALF,
    stacked: bool = False,
    most: float | None = None,
) -> timeseries.Panel:
    """Values over time; each query is (expression, legend)."""
    legend = common.VizLegendOptions().show_legend(True)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(span)
        .height(8)
        .fill_opacity(40 if stacked else 0)
        .legend(
            legend.display_mode(looks.LegendDisplayMode.LIST).placement(
                looks.LegendPlacement.BOTTOM
            )
        )
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    if most is not None:
        panel.max(most)
    for place, (expr, name) in enumerate(queries):
        panel.with_target(_query(expr, place).legend_format(name).range())
    return panel


def rows(
    title: str, text: str, expr: str, *, value: str, unit: str = "short", span: int = FULL
) -> table.Panel:
    """One row per series, as it is now; the labels are the columns and ``value`` names the last."""
    hidden = {"Time": True, "__name__": True, "instance": True, "job": True}
    return (
        table.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .span(span)
        .height(8)
        .with_target(_query(expr).instant().format(PromQueryFormat.TABLE))
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": hidden, "renameByName": {"Value": value}},
            )
        )
        .override_by_name(value, [model.DynamicConfigValue(id_val="unit", value=unit)])
    )


def _query(expr: str, place: int = 0) -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(expr).ref_id("ABCDEFGH"[place])


def _thresholds(base: str, steps: Steps) -> build.ThresholdsConfig:
    found = [model.Threshold(value=None, color=base)]
    found += [model.Threshold(value=value, color=color) for value, color in steps]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)
