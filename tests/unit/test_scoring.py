"""From reports, Nodes and Pods to the scores that schedulers get, through the loop's own wiring."""

from collections.abc import Sequence

import pytest

from aggregator.cluster import PodChange
from aggregator.fleet import Fleet
from aggregator.policy.model import ClusterNode, ClusterView, NodeCapacity
from aggregator.scores.explain import ALIKE
from aggregator.scores.placed import PlacedPod
from aggregator.scores.typical import Typical
from aggregator.scores.values import PodShape
from aggregator.scoring import ENOUGH_PODS, Scoring, mixed
from contract import report_pb2 as pb
from tests.policy_builders import ScriptedEdge
from tests.score_builders import GPU, NOW, wants

pytestmark = pytest.mark.looptime(start=0)


class Edge(ScriptedEdge):
    """A cluster whose pods are known."""

    pods_known = True

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[PodChange] = []

    def take_pod_changes(self) -> Sequence[PodChange]:
        taken, self.changes = self.changes, []
        return taken


class Bench:
    """Two nodes of eight GPUs and their agents."""

    def __init__(self) -> None:
        self.edge, self.fleet = Edge(), Fleet()
        self.scoring = Scoring(fleet=self.fleet, edge=self.edge, silent_after_seconds=30.0)
        capacity = NodeCapacity(cpu_milli=96_000, memory_mib=1_000_000, devices={GPU: 8})
        self.nodes = {
            name: ClusterNode(name=name, gpu_capacity=8, capacity=capacity) for name in "ab"
        }

    def report(self, name: str, **changes: object) -> None:
        gpus = [pb.Gpu(index=n, uuid=f"{name}{n}", pci_bus_id=f"0000:{n}b:00.0") for n in range(8)]
        self.fleet.apply(pb.NodeReport(node=name, gpus=gpus), NOW)
        self.scoring.reported(name, news=True)

    def pod(self, name: str, gpus: int, node: str = "", *, gone: bool = False) -> None:
        ask = PodShape(cpu_milli=1_000, gpu_count=gpus, gpu_milli=1000, resource=GPU)
        pod = PlacedPod(
            namespace="team", name=name, uid=name, node=node, ask=ask, created_seconds=NOW
        )
        self.edge.changes.append(PodChange(pod.key, None, None if gone else pod))

    async def tick(self, now: float = NOW) -> None:
        await self.scoring.tick(ClusterView(synced=True, nodes=dict(self.nodes), incidents={}), now)

    def of(self, gpus: int = 1) -> dict[str, int]:
        names = sorted(self.scoring.book.table)
        scores = self.scoring.book.lookup(wants(gpus, cpu_milli=1_000, resource=GPU), names)
        return dict(zip(names, scores.tolist(), strict=True))


async def test_a_node_that_is_begun_is_filled_before_an_empty_one() -> None:
    bench = Bench()
    bench.report("a")
    bench.report("b")
    bench.pod("holder", 4, "b")
    await bench.tick()
    assert bench.of()["b"] > bench.of()["a"] > 100


async def test_the_next_pod_sees_the_last_ones_place_as_taken_without_waiting_for_a_tick() -> None:
    bench = Bench()
    bench.report("a")
    bench.report("b")
    bench.pod("holder", 7, "b")
    await bench.tick()
    assert bench.of()["b"] > bench.of()["a"]
    bench.pod("next", 1, "b")
    bench.scoring.take_pods()
    assert bench.of()["b"] == 100
    bench.pod("holder", 7, "b", gone=True)
    bench.scoring.take_pods()
    assert bench.of()["b"] > 100


async def test_typical_pods_are_assumed_until_enough_were_seen() -> None:
    bench = Bench()
    bench.report("a")
    await bench.tick()
    assert bench.scoring.book.assumed
    for number in range(2 * ENOUGH_PODS):
        bench.pod(f"p{number}", 2)
    await bench.tick()
    assert not bench.scoring.book.assumed
    assert bench.scoring.book.most_common is not None
    assert bench.scoring.book.most_common.shape.gpu_count == 2


async def test_a_node_that_left_is_forgotten_and_comes_back_with_its_room() -> None:
    bench = Bench()
    bench.report("a")
    bench.report("b")
    await bench.tick()
    left = bench.nodes.pop("b")
    bench.fleet.forget("b")
    await bench.tick()
    assert set(bench.scoring.book.scores) == {"a"}
    bench.nodes["b"] = left
    bench.report("b")
    await bench.tick()
    assert bench.of()["b"] == pytest.approx(bench.of()["a"], abs=ALIKE)
    assert bench.of()["b"] > 100


async def test_silence_makes_a_node_neutral_however_full_it_is() -> None:
    bench = Bench()
    bench.report("a")
    await bench.tick()
    assert bench.of()["a"] not in (0, 500)
    await bench.tick(NOW + 31)
    assert bench.of() == {"a": 500, "b": 500}
    assert bench.scoring.book.scores["a"].reason == "no report for 31 s"


def test_the_first_small_pods_do_not_make_whole_nodes_worthless() -> None:
    one = PodShape(gpu_count=1, gpu_milli=1000)
    eight = PodShape(gpu_count=8, gpu_milli=1000)
    for pods, least, most in ((20, 0.1, 0.2), (20_000, 0.0, 0.001)):
        found = mixed(Typical.of({one: 1.0}), pods)
        shares = dict(zip(found.shapes, found.weights.tolist(), strict=True))
        assert least <= shares[eight] <= most
        assert sum(shares.values()) == pytest.approx(1.0)
