"""Packing by measured use: which device takes a newcomer, at what risk, and who is never packed so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.policy.model import ClusterNode, NodeCapacity
from aggregator.scores.book import ScoreBook
from aggregator.scores.device_facts import DeviceFacts
from aggregator.scores.explain import terms_of
from aggregator.scores.loads import Loads, overload_risks
from aggregator.scores.placed import PlacedPod
from aggregator.scores.rooms import RoomBook
from aggregator.scores.terms import Newcomer, ScoreTerms, Use
from aggregator.scores.use import DutyHistory, UseBook, overload_risk
from aggregator.scores.values import PodShape
from tests.score_builders import GPU, NOW, facts, put, wants

HALF = PodShape(cpu_milli=1_000, gpu_count=1, gpu_milli=500)
NEWCOMER = Newcomer(shape=HALF, workload="team/Deployment/new")


def history(*duty: float) -> DutyHistory:
    """So many samples of each, over two hours."""
    made = DutyHistory(NOW)
    for number in range(240):
        made.add(NOW + 30 * number, duty[number % len(duty)], 1 << 30)
    return made


class World:
    """Nodes of two GPUs, one shared pod on the first of each, its use as given."""

    def __init__(self, *residents: DutyHistory | None, kind: str = "serving") -> None:
        self.rooms, self.uses = RoomBook(), UseBook()
        self.book = ScoreBook(ScoreTerms(packing=0, keep_whole=0, rdma=0, neighbourhood=0, use=1))
        self.book.add_term(Use(Loads(self.book.table, self.rooms, self.uses, 0.05), 0.05))
        self.uses._histories["team/Deployment/new"] = history(0.3)
        for number, resident in enumerate(residents):
            self._node(f"n{number}", resident, kind)
        self.book.settle(NOW)

    def _node(self, name: str, resident: DutyHistory | None, kind: str) -> None:
        capacity = NodeCapacity(cpu_milli=64_000, memory_mib=512_000, devices={GPU: 2})
        self.rooms.set_node(ClusterNode(name=name, gpu_capacity=2, capacity=capacity))
        ids = (f"{name}-a", f"{name}-b")
        self.rooms.set_devices(
            name,
            DeviceFacts(resource=GPU, ids=ids, sick=(False, False), memory_mib=(80_000, 80_000)),
        )
        full = PodShape(gpu_count=1, gpu_milli=1000, resource=GPU)
        for key, ask, device in (("shared", HALF, ids[0]), ("whole", full, ids[1])):
            self.rooms.set_pod(
                PlacedPod(
                    namespace=name,
                    name=key,
                    uid=f"{name}-{key}",
                    node=name,
                    ask=ask,
                    kind=kind,  # type: ignore[arg-type]
                    devices=(device,),
                )
            )
        if resident:
            self.uses._histories[f"device:{name}/{ids[0]}"] = resident
        put(self.book, facts(name), self.rooms.room(name))

    def value(self, node: str) -> float:
        return float(self.book.values(NEWCOMER, np.array([self.book.table.index[node]]))[0])

    def words(self, node: str) -> str:
        return terms_of(self.book, NEWCOMER, self.book.table.index[node])[-1].words


def test_the_busiest_device_within_the_risk_is_the_best_and_one_beyond_it_the_worst() -> None:
    world = World(history(0.1), history(0.5), history(0.9))
    assert world.value("n0") == pytest.approx(0.4, abs=0.05)
    assert world.value("n1") == pytest.approx(0.8, abs=0.05)
    assert world.value("n2") == 0.0
    assert "50% busy (p95); overload risk with the pod 0.0%" in world.words("n1")
    assert "overload risk 100.0% at best, 5% is allowed" in world.words("n2")
    scores = world.book.lookup(NEWCOMER, ["n0", "n1", "n2"]).tolist()
    assert scores[1] > scores[0] > scores[2] == 100


def test_without_history_it_abstains_and_says_so() -> None:
    world = World(None)
    assert np.isnan(world.value("n0"))
    assert "no use history of a device" in world.words("n0")
    stranger = Newcomer(shape=HALF, workload="team/Deployment/never-seen")
    told = terms_of(world.book, stranger, world.book.table.index["n0"])[-1]
    assert (told.value, told.words) == (None, "packed by requests alone: no use history")


def test_training_is_never_packed_by_use_nor_put_beside() -> None:
    world = World(history(0.1), kind="training")
    assert np.isnan(world.value("n0"))
    row = world.book.table.index["n0"]
    assert terms_of(world.book, wants(2), row)[-1].value is None
    nameless = Newcomer(shape=HALF)
    assert "for training" in terms_of(world.book, nameless, row)[-1].words


duties = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(st.lists(duties, min_size=1, max_size=4), duties)
def test_many_at_once_are_told_the_same_risk_as_one_by_one(
    devices: list[list[float]], newcomer: list[float]
) -> None:
    theirs, own = [history(*each) for each in devices], history(*newcomer)
    found = overload_risks([each.shares for each in theirs], own.shares)
    for each, risk in zip(theirs, found, strict=True):
        assert risk == pytest.approx(overload_risk([each, own]), abs=0.006)
        assert 0.0 <= risk <= 1.0


@given(duties, duties)
def test_a_busier_neighbour_is_never_less_risky(one: list[float], own: list[float]) -> None:
    calm = history(*one)
    busy = history(*(min(1.0, each + 0.2) for each in one))
    low, high = overload_risks([calm.shares, busy.shares], history(*own).shares)
    assert low <= high + 1e-6  # a history adds up in 32 bits
