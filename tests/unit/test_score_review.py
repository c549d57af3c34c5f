"""What a person is told of a score is true, and what a liar, a bad release or a dead agent does to scores is bounded."""

import re
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.cluster import PodChange
from aggregator.feed_settings import FeedSettings
from aggregator.feeds.extender import FILTER_PATH, PRIORITIZE_PATH, Extender
from aggregator.feeds.extender_routes import extender_routes
from aggregator.policy.model import ClusterNode, ClusterView, NodeCapacity
from aggregator.scores.book import ScoreBook
from aggregator.scores.device_facts import DeviceFacts
from aggregator.scores.explain import Why, why
from aggregator.scores.loads import Loads
from aggregator.scores.model import Floats
from aggregator.scores.placed import PlacedPod
from aggregator.scores.rooms import RoomBook
from aggregator.scores.table import Places
from aggregator.scores.terms import Newcomer, ScoreTerms, Term
from aggregator.scores.typical import Typical
from aggregator.scores.use import DutyHistory, UseBook
from aggregator.scores.values import PodShape
from aggregator.scoring import ASSUMED
from aggregator.stats import AggregatorStats
from contract import report_pb2 as pb
from contract.vocabulary import Severity
from tests.score_builders import GPU, NOW, facts, put, room, wants
from tests.unit.test_scoring import Bench

HEALTH: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    {"worst": Severity.DEGRADED, "worst_text": "gpu-hot on gpu:1"},
    {"worst": Severity.FATAL, "worst_text": "gpu-lost on gpu:1"},
    {"received_seconds": None},
)
NODES = st.lists(
    st.tuples(
        st.lists(st.sampled_from([0, 300, 500, 1000]), min_size=2, max_size=8),
        st.sampled_from(HEALTH),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=5,
)
PODS = st.sampled_from([wants(1), wants(2), wants(4), wants(1, 300)])

Nodes = list[tuple[list[int], dict[str, Any], int]]


def fleet(nodes: Nodes) -> ScoreBook:
    book = ScoreBook()
    for number, (gpus, health, up) in enumerate(nodes):
        name = f"n{number}"
        put(book, facts(name, ports_up=up, ports_total=4, **health), room(name, gpus))
    book.settle(NOW)
    return book


@given(nodes=NODES, pod=PODS)
def test_the_terms_of_a_healthy_node_add_up_to_its_score(nodes: Nodes, pod: Newcomer) -> None:
    for each in why(fleet(nodes), pod, NOW, top=100).candidates:
        if each.verdict == "healthy":
            told = sum(line.share for line in each.terms) if each.fits else 0.0
            assert each.score == pytest.approx(100 + 900 * told, abs=1.0)


class Lifted:
    """A term that has another value on one node."""

    def __init__(self, term: Term, row: int, value: float) -> None:
        self._term, self._row, self._value = term, row, value
        self.name = term.name

    def values(self, pod: Newcomer, rows: Places) -> Floats:
        return np.where(rows == self._row, self._value, self._term.values(pod, rows))

    def words(self, pod: Newcomer, row: int) -> str:
        return self._term.words(pod, row)

    def wish(self, row: int, value: float) -> str:
        return self._term.wish(row, value)


@settings(max_examples=150)
@given(nodes=NODES, pod=PODS)
def test_what_is_said_to_change_the_order_changes_it(nodes: Nodes, pod: Newcomer) -> None:
    book = fleet(nodes)
    before = why(book, pod, NOW)
    if len(nodes) < 2:
        assert "only node" in before.change
        return
    first, other = before.candidates[:2]
    lifted = re.search(r"would win .*\((\w+): [\d.]+ → ([\d.]+)\)$", before.change)
    number = int(other.node[1:])
    gpus, health, up = nodes[number]
    if lifted:
        row = book.table.index[other.node]
        book._terms = [
            Lifted(each, row, float(lifted[2])) if each.name == lifted[1] else each
            for each in book._terms
        ]
        book._forget_arrays()
        assert wins(book, pod, other.node)
        if ports := re.search(r"if (\d) of its 4 RDMA ports", before.change):
            nodes[number] = (gpus, health, int(ports[1]))
            assert wins(fleet(nodes), pod, other.node)
    elif "would win if it were healthy" in before.change:
        nodes[number] = (gpus, {}, up)
        assert wins(fleet(nodes), pod, other.node)
    elif "even if it were healthy" in before.change:
        nodes[number] = (gpus, {}, up)
        after = why(fleet(nodes), pod, NOW, top=100).candidates
        assert not before_all(after, other.node)
    elif "as good as" in before.change:
        assert first.verdict == other.verdict != "sick"
        assert first.score - other.score <= 3
        assert first.fits or other.fits or first.verdict != "healthy"
    elif "fits neither" in before.change:
        assert not first.fits
    elif "is sick as well" in before.change:
        assert first.verdict == other.verdict == "sick"
    elif "room for the pod first" in before.change:
        assert not other.fits
    else:
        assert "no single term" in before.change


def wins(book: ScoreBook, pod: Newcomer, node: str) -> bool:
    """Whether it is better than all others."""
    return before_all(why(book, pod, NOW, top=100).candidates, node)


def before_all(candidates: Any, node: str) -> bool:
    own = next(each.score for each in candidates if each.node == node)
    return all(each.score < own for each in candidates if each.node != node)


def test_nodes_that_are_all_sick_are_not_called_good() -> None:
    book = fleet([([1000] * 8, HEALTH[4], 4)] * 2)
    change = why(book, wants(1), NOW).change
    assert (
        change
        == "n1 is sick as well: none of these nodes is for new pods (fatal: gpu-lost on gpu:1)"
    )


def test_a_full_fleet_is_said_to_be_full() -> None:
    assert why(fleet([([0] * 8, {}, 4)] * 2), wants(1), NOW).change == (
        "by our books the pod fits neither n0 nor n1"
    )


def test_a_pod_that_cannot_be_told_gets_the_numbers_that_the_extender_gives() -> None:
    book = fleet([([1000] * 8, {}, 4), ([0] * 4 + [1000] * 4, {}, 4)])
    pods = {PodShape(gpu_count=n, gpu_milli=1000, resource=GPU): 1.0 for n in (1, 8)}
    book.learn(Typical.of(pods))
    book.settle(NOW)
    told: Why = why(book, wants(1), NOW, generic=True)
    for each in told.candidates:
        assert each.score == book.generic[book.table.index[each.node]]
    assert "cannot be told" in told.change


@pytest.mark.looptime(start=0)
async def test_a_device_kept_from_new_pods_by_itself_is_no_room() -> None:
    bench = Bench()
    bench.report("a")
    view = ClusterView(synced=True, nodes=dict(bench.nodes), incidents={})
    await bench.scoring.tick(view, NOW)
    row = bench.scoring.book.table.index["a"]
    assert (bench.scoring.book.table.free[row] >= 1000).sum() == 8
    kept = msgspec.structs.replace(view, device_quarantines={"a": frozenset({"gpu:0000:3b:00.0"})})
    await bench.scoring.tick(kept, NOW)
    assert (bench.scoring.book.table.free[row] >= 1000).sum() == 7
    unknown = msgspec.structs.replace(view, device_quarantines=None)
    await bench.scoring.tick(unknown, NOW)
    assert (bench.scoring.book.table.free[row] >= 1000).sum() == 7
    await bench.scoring.tick(view, NOW)
    assert (bench.scoring.book.table.free[row] >= 1000).sum() == 8


GPU_POD = {"spec": {"containers": [{"resources": {"limits": {GPU: "1"}}}]}}
LOST = {"worst": Severity.FATAL, "worst_text": "gpu-lost on gpu:1"}


def refused(sick: int, fleet_size: int, *, quarantined: int = 0) -> set[str]:
    """Whom the filter refuses, where so many agents cry and some were quarantined."""
    book = ScoreBook()
    names = [f"n{number:02}" for number in range(fleet_size)]
    for number, name in enumerate(names):
        standing = {"standing": "quarantined"} if number < quarantined else {}
        put(
            book, facts(name, **(LOST if number < sick else {}), **standing), room(name, [1000] * 8)
        )
    book.settle(NOW)
    asked = msgspec.json.encode({"Pod": GPU_POD, "NodeNames": names})
    reply = msgspec.json.decode(
        Extender(book, AggregatorStats(), clock=lambda: NOW).answer_filter(asked)
    )
    return set(reply.get("FailedAndUnresolvableNodes", {}))


def test_a_bad_release_that_cries_on_every_node_leaves_pods_a_place_to_go() -> None:
    assert len(refused(3, 30)) == 3
    assert refused(30, 30) == set()
    assert refused(30, 30, quarantined=2) == {"n00", "n01"}
    assert len(refused(2, 2)) == 2
    assert len(refused(20, 30, quarantined=20)) == 20


@pytest.mark.parametrize("leading", [True, False])
async def test_a_replica_that_does_not_lead_sends_the_scheduler_elsewhere(leading: bool) -> None:
    """kube-scheduler keeps its connections; through the Service only a new one reaches the leader."""
    app, stats = web.Application(), AggregatorStats()
    extender = Extender(fleet([([1000], {}, 4)]), stats, clock=lambda: NOW)
    app.add_routes(extender_routes(extender, stats, leading=lambda: leading))
    async with TestClient(TestServer(app)) as client:
        for path in (PRIORITIZE_PATH, FILTER_PATH):
            reply = await client.post(path, json={"Pod": GPU_POD, "NodeNames": ["n0"]})
            assert reply.status == 200
            assert (reply.headers.get("Connection") == "close") is not leading


def ranked(nodes: dict[str, Any], pod: dict[str, Any]) -> list[str]:
    """The nodes in the order that the scheduler is told."""
    book = ScoreBook()
    for name, known in nodes.items():
        put(book, facts(name, **known), room(name, [1000] * 8))
    book.learn(ASSUMED, assumed=True)
    book.settle(NOW)
    asked = msgspec.json.encode({"Pod": pod, "NodeNames": [*nodes, "stranger"]})
    reply = msgspec.json.decode(
        Extender(book, AggregatorStats(), clock=lambda: NOW).answer_prioritize(asked)
    )
    numbers = dict.fromkeys([*nodes, "stranger"], 0) | {
        each["Host"]: each["Score"] for each in reply
    }
    own = why(book, wants(1, 500), NOW)
    assert own.candidates[0].verdict == "healthy"
    return sorted(numbers, key=lambda name: -numbers[name])


def test_a_silent_node_does_not_win_every_shared_pod_of_an_empty_fleet() -> None:
    """Breaking into a whole device scores below the middle, at which silent nodes stand."""
    half = {
        "spec": {
            "containers": [
                {
                    "resources": {
                        "limits": {
                            "koordinator.sh/gpu-core": "50",
                            "koordinator.sh/gpu-memory-ratio": "50",
                        }
                    }
                }
            ]
        }
    }
    assert ranked({"silent": {"received_seconds": None}, "well": {}}, half)[0] == "well"
    assert (
        ranked({"well": {}, "silent": {"received_seconds": None}, "hot": HEALTH[3]}, half)[0]
        == "well"
    )


def test_one_candidate_asked_for_is_not_called_the_only_node() -> None:
    told = why(fleet([([1000] * 8, {}, 4), ([0] * 8, {}, 4)]), wants(1), NOW, top=1)
    assert len(told.candidates) == 1
    assert told.change.startswith("n1 would have to have room")


def test_the_weights_in_the_settings_words_are_those_in_force() -> None:
    schema = msgspec.json.schema(FeedSettings)["$defs"]["FeedSettings"]
    text = schema["properties"]["score_terms"]["description"]
    weights = ScoreTerms()
    for name in ("packing", "keep_whole", "rdma", "neighbourhood", "use"):
        assert f"{name}={getattr(weights, name):g}" in text


@pytest.mark.looptime(start=0)
async def test_nodes_that_list_shares_alone_leave_nothing_behind() -> None:
    bench = Bench()
    capacity = NodeCapacity(
        cpu_milli=96_000, memory_mib=1_000_000, devices={"koordinator.sh/gpu": 8}
    )
    for number in range(5):
        name = f"x{number}"
        bench.nodes = {name: ClusterNode(name=name, capacity=capacity)}
        await bench.tick(NOW + number)
        assert list(bench.scoring.book.table) == [name]


@pytest.mark.looptime(start=0)
async def test_an_agent_tells_nothing_of_the_use_of_pods_on_other_nodes() -> None:
    bench = Bench()
    for name in "ab":
        ask = PodShape(gpu_count=1, gpu_milli=1000, resource=GPU)
        pod = PlacedPod(
            namespace="t", name=name, uid=name, node=name, ask=ask, workload=f"t/Job/{name}"
        )
        bench.edge.changes.append(PodChange(pod.key, None, pod))
    await bench.tick()
    gpus = [
        pb.Gpu(index=n, uuid=f"u{n}", pci_bus_id=f"0000:{n}b:00.0", utilization_ratio=0.0)
        for n in range(2)
    ]
    holders = [pb.Holders(subject=f"gpu:0000:{n}b:00.0", pods=[f"t/{'ab'[n]}"]) for n in range(2)]
    report = pb.NodeReport(node="a", gpus=gpus, holders=holders)
    bench.fleet.apply(report, NOW)
    bench.scoring.reported("a", news=True)
    await bench.tick()
    assert bench.scoring.uses.of_workload("t/Job/a") is not None
    assert bench.scoring.uses.of_workload("t/Job/b") is None


def test_where_seats_are_guessed_nobody_is_packed_beside_training_by_use() -> None:
    """The training pod is thought on one device and may sit on the other, whose use is known."""
    for kind, packed in (("training", False), ("serving", True)):
        rooms, uses, book = RoomBook(), UseBook(), ScoreBook()
        capacity = NodeCapacity(cpu_milli=64_000, memory_mib=512_000, devices={GPU: 2})
        rooms.set_node(ClusterNode(name="n", gpu_capacity=2, capacity=capacity))
        rooms.set_devices("n", DeviceFacts(resource=GPU, ids=("x", "y"), sick=(False, False)))
        half = PodShape(gpu_count=1, gpu_milli=600, resource=GPU)
        for name, each in (("one", kind), ("other", "serving")):
            rooms.set_pod(
                PlacedPod(namespace="t", name=name, uid=name, node="n", ask=half, kind=each)  # type: ignore[arg-type]
            )
        for key in ("device:n/x", "device:n/y", "t/D/new"):
            made = uses._histories[key] = DutyHistory(NOW)
            for number in range(240):
                made.add(NOW + 30 * number, 0.2, 1 << 30)
        put(book, facts("n"), rooms.room("n"))
        loads = Loads(book.table, rooms, uses, 0.05)
        value = loads.values(wants(1, 300, workload="t/D/new"), np.array([book.table.index["n"]]))
        assert bool(np.isfinite(value[0])) is packed
