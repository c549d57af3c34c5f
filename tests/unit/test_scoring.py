"""From reports, Nodes and Pods to the scores that schedulers get, through the loop's own wiring."""

from collections.abc import Sequence
from typing import Any

import pytest

from aggregator.cluster import PodChange
from aggregator.fleet import Fleet
from aggregator.policy.model import ClusterNode, ClusterView, NodeCapacity
from aggregator.scores.explain import ALIKE, node_words
from aggregator.scores.failed_pods import PodFailure
from aggregator.scores.failures import QUIET_SECONDS, Notice
from aggregator.scores.placed import PlacedPod, PodPhase
from aggregator.scores.typical import Typical
from aggregator.scores.values import PodShape
from aggregator.scoring import ENOUGH_PODS, FAILURES_SECONDS, FEW_NODES, Scoring, mixed
from contract import report_pb2 as pb
from tests.pod_failures import failure
from tests.policy_builders import ScriptedEdge
from tests.score_builders import GPU, NOW, wants

pytestmark = pytest.mark.looptime(start=0)


class Edge(ScriptedEdge):
    """A cluster whose pods are known."""

    pods_known = True

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[PodChange] = []
        self.failed: list[PodFailure] = []

    def take_pod_failures(self) -> Sequence[PodFailure]:
        taken, self.failed = self.failed, []
        return taken

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

    def report(self, name: str, *, now: float = NOW) -> None:
        gpus = [pb.Gpu(index=n, uuid=f"{name}{n}", pci_bus_id=f"0000:{n}b:00.0") for n in range(8)]
        self.fleet.apply(pb.NodeReport(node=name, gpus=gpus), now)
        self.scoring.reported(name, news=True)

    def pod(
        self,
        name: str,
        gpus: int,
        node: str = "",
        *,
        gone: bool = False,
        phase: PodPhase = "pending",
    ) -> None:
        ask = PodShape(cpu_milli=1_000, gpu_count=gpus, gpu_milli=1000, resource=GPU)
        pod = PlacedPod(
            namespace="team",
            name=name,
            uid=name,
            node=node,
            ask=ask,
            phase=phase,
            created_seconds=NOW,
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


async def test_a_node_that_eats_pods_is_the_last_one_until_it_was_quiet_and_says_why() -> None:
    bench = Bench()
    told: list[Notice] = []
    bench.scoring.tell = lambda notice, _: told.append(notice)
    for name in "ab":
        bench.report(name)
    bench.pod("holder", 4, "b", phase="running")
    await bench.tick()
    assert bench.of()["b"] > bench.of()["a"]
    for number, team in enumerate(["team-a", "team-a", "team-b"]):
        bench.edge.failed.append(failure(number, team=team, node="b", at_seconds=NOW))
    await bench.tick(NOW + 1)
    assert 1 <= bench.of()["b"] <= 99 < bench.of()["a"]
    words = node_words(bench.scoring.book, "b")
    assert words is not None
    assert words.verdict == "degraded"
    assert words.reason.startswith("pods fail here at once: 3 of 2 workloads")
    later = NOW + QUIET_SECONDS
    for name in "ab":
        bench.report(name, now=later)
    await bench.tick(later)
    assert bench.of()["b"] > bench.of()["a"] > 99
    assert [each.node for each in told] == ["b", "b"]


async def test_what_the_kubelet_refuses_counts_where_there_was_room_for_it_alone() -> None:
    for running, expected in ((4, "degraded"), (8, "healthy")):
        bench = Bench()
        bench.report("a")
        bench.pod("holder", running, "a", phase="running")
        bench.pod("next", 4, "a")  # bound while the one before is refused: it takes no room
        bench.scoring.take_pods()
        bench.edge.failed += [
            failure(each, node="a", at_seconds=NOW, refused_devices=1) for each in range(3)
        ]
        await bench.tick()
        assert bench.scoring.book.scores["a"].verdict == expected


async def test_who_was_rightly_refused_does_not_count_when_the_node_is_empty_later() -> None:
    """A tenant may touch its own failed pods, so that they are told of again."""
    bench = Bench()
    bench.report("a")
    bench.pod("holder", 8, "a", phase="running")
    refused = [failure(each, node="a", at_seconds=NOW, refused_devices=1) for each in range(3)]
    bench.edge.failed += refused
    await bench.tick()
    bench.edge.changes.append(
        PodChange("team/holder", bench.scoring.rooms.pods["team/holder"], None)
    )
    bench.edge.failed += refused
    await bench.tick(NOW + 5)
    assert bench.scoring.book.scores["a"].verdict == "healthy"


async def test_what_was_refused_before_the_pods_were_known_or_just_after_others_left_does_not_count() -> (
    None
):
    bench = Bench()
    bench.report("a")
    await bench.tick()
    odd: list[dict[str, Any]] = [
        {"at_seconds": NOW - 60},
        {"at_seconds": NOW, "left_devices": 8},
    ]
    for number, each in enumerate(odd):
        bench.edge.failed += [
            failure(10 * number + one, node="a", refused_devices=1, **each) for one in range(3)
        ]
        await bench.tick(NOW + 1)
        assert bench.scoring.book.scores["a"].verdict == "healthy"


async def test_failures_wait_until_it_is_known_who_runs_where() -> None:
    bench = Bench()
    bench.report("a")
    bench.edge.failed += [
        failure(each, node="a", at_seconds=NOW, refused_devices=1) for each in range(3)
    ]
    verdicts = []
    for bench.edge.pods_known in (False, True):
        await bench.tick()
        verdicts.append(bench.scoring.book.scores["a"].verdict)
    assert verdicts == ["healthy", "degraded"]


async def test_where_pods_fail_on_many_nodes_they_are_looked_at_now_and_then() -> None:
    bench = Bench()
    bench.report("a")
    await bench.tick()
    crowd = [failure(each, node=f"c{each}", at_seconds=NOW) for each in range(FEW_NODES)]
    bench.edge.failed += crowd
    await bench.tick()
    bench.edge.failed += [
        failure(each, node="a", at_seconds=NOW, refused_devices=1) for each in range(100, 103)
    ]
    judged = []
    for now in (NOW + 1, NOW + FAILURES_SECONDS):
        await bench.tick(now)
        judged.append("a" in bench.scoring.failures.judged)
    assert judged == [False, True]


def test_the_first_small_pods_do_not_make_whole_nodes_worthless() -> None:
    one = PodShape(gpu_count=1, gpu_milli=1000)
    eight = PodShape(gpu_count=8, gpu_milli=1000)
    for pods, least, most in ((20, 0.1, 0.2), (20_000, 0.0, 0.001)):
        found = mixed(Typical.of({one: 1.0}), pods)
        shares = dict(zip(found.shapes, found.weights.tolist(), strict=True))
        assert least <= shares[eight] <= most
        assert sum(shares.values()) == pytest.approx(1.0)
