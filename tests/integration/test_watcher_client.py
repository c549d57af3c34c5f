"""Trimaran's own way to our ``/watcher``: load-watcher's client and decoder, over real HTTP."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aggregator.feeds.watcher import Watcher
from aggregator.usage import Usage
from tests import consumers
from tests.support import START
from tests.usage_builders import steady

NOW = START + 1_000

pytestmark = pytest.mark.consumer("loadwatcher")


class Rig:
    def __init__(self) -> None:
        self.leading = True
        self.usage = Usage()
        for number in range(50):
            share = number / 50
            steady(self.usage, f"n{number}", start=NOW - 100, end=NOW, cpu=share, gpus=(1 - share,))

    async def ask(self, program: str, prefix: str = "") -> Any:
        watcher = Watcher(
            self.usage,
            nodes=lambda: [*(f"n{number}" for number in range(50)), "never"],
            sick=set,
            serving=lambda: self.leading,
            clock=lambda: NOW,
        )
        app = web.Application()
        app.add_routes(watcher.routes())
        async with TestServer(app) as server:
            child = await asyncio.create_subprocess_exec(
                program,
                f"http://127.0.0.1:{server.port}{prefix}",
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            output, errors = await child.communicate()
        assert child.returncode == 0, errors.decode()
        return json.loads(output)


@pytest.fixture(scope="module")
def program() -> str:
    return str(consumers.need("loadwatcher"))


def values(answer: Any, node: str) -> dict[tuple[str, str], float]:
    metrics = answer["data"]["NodeMetricsMap"][node]["metrics"]
    return {(each["type"], each["operator"]): each["value"] for each in metrics}


async def test_load_watchers_own_client_reads_every_node_and_value(program: str) -> None:
    answer = await Rig().ask(program, "/cpu")
    assert len(answer["data"]["NodeMetricsMap"]) == 51
    assert values(answer, "n37") == {
        ("CPU", "Latest"): 74.0,
        ("CPU", "STD"): 0.0,
        ("CPU", "AVG"): 74.0,
        ("Memory", "Latest"): 50.0,
        ("Memory", "STD"): 0.0,
        ("Memory", "AVG"): 50.0,
    }
    assert values(answer, "never")["CPU", "AVG"] == pytest.approx(49.0, abs=0.01)
    assert answer["window"] == {"duration": "5m", "start": int(NOW - 305), "end": int(NOW - 5)}
    assert answer["source"] == "fleetmedic"


async def test_it_reads_gpus_under_the_other_prefix(program: str) -> None:
    assert values(await Rig().ask(program, "/gpu"), "n10")["CPU", "AVG"] == 80.0


async def test_it_reads_the_neutral_answer_as_no_nodes(program: str) -> None:
    rig = Rig()
    rig.leading = False
    assert not (await rig.ask(program))["data"]["NodeMetricsMap"]
