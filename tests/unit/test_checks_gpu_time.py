"""GPU checks of time spent: clocks held down, GPUs that spin or differ from siblings, PCIe links under load."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.checks import Checked
from agent.checks.gpu import Memory, forget
from agent.checks.gpu_time import Minutes, Pace, watched
from agent.checks.window import Window
from agent.snapshot import Gpu, Snapshot
from contract.vocabulary import Severity
from tests.examples.gpu import BUSY, IDLE, SPINNING, always, eight, over
from tests.support import gpu, snapshot
from tests.unit.test_checks_gpu_presence import after, judge

SLOWED = {"clocks_event_reasons": 0x48}


def codes(shots: list[Snapshot]) -> set[tuple[str, str]]:
    return {(each.code.code, each.subject) for each in after(shots).observations}


def first(code: str) -> set[tuple[str, str]]:
    return {(code, gpu(0).subject)}


def ratio(share: float, **first_when_bad: Any) -> Callable[[float], tuple[Gpu, ...]]:
    """The first GPU is bad in this share of each minute."""
    return lambda at: eight(BUSY, **(first_when_bad if at % 60 < share * 60 else {}))


@pytest.mark.parametrize(("share", "bad"), [(0.5, False), (0.84, True)])
def test_a_slowdown_counts_by_its_share_of_time(share: float, bad: bool) -> None:
    found = codes(over(900, ratio(share, **SLOWED)))
    assert found == (first("gpu-hardware-slowdown") if bad else set())


def test_slowdowns_of_different_gpus_are_not_added_up() -> None:
    """One GPU after the other for two minutes each: every minute is bad, and no GPU is."""

    def one_at_a_time(at: float) -> tuple[Gpu, ...]:
        bad = int(at // 120) % 8
        return tuple(gpu(n, **{**BUSY, **(SLOWED if n == bad else {})}) for n in range(8))

    assert codes(over(1200, one_at_a_time)) == set()


@pytest.mark.parametrize("reasons", [0x0, 0x1, 0x2, 0x4, 0x10, 0x100, None])
def test_clocks_held_down_on_purpose_are_no_fault(reasons: int | None) -> None:
    assert codes(always(1200, BUSY, clocks_event_reasons=reasons)) == set()


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("hardware_slowdown_seconds_total", "gpu-hardware-slowdown"),
        ("thermal_violation_seconds_total", "gpu-software-slowdown"),
        ("power_brake_seconds_total", "gpu-power-brake"),
    ],
)
def test_the_drivers_own_count_of_slow_seconds_is_believed(field: str, code: str) -> None:
    """Its counters catch what is over before we look, and may be read only now and then."""

    def in_lumps(lump_seconds: float, share: float) -> list[Snapshot]:
        return over(
            900, lambda at: eight(BUSY, **{field: at // lump_seconds * lump_seconds * share})
        )

    assert codes(in_lumps(10.0, 0.8)) == first(code)
    assert codes(in_lumps(60.0, 0.8)) == first(code)
    assert codes(in_lumps(10.0, 0.3)) == set()


def test_a_counter_in_another_unit_is_not_believed() -> None:
    shots = over(900, lambda at: eight(BUSY, hardware_slowdown_seconds_total=at * 1000.0))
    assert codes(shots) == set()


def test_the_power_limit_is_never_a_finding() -> None:
    assert codes(over(900, lambda at: eight(BUSY, power_violation_seconds_total=at))) == set()


def test_slow_seconds_in_the_dark_say_nothing_about_now() -> None:
    def slow_while_away(at: float) -> tuple[Gpu, ...]:
        return eight(BUSY, hardware_slowdown_seconds_total=0.0 if at < 60 else 550.0)

    shots = over(120, slow_while_away)
    away = [shot for shot in shots if not 50 < shot.taken_seconds - shots[0].taken_seconds < 110]
    assert codes(shots) == first("gpu-hardware-slowdown")
    assert codes(away) == set()


def test_heat_is_told_of_once() -> None:
    shots = over(
        900,
        lambda at: eight(
            BUSY, hardware_slowdown_seconds_total=at, thermal_violation_seconds_total=at
        ),
    )
    assert codes(shots) == first("gpu-hardware-slowdown")


def test_the_drivers_count_of_slow_seconds_includes_the_power_brake() -> None:
    shots = over(
        900,
        lambda at: eight(BUSY, hardware_slowdown_seconds_total=at, power_brake_seconds_total=at),
    )
    assert codes(shots) == first("gpu-power-brake")


def test_the_power_brake_is_not_also_called_heat() -> None:
    shots = over(
        900,
        lambda at: eight(
            BUSY,
            clocks_event_reasons=0x88,
            hardware_slowdown_seconds_total=at,
            power_brake_seconds_total=None,
        ),
    )
    assert codes(shots) == first("gpu-power-brake")


def test_time_in_the_dark_is_neither_bad_nor_good() -> None:
    """Slow before and after an hour in which the agent did not run: nobody saw ten bad minutes."""
    slow = eight(BUSY, **SLOWED)
    shots = [snapshot(at, gpus=slow) for at in (0.0, 10.0, 20.0, 30.0, 3600.0, 3610.0, 3620.0)]
    assert codes(shots) == set()
    seen = [snapshot(tick * 10.0, gpus=slow) for tick in range(43)]
    assert codes(seen) == first("gpu-hardware-slowdown")
    away = [snapshot(tick * 10.0, gpus=slow) for tick in range(43) if not 5 < tick < 25]
    assert codes(away) == set()


LOW = {"sm_clock_hertz": 345e6, "clocks_event_reasons": 0}


def test_a_clock_stuck_low_under_load() -> None:
    whole = {**BUSY, **LOW}
    assert ("gpu-clock-stuck", gpu(3).subject) in codes(always(900, whole))
    assert codes(always(300, whole)) == set()
    assert codes(always(1200, IDLE, **LOW)) == set()
    assert codes(always(1200, {**BUSY, **LOW, "utilization_ratio": 0.5})) == set()
    assert codes(always(1200, {**whole, "clocks_event_reasons": 0x2})) == set()
    assert codes(always(1200, {**whole, "clocks_event_reasons": None})) == set()
    assert codes(always(1200, {**whole, "sm_clock_max_hertz": None})) == set()


def test_one_that_spins_while_others_work_may_hang_and_all_that_spin_wait() -> None:
    alone = after(always(600, BUSY, **SPINNING)).observations
    assert {each.code.code for each in alone} >= {"gpu-hang-suspect"}
    together = after(always(600, {**BUSY, **SPINNING})).observations
    assert {each.code.code for each in together} == {"gpu-spinning"}
    assert len(together) == 8
    assert all(each.code.severity is Severity.INFO for each in together)
    assert "another node" in together[0].evidence
    beside_idle = over(600, lambda _: (*eight({**BUSY, **SPINNING})[:4], *eight(IDLE)[4:]))
    assert {code for code, _ in codes(beside_idle)} == {"gpu-spinning"}


@pytest.mark.parametrize(
    "work",
    [
        {"power_watts": 400.0},
        {"dram_active_ratio": 0.2},
        {"dram_active_ratio": None, "memory_utilization_ratio": 0.2},
        {"dram_active_ratio": None, "memory_utilization_ratio": None},
        {"pcie_received_bytes_per_second": 1e9},
        {"pcie_transmitted_bytes_per_second": None},
        {"nvlink_received_bytes_per_second": 5e10},
        {"tensor_active_ratio": 0.3},
        {"utilization_ratio": 0.5},
        {"process_count": 0},
        {"power_limit_watts": None},
    ],
)
def test_one_sign_of_work_or_one_thing_not_measured_is_enough(work: dict[str, Any]) -> None:
    found = {code for code, _ in codes(always(900, {**BUSY, **SPINNING, **work}))}
    assert not found & {"gpu-spinning", "gpu-hang-suspect"}


def test_a_pause_of_work_is_no_hang() -> None:
    def waits_between_steps(at: float) -> tuple[Gpu, ...]:
        return eight(BUSY, **(SPINNING if at % 60 < 45 else {}))

    assert "gpu-hang-suspect" not in {code for code, _ in codes(over(900, waits_between_steps))}


def test_an_outlier_needs_the_same_load_and_enough_siblings() -> None:
    slow = {"sm_clock_hertz": 1200e6, "clocks_event_reasons": 0}
    assert codes(always(600, BUSY, **slow)) == first("gpu-clock-outlier")
    assert codes(always(600, BUSY, **{**slow, "clocks_event_reasons": 0x4})) == set()
    assert codes(always(600, BUSY, **{**slow, "utilization_ratio": 0.3})) == set()
    assert codes(always(600, BUSY, **slow, model="NVIDIA A100-SXM4-80GB")) == set()
    assert codes(always(600, BUSY, **slow, mig_enabled=True)) == set()
    three = over(600, lambda _: eight(BUSY, **slow)[:3])
    assert {code for code, _ in codes(three)} <= {"gpu-count"}
    assert codes(always(900, {**BUSY, **slow})) == set()


def test_a_hot_or_weak_outlier_is_only_shown() -> None:
    for fields in ({"temperature_celsius": 83.0}, {"power_watts": 200.0}):
        (observation,) = after(always(600, BUSY, **fields)).observations
        assert observation.code.severity is Severity.INFO
        assert observation.subject == gpu(0).subject


@pytest.mark.parametrize("fields", [{"pcie_generation": 3}, {"pcie_width": 8}])
def test_a_pcie_link_counts_only_while_its_gpu_is_busy(fields: dict[str, Any]) -> None:
    (observation,) = after(always(600, BUSY, **fields)).observations
    assert observation.code.code == "gpu-pcie-link"
    assert "gen 5 x16" in observation.evidence
    assert codes(always(1200, IDLE, **fields)) == set()
    assert codes(always(200, BUSY, **fields)) == set()
    assert codes(always(1200, BUSY, **fields, performance_state=8)) == set()
    assert codes(always(1200, BUSY, **fields, utilization_ratio=None)) == set()


def test_a_pcie_link_of_unknown_best_is_not_judged() -> None:
    unknown = {"pcie_generation_max": None, "pcie_width_max": None}
    assert codes(always(1200, {**BUSY, **unknown}, pcie_generation=1, pcie_width=1)) == set()


@given(st.lists(st.sampled_from([1.0, 1.1, 0.9, 2.0, 50.0]), min_size=1, max_size=60))
def test_counted_time_is_never_more_than_the_time_that_passed(steps: list[float]) -> None:
    pace, at, counted = Pace(), 1_000.0, 0.0
    start = at
    pace, seconds = pace.step(at)
    assert seconds == 0
    for step in steps:
        at += step
        pace, seconds = pace.step(at)
        assert seconds in (0.0, pytest.approx(step))
        counted += seconds
    assert counted <= at - start + 1e-6


@pytest.mark.parametrize(("before", "after_change"), [(1.0, 30.0), (30.0, 1.0), (0.05, 60.0)])
def test_a_changed_rhythm_is_followed_within_a_few_looks(
    before: float, after_change: float
) -> None:
    pace, at = Pace(), 1_000.0
    for _ in range(20):
        at += before
        pace, _ = pace.step(at)
    dark = 0
    for _ in range(30):
        at += after_change
        pace, seconds = pace.step(at)
        dark += not seconds
    assert dark <= 10
    at += after_change
    assert pace.step(at)[1] == pytest.approx(after_change)


def test_a_clock_that_is_set_back_counts_nothing() -> None:
    pace, _ = Pace().step(1_000.0)
    pace, _ = pace.step(1_001.0)
    pace, seconds = pace.step(500.0)
    assert seconds == 0
    assert pace.step(501.0)[1] == 1.0


@given(
    st.lists(st.tuples(st.floats(0.5, 90), st.booleans()), max_size=80),
    st.sampled_from([60.0, 300.0, 600.0]),
)
def test_minutes_keep_what_happened_and_forget_what_is_old(
    looks: list[tuple[float, bool]], keep: float
) -> None:
    minutes, at, happened = Minutes(), 6_000.0, []
    for step, bad in looks:
        at += step
        minutes = minutes.add(at, step, ("bad",) if bad else (), keep_seconds=keep)
        happened += [(at, step)] if bad else []
    told = minutes.seconds("bad", keep, at)
    assert told <= sum(step for when, step in happened if when > at - keep) + 1e-6
    assert told >= sum(step for when, step in happened if when > at - keep + 60) - 1e-6
    assert len(minutes.past) <= keep / 60 + 1


def test_a_counter_that_does_not_move_costs_nothing() -> None:
    window = watched(Window(), 0.0, 5, span_seconds=600)
    assert all(
        watched(window, float(at), value, span_seconds=600) is window
        for at in range(1, 100)
        for value in (5, None)
    )


def test_a_rise_in_the_dark_says_nothing_about_a_rate() -> None:
    window = watched(Window(), 0.0, 5, span_seconds=600)
    assert watched(window, 9_000.0, 5_000, span_seconds=600, gap=True).rise == 0
    assert watched(window, 9_000.0, 5_000, span_seconds=600).rise == 4_995


def test_forgotten_time_is_forgotten() -> None:
    checked: Checked[Memory] = after(always(420, BUSY, **SLOWED))
    assert checked.observations
    memory = forget(checked.memory, gpu(0).subject)
    assert not judge(snapshot(430, gpus=eight(BUSY)), memory).observations
