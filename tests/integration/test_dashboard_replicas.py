"""What the row "What schedulers are told" shows with two replicas, and while they change places; by promtool."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.queries import load, panel_queries
from tests.prometheus import tools

ASKED = "fleetmedic_aggregator_extender_requests_total"
ANSWERED = "fleetmedic_aggregator_extender_answers_total"
SECONDS = "fleetmedic_aggregator_extender_seconds_bucket"
FEED = "fleetmedic_aggregator_feed"

# `a` led before: what it counted then stands still. It leads again until 10:00, `b` from 10:30 on; each scrape is 15 s apart.
SERIES = {
    'fleetmedic_aggregator_leader{instance="a"}': "1x40 0x40",
    'fleetmedic_aggregator_leader{instance="b"}': "0x41 1x39",
    f'{ASKED}{{instance="a",verb="prioritize"}}': "500+30x40 1700x40",
    f'{ASKED}{{instance="b",verb="prioritize"}}': "900x41 900+30x39",
    f'{ANSWERED}{{instance="a",basis="pod"}}': "500+30x40 1700x40",
    f'{ANSWERED}{{instance="b",basis="pod"}}': "900x41 900+30x39",
    f'{SECONDS}{{instance="a",le="0.001"}}': "500+30x40 1700x40",
    f'{SECONDS}{{instance="a",le="+Inf"}}': "500+30x40 1700x40",
    f'{SECONDS}{{instance="b",le="0.001"}}': "0x80",
    f'{SECONDS}{{instance="b",le="+Inf"}}': "900x41 900+30x39",
    f'{FEED}_writes_total{{instance="a",feed="score-labels"}}': "70+15x40 670x40",
    f'{FEED}_writes_total{{instance="b",feed="score-labels"}}': "80x41 80+15x39",
    f'{FEED}_errors_total{{instance="a",feed="score-labels"}}': "5x80",
    f'{FEED}_errors_total{{instance="b",feed="score-labels"}}': "0x41 0+1x39",
    # One that was just followed may still say what it held.
    'fleetmedic_aggregator_devices_quarantined{instance="a"}': "3x42 0x38",
    'fleetmedic_aggregator_devices_quarantined{instance="b"}': "3x80",
}

SHOWN: dict[str, dict[str, dict[str, float]]] = {
    "9m": {  # before: the leader's, and nothing twice
        "Time to answer": {"{}": 0.0005},
        "What answers rest on": {'{basis="pod"}': 2},
        "Questions of schedulers": {'{verb="prioritize"}': 2},
        "Written for schedulers": {'{feed="score-labels"}': 60},
        "Failed writes and reads": {'{feed="score-labels"}': 0},
        "Asked, not answered": {"{}": 0},
        "Answers without a ranking": {"{}": 0},
        "Failing feeds": {"{}": 0},
        "Devices quarantined": {"{}": 3},
    },
    "10m15s": {  # nobody leads: figures of a leader are not known, counts stay
        "Asked, not answered": {"{}": 0},
        "Devices quarantined": {},
    },
    "15m": {  # after: the new leader's, and nothing twice
        "Time to answer": {"{}": 0.001},  # more, and that is its last limit
        "What answers rest on": {'{basis="pod"}': 2},
        "Questions of schedulers": {'{verb="prioritize"}': 2},
        "Written for schedulers": {'{feed="score-labels"}': 60},
        "Asked, not answered": {"{}": 0},
        "Failing feeds": {"{}": 1},
        "Devices quarantined": {"{}": 3},
    },
}
"""Moment → panel → series → value."""


def expressions() -> dict[str, str]:
    """Panel → its first query, as Grafana would send it."""
    found: dict[str, str] = {}
    for query in panel_queries(load()):
        found.setdefault(query.panel, query.expr.replace("$__rate_interval", "1m"))
    return found


def judged(tmp_path: Path, series: dict[str, str], cases: list[dict[str, Any]]) -> None:
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    tests = [{"interval": "15s", "input_series": inputs, "promql_expr_test": cases}]
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": tests}))
    said = tools.run("promtool", "test", "rules", file)
    assert said.returncode == 0, said.stdout + said.stderr


def case(expr: str, at: str, shown: dict[str, float]) -> dict[str, Any]:
    samples = [{"labels": labels, "value": value} for labels, value in shown.items()]
    return {"expr": expr, "eval_time": at, "exp_samples": samples}


@pytest.mark.parametrize("moment", SHOWN)
def test_each_panel_counts_the_leader_once(tmp_path: Path, moment: str) -> None:
    asked = expressions()
    cases = [case(asked[panel], moment, shown) for panel, shown in SHOWN[moment].items()]
    judged(tmp_path, SERIES, cases)


@pytest.mark.parametrize("panel", ["What answers rest on", "Questions of schedulers"])
def test_a_change_of_leader_never_shows_more_than_was_asked(tmp_path: Path, panel: str) -> None:
    at_most = f"max({expressions()[panel]}) <= bool 2"
    moments = ["10m", "10m15s", "10m30s", "10m45s", "11m", "11m15s", "11m30s"]
    judged(tmp_path, SERIES, [case(at_most, at, {"{}": 1}) for at in moments])


def test_two_that_both_say_they_lead_do_not_double_the_devices(tmp_path: Path) -> None:
    series = SERIES | {'fleetmedic_aggregator_leader{instance="b"}': "1x80"}
    judged(tmp_path, series, [case(expressions()["Devices quarantined"], "9m", {"{}": 3})])


def test_clusters_in_one_prometheus_are_added_up(tmp_path: Path) -> None:
    series = {
        f'fleetmedic_aggregator_{name}{{cluster="{cluster}",instance="a"}}': f"{value}x40"
        for cluster, devices in (("c1", 3), ("c2", 2))
        for name, value in (("leader", 1), ("devices_quarantined", devices))
    }
    judged(tmp_path, series, [case(expressions()["Devices quarantined"], "9m", {"{}": 5})])


def test_questions_that_all_fail_are_counted_as_not_answered(tmp_path: Path) -> None:
    series = {f'{ASKED}{{instance="a",verb="filter"}}': "7x40"}
    judged(tmp_path, series, [case(expressions()["Asked, not answered"], "9m", {"{}": 7})])
