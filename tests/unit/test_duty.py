"""How busy a GPU was over time: every sample of the driver counts once, however the agent's looks fall."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sources.nvml_child.duty import LONGEST_SECONDS, SPREAD, Duty, mean_after
from agent.sources.nvml_child.values import RARELY, SLOW

KEPT = 71
STEP = 200_000
START = 1_795_737_200_000_000
NOT_FOUND = 6
Looks = list[tuple[float, float | None]]


class Driver:
    """The driver's samples as of ``now`` seconds, and the calls that were made for them."""

    def __init__(self, percents: list[int]) -> None:
        self.now = 0.0
        self.set_back = 0
        """Microseconds."""
        self.stopped_at = math.inf
        self.refuses: int | None = None
        self.kind = 1
        self.member = "uiVal"
        self.answers: list[list[float]] = []
        self.asked_at: list[float] = []
        self._percents = percents

    def percent(self, number: int) -> int:
        return self._percents[number % len(self._percents)]

    def samples(self, handle: object, kind: int, seen: int) -> tuple[int, list[Any]]:
        assert kind == pynvml.NVML_GPU_UTILIZATION_SAMPLES
        self.asked_at.append(self.now)
        if self.refuses is not None:
            raise pynvml.NVMLError(self.refuses)
        newest = int(min(self.now, self.stopped_at) * 1e6) // STEP
        there = [
            (START + number * STEP - self.set_back, self.percent(number))
            for number in range(newest - KEPT + 1, newest + 1)
        ]
        newer = [each for each in there if each[0] > seen]
        if not newer:
            raise pynvml.NVMLError(NOT_FOUND)
        self.answers.append([percent for _, percent in newer])
        return self.kind, [
            SimpleNamespace(timeStamp=stamp, sampleValue=SimpleNamespace(**{self.member: percent}))
            for stamp, percent in newer
        ]


class Watch:
    """A ``Duty`` that looks at a driver at times of the test's own."""

    def __init__(self, driver: Driver, monkeypatch: pytest.MonkeyPatch, index: int = 0) -> None:
        monkeypatch.setattr(pynvml, "nvmlDeviceGetSamples", driver.samples)
        self._driver, self._index, self._tick = driver, index, 0
        self._duty = Duty(clock=lambda: driver.now)
        self.turned: list[tuple[str, int]] = []
        self._dial: Any = SimpleNamespace(turn=lambda *call: self.turned.append(call))

    def look(self, at: float) -> float | None:
        self._driver.now = at
        told = self._duty.read(None, self._index, self._tick, self._dial)
        self._tick += 1
        return told.get("duty_cycle_percent")

    def every(self, period: float, seconds: float, since: float = 100.0) -> Looks:
        times = [since + number * period for number in range(int(seconds / period) + 1)]
        return [(at, self.look(at)) for at in times]


HALF = [98, 98, 44, 0, 0]
"""On for half of every second: 48 %, whatever the phase."""


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75])
def test_half_a_load_in_step_with_our_samples_is_half_a_load(
    phase: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Watch(Driver(HALF), monkeypatch).every(1.0, 60, since=100 + phase)
    assert all(told == pytest.approx(48, abs=1.5) for _, told in looks)
    assert {told for at, told in looks if at > 115} == {48}


RECORDED = Path("tests/nvml/recordings/samples/h200-580.159.04-half-duty.json")


def test_what_a_real_card_said_of_half_a_load_is_half_a_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = json.loads((Path(__file__).parents[2] / RECORDED).read_bytes())["looks"]
    assert max(each["utilization_percent"] for each in recorded) < 33, "whenever it was asked"
    percents = [percent for each in recorded for percent in each["samples_percent"]]
    looks = Watch(Driver(percents), monkeypatch).every(1.0, 120)
    assert all(told == pytest.approx(48, abs=2) for _, told in looks)


@pytest.mark.parametrize(
    ("period", "pause"), [(0.05, 10.5), (1.0, 10), (2.0, 10), (3.0, 9), (5.0, 10), (7.0, 7)]
)
def test_the_driver_is_asked_as_seldom_as_no_time_is_lost(
    period: float, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(HALF)
    Watch(driver, monkeypatch).every(period, 70)
    pauses = [after - before for before, after in pairwise(driver.asked_at)]
    assert all(each == pytest.approx(pause, abs=0.06) for each in pauses)
    assert max(pauses) <= LONGEST_SECONDS + 1e-6


def test_with_samples_a_minute_apart_it_is_the_last_fourteen_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver([50, 70])
    looks = Watch(driver, monkeypatch).every(60.0, 300)
    assert all(told == pytest.approx(60, abs=0.5) for _, told in looks)
    assert [len(each) for each in driver.answers] == [KEPT] * 6


def test_not_all_gpus_are_asked_in_the_same_second(monkeypatch: pytest.MonkeyPatch) -> None:
    second = set()
    for index in range(8):
        driver = Driver(HALF)
        Watch(driver, monkeypatch, index).every(1.0, 40)
        second.add(driver.asked_at[-1] % 10)
    assert len(second) == 8


@given(
    percents=st.lists(st.integers(0, 100), min_size=1, max_size=400),
    pauses=st.lists(st.floats(0.05, 3.5), min_size=1, max_size=60),
    index=st.integers(0, 15),
)
def test_every_sample_counts_once(percents: list[int], pauses: list[float], index: int) -> None:
    """In whatever rhythm the looks come, however much up to 3.5 s each wait differs from the one before."""
    driver = Driver(percents)
    with pytest.MonkeyPatch.context() as monkeypatch:
        watch = Watch(driver, monkeypatch, index)
        at, told = 100.0, [watch.look(100.0)]
        for pause in pauses:
            at += pause
            told.append(watch.look(at))
    means = [round(sum(answer) / len(answer), 2) for answer in driver.answers]
    # The early reading, which spreads the GPUs over the seconds, has all samples again.
    begun = 1 if index % SPREAD and len(driver.answers) > 1 else 0
    counted = [percent for answer in driver.answers[begun:] for percent in answer]
    first = int(driver.asked_at[begun] * 1e6) // STEP - KEPT + 1
    assert counted == [driver.percent(first + number) for number in range(len(counted))]
    assert set(told) <= set(means)
    assert told[-1] == means[-1]


@given(st.lists(st.tuples(st.integers(1, 10**16), st.integers(0, 100))), st.integers(0, 10**16))
def test_only_newer_samples_are_in_the_mean(samples: list[tuple[int, float]], seen: int) -> None:
    newer = [percent for stamp, percent in samples if stamp > seen]
    mean, newest = mean_after(seen, samples)
    assert mean == (sum(newer) / len(newer) if newer else None)
    assert newest == max([seen, *(stamp for stamp, _ in samples)])
    assert mean_after(newest, samples) == (None, newest)


def test_what_is_no_percentage_is_left_out() -> None:
    assert mean_after(0, [(1, math.nan), (2, 101), (3, 40), (4, 4e9)]) == (40, 4)
    assert mean_after(0, [(1, math.nan)]) == (None, 1)
    assert mean_after(0, [(1, -1), (2, 0), (3, 100)]) == (50, 3)


@pytest.mark.parametrize(
    ("kind", "member", "told"), [(0, "dVal", 48), (3, "ullVal", 48), (99, "uiVal", None)]
)
def test_samples_are_read_by_their_type_and_one_that_nobody_knows_is_no_percentage(
    kind: int, member: str, told: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(HALF)
    driver.kind, driver.member = kind, member
    found = Watch(driver, monkeypatch).look(100.0)
    assert found == (None if told is None else pytest.approx(told, abs=1.5))


def test_what_the_child_is_at_is_known_while_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs is named."""
    watch = Watch(Driver(HALF), monkeypatch, index=3)
    watch.look(100.0)
    assert watch.turned == [("nvmlDeviceGetSamples", 3)]


@pytest.mark.parametrize("index", range(10))
def test_the_number_that_comes_early_is_of_no_shorter_time(
    index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On for a tenth of a second in ten: nobody is told of a GPU that it is always busy."""
    rarely = [100] * 5 + [0] * 45
    looks = Watch(Driver(rarely), monkeypatch, index).every(1.0, 60)
    assert all(told is not None and told <= 15 for _, told in looks)


def test_a_driver_that_stopped_is_not_asked_in_every_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver(HALF)
    driver.stopped_at = 105.0
    looks = Watch(driver, monkeypatch).every(1.0, 100)
    assert {told for at, told in looks if at > 125} == {None}
    assert len([at for at in driver.asked_at if at > 125]) <= 2 * 8


@pytest.mark.parametrize(
    ("code", "pause"), [(3, RARELY), (4, RARELY), (13, RARELY), (6, SLOW), (2, SLOW)]
)
def test_a_driver_without_samples_is_not_asked_all_the_time(
    code: int, pause: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(HALF)
    driver.refuses = code
    watch = Watch(driver, monkeypatch)
    assert {told for _, told in watch.every(1.0, pause - 1)} == {None}
    assert len(driver.asked_at) == 1
    driver.refuses = None
    assert watch.look(1000.0) == pytest.approx(48, abs=1.5)


def test_a_failure_is_told_and_the_time_of_it_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(HALF)
    watch = Watch(driver, monkeypatch)
    watch.every(1.0, 5)
    driver.refuses = 999
    for at in (110.0, 110.5, 111.0):
        with pytest.raises(pynvml.NVMLError):
            watch.look(at)
    driver.refuses = None
    assert watch.look(111.25) == pytest.approx(48, abs=1.5)
    assert [len(each) for each in driver.answers] == [KEPT, 56]


def test_after_a_failure_the_next_look_asks_even_if_it_comes_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver(HALF)
    watch = Watch(driver, monkeypatch)
    watch.look(100.0)
    driver.refuses = 999
    with pytest.raises(pynvml.NVMLError):
        watch.look(109.0)
    driver.refuses = None
    assert watch.look(109.1) is not None


def test_a_clock_that_is_set_back_costs_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(HALF)
    watch = Watch(driver, monkeypatch)
    watch.every(1.0, 5)
    driver.set_back = 3_600_000_000
    told = watch.every(1.0, 30, since=106)
    assert all(each == pytest.approx(48, abs=1.5) for _, each in told)


def test_a_driver_that_takes_no_more_samples_is_not_taken_for_what_it_said_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver([90])
    watch = Watch(driver, monkeypatch)
    driver.stopped_at = 100.0
    told = watch.every(1.0, 30)
    assert [each for at, each in told if at < 110] == [90] * 10
    assert {each for at, each in told if at >= 110} == {None}
    driver.stopped_at = math.inf
    assert watch.look(141.0) == 90
