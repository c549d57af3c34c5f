"""GPU memory checks, resets seen by counters, and what must never raise anything."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.checks import Checked
from agent.checks.gpu import Memory
from agent.snapshot import Gpu, Snapshot
from contract.vocabulary import Action, Severity
from tests.examples.gpu import BUSY, IDLE, eight, rise
from tests.support import gpu, snapshot
from tests.unit.test_checks_gpu_presence import after, judge, only


def ecc(*values: int | None, field: str = "ecc_uncorrected_total") -> list[str]:
    """The codes that each of these readings, ten seconds apart, shows."""
    memory, shown = Memory(), []
    for tick, value in enumerate(values):
        checked = judge(snapshot(tick * 10.0, gpus=(gpu(0, **{field: value}),)), memory)
        memory = checked.memory
        shown.append(",".join(each.code.code for each in checked.observations))
    return shown


def test_old_errors_are_history_and_new_ones_are_not() -> None:
    assert ecc(7, 7, 8, 8) == ["", "", "gpu-ecc-uncorrected", "gpu-ecc-uncorrected"]


def test_errors_that_a_reading_left_out_are_still_seen() -> None:
    assert ecc(7, None, 8) == ["", "", "gpu-ecc-uncorrected"]
    assert ecc(7, 8, None) == ["", "gpu-ecc-uncorrected", ""]  # not measured: no finding


def test_a_driver_that_was_loaded_anew_starts_from_zero() -> None:
    assert ecc(7, 0, 0) == ["", "", ""]


def test_an_error_is_shown_for_an_hour_and_then_is_over() -> None:
    memory = after(rise("ecc_uncorrected_total", 1)).memory
    shown = []
    for minute in range(1, 90):
        checked = judge(snapshot(minute * 60.0, gpus=eight(IDLE, ecc_uncorrected_total=1)), memory)
        memory = checked.memory
        shown.append(bool(checked.observations))
    assert shown[:58] == [True] * 58
    assert not any(shown[66:])


def test_a_reset_ends_the_errors_before_it() -> None:
    memory = after(rise("ecc_uncorrected_total", 1)).memory
    reset = snapshot(20, gpus=eight(IDLE, energy_joules_total=3.0, ecc_uncorrected_total=0))
    checked = judge(reset, memory)
    assert checked.resets == {gpu(0).subject}
    assert checked.observations == ()


@pytest.mark.parametrize(
    ("before", "now", "reset"),
    [
        ({"energy_joules_total": 5e8}, {"energy_joules_total": 5e8}, False),
        ({"energy_joules_total": 5e8}, {"energy_joules_total": 5e8 + 700}, False),
        ({"energy_joules_total": 5e8}, {"energy_joules_total": 5e8 - 0.5}, False),
        ({"energy_joules_total": 5e8}, {"energy_joules_total": 12.0}, True),
        ({"energy_joules_total": None}, {"energy_joules_total": 12.0}, False),
        ({"energy_joules_total": 5e8}, {"energy_joules_total": None}, False),
        # Cleared by hand (nvidia-smi can): energy knows better.
        (
            {"energy_joules_total": 5e8, "ecc_corrected_total": 9},
            {"energy_joules_total": 5e8, "ecc_corrected_total": 0},
            False,
        ),
        (
            {"energy_joules_total": None, "ecc_corrected_total": 9},
            {"energy_joules_total": None, "ecc_corrected_total": 0},
            True,
        ),
    ],
)
def test_a_reset_is_seen_by_counters_that_start_again(
    before: dict[str, Any], now: dict[str, Any], reset: bool
) -> None:
    memory = judge(snapshot(0, gpus=eight(IDLE, **before))).memory
    checked = judge(snapshot(10, gpus=eight(IDLE, **now)), memory)
    assert checked.resets == ({gpu(0).subject} if reset else frozenset())


def test_a_reset_is_seen_across_the_time_in_which_the_gpu_was_gone() -> None:
    memory = judge(snapshot(0, gpus=eight(IDLE))).memory
    memory = judge(snapshot(10, gpus=eight(IDLE, lost=True)), memory).memory
    back = judge(snapshot(300, gpus=eight(IDLE, energy_joules_total=40.0)), memory)
    assert back.resets == {gpu(0).subject}


def test_a_reset_is_seen_though_energy_could_not_be_read_for_once() -> None:
    memory = Memory()
    for at, energy in ((0.0, 5e8), (10.0, None), (20.0, 40.0)):
        checked = judge(snapshot(at, gpus=eight(IDLE, energy_joules_total=energy)), memory)
        memory = checked.memory
        assert checked.resets == ({gpu(0).subject} if at == 20.0 else frozenset())


@pytest.mark.parametrize(
    ("fields", "code", "severity", "action"),
    [
        ({"remap_pending": True}, "gpu-remap-pending", Severity.DEGRADED, Action.RESET_DEVICE),
        ({"remap_failed": True}, "gpu-remap-failed", Severity.CRITICAL, Action.REPLACE_HARDWARE),
        (
            {"remapped_rows_uncorrected_total": 512},
            "gpu-remaps-spent",
            Severity.DEGRADED,
            Action.REPLACE_HARDWARE,
        ),
        (
            {"sram_threshold_exceeded": True},
            "gpu-sram-threshold",
            Severity.CRITICAL,
            Action.REPLACE_HARDWARE,
        ),
        (
            {"retirement_pending": True},
            "gpu-retirement-pending",
            Severity.DEGRADED,
            Action.RESET_DEVICE,
        ),
        (
            {"retired_pages_double_bit_total": 60},
            "gpu-retired-pages",
            Severity.DEGRADED,
            Action.REPLACE_HARDWARE,
        ),
    ],
)
def test_what_the_driver_keeps_of_bad_memory(
    fields: dict[str, Any], code: str, severity: Severity, action: Action
) -> None:
    observation = only(judge(snapshot(gpus=(gpu(0, **fields),))))
    assert (observation.code.code, observation.code.severity, observation.code.action) == (
        code,
        severity,
        action,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"remapped_rows_uncorrected_total": 511},
        {"remapped_rows_corrected_total": 600},
        {"retired_pages_double_bit_total": 59},
        {"retired_pages_single_bit_total": 30, "retired_pages_double_bit_total": 29},
        {"ecc_uncorrected_aggregate_total": 4},
        {"ecc_corrected_total": 10**9},
    ],
)
def test_below_the_limits_there_is_nothing(fields: dict[str, Any]) -> None:
    assert not judge(snapshot(gpus=(gpu(0, **fields),))).observations


MIG = {
    "mig_enabled": True,
    "utilization_ratio": None,
    "memory_utilization_ratio": None,
    "remap_pending": None,
    "remap_failed": None,
}


def test_a_gpu_cut_into_instances_is_judged_by_what_it_still_tells() -> None:
    shots = [snapshot(tick * 10.0, gpus=eight({**BUSY, **MIG})) for tick in range(100)]
    assert not after(shots).observations
    hot = [snapshot(0, gpus=eight({**BUSY, **MIG}, temperature_celsius=90.0))]
    assert only(after(hot)).code.code == "gpu-too-hot"


UNMEASURED = sorted(
    name
    for name, default in zip(Gpu.__struct_fields__[3:], Gpu.__struct_defaults__, strict=True)
    if default is None
)


def play(shots: list[Snapshot]) -> Checked[Memory]:
    checked: Checked[Memory] = Checked(memory=Memory())
    for shot in shots:
        checked = judge(shot, checked.memory)
        assert checked.observations == (), checked.observations
    return checked


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.sampled_from(UNMEASURED)), min_size=1, max_size=6))
def test_what_is_not_measured_never_raises_anything(absent: list[set[str]]) -> None:
    """Whatever part of a healthy reading is missing, from one look to the next."""
    shots = []
    for tick in range(90):
        gone = absent[tick % len(absent)]
        base = {name: (None if name in gone else value) for name, value in BUSY.items()}
        shots.append(snapshot(tick * 10.0, gpus=eight(base)))
    play(shots)


HEALTHY = st.fixed_dictionaries(
    {
        "temperature_celsius": st.floats(45, 64),
        "memory_temperature_celsius": st.floats(25, 94),
        "power_watts": st.floats(400, 700),
        "utilization_ratio": st.floats(0, 1),
        "memory_utilization_ratio": st.floats(0, 1),
        "sm_clock_hertz": st.floats(1500e6, 1980e6),
        "clocks_event_reasons": st.sampled_from([0x0, 0x1, 0x2, 0x4, 0x10, 0x100]),
        "process_count": st.integers(0, 9),
        "ecc_corrected_total": st.integers(0, 1_000),
        "ecc_uncorrected_aggregate_total": st.integers(0, 4),
        "remapped_rows_corrected_total": st.integers(0, 512),
        "remapped_rows_uncorrected_total": st.integers(0, 511),
        "retired_pages_single_bit_total": st.integers(0, 30),
        "retired_pages_double_bit_total": st.integers(0, 29),
        "pcie_received_bytes_per_second": st.floats(0, 5e10),
        "performance_state": st.sampled_from([0, 1, 2]),
        "power_violation_seconds_total": st.floats(0, 1e9),
        "mig_enabled": st.booleans() | st.none(),
    }
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(HEALTHY, min_size=8, max_size=8), min_size=1, max_size=4),
    st.sampled_from([1.0, 10.0, 60.0]),
)
def test_healthy_readings_never_raise_anything(
    looks: list[list[dict[str, Any]]], step: float
) -> None:
    """Eight GPUs whose readings wander within what a well GPU shows; looked at in any rhythm."""
    shots = [
        snapshot(
            tick * step,
            gpus=tuple(
                gpu(index, **{**BUSY, **fields})
                for index, fields in enumerate(looks[tick % len(looks)])
            ),
        )
        for tick in range(100)
    ]
    play(shots)
