"""The bound on what any policy can hand out: never under what a policy that knows all pods makes of a tiny fleet."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.scores.values import WHOLE, PodShape
from bench.packing.__main__ import NODES, PODS, main
from bench.packing.bound import bound_of, most_gpus
from bench.packing.cutting import Cutting
from bench.packing.replay import Task, replay
from bench.packing.trace import read_trace

needs_openb = pytest.mark.skipif(
    not (NODES.exists() and PODS.exists()),
    reason=f"the openb trace is not there: {NODES.parent}",
)

Node = tuple[int, tuple[int, ...]]
"""Free cores in thousandths, and thousandths free per GPU."""


def pod(milli: int, cpu: int = 0, gpus: int = 1) -> PodShape:
    return PodShape(cpu_milli=cpu, gpu_count=gpus, gpu_milli=milli)


def places(fleet: tuple[Node, ...], shape: PodShape) -> set[tuple[tuple[Node, ...], int]]:
    """Every fleet that a placement of the pod can lead to; empty when it fits nowhere."""
    found = set()
    for node, (cpu, gpus) in enumerate(fleet):
        able = [each for each, left in enumerate(gpus) if left >= max(1, shape.gpu_milli)]
        if cpu < shape.cpu_milli or len(able) < shape.gpu_count:
            continue
        ways = able if shape.gpu_count == 1 else [None]
        for way in ways:
            taken = able[: shape.gpu_count] if way is None else [way]
            left = [each - shape.gpu_milli * (at in taken) for at, each in enumerate(gpus)]
            after = (cpu - shape.cpu_milli, tuple(sorted(left)))
            found.add((tuple(sorted((*fleet[:node], after, *fleet[node + 1 :]))), node))
    return found


def most_by_trying(fleet: tuple[Node, ...], pods: Sequence[PodShape]) -> float:
    """What the best of all policies that cannot refuse a pod which fits hands out, in whole GPUs."""

    @cache
    def best(fleet: tuple[Node, ...], at: int) -> int:
        if at == len(pods):
            return 0
        ways = places(fleet, pods[at])
        if not ways:
            return best(fleet, at + 1)
        return pods[at].gpu_milli_total + max(best(after, at + 1) for after, _ in ways)

    return best(tuple(sorted(fleet)), 0) / WHOLE


shapes = st.one_of(
    st.builds(pod, st.sampled_from([200, 300, 500, 700, 800]), st.sampled_from([0, 1000, 4000])),
    st.builds(pod, st.just(WHOLE), st.sampled_from([0, 1000, 4000]), st.sampled_from([1, 1, 2])),
    st.builds(pod, st.just(0), st.sampled_from([2000, 5000]), st.just(0)),
)
fleets = st.lists(
    st.tuples(st.sampled_from([3000, 6000, 12000]), st.integers(1, 3)), min_size=1, max_size=2
)


def test_only_the_rigorous_bound_allows_for_shares_that_are_refused_for_want_of_cores() -> None:
    pods = [pod(200, 5000), pod(WHOLE, 1000), pod(WHOLE, 1000)]
    assert most_by_trying(((4000, (WHOLE,)),), pods) == 1.0
    assert most_gpus(pods, 1) == pytest.approx(1.0, abs=1e-5)
    assert most_gpus(pods, 1, practical=True) == pytest.approx(0.2, abs=1e-5)


@settings(max_examples=150, deadline=None)
@given(nodes=fleets, kinds=st.lists(shapes, min_size=1, max_size=4), order=st.data())
def test_the_bound_is_never_under_what_the_best_policy_makes_of_a_tiny_fleet(
    nodes: list[tuple[int, int]], kinds: list[PodShape], order: st.DataObject
) -> None:
    pods = order.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=9))
    fleet = tuple((cpu, (WHOLE,) * gpus) for cpu, gpus in nodes)
    gpus = sum(count for _, count in nodes)
    best = most_by_trying(fleet, pods)
    assert most_gpus(pods, gpus) >= best - 1e-6
    ample = tuple((1_000_000, devices) for _, devices in fleet)
    assert most_gpus(pods, gpus, practical=True) >= most_by_trying(ample, pods) - 1e-6


def best_while_one_fails(pods: Sequence[PodShape], gpus: int, at: int) -> float:
    """Of one node with cores enough, when any GPU that the policy has least use for fails before this pod."""

    def best(left: tuple[int, ...], held: tuple[tuple[PodShape, ...], ...], queue: int) -> int:
        if queue == at and len(left) == gpus:
            return max(again(left, held, dead) for dead in range(gpus))
        if queue == len(pods):
            return sum(shape.gpu_milli for each in held for shape in each)
        return placed(left, held, (pods[queue],), queue + 1)

    def again(left: tuple[int, ...], held: tuple[tuple[PodShape, ...], ...], dead: int) -> int:
        rest = left[:dead] + left[dead + 1 :]
        return placed(rest, held[:dead] + held[dead + 1 :], held[dead], at)

    def placed(
        left: tuple[int, ...],
        held: tuple[tuple[PodShape, ...], ...],
        come: tuple[PodShape, ...],
        queue: int,
    ) -> int:
        if not come:
            return best(left, held, queue)
        shape, *others = come
        able = [each for each, free in enumerate(left) if free >= shape.gpu_milli]
        if not able:
            return placed(left, held, tuple(others), queue)
        return max(
            placed(
                tuple(free - shape.gpu_milli * (gpu == way) for gpu, free in enumerate(left)),
                tuple((*each, shape) if gpu == way else each for gpu, each in enumerate(held)),
                tuple(others),
                queue,
            )
            for way in able
        )

    return best((WHOLE,) * gpus, ((),) * gpus, 0) / WHOLE


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([200, 300, 500, 700, 800, WHOLE]), min_size=1, max_size=7),
    gpus=st.integers(2, 3),
    at=st.integers(0, 6),
)
def test_the_bound_holds_when_a_gpu_fails_and_its_pods_come_again(
    sizes: list[int], gpus: int, at: int
) -> None:
    pods = [pod(size) for size in sizes]
    at = min(at, len(pods) - 1)
    best = best_while_one_fails(pods, gpus, at)
    assert most_gpus(pods, gpus, [at], practical=True) >= best - 1e-6


@pytest.mark.parametrize(
    ("pods", "gpus", "most"),
    [
        ([pod(600), pod(600)], 1, 0.6),  # the second cannot be placed, the first not be refused
        ([pod(600), pod(600), pod(400)], 1, 1.0),
        ([pod(800)] * 4 + [pod(WHOLE)], 4, 3.2),  # four that fit are in the way of the whole one
        ([pod(WHOLE)] * 5, 3, 3.0),
        ([pod(0, 4000, 0)], 3, 0.0),
    ],
)
def test_on_these_fleets_the_bound_is_what_the_best_policy_reaches(
    pods: list[PodShape], gpus: int, most: float
) -> None:
    assert most_gpus(pods, gpus) == pytest.approx(most, abs=1e-5)
    assert most_by_trying(((0, (WHOLE,) * gpus),), pods) == pytest.approx(most)


def test_prices_that_are_not_the_best_give_a_looser_bound_never_a_smaller_one() -> None:
    cutting = Cutting([300, 500, 800, WHOLE])
    least, most = np.array([0.0, 2.0, 5.0, 0.0]), np.array([3.0, 9.0, 9.0, 4.0])
    best = float(cutting.ceiling(cutting.best_prices(least, most, 10.0), least, most, 10.0))
    assert best == pytest.approx(9.0)  # five of 0.8, two halves, four whole ones
    for seed in range(20):
        prices = np.random.default_rng(seed).uniform(0.0, 1.2, 4)
        assert float(cutting.ceiling(prices, least, most, 10.0)) >= best - 1e-6


def test_sizes_that_make_no_sense_are_refused() -> None:
    for sizes in ([], [0], [500, 500], [1001]):
        with pytest.raises(ValueError, match="different, 1 to 1000"):
            Cutting(sizes)


def test_the_command_prints_a_line_per_seed_and_the_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, pods = tmp_path / "nodes.csv", tmp_path / "pods.csv"
    nodes.write_text("sn,cpu_milli,memory_mib,gpu,model\na,64000,1000,4,T4\nb,64000,1000,8,T4\n")
    pods.write_text(
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
        + "".join(f"p{at},1000,1,1,{(810, 470, 1000)[at % 3]},\n" for at in range(12))
    )
    files = ["--nodes", str(nodes), "--pods", str(pods), "--seeds", "1-3"]
    assert main([*files, "--bound", "--failing", "0,9"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("seed") for line in lines] == [1, 2, 3, None] * 2
    assert all(0 < line["practical"] <= line["rigorous"] <= 100 for line in lines[:4])
    assert all("rigorous" not in line and line["failing_percent"] == 9 for line in lines[4:])
    trace = read_trace(nodes, pods)
    for line in lines[:3]:
        task = Task(policy="fleetmedic", seed=line["seed"], demand=1.3)
        assert replay(trace, task).allocated_percent <= line["rigorous"]


@needs_openb
def test_on_the_published_trace_the_bound_leaves_little_above_ours() -> None:
    line = bound_of(read_trace(NODES, PODS), 42, 1.3)
    assert line.rigorous is not None
    assert 96.4 < line.practical <= line.rigorous < 96.9
