"""Usage thresholds on hot and sick nodes: on how many, whose they are, and what people's own hand does to them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.koordinator_thresholds import (
    ANNOTATION,
    MARK,
    ThresholdSettings,
    annotation,
    digest,
    edit,
    wanted,
)

SETTINGS = ThresholdSettings(enabled=True)
NODES = {f"n{number}" for number in range(20)}


def node(text: str | None = None, mark: str | None = None) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "n1",
            "resourceVersion": "7",
            "annotations": {} if text is None else {ANNOTATION: text},
            "labels": {} if mark is None else {MARK: mark},
        }
    }


OURS = node(annotation(SETTINGS), digest(annotation(SETTINGS)))


def test_the_annotation_is_what_koordinator_reads() -> None:
    assert json.loads(annotation(SETTINGS)) == {"usageThresholds": {"cpu": 50, "memory": 70}}
    aggregated = ThresholdSettings(enabled=True, aggregation="p95")
    assert json.loads(annotation(aggregated))["aggregatedUsage"] == {
        "usageThresholds": {"cpu": 50, "memory": 70},
        "usageAggregationType": "p95",
        "usageAggregatedDuration": "5m0s",
    }


class TestWhich:
    def test_hot_and_sick_nodes_are_tightened_sick_ones_first(self) -> None:
        use = {"n1": 0.9, "n2": 0.95, "n3": 0.5}
        found = wanted(set(), use, {"n9": "degraded: gpu-hot"}, NODES, SETTINGS)
        assert list(found) == ["n9", "n2"], "two are ten percent of twenty"
        assert "95 %" in found["n2"]

    def test_a_hot_node_stays_so_until_it_is_clearly_calmer(self) -> None:
        assert wanted({"n1"}, {"n1": 0.75}, {}, NODES, SETTINGS)
        assert not wanted(set(), {"n1": 0.75}, {}, NODES, SETTINGS)
        assert not wanted({"n1"}, {"n1": 0.65}, {}, NODES, SETTINGS)

    def test_a_node_of_which_nothing_is_known_is_not_hot(self) -> None:
        assert not wanted({"n1"}, {}, {}, NODES, SETTINGS)

    def test_before_ten_minutes_are_known_nobody_turns_hot_or_calm(self) -> None:
        """Else every change of leader would take all thresholds off, and put them back a minute later."""
        use = {"n1": 0.1, "n2": 0.99}
        found = wanted({"n1"}, use, {"n4": "sick"}, NODES, SETTINGS, whole=False)
        assert found.keys() == {"n4", "n1"}, "a sick one is known to be sick"

    def test_a_full_budget_does_not_make_nodes_take_turns(self) -> None:
        use = dict.fromkeys(NODES, 0.99) | {"n7": 0.8, "n8": 0.8}
        assert set(wanted({"n7", "n8"}, use, {}, NODES, SETTINGS)) == {"n7", "n8"}

    @given(
        st.dictionaries(st.sampled_from(sorted(NODES)), st.floats(0, 1)),
        st.sets(st.sampled_from(sorted(NODES))),
        st.sets(st.sampled_from(sorted(NODES))),
    )
    def test_never_more_than_a_tenth(
        self, use: dict[str, float], sick: set[str], marked: set[str]
    ) -> None:
        found = wanted(marked, use, dict.fromkeys(sick, "sick"), NODES, SETTINGS)
        assert len(found) <= 2
        assert all(name in sick or use[name] >= 0.7 for name in found)


class TestEdit:
    def test_ours_are_written_with_their_signature_in_one_patch(self) -> None:
        patch = edit(node(), "hot", SETTINGS).patch
        assert patch == {
            "metadata": {
                "annotations": {ANNOTATION: annotation(SETTINGS)},
                "labels": {MARK: digest(annotation(SETTINGS))},
                "resourceVersion": "7",
            }
        }

    def test_what_is_there_is_not_written_again(self) -> None:
        assert edit(OURS, "hot", SETTINGS) == (None, "")

    def test_other_settings_replace_ours(self) -> None:
        assert edit(OURS, "hot", ThresholdSettings(enabled=True, cpu_percent=40)).patch

    def test_ours_are_taken_off_when_the_node_is_well(self) -> None:
        patch = edit(OURS, "", SETTINGS).patch
        assert patch
        assert patch["metadata"]["annotations"] == {ANNOTATION: None}
        assert patch["metadata"]["labels"] == {MARK: None}

    @pytest.mark.parametrize("reason", ["hot", ""])
    def test_peoples_own_are_never_touched(self, reason: str) -> None:
        assert edit(node('{"usageThresholds":{"cpu":80}}'), reason, SETTINGS).patch is None

    @pytest.mark.parametrize("reason", ["hot", ""])
    def test_what_people_changed_is_theirs_from_then_on(self, reason: str) -> None:
        patch = edit(node("{}", digest(annotation(SETTINGS))), reason, SETTINGS).patch
        assert patch == {"metadata": {"labels": {MARK: None}, "resourceVersion": "7"}}

    def test_what_people_took_off_is_not_put_back_while_the_trouble_lasts(self) -> None:
        taken = node(None, digest(annotation(SETTINGS)))
        assert edit(taken, "hot", SETTINGS).patch is None
        well = edit(taken, "", SETTINGS).patch
        assert well == {"metadata": {"labels": {MARK: None}, "resourceVersion": "7"}}

    @given(st.none() | st.text(), st.none() | st.text(), st.sampled_from(["", "hot"]))
    def test_an_annotation_without_our_signature_survives_everything(
        self, text: str | None, mark: str | None, reason: str
    ) -> None:
        if text is None:
            return
        change = edit(node(text, mark), reason, SETTINGS)
        touched = (change.patch or {"metadata": {}})["metadata"].get("annotations")
        assert touched is None or mark == digest(text)


@pytest.mark.parametrize(
    "bad", [{"hot_percent": 60}, {"calm_percent": 0}, {"cpu_percent": 0}, {"memory_percent": 101}]
)
def test_limits_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        ThresholdSettings(**bad)
