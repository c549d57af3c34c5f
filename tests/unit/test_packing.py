"""Packing: where pods fit, what a place is worth, and that the picture follows every change."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.scores.packing import Packing, PackingTerms, worth
from aggregator.scores.typical import NO_HISTORY, Typical
from aggregator.scores.values import WHOLE, NodeRoom, PodShape

GPU = "nvidia.com/gpu"
HALF = PodShape(cpu_milli=2000, memory_mib=1000, gpu_count=1, gpu_milli=500)
ONE = PodShape(cpu_milli=4000, memory_mib=2000, gpu_count=1, gpu_milli=WHOLE)
TWO = PodShape(cpu_milli=4000, memory_mib=2000, gpu_count=2, gpu_milli=WHOLE)
EIGHT = PodShape(cpu_milli=32000, memory_mib=2000, gpu_count=8, gpu_milli=WHOLE)
PLAIN = PodShape(cpu_milli=1000)
ALL = (HALF, ONE, TWO, EIGHT, PLAIN)
TYPICAL = Typical.of({HALF: 3, ONE: 5, TWO: 1, EIGHT: 1, PLAIN: 2})
FGD = PackingTerms(potential=0.0, fragmentation=1.0, order=0.0)


def room(name: str, *gpus: int, cores: int = 64, model: str = "A", **more: object) -> NodeRoom:
    made = NodeRoom(
        name=name,
        resource=GPU if gpus else "",
        model=model if gpus else "",
        cpu_milli=64_000,
        memory_mib=256_000,
        cpu_free_milli=cores * 1000,
        memory_free_mib=256_000,
        gpus=gpus,
    )
    return msgspec.structs.replace(made, **more) if more else made


rooms = st.lists(
    st.tuples(
        st.lists(st.sampled_from([0, 250, 500, 750, WHOLE]), max_size=8),
        st.integers(0, 64),
        st.lists(st.booleans(), max_size=8),
        st.sampled_from("AB"),
    ),
    min_size=1,
    max_size=5,
).map(
    lambda each: [
        room(f"n{at}", *gpus, cores=cores, model=model, sick=tuple(sick))
        for at, (gpus, cores, sick, model) in enumerate(each)
    ]
)
histograms = st.sampled_from([TYPICAL, NO_HISTORY, Typical.of({HALF: 1.0})])
terms = st.sampled_from(
    [PackingTerms(), FGD, PackingTerms(whole_nodes=1.0), PackingTerms(potential=0, order=0)]
)


def test_a_pod_fits_where_cpu_memory_and_gpus_are_left() -> None:
    nodes = [
        room("free", 1000, 1000),
        room("shared", 400, 400),
        room("no-cpu", 1000, 1000, cores=1),
        room("no-memory", 1000, 1000, memory_free_mib=10),
        room("no-gpu"),
    ]
    packing = Packing(nodes, TYPICAL)
    assert packing.fits(ONE).tolist() == [True, False, False, False, False]
    assert packing.fits(PLAIN).tolist() == [True] * 5


def test_a_pod_that_names_models_or_a_resource_fits_only_there() -> None:
    nodes = [room("a", 1000), room("b", 1000, model="B"), room("npu", 1000, resource="npu")]
    packing = Packing(nodes, TYPICAL)
    assert packing.fits(msgspec.structs.replace(ONE, models=("B",))).tolist() == [
        False,
        True,
        False,
    ]
    assert packing.fits(msgspec.structs.replace(ONE, resource="npu")).tolist() == [
        False,
        False,
        True,
    ]


def test_a_sick_gpu_is_no_capacity() -> None:
    packing = Packing([room("n", 1000, 1000, sick=(True, False))], TYPICAL)
    assert packing.devices(ONE, 0) == (1,)
    assert not packing.fits(TWO)[0]


def test_half_a_gpu_goes_to_the_half_that_is_left_rather_than_into_a_whole_one() -> None:
    packing = Packing([room("whole", 1000, 1000), room("broken", 1000, 500)], TYPICAL)
    value = packing.value(HALF)
    assert value[packing.index["broken"]] > value[packing.index["whole"]]
    assert packing.devices(HALF, packing.index["broken"]) == (1,)


@pytest.mark.parametrize("weights", [PackingTerms(), FGD])
def test_a_cpu_pod_avoids_the_node_whose_gpus_need_the_cpu(weights: PackingTerms) -> None:
    packing = Packing(
        [room("idle", *(1000,) * 8, cores=32), room("full", *(0,) * 8)], TYPICAL, terms=weights
    )
    hungry = PodShape(cpu_milli=30_000)
    assert packing.value(hungry)[1] > packing.value(hungry)[0]


def test_the_last_whole_node_is_kept_for_gangs_when_asked_for() -> None:
    nodes = [room("whole", *(1000,) * 8), room("used", 0, *(1000,) * 7)]
    kept = Packing(nodes, NO_HISTORY, terms=PackingTerms(whole_nodes=1.0))
    assert kept.value(ONE)[1] > kept.value(ONE)[0]
    assert kept.terms(ONE, 0)["whole_nodes"] == 8000
    assert kept.terms(EIGHT, 0)["whole_nodes"] == 0


def test_alike_nodes_have_one_value_or_a_fixed_order_by_name() -> None:
    names = ["n0", "n1", "n2", "n3"]
    assert len(set(Packing([room(name, 1000) for name in names], TYPICAL).value(ONE))) == 1
    ordered = PackingTerms(order=10)
    one = Packing([room(name, 1000) for name in names], TYPICAL, terms=ordered)
    other = Packing([room(name, 1000) for name in reversed(names)], TYPICAL, terms=ordered)
    by_name = dict(zip(one.names, one.value(ONE), strict=True))
    assert by_name == dict(zip(other.names, other.value(ONE), strict=True))
    assert len(set(by_name.values())) == len(names)


@given(rooms, histograms, terms, st.sampled_from(ALL))
@settings(max_examples=30, deadline=None)
def test_a_value_is_between_0_and_1_and_0_only_where_the_pod_does_not_fit(
    nodes: list[NodeRoom], typical: Typical, weights: PackingTerms, shape: PodShape
) -> None:
    packing = Packing(nodes, typical, terms=weights)
    value, fits = packing.value(shape), packing.fits(shape)
    assert np.isfinite(value).all()
    assert ((value > 0) == fits).all()
    assert (value < 1).all()


@given(rooms, terms, st.sampled_from(ALL))
@settings(max_examples=30, deadline=None)
def test_the_terms_that_are_shown_sum_to_the_cost(
    nodes: list[NodeRoom], weights: PackingTerms, shape: PodShape
) -> None:
    packing = Packing(nodes, TYPICAL, terms=weights)
    for node, cost in enumerate(packing.costs(shape)):
        shown = packing.terms(shape, node)
        if np.isinf(cost):
            assert not shown
            continue
        assert np.isclose(sum(shown.values()), cost, atol=1e-6)


@given(rooms, st.data())
@settings(max_examples=30, deadline=None)
def test_after_any_changes_the_picture_is_that_of_one_built_anew(
    nodes: list[NodeRoom], data: st.DataObject
) -> None:
    packing = Packing(nodes, TYPICAL)
    placed: list[tuple[int, PodShape, tuple[int, ...]]] = []
    for _ in range(data.draw(st.integers(1, 8))):
        shape = data.draw(st.sampled_from(ALL))
        node = int(np.argmax(packing.value(shape)))
        giving: bool = data.draw(st.booleans())
        if placed and giving:
            packing.give(*placed.pop())
        elif packing.fits(shape)[node]:
            devices = packing.devices(shape, node)
            packing.take(node, shape, devices)
            placed.append((node, shape, devices))
    anew = Packing([packing.room(node) for node in range(len(nodes))], TYPICAL)
    for shape in ALL:
        assert (packing.fits(shape) == anew.fits(shape)).all()
        assert np.allclose(packing.value(shape), anew.value(shape))


@given(rooms, rooms, st.sampled_from(ALL))
@settings(max_examples=30, deadline=None)
def test_a_replaced_node_is_as_if_it_had_always_been_so(
    before: list[NodeRoom], after: list[NodeRoom], shape: PodShape
) -> None:
    packing = Packing(before, TYPICAL)
    packing.value(shape)
    count = min(len(before), len(after))
    for node in after[:count]:
        packing.replace(node)
    anew = Packing([*after[:count], *before[count:]], TYPICAL)
    assert np.allclose(packing.value(shape), anew.value(shape))


def test_what_is_taken_is_given_back_to_the_last_thousandth() -> None:
    packing = Packing([room("n", 1000, 500)], TYPICAL)
    before = packing.room(0)
    packing.take(0, HALF, (1,))
    assert packing.room(0).gpus == (1000, 0)
    packing.give(0, HALF, (1,))
    assert packing.room(0) == before


@pytest.mark.parametrize(
    "act",
    [
        lambda packing: packing.take(0, ONE, (1,)),
        lambda packing: packing.take(0, TWO, (0,)),
        lambda packing: packing.give(0, ONE, (0,)),
        lambda packing: Packing([room("n"), room("n")]),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(act: Callable[[Packing], object]) -> None:
    with pytest.raises(ValueError, match=r"room|devices|hold|once"):
        act(Packing([room("n", 1000, 500)], TYPICAL))


def test_a_device_that_fell_sick_gives_nothing_back() -> None:
    packing = Packing([room("n", 1000, 1000)], TYPICAL)
    packing.take(0, ONE, (0,))
    packing.replace(msgspec.structs.replace(packing.room(0), sick=(True, False)))
    packing.give(0, ONE, (0,))
    assert packing.room(0).gpus == (0, 1000)
    assert packing.room(0).cpu_free_milli == 64_000


def test_a_node_that_is_not_in_the_picture_is_an_error() -> None:
    with pytest.raises(KeyError):
        Packing([room("n", 1000)]).replace(room("other", 1000))


def test_an_empty_fleet_has_no_values() -> None:
    assert Packing([]).value(ONE).tolist() == []


def test_no_cost_is_worth_a_half_and_more_cost_is_worth_less() -> None:
    value = worth(np.array([-1e12, -10.0, 0.0, 10.0, 1e12]))
    assert value[2] == 0.5
    assert (np.diff(value) < 0).all()
