"""What the page about the extender says is what is shipped: the configuration's values and the terms' weights."""

import re
from pathlib import Path

import msgspec
import yaml

from aggregator.exporter import EXTENDER, EXTENDER_ANSWERS, EXTENDER_PASSED, EXTENDER_SECONDS
from aggregator.feeds.extender import LATE
from aggregator.feeds.extender_pod import REASONS
from aggregator.scores.terms import ScoreTerms

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "scheduler-extender.md").read_text()
CONFIG = yaml.safe_load((ROOT / "deploy" / "scheduler" / "kube-scheduler-config.yaml").read_text())


def test_every_value_that_the_page_explains_is_shipped() -> None:
    (extender,) = CONFIG["extenders"]
    for name in ("prioritizeVerb", "weight", "nodeCacheCapable", "ignorable", "httpTimeout"):
        value = msgspec.json.encode(extender[name]).decode().strip('"')
        assert f"`{name}: {value}`" in PAGE
    profile = next(each for each in CONFIG["profiles"] if each["schedulerName"] == "fleetmedic-gpu")
    assert profile["percentageOfNodesToScore"] == 100
    assert "`percentageOfNodesToScore: 100`" in PAGE
    assert "`schedulerName: fleetmedic-gpu`" in PAGE
    args = {each["name"]: each["args"] for each in profile["pluginConfig"]}
    assert args["NodeResourcesFit"]["scoringStrategy"]["type"] == "MostAllocated"


def test_every_term_stands_there_with_its_weight() -> None:
    weights = msgspec.structs.asdict(ScoreTerms())
    assert weights.pop("max_overload_risk") == 0.05
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE, re.MULTILINE))
    assert told == {name: f"{weight:g}" for name, weight in weights.items()}
    assert "under 5 %" in PAGE


def test_every_metric_and_every_reason_that_it_names_exists() -> None:
    for metric in (EXTENDER, EXTENDER_ANSWERS, EXTENDER_PASSED, EXTENDER_SECONDS):
        assert f"`{metric.name}" in PAGE
    reasons = {label for _, label in REASONS} | {"odd-amount", LATE}
    named = re.search(r"by their own wish: (.*?) …", PAGE)
    assert named is not None
    assert set(re.findall(r"`([\w-]+)`", named[1])) <= reasons
