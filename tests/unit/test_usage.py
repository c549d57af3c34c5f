"""Use per node: what a feed is told of averages, deviations and percentiles, and what a gap in the data does."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.steps import at_once
from aggregator.usage import BYTES_PER_NODE, SLOTS, Summary, Usage
from tests.support import START
from tests.usage_builders import report, steady

SHARES = st.floats(0, 1)


def only(usage: Usage, now: float, seconds: float = 900) -> tuple[Summary | None, ...]:
    return usage.window(seconds, now)["n1"]


def test_a_node_is_told_by_its_averages_and_deviations() -> None:
    usage = Usage()
    for number in range(10):
        usage.take(report(cpu=0.2 if number % 2 else 0.4), START + 5 * number)
    cpu, memory, gpu = only(usage, START + 45)
    assert cpu
    assert cpu == pytest.approx((0.3, 0.1))
    assert memory == pytest.approx((0.5, 0.0), abs=1e-3)
    assert gpu == pytest.approx((0.5, 0.0), abs=1e-3)


def test_each_window_looks_only_so_far_back() -> None:
    usage = Usage()
    steady(usage, "n1", start=START, end=START + 600, cpu=0.0)
    steady(usage, "n1", start=START + 600, end=START + 900, cpu=0.9)
    now = START + 899
    averages = {seconds: only(usage, now, seconds)[0] for seconds in (300, 600, 900)}
    assert [round(each.average, 3) for each in averages.values() if each] == [0.9, 0.45, 0.3]


def test_percentiles_are_values_that_were_really_measured() -> None:
    usage = Usage()
    for number in range(100):
        usage.take(report(cpu=number / 100), START + 5 * number)
    cpu, memory, gpu = usage.percentiles(900, START + 495, (50, 90, 95, 99))["n1"]
    assert cpu == pytest.approx((0.49, 0.89, 0.94, 0.98))
    assert memory == pytest.approx((0.5,) * 4)
    assert gpu == pytest.approx((0.5,) * 4)


def test_what_was_not_measured_is_not_zero() -> None:
    usage = Usage()
    usage.take(report(cpu=None, memory=None, gpus=(None, 0.5)), START)
    assert only(usage, START) == (None, None, Summary(0.5, 0.0))
    assert usage.percentiles(900, START, (50,))["n1"] == (None, None, (0.5,))
    usage.take(report("dark", cpu=None, memory=None, gpus=()), START)
    assert "dark" not in usage.window(900, START)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.5])
def test_a_share_that_is_none_counts_as_not_measured(bad: float) -> None:
    usage = Usage()
    usage.take(report(cpu=bad, gpus=(bad, 0.5)), START)
    cpu, _, gpu = only(usage, START)
    assert cpu is None
    assert gpu == Summary(0.5, 0.0)


def test_more_memory_available_than_there_is_counts_as_not_measured() -> None:
    odd = report()
    odd.host.memory_available_bytes = odd.host.memory_total_bytes + 1
    usage = Usage()
    usage.take(odd, START)
    assert only(usage, START)[1] is None


def test_a_silent_node_has_ever_less_to_say_and_then_nothing() -> None:
    usage = Usage()
    steady(usage, "n1", start=START, end=START + 300, cpu=0.5)
    assert only(usage, START + 600)[0] == Summary(0.5, 0.0)
    assert "n1" not in usage.window(300, START + 600)
    assert "n1" not in usage.window(900, START + 1_300)
    assert usage.latest["n1"].received_seconds == START + 295


def test_a_gap_is_a_gap_when_the_node_comes_back() -> None:
    usage = Usage()
    steady(usage, "n1", start=START, end=START + 300, cpu=1.0)
    usage.take(report(cpu=0.0), START + 880)
    assert only(usage, START + 880, 300)[0] == Summary(0.0, 0.0)
    usage.take(report(cpu=0.5), START + 10_000)
    assert only(usage, START + 10_000)[0] == Summary(0.5, 0.0)


def test_a_clock_that_was_set_back_starts_the_node_anew() -> None:
    usage = Usage()
    steady(usage, "n1", start=START, end=START + 300, cpu=1.0)
    usage.take(report(cpu=0.25), START - 3_600)
    assert only(usage, START - 3_600)[0] == Summary(0.25, 0.0)


def test_a_clock_that_was_corrected_a_little_costs_a_few_samples() -> None:
    usage = Usage()
    steady(usage, "n1", start=START, end=START + 300, cpu=0.5)
    usage.take(report(cpu=1.0), START + 280)
    assert only(usage, START + 300)[0] == Summary(0.5, 0.0)
    assert usage.latest["n1"].cpu_ratio == 1.0


def test_a_node_that_is_forgotten_leaves_nothing_to_the_next_one_in_its_place() -> None:
    usage = Usage()
    steady(usage, "n1", start=START, end=START + 300)
    usage.keep({"n2"})
    usage.take(report("n2", cpu=None), START + 300)
    summaries = usage.window(900, START + 300)
    assert set(summaries) == {"n2"}
    assert summaries["n2"][0] is None


def test_memory_is_bounded_by_the_nodes_there_are() -> None:
    usage = Usage()
    for number in range(1_000):
        usage.take(report(f"n{number % 200}"), START + number)
    rows = len(usage._shares)
    assert 200 <= rows <= 400
    assert usage._shares.nbytes == rows * BYTES_PER_NODE


@given(st.lists(SHARES, min_size=1, max_size=SLOTS))
def test_the_numbers_are_those_of_the_textbook(shares: list[float]) -> None:
    usage = Usage()
    for number, share in enumerate(shares):
        usage.take(report(cpu=share), START + 5 * number)
    cpu = only(usage, START + 5 * (len(shares) - 1))[0]
    assert cpu
    assert cpu.average == pytest.approx(statistics.fmean(shares), abs=1e-5)
    assert cpu.deviation == pytest.approx(statistics.pstdev(shares), abs=1e-3)


@given(st.lists(st.tuples(st.integers(0, 400), st.floats()), max_size=40))
def test_whatever_comes_whenever_it_comes_no_number_is_odd(
    reports: list[tuple[int, float]],
) -> None:
    usage = Usage()
    for slot, share in reports:
        usage.take(report(cpu=share, gpus=(share,)), START + 5 * slot)
    now = START + 5 * 400
    for three in usage.window(900, now).values():
        assert all(0 <= value <= 1 for each in three if each for value in each)
    for some in usage.percentiles(900, now, (50, 99)).values():
        assert all(0 <= value <= 1 for each in some if each for value in each)


def test_looking_at_all_nodes_in_steps_finds_the_same() -> None:
    usage = Usage()
    for number in range(120):
        steady(usage, f"n{number}", start=START, end=START + 50, cpu=number / 120)
    assert at_once(usage.window_in_steps(900, START + 50)) == usage.window(900, START + 50)
