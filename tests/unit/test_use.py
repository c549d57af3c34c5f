"""Measured use: what a history tells, what it does not, and what putting pods together risks."""

import csv
import gzip
import math
import random
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.fleet import Fleet, NodeState
from aggregator.scores.device_facts import device_facts
from aggregator.scores.placed import Kind
from aggregator.scores.use import (
    MIN_SAMPLES,
    MIN_SPAN_SECONDS,
    STEPS,
    DutyHistory,
    Use,
    UseBook,
    memory_fits,
    overload_risk,
    why_not_by_use,
)
from aggregator.scores.values import PodShape
from contract import report_pb2 as pb

START = 1_700_000_000.0
HOUR = 3600.0


def history(*duties: float, every: float = 60.0, half_life: float = 1e9) -> DutyHistory:
    made = DutyHistory(START, half_life)
    for number, duty in enumerate(duties):
        made.add(START + number * every, duty)
    return made


class TestHistory:
    def test_percentiles_are_those_of_the_samples(self) -> None:
        use = history(*(each / 100 for each in range(101))).use()
        assert use.duty_p50 == pytest.approx(0.5, abs=0.02)
        assert use.duty_p95 == pytest.approx(0.95, abs=0.02)
        assert use.duty_mean == pytest.approx(0.5, abs=0.01)
        assert (use.samples, use.span_seconds) == (101, 6000.0)

    def test_idle_and_busy_are_kept_exactly(self) -> None:
        use = history(0.0, 0.0, 0.0, 1.0, 1.0).use()
        assert (use.duty_p50, use.duty_p95) == (0.0, 1.0)
        assert use.duty_mean == pytest.approx(0.4, abs=1e-4)

    def test_what_was_long_ago_weighs_little(self) -> None:
        busy_once = history(*[1.0] * 100, *[0.0] * 100, half_life=600.0)
        assert busy_once.use().duty_mean < 0.001
        assert history(*[1.0] * 100, *[0.0] * 100).use().duty_mean == pytest.approx(0.5, abs=1e-4)

    def test_the_high_water_of_memory_sinks_as_slowly(self) -> None:
        made = DutyHistory(START, HOUR)
        made.add(START, 0.1, 8000)
        made.add(START + HOUR, 0.1, 1000)
        assert made.use().memory_high_bytes == 4000
        made.add(START + 10 * HOUR, 0.1, 1000)
        assert made.use().memory_high_bytes == 1000

    def test_what_is_no_number_is_left_out_and_a_clock_set_back_harms_nothing(self) -> None:
        made = history(0.5)
        for odd in (math.nan, math.inf, -math.inf, None):
            made.add(START - HOUR, odd, None)
        made.add(START + 1e12, 0.5)
        assert made.use().duty_p95 == 0.5
        assert (made.samples, made.first) == (2, START)

    def test_without_a_sample_it_is_all_zeros_and_says_so(self) -> None:
        assert DutyHistory(START).use() == Use(
            duty_p50=0, duty_p95=0, duty_mean=0, memory_high_bytes=0, samples=0, span_seconds=0
        )

    @given(
        st.lists(
            st.tuples(
                st.floats(),
                st.floats(allow_nan=False, allow_infinity=False, width=32),
                st.integers(),
            ),
            max_size=30,
        )
    )
    def test_no_reading_makes_it_no_number(self, readings: list[tuple[float, float, int]]) -> None:
        made = DutyHistory(START, HOUR)
        for duty, age, memory in readings:
            made.add(START + age, duty, memory if abs(memory) < 2**64 else None)
        use = made.use()
        assert 0.0 <= use.duty_p50 <= use.duty_p95 <= 1.0
        assert 0.0 <= use.duty_mean <= 1.0
        assert use.memory_high_bytes >= 0
        assert 0.0 <= overload_risk([made, made]) <= 1.0


class TestRisk:
    def test_one_alone_risks_nothing(self) -> None:
        assert overload_risk([]) == overload_risk([history(1.0)]) == 0.0

    def test_two_that_together_never_exceed_a_device_risk_nothing(self) -> None:
        assert overload_risk([history(0.5, 0.4), history(0.5, 0.1)]) == 0.0

    def test_two_that_always_do_risk_everything(self) -> None:
        assert overload_risk([history(0.6), history(0.6)]) == 1.0

    def test_independent_ones_meet_by_chance_and_correlated_ones_always(self) -> None:
        tenth = history(*[0.9] * 10, *[0.1] * 90)
        assert overload_risk([tenth, tenth], correlation=0.0) == pytest.approx(0.01, abs=1e-5)
        assert overload_risk([tenth, tenth], correlation=1.0) == pytest.approx(0.1, abs=0.002)
        assert overload_risk([tenth, tenth], correlation=0.5) == pytest.approx(0.055, abs=0.002)

    def test_independence_is_what_drawing_from_both_gives(self) -> None:
        random = np.random.default_rng(7)
        one, other = random.beta(2, 3, 4000), random.beta(1, 2, 4000)
        told = overload_risk([history(*one), history(*other)], correlation=0.0)
        # Rounded to fiftieths as the histories are, else the edge of overload is another one.
        drawn = np.round(one[:, None] * STEPS) + np.round(other[None, :] * STEPS) > STEPS
        assert told == pytest.approx(float(drawn.mean()), abs=1e-6)

    @given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=9), min_size=2, max_size=4))
    def test_one_more_never_lowers_it(self, duties: list[list[float]]) -> None:
        made = [history(*each) for each in duties]
        assert overload_risk(made) >= overload_risk(made[:-1]) - 1e-9

    def test_memory_has_to_fit_with_headroom(self) -> None:
        use = Use(
            duty_p50=0, duty_p95=0, duty_mean=0, memory_high_bytes=40, samples=9, span_seconds=9
        )
        assert memory_fits([use, use], 100)
        assert not memory_fits([use, use], 88)
        assert not memory_fits([use], 0), "of an unknown size nothing fits"


TRACE = Path(__file__).parents[2] / ".." / "shared" / "traces" / "pod_gpu_duty_cycle_anon.csv.gz"


@pytest.mark.skipif(not TRACE.exists(), reason=f"no trace of serving pods at {TRACE}")
def test_on_real_serving_pods_the_risk_is_about_what_was_measured() -> None:
    """They serve the same people's day: independence alone would promise less than half of the overload there is."""
    series: dict[str, dict[str, float]] = defaultdict(dict)
    with gzip.open(TRACE, "rt", encoding="ascii") as lines:
        for row in csv.DictReader(lines):
            series[row["container_ip"]][row["timestamp_anon"]] = float(row["value"]) / 100
    times = {time for each in series.values() for time in each}
    always = [each for each in series.values() if len(each) >= 0.95 * len(times)]
    assert len(always) == 92
    order = sorted(times, key=float)
    duties = np.array([[each.get(time, 0.0) for time in order] for each in always])
    made = [history(*each) for each in duties]
    rng = random.Random(1)
    groups = [rng.sample(range(len(made)), 5) for _ in range(60)]
    measured = np.mean([(duties[group].sum(axis=0) > 1).mean() for group in groups])
    told = np.mean([overload_risk([made[each] for each in group]) for group in groups])
    alone = np.mean(
        [overload_risk([made[each] for each in group], correlation=0.0) for group in groups]
    )
    assert measured == pytest.approx(0.07, abs=0.01)
    assert told == pytest.approx(float(measured), abs=0.025)
    assert alone < measured / 2


class TestWhoIsPackedByUse:
    SHARE = PodShape(gpu_count=1, gpu_milli=500)
    WHOLE = PodShape(gpu_count=1, gpu_milli=1000)

    def enough(self) -> DutyHistory:
        return history(*[0.2] * MIN_SAMPLES, every=2 * MIN_SPAN_SECONDS / MIN_SAMPLES)

    @pytest.mark.parametrize(("kind", "shape"), [("serving", WHOLE), ("serving", SHARE)])
    def test_serving_and_shared_pods_with_a_history(self, kind: Kind, shape: PodShape) -> None:
        assert why_not_by_use(kind, shape, self.enough()) == ""
        assert why_not_by_use("unknown", self.SHARE, self.enough()) == ""

    @pytest.mark.parametrize(
        ("kind", "shape", "words"),
        [
            ("training", SHARE, "never packed by use"),
            ("training", WHOLE, "never packed by use"),
            ("unknown", WHOLE, "fleetmedic.io/workload=serving"),
            ("serving", PodShape(gpu_count=2, gpu_milli=1000), "several devices"),
            ("serving", PodShape(), "no device"),
        ],
    )
    def test_nobody_else_however_much_is_known(
        self, kind: Kind, shape: PodShape, words: str
    ) -> None:
        assert words in why_not_by_use(kind, shape, self.enough())

    def test_no_history_is_said_and_not_guessed(self) -> None:
        assert why_not_by_use("serving", self.SHARE, None) == "no use history"
        assert why_not_by_use("serving", self.SHARE, DutyHistory(START)) == "no use history"
        assert "3 samples over 2 min" in why_not_by_use("serving", self.SHARE, history(0, 0, 0))


def reported(*gpus: dict[str, Any], **holders: tuple[str, ...]) -> NodeState:
    fleet = Fleet()
    report = pb.NodeReport(
        node="n1",
        sequence=1,
        gpus=[
            pb.Gpu(uuid=f"GPU-{index}", index=index, pci_bus_id=f"0000:{index}", **each)
            for index, each in enumerate(gpus)
        ],
        holders=[
            pb.Holders(subject=f"gpu:0000:{name[1:]}", pods=pods) for name, pods in holders.items()
        ],
    )
    fleet.apply(report, START)
    state = fleet.get("n1")
    assert state is not None
    return state


class TestBook:
    def take(self, book: UseBook, state: NodeState, now: float = START) -> None:
        book.take_report(state, device_facts(state), lambda pod: f"{pod.split('/')[0]}/D/llm", now)

    def test_a_device_that_one_pod_has_tells_of_its_workload(self) -> None:
        book = UseBook()
        alone = reported({"utilization_ratio": 0.5, "memory_used_bytes": 7}, d0=("team/a",))
        self.take(book, alone)
        for found in (book.of_device("n1", "GPU-0"), book.of_workload("team/D/llm")):
            assert found is not None
            assert (found.use().duty_p50, found.use().memory_high_bytes) == (0.5, 7)

    def test_one_that_several_share_tells_only_of_all_together(self) -> None:
        book = UseBook()
        self.take(book, reported({"utilization_ratio": 0.5}, d0=("team/a", "team/b")))
        assert book.of_device("n1", "GPU-0") is not None
        assert book.of_workload("team/D/llm") is None

    def test_with_other_pods_on_it_a_device_starts_anew(self) -> None:
        book = UseBook()
        self.take(book, reported({"utilization_ratio": 1.0}, d0=("team/a",)))
        self.take(book, reported({"utilization_ratio": 0.0}, d0=("team/b",)), START + 5)
        found, workload = book.of_device("n1", "GPU-0"), book.of_workload("team/D/llm")
        assert found is not None
        assert workload is not None
        assert (found.samples, workload.samples) == (1, 2)

    def test_an_empty_device_has_no_history(self) -> None:
        book = UseBook()
        self.take(book, reported({"utilization_ratio": 1.0}, d0=("team/a",)))
        self.take(book, reported({"utilization_ratio": 0.0}, d0=()), START + 5)
        assert book.of_device("n1", "GPU-0") is None

    def test_what_was_not_measured_is_not_taken_in(self) -> None:
        book = UseBook()
        self.take(book, reported({}, {"utilization_ratio": 0.2}))
        assert book.of_device("n1", "GPU-0") is None
        assert book.of_device("n1", "GPU-1") is not None

    def test_a_load_that_comes_and_goes_is_taken_by_its_duty_cycle(self) -> None:
        """Not by the moments at which it was asked for, which are all busy if they are a period apart."""
        book = UseBook()
        for number in range(10):
            half = {"utilization_ratio": 0.98, "duty_cycle_ratio": 0.48}
            self.take(book, reported(half, d0=("team/a",)), START + 5 * number)
        for found in (book.of_device("n1", "GPU-0"), book.of_workload("team/D/llm")):
            assert found is not None
            assert (found.use().duty_p95, found.samples) == (0.48, 5)

    def test_who_comes_has_nothing_of_the_duty_cycle_of_who_went(self) -> None:
        """Which stands for ten seconds and is of the ten before; memory is of the moment."""
        book = UseBook()
        for second in range(0, 300, 5):
            pod, use = ("a", 0.9) if second < 150 else ("b", 0.3)
            told = 0.9 if second < 170 else 0.3
            state = reported(
                {"utilization_ratio": use, "duty_cycle_ratio": told, "memory_used_bytes": 7},
                d0=(f"team-{pod}/{pod}",),
            )
            self.take(book, state, START + second)
            if second == 150:
                found = book.of_device("n1", "GPU-0")
                assert found is not None
                assert (found.samples, found.use().memory_high_bytes) == (0, 7)
        for pod, use in (("a", 0.9), ("b", 0.3)):
            workload = book.of_workload(f"team-{pod}/D/llm")
            assert workload is not None
            assert workload.use().duty_mean == pytest.approx(use)
            assert workload.samples == 25

    def test_it_stays_within_its_bound_and_lets_go_of_the_quietest(self) -> None:
        book = UseBook(max_histories=2)
        state = reported(*[{"utilization_ratio": 0.5}] * 2)
        self.take(book, state)
        self.take(book, reported({"utilization_ratio": 0.5}, d0=("team/a",)))
        assert len(book) == 2
        assert book.of_device("n1", "GPU-1") is None

    def test_a_device_costs_half_a_kibibyte(self) -> None:
        book = UseBook()
        state = reported(*[{"utilization_ratio": 0.5}] * 50)
        facts = device_facts(state)
        tracemalloc.start()
        self_before = tracemalloc.get_traced_memory()[0]
        book.take_report(state, facts, lambda pod: "", START)
        grown = tracemalloc.get_traced_memory()[0] - self_before
        tracemalloc.stop()
        assert grown / 50 < 800
