import json
import re
import time
from pathlib import Path

import pytest

from dashboards import __main__ as command
from dashboards.queries import PanelQuery, load, metric_names, panel_queries, variable_queries
from tests.prometheus import sample

DASHBOARD = load()
QUERIES = list(panel_queries(DASHBOARD))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RUNBOOKS = sorted((Path(__file__).parents[2] / "docs" / "runbooks").glob("Fleetmedic*.md"))


@pytest.fixture(scope="module")
def served() -> set[str]:
    """Every name that a scrape of both exporters brings, histogram parts too."""
    text = b"\n".join(sample.pages(time.time()).values()).decode()
    return set(re.findall(r"^([a-zA-Z_:]\w*)[{ ]", text, re.MULTILINE))


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.panel)
def test_every_query_asks_for_metrics_that_exist(query: PanelQuery, served: set[str]) -> None:
    asked = metric_names(query.expr)
    assert asked, "it asks for no metric of ours"
    assert asked <= served


def test_every_variable_asks_for_metrics_that_exist(served: set[str]) -> None:
    found = list(variable_queries(DASHBOARD))
    assert found
    for query in found:
        assert metric_names(query) <= served


@pytest.mark.parametrize("file", RUNBOOKS, ids=lambda file: file.stem)
def test_every_runbook_asks_for_metrics_that_exist(file: Path, served: set[str]) -> None:
    assert metric_names(file.read_text()) <= served


def test_the_committed_file_is_fresh() -> None:
    assert command.main(["--check"]) == 0


def test_a_stale_file_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "FILE", tmp_path / "fleet.json")
    assert command.main(["--check"]) == 1
    assert "python -m dashboards" in capsys.readouterr().err
    assert command.main([]) == 0
    assert command.main(["--check"]) == 0


def test_panels_have_their_own_ids_titles_and_words() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    titles = [panel["title"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    assert all(panel["description"].endswith(".") for panel in PANELS)


def test_panels_do_not_overlap_and_stay_on_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (at["x"] + right, at["y"] + down) for right in range(at["w"]) for down in range(at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells


def test_no_data_source_is_wired_in() -> None:
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r'"uid": "([^"]+)"', text)) == {"${datasource}", "fleetmedic-fleet"}
