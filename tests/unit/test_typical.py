"""Typical pods: what is learned, what fades, and how little one tenant can do to it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.scores.fragmentation import Fragmentation
from aggregator.scores.rows import rows_of
from aggregator.scores.typical import (
    NO_HISTORY,
    Typical,
    TypicalPods,
    TypicalSettings,
    capped_shares,
)
from aggregator.scores.values import WHOLE, NodeRoom, PodShape

NOW = 1_790_000_000.0
WHOLE_GPU = PodShape(cpu_milli=8000, gpu_count=1, gpu_milli=WHOLE)
HALF_GPU = PodShape(cpu_milli=4000, gpu_count=1, gpu_milli=500)

amounts = st.floats(0.001, 1e6)


def odd(number: int) -> PodShape:
    return PodShape(cpu_milli=number, gpu_count=1, gpu_milli=1 + number % 999)


def weights(typical: Typical) -> dict[PodShape, float]:
    return dict(zip(typical.shapes, typical.weights.tolist(), strict=True))


@pytest.mark.parametrize("count", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_count_that_says_nothing_is_the_same_as_not_seen(count: float) -> None:
    assert weights(Typical.of({WHOLE_GPU: 3.0, HALF_GPU: count})) == {WHOLE_GPU: 1.0}
    assert weights(Typical.of({HALF_GPU: count})) == weights(NO_HISTORY) == {}


@given(st.dictionaries(st.integers(0, 50).map(odd), st.floats(), max_size=20))
def test_weights_sum_to_one_or_there_are_none(counts: dict[PodShape, float]) -> None:
    typical = Typical.of(counts)
    assert np.isfinite(typical.weights).all()
    assert not len(typical) or np.isclose(typical.weights.sum(), 1.0)


def test_a_histogram_cannot_be_changed_behind_the_models_back() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Typical.of({WHOLE_GPU: 1.0}).weights[0] = 2.0


def test_what_was_seen_twice_as_often_weighs_twice() -> None:
    pods = TypicalPods()
    for shape in (WHOLE_GPU, WHOLE_GPU, HALF_GPU):
        pods.saw(shape, "research", NOW)
    assert weights(pods.typical(NOW)) == pytest.approx({WHOLE_GPU: 2 / 3, HALF_GPU: 1 / 3})


def test_counts_halve_with_every_half_life() -> None:
    pods = TypicalPods(TypicalSettings(half_life_seconds=100.0))
    for _ in range(4):
        pods.saw(WHOLE_GPU, "research", NOW)
    pods.saw(HALF_GPU, "research", NOW + 200)
    assert weights(pods.typical(NOW + 200)) == pytest.approx({WHOLE_GPU: 0.5, HALF_GPU: 0.5})


def test_a_clock_that_jumps_back_or_is_no_number_does_no_harm() -> None:
    pods = TypicalPods()
    pods.saw(WHOLE_GPU, "research", NOW)
    pods.saw(HALF_GPU, "research", math.nan)
    pods.saw(WHOLE_GPU, "research", NOW - 1e9)
    assert weights(pods.typical(NOW - 2e9)) == {WHOLE_GPU: 1.0}


def test_pods_of_long_ago_leave_nothing_rather_than_nonsense() -> None:
    pods = TypicalPods(TypicalSettings(half_life_seconds=1.0))
    pods.saw(WHOLE_GPU, "research", 0.0)
    assert weights(pods.typical(NOW)) == {}


def test_memory_stays_bounded_however_many_odd_pods_come() -> None:
    bounds = TypicalSettings(shapes_per_tenant=10, tenants=5)
    pods = TypicalPods(bounds)
    for number in range(2000):
        pods.saw(odd(number), f"tenant-{number % 40}", NOW)
    assert len(pods.typical(NOW)) <= 50
    assert len(pods.shares(NOW)) <= 5


@given(st.dictionaries(st.text(max_size=3), amounts, min_size=1, max_size=12), st.floats(0.01, 1))
def test_no_share_passes_the_cap_and_all_of_it_is_given_out(
    sums: dict[str, float], cap: float
) -> None:
    shares = capped_shares(sums, cap)
    assert math.isclose(sum(shares.values()), 1.0, abs_tol=1e-9)
    assert max(shares.values()) <= max(cap, 1 / len(sums)) + 1e-9


@given(st.lists(amounts, min_size=1, max_size=10), st.floats(0.001, 1e9))
def test_a_new_tenant_takes_from_the_others_no_more_than_the_cap(
    sums: list[float], flood: float
) -> None:
    before = capped_shares({str(place): amount for place, amount in enumerate(sums)}, 0.25)
    after = capped_shares({**{str(p): a for p, a in enumerate(sums)}, "flood": flood}, 0.25)
    assert all(after[name] <= share + 1e-9 for name, share in before.items())
    lost = sum(share - after[name] for name, share in before.items())
    assert lost <= max(0.25, 1 / (len(sums) + 1)) + 1e-9


def thousand_odd_pods(pods: TypicalPods) -> None:
    for number in range(1000):
        pods.saw(odd(number), "odd", NOW)


@given(st.lists(st.integers(0, WHOLE), min_size=1, max_size=8), st.integers(0, 96))
@settings(max_examples=25, deadline=None)
def test_a_thousand_odd_pods_of_one_tenant_move_a_cost_only_within_the_stated_bound(
    gpus: list[int], cores: int
) -> None:
    pods = TypicalPods()
    for tenant in ("a", "b", "c", "d"):
        for _ in range(20):
            pods.saw(WHOLE_GPU, tenant, NOW)
            pods.saw(HALF_GPU, tenant, NOW)
    kind = ("nvidia.com/gpu", "A")
    rooms = [
        NodeRoom(
            name="n", resource=kind[0], model="A", cpu_free_milli=cores * 1000, gpus=tuple(gpus)
        )
    ]
    rows = rows_of(rooms, [kind], 8)
    honest = Fragmentation(pods.typical(NOW), [kind])(rows)[0]
    thousand_odd_pods(pods)
    poisoned = Fragmentation(pods.typical(NOW), [kind])(rows)[0]
    assert abs(poisoned - honest) <= 0.25 * sum(gpus) + 1e-6


def test_a_thousand_odd_pods_hold_no_more_than_a_quarter_of_the_weight() -> None:
    pods = TypicalPods()
    for tenant in ("a", "b", "c", "d"):
        pods.saw(WHOLE_GPU, tenant, NOW)
    thousand_odd_pods(pods)
    assert weights(pods.typical(NOW))[WHOLE_GPU] >= 0.75 - 1e-9


def test_of_many_tenants_with_many_shapes_the_most_common_are_told() -> None:
    pods = TypicalPods(TypicalSettings(shapes=10))
    for tenant in range(20):
        for size in range(tenant + 1):
            pods.saw(PodShape(cpu_milli=1 + size, gpu_count=1, gpu_milli=1000), f"t{tenant}", 0.0)
    told = pods.typical(0.0)
    assert sorted(each.cpu_milli for each in told.shapes) == list(range(1, 11))
    assert told.weights.sum() == pytest.approx(1.0)
