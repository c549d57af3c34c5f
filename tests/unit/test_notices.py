"""What people are told by a Kubernetes Event although nothing is decided."""

import pytest

from aggregator.policy.model import RecordEvent
from aggregator.policy.notices import notices
from contract.vocabulary import Severity
from tests.policy_builders import FATAL, finding
from tests.unit.test_engine import Bench

REFUSED = finding(
    "overrides-refused", Severity.INFO, subject="node", evidence="entry 3: no code 'xid-7x'"
)


def test_a_refused_file_is_told_once_while_it_stays_refused() -> None:
    (event,) = notices("n", (), (REFUSED, FATAL))
    assert (event.node, event.type, event.event_reason) == ("n", "Warning", "OverridesRefused")
    assert event.reason == "entry 3: no code 'xid-7x'"
    assert list(notices("n", (REFUSED,), (REFUSED,))) == []


def test_what_the_first_report_of_a_node_holds_is_no_news() -> None:
    """Else a new aggregator would tell the whole cluster again what was told before."""
    assert list(notices("n", None, (REFUSED,))) == []


@pytest.mark.looptime(start=0)
async def test_the_event_reaches_the_cluster_and_is_not_repeated() -> None:
    bench = Bench()
    async with bench.running():
        await bench.keep_reporting("n", seconds=10)
        await bench.keep_reporting("n", REFUSED, seconds=60)
    told = [each for _, each in bench.edge.log if isinstance(each, RecordEvent)]
    assert [each.event_reason for each in told] == ["OverridesRefused"]


@pytest.mark.looptime(start=0)
async def test_a_new_aggregator_tells_of_no_node_what_was_there_before_it() -> None:
    bench = Bench()
    async with bench.running():
        await bench.keep_reporting("n", REFUSED, seconds=60)
    assert [each for _, each in bench.edge.log if isinstance(each, RecordEvent)] == []


@pytest.mark.looptime(start=0)
async def test_a_standby_tells_nothing() -> None:
    bench = Bench()
    bench.edge.leading = False
    async with bench.running():
        await bench.keep_reporting("n", seconds=10)
        await bench.keep_reporting("n", REFUSED, seconds=20)
        bench.edge.leading = True
        await bench.keep_reporting("n", REFUSED, seconds=20)
    assert [each for _, each in bench.edge.log if isinstance(each, RecordEvent)] == []
