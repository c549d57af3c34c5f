"""The fleet's picture: what counts as news, what is remembered and for how long."""

import math
from typing import cast

import pytest

from aggregator.cluster import incident_status
from aggregator.fleet import HISTORY_LENGTH, MAX_WORD, Fleet, NodeState
from contract import report_pb2 as pb
from contract.vocabulary import Severity, SourceState
from contract.wire import MAX_FINDINGS

NOW = 1_700_000_000.0


def source(name: str, state: int, reason: str = "") -> pb.SourceStatus:
    return pb.SourceStatus(name=name, state=cast("pb.SourceState", state), reason=reason)


def fault(code: str, subject: str, severity: Severity, since: float) -> pb.Finding:
    message = pb.Finding(code=code, subject=subject, since_time_seconds=since)
    return changed(message, severity=int(severity))


def changed(message: pb.Finding, **fields: object) -> pb.Finding:
    other = pb.Finding()
    other.CopyFrom(message)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


WARM = fault("warm", "gpu:0", Severity.DEGRADED, NOW - 5)
LOST = fault("lost", "gpu:1", Severity.FATAL, NOW - 3)
NVIDIA = source("nvidia", 10)
HOST = source("host", 10)


def report(*parts: pb.Finding | pb.SourceStatus, node: str = "n") -> pb.NodeReport:
    return pb.NodeReport(
        node=node,
        findings=[each for each in parts if isinstance(each, pb.Finding)],
        sources=[each for each in parts if isinstance(each, pb.SourceStatus)],
    )


def known(fleet: Fleet, name: str = "n") -> NodeState:
    node = fleet.get(name)
    assert node is not None
    return node


@pytest.mark.parametrize(
    ("before", "after", "news"),
    [
        (report(), report(), False),
        (report(WARM, LOST), report(WARM, LOST), False),
        (report(WARM, LOST), report(LOST, WARM), False),
        (report(WARM, WARM), report(WARM), False),
        (report(WARM), report(changed(WARM, evidence="92 C", count=9)), False),
        (report(WARM), report(changed(WARM, last_seen_time_seconds=NOW)), False),
        # The start of a fault moves, and with it the order of two of one severity.
        (
            report(WARM, changed(WARM, subject="gpu:2", since_time_seconds=NOW - 4)),
            report(WARM, changed(WARM, subject="gpu:2", since_time_seconds=NOW - 9)),
            False,
        ),
        (report(), report(WARM), True),
        (report(WARM), report(), True),
        (report(WARM), report(changed(WARM, severity=30)), True),
        (report(WARM), report(changed(WARM, severity=10)), True),
        (report(WARM), report(changed(WARM, subject="gpu:7")), True),
        (report(NVIDIA, HOST), report(NVIDIA, HOST), False),
        (report(NVIDIA, HOST), report(HOST, NVIDIA), False),
        (report(NVIDIA), report(source("nvidia", 10, "x")), False),
        (report(NVIDIA), report(source("nvidia", 40)), True),
        (report(NVIDIA), report(HOST), True),
        (report(NVIDIA), report(), True),
        (report(), report(NVIDIA), True),
        # Words of a newer agent are news once, not with every report.
        (report(pb.SourceStatus(name="x")), report(pb.SourceStatus(name="x")), False),
        (
            report(source("x", 25)),
            report(source("x", 25)),
            False,
        ),
        (report(changed(WARM, severity=25)), report(changed(WARM, severity=25)), False),
    ],
)
def test_news_is_a_change_of_findings_severities_or_source_states(
    before: pb.NodeReport, after: pb.NodeReport, news: bool
) -> None:
    fleet = Fleet()
    assert fleet.apply(before, NOW)  # the first report of a node always is
    assert fleet.apply(after, NOW + 5) is news
    assert not fleet.apply(after, NOW + 10)


def test_what_is_no_news_is_still_the_newest_picture() -> None:
    fleet = Fleet()
    fleet.apply(report(WARM, source("nvidia", 30, "old")), NOW)
    fleet.apply(
        report(changed(WARM, evidence="93 C"), source("nvidia", 30, "new")),
        NOW + 5,
    )
    node = known(fleet)
    assert node.findings[0].evidence == "93 C"
    assert [(each.state, each.reason) for each in node.sources] == [(SourceState.FAILING, "new")]
    assert (node.received_seconds, node.first_seen_seconds, node.reports_total) == (NOW + 5, NOW, 2)


def test_sources_go_by_their_names() -> None:
    fleet = Fleet()
    fleet.apply(report(NVIDIA, HOST), NOW)
    fleet.apply(report(HOST, source("rdma", 10)), NOW + 5)
    assert [each.name for each in known(fleet).sources] == ["host", "rdma"]


def test_findings_stand_worst_first_then_oldest() -> None:
    fleet = Fleet()
    older = changed(LOST, subject="gpu:9", since_time_seconds=NOW - 60)
    fleet.apply(report(WARM, LOST, older), NOW)
    node = known(fleet)
    assert [each.subject for each in node.findings] == ["gpu:9", "gpu:1", "gpu:0"]
    assert node.worst is Severity.FATAL


def test_raised_findings_are_counted_once_while_they_last() -> None:
    fleet = Fleet()
    steps = [
        (report(), 0),
        (report(WARM), 1),
        (report(WARM), 1),
        (report(changed(WARM, severity=40)), 1),
        (report(WARM, LOST), 2),
        (report(LOST), 2),
        (report(LOST, WARM), 3),
        (report(LOST, WARM, node="other"), 5),
    ]
    for number, (message, total) in enumerate(steps):
        fleet.apply(message, NOW + number)
        assert fleet.findings_raised_total == total, number


def test_findings_beyond_the_bound_are_not_kept() -> None:
    fleet = Fleet()
    fleet.apply(report(*(changed(WARM, subject=f"p:{i}") for i in range(MAX_FINDINGS + 5))), NOW)
    assert len(known(fleet).findings) == MAX_FINDINGS


@pytest.mark.parametrize("since", [math.nan, math.inf, -math.inf, -1.0, 0.0, NOW + 60])
def test_a_start_that_is_no_time_is_now(since: float) -> None:
    """It decides whose turn it is in the pool's budget: an agent may not claim any place it likes."""
    fleet = Fleet()
    fleet.apply(report(changed(LOST, since_time_seconds=since)), NOW)
    assert known(fleet).findings[0].since_seconds == NOW


def usage(ratio: float | None, *, urgent: bool = False) -> pb.NodeReport:
    message = pb.NodeReport(node="n", urgent=urgent, gpus=[pb.Gpu(model="H100"), pb.Gpu()])
    if ratio is not None:
        message.gpus[1].utilization_ratio = ratio
    return message


def test_a_nodes_use_is_its_gpus_duty_cycle_where_the_driver_tells_it() -> None:
    fleet = Fleet()
    message = usage(0.98)
    message.gpus[1].duty_cycle_ratio = 0.0
    fleet.apply(message, NOW)
    assert known(fleet).utilization_ratio == 0.0
    message.gpus[0].utilization_ratio = 0.5
    fleet.apply(message, NOW + 1)
    assert known(fleet).utilization_ratio == 0.25
    for number, nonsense in enumerate((math.nan, math.inf, -math.inf, -1.0, 1e300)):
        message.gpus[1].duty_cycle_ratio = nonsense
        fleet.apply(message, NOW + 2 + number)
        assert known(fleet).utilization_ratio == (0.5 + 0.98) / 2


def test_history_is_bounded_and_only_of_regular_measured_reports() -> None:
    fleet = Fleet()
    fleet.apply(usage(None), NOW)
    fleet.apply(usage(0.9, urgent=True), NOW)
    assert known(fleet).utilization_ratio is None
    for number in range(3 * HISTORY_LENGTH):
        fleet.apply(usage(number / 1_000), NOW + number)
    node = known(fleet)
    assert len(node.utilization_history) == HISTORY_LENGTH
    assert node.utilization_history[0] == (NOW + 2 * HISTORY_LENGTH, 2 * HISTORY_LENGTH / 1_000)
    assert node.utilization_ratio == (3 * HISTORY_LENGTH - 1) / 1_000
    assert node.gpu_model == "H100"


def test_clear_since_restarts_with_critical_trouble_and_with_every_break() -> None:
    fleet = Fleet()
    critical = changed(WARM, severity=30)
    for at, message, clear_since in [
        (0, report(), 0),
        (25, report(WARM), 0),
        (50, report(critical), 50),
        (70, report(), 50),
        (90, report(), 50),
        (121, report(), 121),
        (151, report(), 121),
    ]:
        fleet.apply(message, NOW + at)
        assert known(fleet).clear_since_seconds == NOW + clear_since, at
    fleet.apply(report(), NOW + 200, silent_after_seconds=60.0)
    assert known(fleet).clear_since_seconds == NOW + 121


def test_a_node_comes_goes_and_is_forgotten() -> None:
    fleet = Fleet()
    fleet.apply(report(node="b"), NOW)
    fleet.apply(report(LOST, node="a"), NOW)
    assert [node.name for node in fleet] == ["a", "b"]
    fleet.disconnected("a")
    assert not known(fleet, "a").connected
    assert known(fleet, "a").findings  # what it last said stays until it ages out
    fleet.disconnected("never-seen")
    fleet.forget("a")
    fleet.forget("a")
    assert (len(fleet), fleet.get("a")) == (1, None)
    fleet.apply(report(node="b"), NOW + 1)
    assert known(fleet, "b").connected


def test_a_code_or_a_subject_is_never_longer_than_what_an_incident_keeps() -> None:
    """Else what is saved is never what is seen, and an incident is written anew in every round."""
    fleet = Fleet()
    fleet.apply(report(fault("c" * 400, "mount:/" + "d" * 400, Severity.FATAL, NOW)), NOW)
    (found,) = known(fleet).findings
    assert (len(found.code), len(found.subject)) == (MAX_WORD, MAX_WORD)
    assert MAX_WORD <= incident_status.MAX_WORD


def test_a_clock_that_is_set_back_makes_nobody_look_fresh_and_nobody_sick() -> None:
    fleet = Fleet()
    fleet.apply(report(LOST), NOW)
    fleet.apply(report(), NOW + 5)
    fleet.not_ahead_of(NOW - 3_600)
    node = known(fleet)
    assert (node.received_seconds, node.clear_since_seconds) == (NOW - 3_600, NOW - 3_600)
    fleet.apply(report(), NOW - 3_590)
    fleet.not_ahead_of(NOW - 3_590)
    assert node.clear_since_seconds == NOW - 3_600, (
        "it is well since then, as far as anybody can tell"
    )
