"""The packing simulator as its user meets it: the command, what it prints, and what it says of files it cannot use."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.extender import Extender
from aggregator.feeds.extender_pod import wish_of
from aggregator.scores.book import ScoreBook
from aggregator.scores.model import Judgement, NodeFacts
from aggregator.scores.terms import Newcomer
from aggregator.scores.values import PodShape
from aggregator.stats import AggregatorStats
from bench.packing.__main__ import DUTY, MEMORY, NODES, PODS, main, seeds
from bench.packing.failures import failures
from bench.packing.policies import POLICIES, PUBLISHED_PERCENT, VARIANTS
from bench.packing.replay import Task, replay
from bench.packing.rivals import GpuPacking
from bench.packing.served import Served, Setting, answered
from bench.packing.serving import read_serving, serve
from bench.packing.trace import TraceError, arrivals, read_trace, typical_pods
from tests.score_builders import NOW, book_of, room

ROOT = Path(__file__).parents[2]

NODE_FILE = "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(
    f"node-{number},64000,262144,{(2, 4, 8)[number % 3]},T4\n" for number in range(9)
)
POD_FILE = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\n" + "".join(
    f"pod-{number},{4000 + 1000 * (number % 5)},8192,{count},{milli},{spec},LS\n"
    for number, (count, milli, spec) in enumerate(
        [(1, 1000, ""), (1, 460, ""), (1, 300, "T4|P100"), (2, 1000, ""), (0, 0, "")] * 6
    )
)

needs_openb = pytest.mark.skipif(
    not (NODES.exists() and PODS.exists()),
    reason=f"the openb trace is not there: {NODES.parent}",
)
needs_use = pytest.mark.skipif(
    not (DUTY.exists() and MEMORY.exists()), reason=f"the use of pods is not there: {DUTY.parent}"
)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "nodes.csv").write_text(NODE_FILE)
    (tmp_path / "pods.csv").write_text(POD_FILE)
    return ["--nodes", str(tmp_path / "nodes.csv"), "--pods", str(tmp_path / "pods.csv")]


def test_it_prints_one_json_object_a_line_per_policy(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--seeds", "42-43", "--json"]) == 0
    output = capsys.readouterr()
    rows = [json.loads(line) for line in output.out.splitlines()]
    assert [row["policy"] for row in rows] == list(POLICIES)
    for row in rows:
        assert set(row["seeds"]) == {"42", "43"}
        assert row["mean"] == pytest.approx(sum(row["seeds"].values()) / 2, abs=0.001)
        assert 0 < row["mean"] <= 100
    assert "14 of 14" in output.err


def test_the_same_seed_gives_the_same_figures(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for _ in range(2):
        main([*files, "--seeds", "7,9", "--policy", "random", "--policy", "fleetmedic", "--json"])
        runs.append(capsys.readouterr().out)
    assert runs[0] == runs[1]


def test_the_command_runs_as_written_in_the_docs(files: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.packing", *files, "--seeds", "1", "--policy", "bestfit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "bestfit" in done.stdout
    assert "published" in done.stdout


def test_gpus_that_fail_cost_every_policy_and_the_dead_pods_come_again(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--seeds", "1-3", "--policy", "fgd", "--policy", "fleetmedic",
                 "--failing", "20", "--json"]) == 0  # fmt: skip
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    healthy = {row["policy"]: row["mean"] for row in rows if "failing_percent" not in row}
    failing = {row["policy"]: row["mean"] for row in rows if row.get("failing_percent") == 20}
    assert set(healthy) == set(failing) == {"fgd", "fleetmedic"}
    assert all(failing[policy] < min(80.5, healthy[policy]) for policy in healthy)
    assert all(row["killed"] > 0 for row in rows if "failing_percent" in row)


def test_every_policy_sees_the_same_pods_and_the_same_failures(files: list[str]) -> None:
    trace = read_trace(Path(files[1]), Path(files[3]))
    pods = arrivals(trace, 1.3, 5)
    assert pods == arrivals(trace, 1.3, 5) != arrivals(trace, 1.3, 6)
    asked = sum(pod.gpu_milli_total for pod in pods) / trace.gpu_milli
    assert 1.2 < asked <= 1.31
    events = failures(trace, 50, 5, len(pods))
    assert events == failures(trace, 50, 5, len(pods))
    gone = [(event.node, event.device) for event in events if event.failed]
    assert len(gone) == len(set(gone)) == trace.gpu_milli // 2000


@pytest.mark.parametrize(
    ("nodes", "pods", "words"),
    [
        (NODE_FILE + "x,abc,1,2,T4\n", POD_FILE, ["nodes.csv", "line 11", "cpu_milli", "'abc'"]),
        (NODE_FILE + "x,1,1,-2,T4\n", POD_FILE, ["nodes.csv", "line 11", "gpu", "-2"]),
        (NODE_FILE + "x,1,1\n", POD_FILE, ["nodes.csv", "line 11", "gpu"]),
        (NODE_FILE + "node-0,1,1,2,T4\n", POD_FILE, ["nodes.csv", "node-0", "once"]),
        (NODE_FILE, POD_FILE + "p,1,1,1,nan,,LS\n", ["pods.csv", "line 32", "gpu_milli", "nan"]),
        (NODE_FILE, POD_FILE + "p,1,1,2,500,,LS\n", ["pods.csv", "line 32", "share"]),
        (NODE_FILE, POD_FILE.replace("num_gpu", "gpus"), ["pods.csv", "line 1", "num_gpu"]),
        (NODE_FILE.splitlines()[0], POD_FILE, ["nodes.csv", "nothing below the heading"]),
        ("sn,cpu_milli,memory_mib,gpu,model\nn,1,1,0,\n", POD_FILE, ["no node has a GPU"]),
        (NODE_FILE, "\x00\xff", ["pods.csv"]),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_with_line_and_value(
    tmp_path: Path, nodes: str, pods: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nodes.csv").write_text(nodes)
    (tmp_path / "pods.csv").write_text(pods)
    arguments = ["--nodes", str(tmp_path / "nodes.csv"), "--pods", str(tmp_path / "pods.csv")]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words), said


def test_a_missing_trace_is_named_with_the_option_that_names_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--nodes", "/nowhere/nodes.csv"]) == 1
    said = capsys.readouterr().err
    assert "/nowhere/nodes.csv" in said
    assert "--nodes" in said


@pytest.mark.parametrize("text", ["", "42-", "51-42", "a", "1,,2", "-1", "0-99999999"])
def test_seeds_that_make_no_sense_are_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([f"--seeds={text}"])
    assert "--seeds" in capsys.readouterr().err


def test_seeds_may_be_a_range_or_a_list_or_both() -> None:
    assert seeds("42-44,7,43") == [42, 43, 44, 7]


def test_help_tells_the_protocol_and_the_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(word in said for word in ("gpu_spec", "random order", "examples:", *POLICIES))


def test_the_plots_are_drawn(files: list[str], tmp_path: Path) -> None:
    chosen = ["--seeds", "1", "--policy", "fgd", "--policy", "fleetmedic"]
    absent = ["--duty", str(tmp_path / "none"), "--memory", str(tmp_path / "none")]
    assert main([*files, *chosen, *absent, "--plots", str(tmp_path / "plots")]) == 0
    assert main([*files, *chosen, "--failing", "10", "--plots", str(tmp_path / "plots")]) == 0
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    assert drawn == {
        f"packing-{name}.svg" for name in ("allocation", "fragmentation", "policies", "failing")
    }


def pod_that_wants(gpus: int, cpu: int) -> dict[str, Any]:
    resources = {"requests": {"cpu": str(cpu)}, "limits": {"nvidia.com/gpu": str(gpus)}}
    return {
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"resources": resources}]},
    }


@given(
    free=st.lists(
        st.lists(st.sampled_from([0, 300, 1000]), min_size=1, max_size=8), min_size=1, max_size=12
    ),
    gpus=st.integers(1, 4),
    scale=st.sampled_from([10, 100, 1000]),
    seed=st.integers(0, 99),
)
def test_the_replay_counts_with_the_numbers_that_the_extender_answers(
    free: list[list[int]], gpus: int, scale: int, seed: int
) -> None:
    book = book_of(*(room(f"node-{place}", left) for place, left in enumerate(free)))
    names = [f"node-{place}" for place in range(len(free))]
    random.Random(seed).shuffle(names)
    pod = pod_that_wants(gpus, 2)
    body = json.dumps({"Pod": pod, "NodeNames": names}).encode()
    extender = Extender(book, AggregatorStats(), clock=lambda: NOW, scale=scale)
    said = [host["Score"] for host in json.loads(extender.answer_prioritize(body))]
    wish = wish_of(pod)
    assert wish is not None
    assert wish.pod is not None
    assert answered(book, wish.pod, book.places(names), scale).tolist() == said


def test_after_many_pods_the_served_book_is_as_if_built_from_what_is_left(files: list[str]) -> None:
    trace = read_trace(Path(files[1]), Path(files[3]))
    served = Served(trace, random.Random(3))
    for shape in arrivals(trace, 0.9, 3):
        place = served.choose(shape)
        if place:
            served.fleet.take(place[0], shape, place[1])
            served.placed(place[0], shape, 1)
    served.lost(0, 0)
    fresh = ScoreBook()
    fresh.learn(typical_pods(trace.pods, 1.0))
    for node, name in enumerate(served.fleet.names):
        fresh.take_health(NodeFacts(name=name), Judgement("healthy", "healthy"))
        fresh.take_room(name, served.fleet.room(node))
    served.book.settle(0.0)
    fresh.settle(0.0)
    for shape in {shape for shape in trace.pods if shape.gpu_count}:
        pod = Newcomer(shape=shape)
        rows, same = served.book.places(served.fleet.names), fresh.places(served.fleet.names)
        assert served.book.array(pod)[rows].tolist() == fresh.array(pod)[same].tolist()


def test_of_equal_nodes_a_rival_takes_the_first_of_an_order_that_is_drawn_once_per_run(
    tmp_path: Path, files: list[str]
) -> None:
    equal = tmp_path / "equal.csv"
    equal.write_text(
        NODE_FILE.splitlines()[0] + "".join(f"\nn{at},64000,262144,8,T4" for at in range(20))
    )
    trace = read_trace(equal, Path(files[3]))
    shape = PodShape(cpu_milli=1000, gpu_count=8, gpu_milli=1000)
    orders = []
    for seed in (1, 1, 2):
        rival = GpuPacking(trace, random.Random(seed))
        order = []
        while place := rival.choose(shape):
            rival.fleet.take(place[0], shape, place[1])
            order.append(place[0])
        orders.append(order)
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(20)) != orders[0]


def test_as_shipped_a_pod_without_a_gpu_goes_where_the_stock_scheduler_would_put_it(
    files: list[str],
) -> None:
    trace = read_trace(Path(files[1]), Path(files[3]))
    served = Served(trace, random.Random(1), Setting(cpu_pods="spread"))
    big = PodShape(cpu_milli=32_000, memory_mib=1024)
    for node in range(len(trace.rooms) - 1):
        served.fleet.take(node, big, ())
        served.placed(node, big, 1)
    assert served.choose(PodShape(cpu_milli=1000)) == (len(trace.rooms) - 1, ())


def test_parts_of_ours_can_be_switched_off_to_see_what_they_do(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [word for name in VARIANTS for word in ("--policy", name)]
    assert main([*files, "--seeds", "1", *chosen, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["policy"] for row in rows] == list(VARIANTS)


def use_files(folder: Path, pods: int, busy: float) -> tuple[Path, Path]:
    """Pods that are busy one after the other, never two at once."""
    duty = ["timestamp_anon,value,container_ip"]
    memory = list(duty)
    for minute in range(400):
        for pod in range(pods):
            duty.append(f"{60 * minute},{busy if minute % pods == pod else 0},pod-{pod}")
            memory.append(f"{60 * minute},{10 * 2**30},pod-{pod}")
    paths = folder / "duty.csv.gz", folder / "memory.csv.gz"
    for path, text in zip(paths, (duty, memory), strict=True):
        path.write_bytes(gzip.compress("\n".join(text).encode()))
    return paths


def test_serving_pods_share_gpus_only_within_the_risk_and_the_memory(tmp_path: Path) -> None:
    pods = read_serving(*use_files(tmp_path, 4, 24.0))
    alone = serve(pods, None, 80)
    assert (alone.gpus, alone.overload_minutes) == (4, 0)
    assert serve(pods, 0.05, 80).gpus == 1
    assert serve(pods, 0.05, 24).gpus == 2  # 20 of 24 GiB is all that headroom leaves room for
    assert serve(read_serving(*use_files(tmp_path, 4, 90.0)), 0.0, 80).gpus == 4


def test_use_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    duty, memory = use_files(tmp_path, 2, 30.0)
    memory.write_bytes(b"no gzip")
    with pytest.raises(TraceError, match="gzipped"):
        read_serving(duty, memory)
    memory.write_bytes(gzip.compress(b"timestamp_anon,value,container_ip\n1,x,pod\n"))
    with pytest.raises(TraceError, match="line 2"):
        read_serving(duty, memory)


@needs_use
def test_on_the_recorded_day_measured_use_needs_fewer_gpus_at_less_than_the_allowed_risk() -> None:
    pods = read_serving(DUTY, MEMORY)
    alone, shared = serve(pods, None, 80), serve(pods, 0.01, 80)
    assert shared.gpus < 0.7 * alone.gpus
    assert shared.overload_ratio < 0.01


@needs_openb
@pytest.mark.parametrize(
    ("policy", "least"), [("bestfit", 92.6), ("clustering", 91.3), ("fleetmedic", 96.0)]
)
def test_one_seed_of_the_published_trace(policy: str, least: float) -> None:
    trace = read_trace(NODES, PODS)
    found = replay(trace, Task(policy=policy, seed=42, demand=1.3)).allocated_percent
    assert found >= least
    if policy in PUBLISHED_PERCENT:
        assert found == pytest.approx(PUBLISHED_PERCENT[policy], abs=0.5)
