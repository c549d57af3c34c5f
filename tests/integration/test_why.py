"""Why this node: what a person reads about a pod, in the terminal and over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from aggregator.scores.failures import FailureBook
from aggregator.scores.inputs import node_facts
from aggregator.scores.model import judge
from aggregator.scores.placed import PlacedPod
from aggregator.scores.requests import Passed
from aggregator.scores.values import PodShape
from aggregator.web.api import create_app
from cli.__main__ import main
from contract.vocabulary import Severity
from tests.integration.web.world import NOW, World, finding
from tests.pod_failures import failure


class Cli:
    """Runs the command beside the loop that serves, and gives what it printed."""

    def __init__(self, server: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._server = server
        self._capsys = capsys

    async def __call__(self, *arguments: str, status: int = 0) -> str:
        got = await asyncio.to_thread(main, [*arguments, "--server", self._server])
        printed = self._capsys.readouterr()
        assert got == status, printed.err
        return printed.err if status else printed.out

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self(*arguments, "--json"))


@pytest.fixture
def world() -> World:
    made = World()
    made.mode = "kubernetes"
    for number in range(3):
        made.report(f"node-{number}")
    return made


@pytest.fixture
async def cli(world: World, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Cli]:
    async with TestServer(create_app(world.deps())) as server:
        yield Cli(str(server.make_url("/")), capsys)


def pod(name: str, gpus: int = 1, *, namespace: str = "team-a", **changes: Any) -> PlacedPod:
    known: dict[str, Any] = {
        "namespace": namespace,
        "name": name,
        "uid": f"{namespace}-{name}",
        "ask": PodShape(
            cpu_milli=8_000,
            memory_mib=32 * 1024,
            gpu_count=gpus,
            gpu_milli=1000 if gpus else 0,
            resource="nvidia.com/gpu" if gpus else "",
        ),
    }
    return PlacedPod(**(known | changes))


async def test_a_waiting_pod_is_told_its_candidates_and_what_each_term_says(
    world: World, cli: Cli
) -> None:
    world.pods(pod("holder", 7, node="node-1"), pod("train-0"))
    text = await cli("why", "team-a/train-0")
    assert text.startswith("team-a/train-0 waits for a node.\n")
    assert "It asks for 1 whole device (nvidia.com/gpu), 8 CPU, 32 GiB." in text
    assert "Candidates, best first, of 3 nodes" in text
    assert "1 of 8 devices free" in text
    assert "no whole node is broken into" in text
    assert "What would change the order" in text
    assert "too few were seen" in text
    found = await cli.json("why", "train-0")
    assert found["candidates"][0]["node"] == "node-1"
    assert {each["name"] for each in found["candidates"][0]["terms"]} >= {"packing", "keep_whole"}


async def test_a_placed_pod_is_looked_at_as_if_it_came_again(world: World, cli: Cli) -> None:
    """It takes the last devices of its node; without it they are free, so that its own node is the first choice."""
    world.pods(pod("holder", 6, node="node-1"), pod("train-0", 2, node="node-1"))
    text = await cli("why", "train-0", "-n", "team-a")
    assert text.startswith("team-a/train-0 is on node-1, which scores ")
    assert "place 1 of 3" in text.splitlines()[0]
    assert "node-1 (here)" in text
    after = await cli.json("why", "train-0")
    assert after["candidates"][0]["free"] == "2 of 8 devices free"
    row = world.book.table.index["node-1"]
    assert world.book.table.rooms[row] == world.rooms.room("node-1")


async def test_a_name_that_is_none_is_refused_with_the_form_that_is(world: World, cli: Cli) -> None:
    for name in ("", "team-a/"):
        assert "give NAMESPACE/POD" in await cli("why", name, status=1)


async def test_a_sick_node_would_win_if_it_were_healthy(world: World, cli: Cli) -> None:
    world.pods(pod("holder", 7, node="node-1"), pod("train-0"))
    world.report("node-1", finding(Severity.DEGRADED))
    found = await cli.json("why", "train-0", "--top", "3")
    assert found["candidates"][-1]["node"] == "node-1"
    assert found["candidates"][-1]["verdict"] == "degraded"
    assert 0 < found["candidates"][-1]["score"] < 100
    placed = pod("train-1", node="node-1")
    world.pods(pod("holder", 7, node="node-1"), placed)
    assert "node-1 would win if it were healthy (degraded: gpu-lost" in await cli("why", "train-1")


async def test_a_pod_that_is_passed_over_is_told_why_and_ranked_as_a_typical_one(
    world: World, cli: Cli
) -> None:
    ask = Passed(reason="asks for 1.5 of nvidia.com/gpu: devices are whole numbers")
    world.pods(pod("odd", ask=ask), pod("web", 0))
    text = await cli("why", "odd")
    assert "Passed over: it asks for 1.5 of nvidia.com/gpu: devices are whole numbers; " in text
    assert "Candidates" in text
    assert "schedulers do not ask Fleetmedic about it" in await cli("why", "web")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["gone"], ["no pod named 'gone'", "kubectl get pods"]),
        (["team-z/train-0"], ["no pod named 'train-0' in namespace 'team-z'", "team-a/train-0"]),
        (["twin"], ["several pods", "team-a/twin, team-b/twin", "NAMESPACE/POD"]),
    ],
)
async def test_a_pod_that_is_not_found_is_answered_with_what_there_is(
    world: World, cli: Cli, arguments: list[str], parts: list[str]
) -> None:
    world.pods(pod("train-0"), pod("twin"), pod("twin", namespace="team-b"))
    said = await cli("why", *arguments, status=1)
    assert said.count("\n") == 1
    assert all(part in said for part in parts)


async def test_without_pods_it_says_why_there_are_none(world: World, cli: Cli) -> None:
    world.pods_trouble = "forbidden: list pods; apply deploy/base/rbac.yaml"
    said = await cli("why", "train-0", status=1)
    assert "pods are not known here: forbidden" in said


async def test_before_the_first_scores_it_asks_for_a_moment(world: World, cli: Cli) -> None:
    world.pods(pod("train-0"))
    world.book.settled_seconds = None
    assert "just started" in await cli("why", "train-0", status=1)


async def test_a_nodes_own_explanation_shows_its_score_with_every_term(
    world: World, cli: Cli
) -> None:
    world.pods(pod("holder", 7, node="node-1"))
    text = await cli("explain", "node-1")
    assert "\nScore\n" in text
    assert "of 1000: healthy" in text
    for term in ("packing", "keep_whole", "rdma", "neighbourhood"):
        assert term in text
    found = await cli.json("explain", "node-1")
    assert found["score"]["verdict"] == "healthy"
    assert "What schedulers are told of it:" in found["text"]


async def test_a_node_that_eats_pods_is_last_in_the_list_and_says_how(
    world: World, cli: Cli
) -> None:
    failures = FailureBook()
    for number, team in enumerate(["team-a", "team-b", "team-a"]):
        at = NOW - 300 + 150 * number
        failures.take(failure(number, team=team, node="node-2", at_seconds=at), NOW)
    judged = failures.look(NOW, 3, lambda _: ())["node-2"]
    world.pods(pod("train-0"))
    known = node_facts("node-2", world.fleet.get("node-2"), None, None, judged.reason)
    world.book.take_health(known, judge(known, NOW, 30.0))
    world.book.settle(NOW)
    found = await cli("why", "team-a/train-0")
    assert "node-2  " in found
    reason = "pods fail here at once: 3 of 2 workloads in 5 min, newest team-a/train-2: Error exit code 128"
    assert reason in found
    last = (await cli.json("why", "train-0", "--top", "3"))["candidates"][-1]
    assert (last["node"], last["verdict"], last["reason"]) == ("node-2", "degraded", reason)
    assert f"of 1000: {reason}" in await cli("explain", "node-2")
