"""The life of a fault: when it is raised, what it takes to clear it, and what must never clear it."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue import Code
from agent.catalogue.load import shipped
from agent.checks import Observation
from agent.faults import (
    MAX_FAULTS,
    Book,
    Fault,
    Key,
    Timing,
    clear,
    findings,
)
from agent.faults.events import record_events
from agent.faults.levels import advance
from agent.snapshot import Gpu, Snapshot
from contract.vocabulary import Action, Event, Finding, Severity, SourceState
from tests.support import START, gpu, snapshot, source, xid

TIMING = Timing(hold_seconds=10.0, clear_seconds=60.0, started_seconds=START)
BLIND = (SourceState.STUCK, SourceState.FAILING, SourceState.ABSENT)


class Node:
    def __init__(self, timing: Timing = TIMING) -> None:
        self.book = Book()
        self.timing = timing

    def events(self, *events: Event) -> "Node":
        self.book = record_events(self.book, events, shipped(), self.timing)
        return self

    def tick(self, at: float, *observations: Observation, **fields: Any) -> "Node":
        shot: Snapshot = snapshot(at, **{"gpus": (gpu(0), gpu(1)), **fields})
        self.book = advance(self.book, shot, observations, self.timing)
        return self

    @property
    def raised(self) -> list[str]:
        return [each.code for each in findings(self.book, self.timing)]

    def finding(self, code: str) -> Finding:
        (found,) = [each for each in findings(self.book, self.timing) if each.code == code]
        return found


def bad(code: str = "gpu-too-hot", subject: str = "", **fields: Any) -> Observation:
    return Observation(
        code=shipped().codes[code],
        subject=subject or gpu(0).subject,
        evidence="bad now",
        **{"source": "nvidia", **fields},
    )


def verdict(number: int, at: float, *, gpu_index: int = 0) -> Event:
    message = f"Xid 154, GPU recovery action changed from 0x9 (Old) to 0x{number:x} (New)"
    event = xid(154, at, origin=f"kmsg:{int(at) + 500}", gpu_index=gpu_index)
    return msgspec.structs.replace(event, message=message)


def blind(state: SourceState) -> dict[str, Any]:
    return {"sources": (source("nvidia", state),), "gpus": ()}


def test_a_measured_value_must_be_bad_for_the_hold_time() -> None:
    node = Node()
    for at in range(10):
        assert node.tick(at, bad()).raised == []
    assert node.tick(10, bad()).raised == ["gpu-too-hot"]
    assert node.finding("gpu-too-hot").since_seconds == START
    assert node.finding("gpu-too-hot").last_seen_seconds == START + 10


def test_a_short_spike_starts_the_hold_time_anew() -> None:
    node = Node().tick(0, bad()).tick(5).tick(6, bad())
    assert node.tick(15, bad()).raised == []
    assert node.tick(16, bad()).raised == ["gpu-too-hot"]


def test_a_lost_gpu_never_waits() -> None:
    assert Node().tick(0, bad("gpu-lost")).raised == ["gpu-lost"]


def test_it_clears_after_it_was_good_for_the_clear_time_and_not_before() -> None:
    node = Node().tick(0, bad("gpu-lost")).tick(1)
    assert node.tick(60.9).raised == ["gpu-lost"]
    assert node.tick(61).raised == []


def test_being_bad_once_more_starts_the_clear_time_anew() -> None:
    node = Node().tick(0, bad("gpu-lost")).tick(1).tick(40, bad("gpu-lost")).tick(41)
    assert node.tick(100).raised == ["gpu-lost"]
    assert node.tick(101).raised == []


@pytest.mark.parametrize("state", BLIND)
def test_a_blind_source_clears_nothing_and_its_time_is_no_good_time(state: SourceState) -> None:
    node = Node().events(xid(79), xid(48)).tick(0, bad("gpu-lost")).tick(1)
    before = node.raised
    assert sorted(before) == ["gpu-lost", "xid-48", "xid-79"]
    for at in range(2, 1000, 50):
        assert node.tick(at, **blind(state)).raised == before
    assert node.tick(1000).raised == before  # one good second is not sixty
    assert node.tick(1059).raised == before
    assert node.tick(1060).raised == ["xid-48"]


def test_what_the_driver_still_calls_broken_does_not_answer() -> None:
    node = Node().events(xid(79))
    for broken in (gpu(0, lost=True), gpu(0, recovery_action=2)):
        for at in (0, 100, 200):
            assert node.tick(at, gpus=(broken, gpu(1))).raised == ["xid-79"]
    assert node.tick(300, gpus=(gpu(1),)).raised == ["xid-79"]  # not listed at all
    assert node.tick(301).tick(361).raised == []


def test_an_event_of_the_workload_clears_by_silence_even_when_all_is_dark() -> None:
    node = Node().events(xid(31, 0)).tick(30, sources=()).events(xid(31, 50, origin="kmsg:2"))
    assert node.finding("xid-31").count == 2
    assert node.tick(109, sources=()).raised == ["xid-31"]
    assert node.tick(110, sources=()).raised == []


def test_an_unknown_xid_is_shown_for_a_while() -> None:
    assert Node().events(xid(777)).raised == ["xid-777"]
    assert Node().events(xid(777)).tick(60).raised == []


def test_two_origins_that_tell_of_one_fault_do_not_double_its_count() -> None:
    node = Node().events(xid(79, 0.2, origin="nvml:1"), xid(79, 0.1, origin="kmsg:7"))
    assert node.finding("xid-79").count == 1
    node.events(xid(79, 1, origin="kmsg:8"), xid(79, 2, origin="kmsg:9"))
    node.events(xid(79, 1.9, origin="nvml:2"))
    found = node.finding("xid-79")
    assert found.count == 3
    assert (found.since_seconds, found.last_seen_seconds) == (START + 0.1, START + 2)


def test_what_the_kernel_log_says_in_words_is_not_replaced_by_a_bare_number() -> None:
    bare = msgspec.structs.replace(xid(79, 1, origin="nvml:1"), message="NVML reports XID 79")
    assert Node().events(xid(79), bare).finding("xid-79").evidence == "Xid 79, pid=1"
    assert Node().events(bare, xid(79)).finding("xid-79").evidence == "Xid 79, pid=1"


def test_a_repeated_occurrence_counts_and_a_lasting_state_does_not() -> None:
    node = Node()
    for at in range(3):
        node.tick(at, bad("rdma-link-flap", occurrence=True, source="rdma"), bad("gpu-lost"))
    assert node.finding("rdma-link-flap").count == 3
    assert node.finding("gpu-lost").count == 1


def test_the_driver_taking_its_verdict_back_clears_that_gpu_only() -> None:
    node = Node().events(xid(79), xid(95), xid(13), xid(95, gpu_index=1), verdict(1, 5))
    node.tick(6, bad("gpu-lost"))
    node.events(verdict(0, 10))
    assert sorted(node.raised) == ["gpu-lost", "xid-13", "xid-95"]
    assert node.finding("xid-95").subject == gpu(1).subject


def test_a_recovery_action_that_went_back_to_none_clears_what_the_driver_holds() -> None:
    node = Node().events(xid(48), xid(48, gpu_index=1)).tick(0, bad("gpu-recovery-action"))
    content: dict[str, Any] = {"gpus": (gpu(0, recovery_action=0), gpu(1))}
    node.tick(1, **content).tick(60, **content)
    assert node.raised.count("xid-48") == 2
    node.tick(61, **content)
    assert [each.subject for each in findings(node.book, node.timing)] == [gpu(1).subject]


@pytest.mark.parametrize("silent", [gpu(0), gpu(0, lost=True, recovery_action=0)])
def test_a_driver_that_says_nothing_takes_no_verdict_back(silent: Gpu) -> None:
    node = Node().events(xid(95)).tick(0, bad("gpu-recovery-action"))
    for at in range(1, 500, 10):
        node.tick(at, gpus=(silent, gpu(1)))
    assert sorted(node.raised) == ["gpu-recovery-action", "xid-95"]


@pytest.mark.parametrize(
    ("number", "severity", "action"),
    [
        (1, Severity.FATAL, Action.RESET_DEVICE),
        (2, Severity.FATAL, Action.REBOOT_NODE),
        (3, Severity.CRITICAL, Action.RESET_DEVICE),
        (4, Severity.CRITICAL, Action.RESET_DEVICE),
        (6, Severity.CRITICAL, Action.RESET_DEVICE),
        (7, Severity.FATAL, Action.REBOOT_NODE),
        (9, Severity.INFO, Action.NONE),
    ],
)
def test_the_drivers_verdict_outranks_the_table(
    number: int, severity: Severity, action: Action
) -> None:
    node = Node().events(xid(48), xid(48, gpu_index=1), verdict(number, 1))
    assert (node.finding("xid-154").severity, node.finding("xid-154").action) == (severity, action)
    by_subject = {
        each.subject: each for each in findings(node.book, node.timing) if each.code == "xid-48"
    }
    judged = Action.RESET_DEVICE if action is Action.NONE else action
    assert by_subject[gpu(0).subject].action is judged
    assert by_subject[gpu(1).subject].action is Action.RESET_DEVICE


@pytest.mark.parametrize("origin", ["nvml:1", "kmsg:2"])
def test_a_154_without_a_verdict_takes_none_back(origin: str) -> None:
    """NVML tells the same event as a bare number, just after the kernel log."""
    node = Node().events(verdict(2, 0), xid(154, 0.1, origin=origin)).tick(100)
    found = node.finding("xid-154")
    assert (found.severity, found.action) == (Severity.FATAL, Action.REBOOT_NODE)


def test_only_the_driver_or_a_person_ends_what_only_the_driver_clears() -> None:
    node = Node().events(xid(48))
    assert node.tick(10_000_000).raised == ["xid-48"]
    node.book = clear(node.book, subject=gpu(1).subject, code="xid-48")
    assert node.raised == ["xid-48"]
    node.book = clear(node.book, subject=gpu(0).subject, code="xid-48")
    assert node.raised == []


def restarted_with(*lines: int) -> Node:
    """An agent that finds day-old lines in the kernel's ring buffer."""
    return Node().events(*(xid(each, -86_400, origin=f"kmsg:{each}") for each in lines))


def test_a_restart_does_not_forge_a_fault_whose_device_answers() -> None:
    node = restarted_with(79)
    assert node.raised == []  # not for a moment: a fatal finding would be sent at once
    assert node.tick(0, **blind(SourceState.STUCK)).raised == []  # a driver slow to start
    assert node.tick(5).raised == []
    assert node.book.faults == {}


def test_a_restart_shows_it_when_the_device_does_not_answer() -> None:
    node = restarted_with(79).tick(0, gpus=(gpu(0, lost=True), gpu(1)))
    assert node.raised == ["xid-79"]
    assert node.finding("xid-79").since_seconds == START - 86_400


def test_a_restart_waits_for_a_slow_driver_only_so_long() -> None:
    node = restarted_with(79)
    assert node.tick(9, **blind(SourceState.STUCK)).raised == []
    assert node.tick(10, **blind(SourceState.STUCK)).raised == ["xid-79"]
    assert restarted_with(79).tick(0, **blind(SourceState.ABSENT)).raised == ["xid-79"]
    assert restarted_with(79).tick(0, sources=()).raised == ["xid-79"]


def test_a_fault_of_just_before_the_restart_still_serves_its_clear_time() -> None:
    node = Node().events(xid(79, -20)).tick(0)
    assert node.raised == ["xid-79"]
    assert node.tick(39).raised == ["xid-79"]
    assert node.tick(40).raised == []


def test_a_restart_does_not_forget_what_only_the_driver_clears() -> None:
    node = restarted_with(48)
    assert node.raised == ["xid-48"]
    assert node.tick(1000).raised == ["xid-48"]


def test_an_old_line_is_over_once_the_driver_says_that_it_asks_for_nothing() -> None:
    """The GPU was reset while no agent ran, and nothing of then is kept."""
    node = restarted_with(95)
    for at in range(0, 61, 10):
        assert node.raised == ["xid-95"]
        node.tick(at, gpus=(gpu(0, recovery_action=0), gpu(1)))
    assert node.raised == []
    seen_happen = Node().events(xid(95)).tick(0, gpus=GPUS).tick(500, gpus=GPUS)
    assert seen_happen.raised == ["xid-95"], "what this agent saw happen waits for the reset"


def test_a_clock_that_steps_holds_and_clears_nothing_early() -> None:
    node = Node().tick(0, bad("rdma-port-down", "rdma:mlx5_0/1", source="rdma"))
    node.tick(28_800, bad("rdma-port-down", "rdma:mlx5_0/1", source="rdma"), elapsed_seconds=1.0)
    assert node.raised == []
    for at in range(11):
        shot = {"elapsed_seconds": 1.0}
        node.tick(28_801 + at, bad("rdma-port-down", "rdma:mlx5_0/1", source="rdma"), **shot)
    assert node.raised == ["rdma-port-down"]
    node.tick(28_900, elapsed_seconds=1.0).tick(72_000, elapsed_seconds=1.0)
    assert node.raised == ["rdma-port-down"], "one good second and an hour's step are no minute"
    for at in range(60):
        node.tick(100 + at, elapsed_seconds=1.0)
    assert node.raised == [], "a step back does not keep it either"


def test_a_value_that_was_bad_just_before_the_dark_must_be_bad_anew() -> None:
    node = Node().tick(0, bad()).tick(1, bad())
    node.tick(400, **blind(SourceState.STUCK))
    assert node.tick(401, bad()).raised == []
    assert node.tick(411, bad()).raised == ["gpu-too-hot"]


def test_a_fault_of_a_source_that_nobody_asks_any_more_is_over() -> None:
    node = Node().tick(0, bad("gpu-lost"))
    assert node.tick(1, **blind(SourceState.FAILING)).raised == ["gpu-lost"]
    assert node.tick(2, sources=(source("host"),), gpus=()).raised == []


def test_an_xid_after_a_reset_that_is_noticed_late_stays() -> None:
    counted = {"gpus": (gpu(0, energy_joules_total=9.0), gpu(1))}
    node = Node().tick(0, **counted)
    node.tick(30, **blind(SourceState.STUCK)).events(xid(95, 40))
    shot = snapshot(60, **counted)
    node.book = advance(node.book, shot, (), TIMING, {gpu(0).subject})
    assert node.raised == ["xid-95"]


def test_a_card_that_was_replaced_takes_its_history_along() -> None:
    node = Node().events(xid(79), xid(79, 1000)).tick(1001)
    assert node.finding("xid-79").action is Action.REPLACE_HARDWARE
    assert node.tick(2000, gpus=(gpu(0, uuid="GPU-new"), gpu(1))).raised == []
    assert node.book.history == {}


def test_a_new_line_after_the_restart_is_news() -> None:
    assert restarted_with(79).events(xid(79, 1, origin="kmsg:900")).raised == ["xid-79"]


def test_other_events_raise_nothing() -> None:
    for changes in ({"kind": "double-bit-ecc", "finding": ""}, {"finding": ""}):
        assert Node().events(msgspec.structs.replace(xid(79), **changes)).book == Book()


def test_a_flood_is_bounded_and_pushes_no_real_fault_out() -> None:
    node = Node().events(xid(48))
    node.events(*(xid(number, 1) for number in range(1000, 1000 + 3 * MAX_FAULTS)))
    assert len(node.book.faults) == MAX_FAULTS
    node.events(xid(79, 2))
    assert len(node.book.faults) == MAX_FAULTS
    assert node.raised[:2] == ["xid-48", "xid-79"]


def test_findings_come_worst_first() -> None:
    node = Node().events(xid(13, 0), xid(54, 1), xid(79, 3), xid(95, 2))
    assert node.raised == ["xid-95", "xid-79", "xid-54", "xid-13"]


def test_every_xid_of_the_table_is_raised_at_once_and_known_by_its_rule() -> None:
    def after_an_hour(code: Code) -> list[str]:
        number = int(code.code.removeprefix("xid-"))
        node = Node().events(xid(number))
        assert node.raised == [code.code]
        return node.tick(1).tick(3600).raised

    for code in shipped().codes.values():
        if code.code.removeprefix("xid-").isdigit():
            assert after_an_hour(code) == ([code.code] if code.clears == "driver" else [])


class Step(msgspec.Struct, frozen=True):
    seconds: int
    readable: bool
    bad: frozenset[Key]
    silent: frozenset[str]
    """Subjects of GPUs that do not answer."""
    xids: frozenset[tuple[int, int]]
    "(GPU index, XID)"
    content: frozenset[int]
    """GPUs whose driver takes its verdict back."""


GPUS = (gpu(0, recovery_action=0), gpu(1, recovery_action=0))
SUBJECTS = tuple(each.subject for each in GPUS)
CHECK_KEYS = [(s, c) for s in SUBJECTS for c in ("gpu-lost", "gpu-too-hot", "gpu-recovery-action")]


def some(*values: Any) -> st.SearchStrategy[Any]:
    return st.just(frozenset()) | st.frozensets(st.sampled_from(values), max_size=3)


LIVES = st.lists(
    st.builds(
        Step,
        seconds=st.integers(1, 45),
        readable=st.sampled_from([True, True, True, False]),
        bad=some(*CHECK_KEYS),
        silent=some(*SUBJECTS),
        xids=some(*((n, x) for n in (0, 1) for x in (13, 48, 79, 777))),
        content=some(0, 1),
    ),
    min_size=2,
    max_size=30,
)


def live(steps: list[Step]) -> Iterable[tuple[float, Step, Mapping[Key, Fault], Node]]:
    """Each step's time, the step, the book before it and the node after it."""
    node, at = Node(), 0.0
    for step in steps:
        at += step.seconds
        before = node.book.faults
        node.events(*(xid(number, at, gpu_index=n) for n, number in sorted(step.xids)))
        node.events(*(verdict(0, at, gpu_index=n) for n in sorted(step.content)))
        shown = tuple(msgspec.structs.replace(g, lost=g.subject in step.silent) for g in GPUS)
        state = SourceState.OK if step.readable else SourceState.STUCK
        seen = [bad(c, s) for s, c in sorted(step.bad)] if step.readable else []
        node.tick(at, *seen, gpus=shown, sources=(source("nvidia", state),))
        yield at, step, before, node


def good_for(key: Key, past: list[tuple[float, Step]], answering: bool) -> float:
    """How long the newest unbroken run of good readings is; the test's own account of it."""
    start = None
    for at, step in reversed(past):
        if not step.readable or key in step.bad or (answering and key[0] in step.silent):
            break
        start = at
        if any((SUBJECTS[n], f"xid-{number}") == key for n, number in step.xids):
            break
    return -1.0 if start is None else past[-1][0] - start


@given(LIVES)
def test_nothing_raised_is_gone_unless_its_own_rule_says_so(steps: list[Step]) -> None:
    past: list[tuple[float, Step]] = []
    for at, step, before, node in live(steps):
        past.append((at, step))
        gone = {
            key: each for key, each in before.items() if each.raised and key not in node.book.faults
        }
        for key, fault in gone.items():
            recovered = SUBJECTS.index(key[0]) in step.content or (
                (key[0], "gpu-recovery-action") in gone
            )
            rule = fault.code.clears
            if rule in ("driver", "device-answers") and recovered:
                continue
            assert rule != "driver"
            if rule == "quiet":
                assert START + at - fault.last_seen_seconds >= TIMING.clear_seconds
            else:
                assert good_for(key, past, rule == "device-answers") >= TIMING.clear_seconds


@given(LIVES)
def test_nothing_stays_once_its_rule_says_that_it_is_over(steps: list[Step]) -> None:
    past: list[tuple[float, Step]] = []
    for at, step, _, node in live(steps):
        past.append((at, step))
        for key, fault in node.book.faults.items():
            if fault.rung is not None:
                continue  # its window is longer than these lives
            if fault.code.clears == "quiet":
                assert START + at - fault.last_seen_seconds < TIMING.clear_seconds
            elif fault.code.clears != "driver" and step.readable and key not in step.bad:
                of_the_driver = fault.code.code == "gpu-recovery-action"
                answering = fault.code.clears == "device-answers" or of_the_driver
                assert good_for(key, past, answering) < TIMING.clear_seconds


@given(LIVES)
def test_the_hold_time_is_kept_and_the_book_is_sound(steps: list[Step]) -> None:
    for at, step, before, node in live(steps):
        for key, fault in node.book.faults.items():
            assert START < fault.since_seconds <= fault.last_seen_seconds <= START + at
            if fault.code.hold_seconds is None and key in step.bad and step.readable:
                assert fault.raised is (START + at - fault.since_seconds >= TIMING.hold_seconds)
            if fault.code.hold_seconds is None and fault.raised and not before[key].raised:
                assert step.readable
                assert key in step.bad
        assert {each.key for each in findings(node.book, node.timing)} == {
            key for key, each in node.book.faults.items() if each.raised
        }
