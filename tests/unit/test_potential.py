"""The potential: which place it prefers, by hand; and what must never come out of it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.scores.potential import Potential, stranded
from aggregator.scores.rows import rows_of
from aggregator.scores.typical import NO_HISTORY, Typical
from aggregator.scores.values import WHOLE, NodeRoom, PodShape

KIND = ("nvidia.com/gpu", "A")
OTHER = ("nvidia.com/gpu", "B")

shapes = st.builds(
    PodShape,
    cpu_milli=st.integers(-1, 12).map(lambda cores: cores * 1000),
    gpu_count=st.integers(0, 4),
    gpu_milli=st.sampled_from([-5, 0, 1, 250, 333, 500, 900, WHOLE, 1200]),
    models=st.sampled_from([(), ("A",), ("B", "C")]),
)
rooms = st.builds(
    NodeRoom,
    name=st.just("node"),
    resource=st.just(KIND[0]),
    model=st.sampled_from(["A", "B"]),
    cpu_free_milli=st.integers(-1, 12).map(lambda cores: cores * 1000),
    gpus=st.lists(st.integers(-5, WHOLE + 5), max_size=5).map(tuple),
    sick=st.lists(st.booleans(), max_size=5).map(tuple),
)
histograms = st.dictionaries(shapes, st.floats(allow_nan=True), max_size=6)


def share(milli: int, cores: int = 4) -> PodShape:
    return PodShape(cpu_milli=cores * 1000, gpu_count=1, gpu_milli=milli)


MIX = Typical.of(
    {share(WHOLE, 10): 60, share(810, 3): 15, share(470, 10): 10, share(650, 10): 4}
    | {share(320): 4, share(230): 2, share(160): 1}
)


def room(*gpus: int, cores: float = 96, sick: tuple[bool, ...] = (), model: str = "A") -> NodeRoom:
    return NodeRoom(
        name="node",
        resource=KIND[0],
        model=model,
        cpu_free_milli=int(cores * 1000),
        gpus=gpus,
        sick=sick,
    )


def phi(*states: NodeRoom, typical: Typical = MIX) -> list[float]:
    devices = max([len(each.gpus) for each in states], default=1)
    values = Potential(typical, [KIND, OTHER])(rows_of(states, [KIND, OTHER], devices))
    return [float(each) for each in values]


def cost(before: NodeRoom, after: NodeRoom, typical: Typical = MIX) -> float:
    first, then = phi(before, after, typical=typical)
    return then - first


def taking(milli: int, free: int) -> float:
    """What it costs to take this much of one device with so much free, CPU aside."""
    table = stranded(MIX)
    return float(table[free - milli] - table[free])


def test_the_rare_small_pod_goes_to_the_gap_that_nothing_else_can_use() -> None:
    assert taking(160, 190) < min(taking(160, free) for free in (230, 350, 530, 1000))


def test_a_gap_is_kept_for_the_pod_that_fills_it() -> None:
    assert taking(320, 350) < taking(320, 1000), "beside a 0.65"
    assert taking(320, 350) < taking(320, 530), "a 0.47 will come for the 0.53"
    assert taking(470, 530) < taking(470, 1000)
    assert taking(230, 350) > taking(230, 530), "0.12 would be left of 0.35 for ever"


def test_a_pod_without_devices_goes_where_cores_are_in_surplus() -> None:
    surplus = cost(room(WHOLE, WHOLE, cores=104), room(WHOLE, WHOLE, cores=72))
    needed = cost(room(*[WHOLE] * 8, cores=96), room(*[WHOLE] * 8, cores=64))
    full = cost(room(0, 0, cores=40), room(0, 0, cores=8))
    assert full == 0.0
    assert surplus < needed / 10


def test_a_whole_device_is_taken_where_the_pods_cores_fit_the_node() -> None:
    rich = cost(room(WHOLE, WHOLE, cores=52), room(0, WHOLE, cores=34))
    poor = cost(room(WHOLE, WHOLE, cores=20), room(0, WHOLE, cores=2))
    assert rich < poor


def test_without_history_a_started_device_is_filled_before_another_is_begun() -> None:
    started = cost(room(WHOLE, 500), room(WHOLE, 200), NO_HISTORY)
    begun = cost(room(WHOLE, 500), room(700, 500), NO_HISTORY)
    assert started < begun
    poor, rich = phi(room(WHOLE, cores=0), room(WHOLE, cores=96), typical=NO_HISTORY)
    assert poor == rich, "nothing is known of CPU"


def test_pods_that_may_not_run_on_a_model_do_not_count_there() -> None:
    only = Typical.of({PodShape(gpu_count=1, gpu_milli=400, models=("A",)): 1.0})
    on_a, on_b = phi(room(400), room(400, model="B"), typical=only)
    assert on_a < on_b
    assert on_b == phi(room(400, model="B"), typical=NO_HISTORY)[0]


def test_an_empty_fleet_has_no_values() -> None:
    assert Potential(MIX, [])(rows_of([], [], 1)).shape == (0,)
    assert Potential(NO_HISTORY, [KIND])(rows_of([], [KIND], 1)).shape == (0,)


@given(histograms, st.lists(rooms, max_size=4))
@settings(max_examples=80, deadline=None)
def test_values_are_always_numbers_and_within_the_free_devices(
    counts: dict[PodShape, float], states: list[NodeRoom]
) -> None:
    for state, value in zip(states, phi(*states, typical=Typical.of(counts)), strict=True):
        free = sum(min(WHOLE, max(0, each)) for each in state.gpus)
        assert np.isfinite(value)
        assert -WHOLE * len(state.gpus) <= value <= 1.5 * free + 1e-6
        if not free:
            assert value == 0.0


@given(histograms, rooms)
@settings(max_examples=60, deadline=None)
def test_a_sick_device_is_as_if_it_were_not_there(
    counts: dict[PodShape, float], state: NodeRoom
) -> None:
    sick = [place < len(state.sick) and state.sick[place] for place in range(len(state.gpus))]
    well = tuple(free for free, bad in zip(state.gpus, sick, strict=True) if not bad)
    without = room(*well, cores=state.cpu_free_milli / 1000, model=state.model)
    first, second = phi(state, without, typical=Typical.of(counts))
    assert abs(first - second) < 1e-6


@given(histograms, rooms, st.integers(0, 20_000))
@settings(max_examples=60, deadline=None)
def test_more_free_cpu_never_strands_more(
    counts: dict[PodShape, float], state: NodeRoom, more: int
) -> None:
    cores = max(0, state.cpu_free_milli) / 1000
    less_cpu = room(*state.gpus, cores=cores, model=state.model)
    more_cpu = room(*state.gpus, cores=cores + more / 1000, model=state.model)
    poor, rich = phi(less_cpu, more_cpu, typical=Typical.of(counts))
    assert rich <= poor + 1e-6


@given(histograms)
@settings(max_examples=60, deadline=None)
def test_one_table_of_bounded_numbers_says_all_about_a_single_device(
    counts: dict[PodShape, float],
) -> None:
    table = stranded(Typical.of(counts))
    assert table.shape == (WHOLE + 1,)
    assert table[0] == 0.0
    assert np.isfinite(table).all()
    assert (np.abs(table) <= WHOLE).all()
    assert (np.diff(table) <= 1.0 + 1e-9).all(), "a thousandth more free strands no more than that"
