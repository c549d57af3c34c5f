"""What feeds count, as dashboard and alert expect it."""

import re
from pathlib import Path

from aggregator.cluster.kubernetes import KubernetesEdge, KubernetesSettings
from aggregator.cluster.observe import ObserveEdge
from aggregator.feed_settings import FeedSettings
from aggregator.feeding import Feeds
from aggregator.stats import FeedCounts
from aggregator.usage import Usage
from tests.prometheus import sample

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "runbooks" / "FleetmedicFeedFailing.md"


def counts(edge: KubernetesEdge | ObserveEdge) -> FeedCounts:
    return Feeds(FeedSettings(), edge, Usage(), dict).counts()


def of_a_cluster() -> FeedCounts:
    """Of one that is never connected to."""
    return counts(KubernetesEdge(KubernetesSettings(kubeconfig=Path("nowhere"))))


def test_every_feed_that_can_fail_counts_its_writes_too_so_that_the_alert_can_weigh_them() -> None:
    found = of_a_cluster()
    assert found["errors"]
    for feed in found["errors"]:
        assert feed in found["writes"] or any(
            each.startswith(f"{feed}-") for each in found["writes"]
        )


def test_all_counts_are_there_from_the_start_so_that_the_first_one_shows() -> None:
    found = of_a_cluster()
    for what in ("writes", "errors", "delayed", "suppressed"):
        assert found[what]
        assert set(found[what].values()) == {0}


def test_what_the_dashboard_is_tried_on_has_the_same_names() -> None:
    found = of_a_cluster()
    assert found.keys() == sample.FEED_COUNTS.keys()
    for what, made_up in sample.FEED_COUNTS.items():
        assert made_up.keys() - {"custom-metrics"} <= found[what].keys()


def test_without_a_cluster_nothing_is_written_and_so_nothing_is_counted() -> None:
    found = counts(ObserveEdge())
    assert (found["writes"], found["errors"]) == ({}, {})


def test_the_runbook_knows_every_feed_that_can_fail_and_the_words_that_it_logs() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| `([^`]+)` \|", RUNBOOK.read_text(), re.MULTILINE))
    assert rows.keys() == of_a_cluster()["errors"].keys()
    code = "".join(path.read_text() for path in (ROOT / "aggregator" / "cluster").rglob("*.py"))
    logged = re.findall(r'log\.warning\(\s*"([^"]+)"', code)
    for words in rows.values():
        assert any(words in each for each in logged), words
