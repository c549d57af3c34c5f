"""Fragmentation: the paper's definition by hand, against a plain loop, and what must never come out of it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.scores.fragmentation import Fragmentation, accepts
from aggregator.scores.rows import rows_of, usable
from aggregator.scores.typical import NO_HISTORY, Typical
from aggregator.scores.values import WHOLE, NodeRoom, PodShape

KIND = ("nvidia.com/gpu", "A")
OTHER = ("nvidia.com/gpu", "B")

shapes = st.builds(
    PodShape,
    cpu_milli=st.integers(0, 12).map(lambda cores: cores * 1000),
    memory_mib=st.integers(0, 4),
    gpu_count=st.integers(0, 4),
    gpu_milli=st.sampled_from([0, 1, 250, 500, 900, WHOLE]),
    models=st.sampled_from([(), ("A",), ("B", "C")]),
)
rooms = st.builds(
    NodeRoom,
    name=st.just("node"),
    resource=st.just(KIND[0]),
    model=st.sampled_from(["A", "B"]),
    cpu_free_milli=st.integers(-1, 12).map(lambda cores: cores * 1000),
    memory_free_mib=st.integers(0, 4),
    gpus=st.lists(st.integers(-5, WHOLE + 5), max_size=5).map(tuple),
    sick=st.lists(st.booleans(), max_size=5).map(tuple),
)
histograms = st.dictionaries(shapes, st.floats(allow_nan=True), max_size=8)


def room(*gpus: int, cores: int = 96) -> NodeRoom:
    return NodeRoom(
        name="node", resource=KIND[0], model="A", cpu_free_milli=cores * 1000, gpus=gpus
    )


def f_of(typical: Typical, node: NodeRoom) -> float:
    measure = Fragmentation(typical, [KIND, OTHER])
    return float(measure(rows_of([node], [KIND, OTHER], 8))[0])


def by_definition(typical: Typical, node: NodeRoom) -> float:
    free = usable(node)
    total = 0.0
    for shape, weight in zip(typical.shapes, typical.weights, strict=True):
        fits = (
            shape.gpu_milli_total > 0
            and accepts(shape, (node.resource, node.model))
            and shape.cpu_milli <= max(0, node.cpu_free_milli)
            and sum(each >= shape.gpu_milli for each in free) >= shape.gpu_count
        )
        total += float(weight) * sum(each for each in free if not fits or each < shape.gpu_milli)
    return total


def test_the_papers_definition_worked_out_by_hand() -> None:
    # Two of three typical pods want half a GPU and 4 cores, one wants a whole GPU and 8 cores.
    half = PodShape(cpu_milli=4000, gpu_count=1, gpu_milli=500)
    whole = PodShape(cpu_milli=8000, gpu_count=1, gpu_milli=WHOLE)
    typical = Typical.of({half: 2, whole: 1})
    # 400 is too little for both; 600 and 1000 will do for the half; only 1000 for the whole.
    assert np.isclose(f_of(typical, room(400, 600, 1000)), (2 / 3) * 400 + (1 / 3) * 1000)
    # With 6 cores left the whole one does not fit: all 2000 are lost to it.
    assert np.isclose(f_of(typical, room(400, 600, 1000, cores=6)), (2 / 3) * 400 + (1 / 3) * 2000)
    # With 2 cores left nobody fits.
    assert np.isclose(f_of(typical, room(400, 600, 1000, cores=2)), 2000)


def test_a_pod_without_gpus_can_use_none_of_them() -> None:
    typical = Typical.of({PodShape(cpu_milli=1000): 1.0})
    assert f_of(typical, room(300, 1000)) == 1300


def test_a_gpu_of_the_wrong_model_is_of_no_use() -> None:
    picky = PodShape(gpu_count=1, gpu_milli=WHOLE, models=("B",))
    assert f_of(Typical.of({picky: 1.0}), room(1000)) == 1000


def test_a_sick_gpu_is_neither_free_nor_stranded() -> None:
    typical = Typical.of({PodShape(gpu_count=1, gpu_milli=500): 1.0})
    sick = NodeRoom(name="node", resource=KIND[0], model="A", gpus=(300, 400), sick=(True, False))
    assert f_of(typical, sick) == 400


def test_without_a_history_every_node_is_the_same() -> None:
    assert f_of(NO_HISTORY, room(300, 1000)) == f_of(NO_HISTORY, room()) == 0


@given(histograms, rooms)
@settings(max_examples=200)
def test_the_tables_say_what_the_definition_says(
    counts: dict[PodShape, float], node: NodeRoom
) -> None:
    typical = Typical.of(counts)
    assert np.isclose(f_of(typical, node), by_definition(typical, node), atol=1e-6)


@given(histograms, st.lists(rooms, min_size=1, max_size=6))
def test_it_is_finite_and_within_what_is_free(
    counts: dict[PodShape, float], nodes: list[NodeRoom]
) -> None:
    rows = rows_of(nodes, [KIND, OTHER], 8)
    found = Fragmentation(Typical.of(counts), [KIND, OTHER], memory=True)(rows)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found <= rows.gpus.sum(axis=1) + 1e-6).all()
