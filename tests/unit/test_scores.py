"""The score by health and use: the table of its rules, and what must hold for every input."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.fleet import Fleet
from aggregator.policy.model import ClusterNode, ClusterView, Incident, Taint
from aggregator.scores.inputs import fleet_facts, use_ratio
from aggregator.scores.model import (
    DEGRADED_MAX_SCORE,
    LEAST_HEALTHY_SCORE,
    MAX_SCORE,
    NEUTRAL_SCORE,
    NodeFacts,
    NodeScore,
    score_of,
    score_table,
)
from contract import report_pb2 as pb
from contract.codec import finding_to_wire
from contract.vocabulary import Action, Domain, Finding, Phase, Severity

NOW = 1_000_000.0
STALE = 30.0

any_float = st.floats(allow_nan=True, allow_infinity=True)
use = st.none() | any_float | st.floats(0, 1)
facts = st.builds(
    NodeFacts,
    name=st.just("n"),
    standing=st.sampled_from(["", "avoid", "quarantined"]),
    standing_reason=st.text(max_size=5),
    suspect_reason=st.sampled_from(["", "xid-79"]),
    failing_reason=st.sampled_from(["", "pods fail here at once"]),
    worst=st.none() | st.sampled_from(Severity),
    received_seconds=st.none() | any_float | st.floats(NOW - 60, NOW + 60),
    blind_reason=st.sampled_from(["", "nvidia is stuck"]),
    use_ratio=use,
    gpu_count=st.integers(0, 16),
)


def score(**known: object) -> NodeScore:
    node = NodeFacts(name="n", **{"received_seconds": NOW - 1, **known})  # type: ignore[arg-type]
    return score_of(node, NOW, STALE)


@pytest.mark.parametrize(
    ("known", "expected", "verdict"),
    [
        ({}, 500, "healthy"),
        ({"use_ratio": 0.5}, 750, "healthy"),
        ({"use_ratio": 0.999}, 999, "healthy"),
        ({"use_ratio": 1.0}, 1000, "healthy"),
        ({"use_ratio": 1.0, "worst": Severity.INFO}, 1000, "healthy"),
        ({"use_ratio": 0.4, "worst": Severity.DEGRADED}, 40, "degraded"),
        ({"use_ratio": 0.9, "worst": Severity.DEGRADED}, 89, "degraded"),
        ({"suspect_reason": "xid-79", "use_ratio": 1.0}, 99, "degraded"),
        ({"suspect_reason": "xid-79", "worst": Severity.CRITICAL}, 0, "sick"),
        ({"worst": Severity.CRITICAL}, 0, "sick"),
        ({"worst": Severity.FATAL}, 0, "sick"),
        ({"failing_reason": "pods fail", "use_ratio": 1.0}, 99, "degraded"),
        ({"failing_reason": "pods fail", "received_seconds": NOW - 31}, 1, "degraded"),
        ({"failing_reason": "pods fail", "worst": Severity.CRITICAL}, 0, "sick"),
        ({"failing_reason": "pods fail", "standing": "quarantined"}, 0, "sick"),
        ({"received_seconds": None}, 500, "unknown"),
        ({"received_seconds": NOW - 31}, 500, "unknown"),
        ({"received_seconds": math.nan}, 500, "unknown"),
        ({"received_seconds": NOW - 31, "worst": Severity.FATAL}, 500, "unknown"),
        ({"received_seconds": NOW + 5, "use_ratio": 1.0}, 1000, "healthy"),
        ({"blind_reason": "nvidia is stuck", "use_ratio": 1.0}, 500, "unknown"),
        ({"standing": "quarantined", "received_seconds": None}, 0, "sick"),
        ({"standing": "avoid", "worst": Severity.FATAL}, 0, "sick"),
        (
            {"standing": "avoid", "worst": Severity.FATAL, "received_seconds": NOW - 31},
            1,
            "degraded",
        ),
        ({"standing": "avoid", "received_seconds": None}, 1, "degraded"),
    ],
)
def test_the_rules(known: dict[str, object], expected: int, verdict: str) -> None:
    found = score(**known)
    assert (found.score, found.verdict) == (expected, verdict)
    assert found.hard is (verdict == "sick")


@given(facts)
def test_every_score_is_an_integer_from_0_to_1000_with_a_reason(node: NodeFacts) -> None:
    found = score_of(node, NOW, STALE)
    assert type(found.score) is int
    assert 0 <= found.score <= MAX_SCORE
    assert found.reason


@given(facts, facts)
def test_a_worse_verdict_never_scores_above_a_better_one(one: NodeFacts, other: NodeFacts) -> None:
    rank = {"sick": 0, "degraded": 1, "unknown": 2, "healthy": 3}
    low, high = sorted(
        (score_of(each, NOW, STALE) for each in (one, other)), key=lambda each: rank[each.verdict]
    )
    if rank[low.verdict] < rank[high.verdict]:
        assert low.score <= high.score
        if low.verdict in {"sick", "degraded"}:
            assert low.score < high.score


@given(facts, use, use)
def test_a_fuller_node_never_scores_lower(node: NodeFacts, one: float, other: float) -> None:
    def with_use(value: float | None) -> int:
        known = {name: getattr(node, name) for name in node.__struct_fields__}
        return score_of(NodeFacts(**(known | {"use_ratio": value})), NOW, STALE).score

    def as_used(value: float | None) -> float:
        return value if value is not None and value == value else 0.0  # NaN counts as unmeasured

    less, more = sorted((one, other), key=as_used)
    assert with_use(less) <= with_use(more)


@given(facts)
def test_bounds_of_each_verdict(node: NodeFacts) -> None:
    found = score_of(node, NOW, STALE)
    bounds = {
        "sick": (0, 0),
        "degraded": (1, DEGRADED_MAX_SCORE),
        "unknown": (NEUTRAL_SCORE, NEUTRAL_SCORE),
        "healthy": (LEAST_HEALTHY_SCORE, MAX_SCORE),
    }
    low, high = bounds[found.verdict]
    assert low <= found.score <= high


def finding(severity: Severity) -> Finding:
    return Finding(
        code="gpu-lost",
        subject="gpu:0000:3b:00.0",
        severity=severity,
        action=Action.REBOOT_NODE,
        domain=Domain.GPU,
        evidence="gone",
        since_seconds=NOW,
        last_seen_seconds=NOW,
    )


def view(*nodes: ClusterNode, incidents: tuple[Incident, ...] = ()) -> ClusterView:
    return ClusterView(
        synced=True,
        nodes={node.name: node for node in nodes},
        incidents={each.name: each for each in incidents},
    )


def test_the_table_covers_reporting_nodes_and_gpu_nodes_that_never_reported() -> None:
    fleet = Fleet()
    sick = pb.NodeReport(node="sick", findings=[finding_to_wire(finding(Severity.FATAL))])
    fleet.apply(sick, NOW)
    fleet.apply(pb.NodeReport(node="fine", gpus=[pb.Gpu(process_count=1)]), NOW)
    cluster = view(
        ClusterNode(name="silent", gpu_capacity=8),
        ClusterNode(name="web-server"),
        ClusterNode(name="tainted", taint=Taint("gpu-lost", "NoSchedule")),
        ClusterNode(name="meh", gpu_capacity=8, taint=Taint("gpu-hot", "PreferNoSchedule")),
    )
    table = score_table(fleet_facts(fleet, cluster), NOW)
    assert {name: each.score for name, each in table.items()} == {
        "fine": 1000,
        "meh": 1,
        "sick": 0,
        "silent": 500,
        "tainted": 0,
    }
    assert table["sick"].reason == "fatal: gpu-lost on gpu:0000:3b:00.0"
    assert table["tainted"].reason == "quarantined: gpu-lost"


@pytest.mark.parametrize(
    ("phase", "quarantined", "verdict"),
    [
        (Phase.SUSPECT, None, "degraded"),
        (Phase.QUARANTINED, NOW, "sick"),
        (Phase.VERIFYING, NOW, "sick"),
        (Phase.NEEDS_HUMAN, NOW, "sick"),
        (Phase.NEEDS_HUMAN, None, "healthy"),
        (Phase.CLOSED, NOW, "healthy"),
    ],
)
def test_an_incident_past_suspicion_keeps_pods_away(
    phase: Phase, quarantined: float | None, verdict: str
) -> None:
    fleet = Fleet()
    fleet.apply(pb.NodeReport(node="n"), NOW)
    incident = Incident(
        name="i",
        node="n",
        pool="p",
        phase=phase,
        findings=(),
        opened_seconds=NOW,
        quarantined_seconds=quarantined,
    )
    table = score_table(fleet_facts(fleet, view(incidents=(incident,))), NOW)
    assert table["n"].verdict == verdict


def test_a_gpu_that_is_held_counts_as_in_use_however_idle() -> None:
    held = pb.Gpu(process_count=1, utilization_ratio=0.0)
    free = pb.Gpu(process_count=0, utilization_ratio=0.9)
    uncounted = pb.Gpu(utilization_ratio=0.5)
    assert use_ratio([held, free]) == 0.5
    assert use_ratio([held, uncounted]) == 0.75
    assert use_ratio([pb.Gpu(utilization_ratio=0.98, duty_cycle_ratio=0.5)]) == 0.5
    assert use_ratio([pb.Gpu()]) is None
    assert use_ratio([]) is None


def test_a_failing_device_source_is_not_a_healthy_node() -> None:
    fleet = Fleet()
    stuck = pb.SourceStatus(name="nvidia", state=pb.SOURCE_STATE_STUCK)
    fleet.apply(pb.NodeReport(node="n", sources=[stuck]), NOW)
    assert score_table(fleet_facts(fleet, view()), NOW)["n"] == NodeScore(
        500, "devices unseen: nvidia is stuck", "unknown"
    )
