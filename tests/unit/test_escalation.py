"""So many within so long: what escalates, for how long, and what never does."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue import Catalogue, Code, Escalation
from agent.catalogue.load import shipped
from agent.checks import Observation
from agent.faults import Book, Timing, clear, findings
from agent.faults.events import record_events
from agent.faults.history import MAX_OCCURRENCES, Occurrence, remember, rung_met, workload_of
from agent.faults.levels import advance
from contract.vocabulary import Action, Domain, Finding, Severity
from tests.support import START, gpu, snapshot, xid

HOUR = 3600.0
TIMING = Timing(hold_seconds=10.0, clear_seconds=60.0, started_seconds=START)


def rung(count: int, within: float = 24 * HOUR, **fields: Any) -> Escalation:
    given = {"severity": Severity.CRITICAL, "action": Action.REPLACE_HARDWARE}
    return Escalation(count=count, within_seconds=within, **{**given, **fields})


def code(name: str, *rungs: Escalation, **fields: Any) -> Code:
    given = {
        "meaning": "m",
        "severity": Severity.INFO,
        "action": Action.RESTART_WORKLOAD,
        "domain": Domain.GPU,
        "family": "xid",
        "clears": "quiet",
        "hold_seconds": 0.0,
        "source": "s",
    }
    return Code(code=name, escalation=rungs, **{**given, **fields})


class Node:
    def __init__(self, judged: Code) -> None:
        self.catalogue = Catalogue({judged.code: judged})
        self.code = judged
        self.book = Book()

    def happened(self, at: float, *, pod: str = "", origin: str = "kmsg:1", count: int = 1) -> None:
        event = xid(int(self.code.code.removeprefix("xid-")), at, origin=origin)
        event = msgspec.structs.replace(event, count=count)
        pods = (pod,) if pod else ()
        self.book = record_events(self.book, (event,), self.catalogue, TIMING, lambda _: pods)

    def tick(self, at: float) -> None:
        self.book = advance(self.book, snapshot(at, gpus=(gpu(0),)), (), TIMING)

    @property
    def found(self) -> Finding | None:
        return next(iter(findings(self.book, TIMING)), None)


def test_one_pods_many_crashes_are_its_own_fault() -> None:
    node = Node(code("xid-31", rung(3, across_pods=True)))
    for at in range(200):
        node.happened(at, pod="team/train-0")
    assert node.found is not None
    assert (node.found.severity, node.found.count) == (Severity.INFO, 200)


def test_crashes_of_different_pods_on_one_gpu_are_the_gpus_fault() -> None:
    node = Node(code("xid-31", rung(3, across_pods=True)))
    for hour, pod in enumerate(("a/one", "b/two", "c/three")):
        node.tick(hour * HOUR - 1)
        assert node.found is None, "each alone is over after a minute"
        node.happened(hour * HOUR, pod=pod)
    assert node.found is not None
    assert (node.found.severity, node.found.action) == (Severity.CRITICAL, Action.REPLACE_HARDWARE)
    assert "3 different workloads or more within 24 h" in node.found.evidence


@pytest.mark.parametrize(
    ("pods", "workload"),
    [
        (["team/train-x7k2p", "team/train-9mzqd", "team/train-bcdfg"], "team/train"),
        (["team/train-0-x7k2p", "team/train-0-9mzqd"], "team/train"),
        (["team/serve-6d4cf56db6-x7k2p", "team/serve-7f9b8c4d5f-9mzqd"], "team/serve"),
        (["team/mpi-worker-0", "team/mpi-worker-12"], "team/mpi-worker"),
        (["team/llm-alpha"], "team/llm-alpha"),
        (["team/train"], "team/train"),
        (["team/v2-3"], "team/v2"),
    ],
)
def test_a_workloads_pods_are_one_workload(pods: list[str], workload: str) -> None:
    assert {workload_of(pod) for pod in pods} == {workload}


def test_a_job_that_tries_again_and_again_proves_nothing_against_the_gpu() -> None:
    node = Node(code("xid-31", rung(3, across_pods=True)))
    for number, suffix in enumerate(
        ("x7k2p", "9mzqd", "bcdfg", "4xk7v", "h2j5l", "zz8wq", "t6r9s")
    ):
        node.happened(600 * number, pod=f"team/train-{suffix}")
    assert [each.severity for each in findings(node.book, TIMING)] == [Severity.INFO]


def test_without_word_of_who_held_it_nobody_is_counted() -> None:
    node = Node(code("xid-31", rung(2, across_pods=True)))
    for at in range(50):
        node.happened(at)
    assert node.found is not None
    assert node.found.severity is Severity.INFO


def test_what_is_escalated_stays_until_its_window_has_passed() -> None:
    node = Node(code("xid-79", rung(2), severity=Severity.FATAL, clears="device-answers"))
    node.happened(0)
    node.tick(1)
    node.tick(100)
    assert node.found is None, "one alone clears when the device answers"
    node.happened(HOUR)
    for at in (HOUR + 1, 2 * HOUR, 23.9 * HOUR):
        node.tick(at)
        assert node.found is not None
        assert node.found.action is Action.REPLACE_HARDWARE
        assert "no longer true" in node.found.clears
    node.tick(24 * HOUR + 1)
    node.tick(24 * HOUR + 100)
    assert node.found is None


def test_a_person_ends_it_and_its_history() -> None:
    node = Node(code("xid-79", rung(2), severity=Severity.FATAL, clears="device-answers"))
    node.happened(0)
    node.happened(10)
    node.book = clear(node.book, subject=gpu(0).subject, code="xid-79")
    assert node.found is None
    node.happened(20)
    assert node.found is not None
    assert node.found.action is Action.RESTART_WORKLOAD


def test_two_origins_that_tell_of_one_fault_count_once() -> None:
    node = Node(code("xid-48", rung(2)))
    node.happened(0, origin="kmsg:1")
    node.happened(0.2, origin="nvml:1")
    assert [each.severity for each in findings(node.book, TIMING)] == [Severity.INFO]
    node.happened(5, origin="nvml:2")
    assert [each.severity for each in findings(node.book, TIMING)] == [Severity.CRITICAL]


def test_a_value_that_turns_bad_again_and_again_counts_each_time() -> None:
    flap = code("x", rung(3), severity=Severity.DEGRADED, clears="good-for")
    seen = Observation(code=flap, subject="rdma:mlx5_0/1", evidence="down", source="rdma")
    book = Book()
    for at in range(0, 300, 100):
        book = advance(book, snapshot(at), (seen,), TIMING)
        book = advance(book, snapshot(at + 1), (seen,), TIMING)
        worst = findings(book, TIMING)[0].severity
        assert worst is (Severity.CRITICAL if at == 200 else Severity.DEGRADED)
        book = advance(book, snapshot(at + 2), (), TIMING)
        book = advance(book, snapshot(at + 70), (), TIMING)


@given(
    st.lists(
        st.tuples(st.floats(0, 5000), st.integers(1, 50), st.sampled_from(["kmsg", "nvml"])),
        max_size=200,
    )
)
def test_the_history_is_bounded_and_never_counts_too_much(
    happenings: list[tuple[float, int, str]],
) -> None:
    judged = code("xid-48", rung(7, 1000.0))
    past: tuple[Occurrence, ...] = ()
    told = sorted(happenings)
    for at, count, origin in told:
        past = remember(past, Occurrence(at_seconds=at, origin=origin, count=count), judged)
        assert len(past) <= MAX_OCCURRENCES
    if told:
        now = told[-1][0]
        recent = {
            origin: sum(c for at, c, o in told if o == origin and now - at < 1001.0)
            for origin in ("kmsg", "nvml")
        }
        if max(recent.values()) < 7:
            assert rung_met(judged, past, now) is None


@pytest.mark.parametrize("count", [1, 10**6])
def test_a_burst_is_one_entry_with_its_count(count: int) -> None:
    judged = code("xid-45", rung(10**6))
    past = remember((), Occurrence(at_seconds=0, origin="kmsg", count=count), judged)
    past = remember(past, Occurrence(at_seconds=0.5, origin="kmsg", count=count), judged)
    assert [each.count for each in past] == [2 * count]


def test_one_failure_that_writes_for_hours_is_one_failure() -> None:
    node = Node(code("xid-119", rung(2, 7 * 24 * HOUR, apart_seconds=600.0)))
    for at in range(0, 3540, 30):
        node.happened(at, count=3)
    assert [each.severity for each in findings(node.book, TIMING)] == [Severity.INFO]
    node.happened(9 * HOUR)
    assert [each.severity for each in findings(node.book, TIMING)] == [Severity.CRITICAL]


def test_a_gpu_that_errs_without_a_pause_is_not_one_failure_for_ever() -> None:
    node = Node(shipped().xid(94))
    for at in range(0, 6 * 86_400, 540):
        node.happened(at)
    (found,) = findings(node.book, TIMING)
    assert (found.severity, found.action) == (Severity.CRITICAL, Action.REPLACE_HARDWARE)


def test_of_several_workloads_that_share_a_gpu_none_is_counted() -> None:
    judged = code("xid-31", rung(2, across_pods=True))
    sharing = tuple(f"team-{n}/app" for n in range(8))
    book = record_events(
        Book(), (xid(31, 0), xid(31, 900)), Catalogue({"xid-31": judged}), TIMING, lambda _: sharing
    )
    assert [each.severity for each in findings(book, TIMING)] == [Severity.INFO]


def test_no_workload_is_forgotten_for_another_ones_noise() -> None:
    node = Node(code("xid-31", rung(8, across_pods=True)))
    for team in range(8):
        for turn in range(40 if team == 3 else 1):
            at = team * 3600 + turn * 10
            node.happened(at, pod=f"team-{team}/app", origin="kmsg:1")
            node.happened(at, pod=f"team-{team}/app", origin="nvml:1")
    assert [each.severity for each in findings(node.book, TIMING)] == [Severity.CRITICAL]


def test_every_severe_rung_counts_failures_and_not_lines() -> None:
    """One failure may write its line for each processor, link or program."""
    of_lines = [
        (each.code, rung.count)
        for each in shipped().codes.values()
        for rung in each.escalation
        if rung.severity >= Severity.CRITICAL
        and (each.patterns or each.code.startswith(("xid-", "sxid-")))
        and not (rung.across_pods or rung.apart_seconds)
    ]
    assert of_lines == []


def test_two_losses_of_one_gpu_within_a_week_ask_for_new_hardware_and_one_loss_does_not() -> None:
    """As shipped: a loss may write its line more than once, and the text without a number beside it."""
    node = Node(shipped().xid(79))
    for at in (0, 1, 3):
        node.happened(at)
    assert [each.action for each in findings(node.book, TIMING)] == [Action.REBOOT_NODE]
    node.happened(24 * HOUR)
    assert [each.action for each in findings(node.book, TIMING)] == [Action.REPLACE_HARDWARE]
