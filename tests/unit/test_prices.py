"""Prices of shares: by hand, and what linear programming promises of them for any mix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.scores.prices import MAX_SIZES, worth_of
from aggregator.scores.values import WHOLE

demands = st.dictionaries(
    st.integers(1, WHOLE - 1), st.integers(1, 20).map(float), min_size=1, max_size=8
)


def prices(demand: dict[int, float]) -> dict[int, float]:
    worth = worth_of(demand)
    return dict(zip(worth.sizes.tolist(), worth.prices.round(6).tolist(), strict=True))


def first_fit_decreasing(demand: dict[int, float]) -> int:
    """Devices that a plain packing takes."""
    devices: list[int] = []
    for size in sorted((s for s, count in demand.items() for _ in range(int(count))), reverse=True):
        place = next((at for at, free in enumerate(devices) if free >= size), None)
        if place is None:
            devices.append(WHOLE - size)
        else:
            devices[place] -= size
    return len(devices)


def test_a_share_costs_what_the_devices_it_spoils_are_worth() -> None:
    assert prices({470: 10}) == {470: 0.5}
    assert prices({250: 1}) == {250: 0.25}
    together = prices({650: 3, 320: 3})
    assert together[650] + together[320] == pytest.approx(1.0)


def test_a_small_share_is_free_where_gaps_wait_for_it_and_dear_where_they_do_not() -> None:
    assert prices({810: 10, 160: 2}) == {810: 1.0, 160: 0.0}
    many = prices({810: 2, 160: 100})
    assert many[160] == pytest.approx(1 / 6, abs=1e-5)


def test_without_shares_only_a_whole_device_is_worth_anything() -> None:
    for nothing in ({}, {0: 5.0, WHOLE: 5.0, -3: 1.0, 1400: 2.0}, {300: 0.0, 200: -1.0}):
        worth = worth_of(nothing)
        assert len(worth.sizes) == 0
        assert worth.room[:WHOLE].max() == 0.0
        assert worth.room[WHOLE] == 1.0


def test_rare_sizes_count_as_the_next_larger_that_has_a_price() -> None:
    demand = {size: float(size) for size in range(10, 10 * (MAX_SIZES + 20), 10)}
    worth = worth_of(demand)
    assert len(worth.sizes) == MAX_SIZES
    assert worth.sizes.max() == max(demand)


def test_the_mix_alone_counts_not_the_unit_it_is_counted_in() -> None:
    one, other = worth_of({470: 3.0, 230: 5.0}), worth_of({470: 3e-9, 230: 5e-9})
    np.testing.assert_allclose(one.room, other.room, atol=1e-9)


@given(demands)
@settings(max_examples=60, deadline=None)
def test_more_room_is_never_worth_less_and_never_more_than_a_device(
    demand: dict[int, float],
) -> None:
    room = worth_of(demand).room
    assert room.shape == (WHOLE + 1,)
    assert np.isfinite(room).all()
    assert room[0] == 0.0
    assert room[WHOLE] == 1.0
    assert (np.diff(room) >= -1e-9).all()


@given(demands, st.data())
@settings(max_examples=60, deadline=None)
def test_no_set_of_shares_on_one_device_is_worth_more_than_the_device(
    demand: dict[int, float], data: st.DataObject
) -> None:
    worth = worth_of(demand)
    free, earned = WHOLE, 0.0
    while fitting := [at for at, size in enumerate(worth.sizes) if size <= free]:
        at = data.draw(st.sampled_from(fitting))
        free, earned = free - int(worth.sizes[at]), earned + float(worth.prices[at])
    assert earned <= 1.0 + 1e-6


@given(demands)
@settings(max_examples=60, deadline=None)
def test_no_packing_needs_fewer_devices_than_the_mix_is_worth(demand: dict[int, float]) -> None:
    worth = worth_of(demand)
    total = sum(
        demand[int(size)] * price for size, price in zip(worth.sizes, worth.prices, strict=True)
    )
    assert total <= first_fit_decreasing(demand) + 1e-6
    used = sum(size * count for size, count in demand.items()) / WHOLE
    assert total >= used - 1e-6, "the best prices are worth at least the room that is used"
