"""The operator's command against a served aggregator: what a person reads in the terminal."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aggregator.web.api import create_app
from cli.__main__ import main
from contract.vocabulary import Phase
from tests.integration.web.world import World, incident

SHOWN: dict[str, object] = {
    "executable": False,
    "seconds_at_most": 7_260.0,
    "pods": [
        {
            "namespace": "kube-system",
            "name": "device-plugin",
            "job": "",
            "gang": "",
            "verdict": "leave",
            "reason": "stays: a DaemonSet would start it again right here",
            "pdb": "",
        },
        {
            "namespace": "team-a",
            "name": "notebook",
            "job": "Notebook",
            "gang": "",
            "verdict": "refuse",
            "reason": "keeps data in an emptyDir",
            "pdb": "team-a/keep",
        },
    ],
    "gangs": [
        {
            "gang": "PyTorchJob team-a/bert",
            "verdict": "evict",
            "reason": "one of its pods is here",
            "elsewhere": [{"namespace": "team-a", "name": "w1", "node": "n2"}],
            "kueue": False,
        }
    ],
}


class Cli:
    """Runs the command beside the loop that serves, and shows what it printed."""

    def __init__(self, server: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self._capsys = capsys

    async def __call__(self, *arguments: str, status: int = 0) -> str:
        given = [*arguments, "--server", self.server]
        got = await asyncio.to_thread(main, given)
        printed = self._capsys.readouterr()
        assert got == status, printed.err
        return printed.err if status else printed.out


@pytest.fixture
def world() -> World:
    made = World()
    made.mode = "kubernetes"
    for number in range(3):
        made.report(f"node-{number}")
    return made


@pytest.fixture
async def cli(world: World, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Cli]:
    async def plan(node: str, subjects: Sequence[str]) -> Mapping[str, object]:
        return SHOWN

    async with TestServer(create_app(world.deps(plan=plan))) as server:
        yield Cli(str(server.make_url("/")), capsys)


async def test_no_incident_is_said_so(cli: Cli) -> None:
    assert await cli("incidents") == "No open incidents. Nothing needs you.\n"
    assert json.loads(await cli("incidents", "--json")) == []


async def test_a_reader_that_has_seen_enough_is_no_failure(cli: Cli) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "incidents", "--server", cli.server),
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writer)
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_incidents_are_a_table_open_ones_first(world: World, cli: Cli) -> None:
    world.drain("node-1")
    world.incidents["held"] = msgspec.structs.replace(
        incident("node-2", Phase.NEEDS_HUMAN), hold=True, needs="replace GPU 3"
    )
    world.incidents["old"] = incident("node-0", Phase.CLOSED)
    printed = await cli("incidents")
    lines = [" ".join(each.split()) for each in printed.splitlines()]
    assert lines[0] == "NODE DEVICE CODE PHASE ACTION AGE NEXT"
    assert (
        "node-2 gpu:0000:3b:00.0 gpu-lost needs-human (held) reboot-node 60s "
        "needs you: replace GPU 3"
    ) in lines
    assert any(
        each.startswith("node-1 gpu:0000:3b:00.0 gpu-lost draining reboot-node 15m 2 of 7 pods")
        for each in lines
    )
    assert "node-0" not in printed
    assert "node-0" in await cli("incidents", "--all")
    assert {each["node"] for each in json.loads(await cli("incidents", "--json"))} == {
        "node-1",
        "node-2",
    }


async def test_explain_answers_in_order_and_gives_the_commands(world: World, cli: Cli) -> None:
    known = world.drain("node-1")
    world.incidents["inc-node-1"] = msgspec.structs.replace(known, note="\x1b]0;pwned\x07 see me")
    printed = await cli("explain", "node-1")
    parts = [
        "node-1 is quarantined and cordoned by Fleetmedic: gpu-lost on gpu:0000:3b:00.0.",
        "What state is it in, and by whom",
        "Cordoned by Fleetmedic for incident inc-node-1.",
        "On what evidence",
        "<b>fell off</b> the bus",
        "What was done",
        "is in use by another client",
        "2 blocked by PDB serving/llm: needs 3 healthy, has 3",
        "What happens next",
        "2 of 7 pods are left; reboot-node once they are gone",
        "in 58m",
        "How to stop it",
        "      fleetmedic hold node-1 --note WHY",
    ]
    place = 0
    for part in parts:
        place = printed.index(part, place)
    assert "\x1b" not in printed
    assert "see me" in printed
    assert json.loads(await cli("explain", "node-1", "--json"))["incident"] == "inc-node-1"


async def test_a_plan_lists_what_stands_in_its_way_first(cli: Cli) -> None:
    printed = await cli("plan", "node-1", "--device", "gpu:0000:3b:00.0")
    assert "A drain of node-1 of gpu:0000:3b:00.0 would find: 1 leave, 1 refuse." in printed
    assert "It would not begin" in printed
    lines = [" ".join(each.split()) for each in printed.splitlines()]
    refused = lines.index(
        "refuse team-a/notebook keeps data in an emptyDir; part of Notebook; under PDB team-a/keep"
    )
    left = next(n for n, each in enumerate(lines) if each.startswith("leave kube-system/device"))
    assert refused < left
    assert "1 of its pods are on other nodes" in printed
    assert json.loads(await cli("plan", "node-1", "--json"))["executable"] is False


async def test_what_the_aggregator_refuses_is_told_in_its_words(world: World, cli: Cli) -> None:
    assert "no node named 'nope'" in await cli("explain", "nope", status=1)
    world.leading = False
    assert "not the leader" in await cli("plan", "node-1", status=1)


async def test_what_is_no_aggregator_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    async with TestServer(web.Application()) as other:
        url = str(other.make_url("/"))
        said = await Cli(url, capsys)("incidents", status=1)
    assert f"{url.rstrip('/')} is no aggregator: status 404; name another with --server" in said


async def test_a_server_that_is_silent_is_given_up(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hang_up = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hang_up.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ask = Cli(f"http://127.0.0.1:{port}", capsys)
        said = await ask("incidents", "--timeout-seconds", "0.2", status=1)
        hang_up.set()
    assert "cannot reach the aggregator" in said
    assert "timed out" in said
