"""Settings of scores and feeds: what is wrong names itself, and says what is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.config import AggregatorSettings
from aggregator.feed_settings import FeedSettings
from aggregator.feeding import label_settings, node_metric_settings, score_terms, threshold_settings
from aggregator.scores.terms import ScoreTerms

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "aggregator", "run", "--cluster", "observe"]


def refused(*flags: str) -> str:
    """What the command says of these flags before it ends with 2."""
    done = subprocess.run([*RUN, *flags], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_what_is_not_named_keeps_its_weight() -> None:
    terms = score_terms(FeedSettings(score_terms="use=0, packing = 3"))
    assert (terms.use, terms.packing, terms.rdma) == (0, 3, ScoreTerms().rdma)


def test_the_risk_is_given_in_percent() -> None:
    assert score_terms(FeedSettings(overload_risk_percent=20)).max_overload_risk == 0.2
    assert score_terms(FeedSettings()) == ScoreTerms()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("speed=1", "keep_whole"),
        ("packing", "not a number"),
        ("packing=much", "'much'"),
        ("packing=-1", ">= 0"),
        ("packing=nan", "packing"),
        ("max_overload_risk=0.5", "term of:"),
    ],
)
def test_a_term_that_cannot_be_is_named_with_what_can(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"speed|packing|max_overload_risk") as caught:
        score_terms(FeedSettings(score_terms=text))
    assert words in str(caught.value)


def test_a_mistake_in_the_terms_ends_the_command_with_the_setting_s_name() -> None:
    assert "score_terms: 'speed=1'" in refused("--score-terms", "speed=1")


def test_a_calm_above_hot_is_refused() -> None:
    assert "koordinator_calm_percent" in refused("--koordinator-calm-percent", "90")


def test_custom_metrics_without_a_certificate_are_refused_with_the_reason() -> None:
    assert "TLS" in refused("--custom-metrics-listen", "127.0.0.1:0")


def test_an_unknown_back_end_of_device_quarantine_is_named() -> None:
    said = refused("--device-quarantine", "dra,magic")
    assert "'magic'" in said
    assert "hami" in said


def test_everything_that_writes_to_the_cluster_is_off_by_default() -> None:
    settings = AggregatorSettings()
    assert not label_settings(settings).enabled
    assert not threshold_settings(settings).enabled
    assert not node_metric_settings(settings).enabled
    assert settings.device_quarantine == "off"


def test_a_faster_pace_of_labels_has_a_larger_burst() -> None:
    quick = label_settings(FeedSettings(score_labels=True, score_label_writes_per_second=100))
    assert (quick.enabled, quick.writes_per_second, quick.burst) == (True, 100, 200)
