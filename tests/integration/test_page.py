"""The fleet page in a real browser: what a person sees, and that it follows the fleet without reload."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from aggregator.web.api import BROADCASTER, create_app
from contract.vocabulary import Phase
from tests.browser import CHROMIUM, MISSING, Page, chromium
from tests.integration.web.world import GPUS, World

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=MISSING)

NODES = 12


@dataclass(frozen=True)
class Opened:
    """A page that shows a fleet."""

    world: World
    page: Page
    server: TestServer

    def publish(self, *names: str) -> None:
        self.server.app[BROADCASTER].publish(set(names))

    def cut_the_line(self) -> None:
        assert self.server.runner is not None
        assert self.server.runner.server is not None
        for connection in self.server.runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def count(self, selector: str) -> int:
        found = await self.page.evaluate(f"document.querySelectorAll({selector!r}).length")
        assert isinstance(found, int)
        return found


@asynccontextmanager
async def opened(world: World, folder: Path, path: str = "/") -> AsyncIterator[Opened]:
    """Serve the world and open its page; in the end nothing foreign was asked and nothing went wrong."""
    server = TestServer(create_app(world.deps()))
    await server.start_server()
    try:
        async with chromium(folder) as browser:
            page = await browser.page()
            await page.look_like(1280, 800)
            await page.go(str(server.make_url(path)))
            await page.until("document.querySelector('#connection.live')")
            await page.until(f"document.querySelectorAll('.tile').length == {len(world.fleet)}")
            yield Opened(world, page, server)
            assert page.errors == []
            own = str(server.make_url("/"))
            assert [each for each in page.requests if not each.startswith(own)] == []
    finally:
        await server.close()


@pytest.fixture
def world() -> World:
    made = World()
    for number in range(NODES):
        made.report(f"node-{number}")
    return made


async def test_the_grid_shows_every_gpu_and_follows_changes(world: World, tmp_path: Path) -> None:
    async with opened(world, tmp_path) as it:
        assert await it.count(".tile") == NODES
        assert await it.count(".tile .cell") == NODES * GPUS
        assert await it.count(".tile .dot") == NODES
        assert await it.count(".tile.fatal") == 0
        text = await it.page.evaluate("document.body.innerText")
        assert "Observe mode: nothing is written" in text

        world.lose_gpu("node-4")
        world.decide("<i>gpu-lost</i> is fatal")
        it.publish("node-4")
        tile = ".tile.fatal.quarantined[data-node=node-4]"
        await it.page.until(f"document.querySelector('{tile} .cell.fatal')")
        await it.page.until("document.querySelector('.incident.fatal')")
        await it.page.until("document.querySelector('.decision.taken')")
        assert await it.count(".cell.fatal") == 1
        incident = await it.page.evaluate("document.querySelector('.incident').innerText")
        assert "node-4" in incident
        assert "<b>fell off</b> the bus" in incident  # data is text, never markup
        assert await it.count(".incident b, .decision i") == 0

        world.fleet.forget("node-5")
        del world.nodes["node-5"]
        world.report("node-99")
        it.publish("node-5", "node-99")
        await it.page.until("document.querySelector('[data-node=node-99]')")
        await it.page.until("!document.querySelector('[data-node=node-5]')")


async def test_a_node_opens_by_keyboard_and_closes_with_escape(
    world: World, tmp_path: Path
) -> None:
    world.lose_gpu("node-0")
    async with opened(world, tmp_path) as it:
        await it.page.evaluate("document.querySelector('.tile[tabindex=\"0\"]').focus()")
        await it.page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
        assert await it.page.evaluate("document.activeElement.dataset.node") == "node-1"
        await it.page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
        await it.page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", text="\r")
        await it.page.until("document.querySelectorAll('#panel table').length == 2")
        text = await it.page.evaluate("document.querySelector('#panel').innerText")
        for words in ("quarantined: gpu-lost", "gpu:0000:3b:00.0", "suggested: reboot-node"):
            assert words in text
        assert await it.page.evaluate("location.hash") == "#node/node-0"
        await it.page.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
        await it.page.until("document.querySelector('#panel').hidden")
        assert await it.page.evaluate("document.activeElement.dataset.node") == "node-0"


async def test_the_panel_says_why_what_was_tried_what_is_next_and_how_to_stop_it(
    world: World, tmp_path: Path
) -> None:
    world.mode = "kubernetes"
    world.drain("node-3")
    async with opened(world, tmp_path, "/#node/node-3") as it:
        await it.page.until("document.querySelector('#panel .ways')")
        text = await it.page.evaluate("document.querySelector('#panel').innerText")
        for words in (
            "node-3 is quarantined and cordoned by Fleetmedic: gpu-lost on gpu:0000:3b:00.0.",
            "Cordoned by Fleetmedic for incident inc-node-3.",
            "2 of 7 pods are left; reboot-node once they are gone",
            "in 58 min",
            "5 of 7 pods gone",
            "2 blocked by PDB serving/llm: needs 3 healthy, has 3",
            "in use by another client",
            "fleetmedic hold node-3 --note WHY",
            "fleetmedic cancel node-3 --note WHY",
            "fleetmedic stop WHY",
        ):
            assert words in text
        assert await it.count("#panel .stepper .now") == 1
        assert await it.count("#panel .phase.attempt.failed") == 1

        known = world.incidents["inc-node-3"]
        world.incidents["inc-node-3"] = msgspec.structs.replace(
            known, phase=Phase.NEEDS_HUMAN, needs="move serving/llm-0 by hand", hold=True
        )
        it.publish("node-3")
        await it.page.until("document.querySelector('#panel .needs')")
        text = await it.page.evaluate("document.querySelector('#panel').innerText")
        assert text.count("move serving/llm-0 by hand") == 1
        assert "On hold by a person: Fleetmedic decides nothing more here." in text
        assert "fleetmedic resume node-3" in text
        assert "fleetmedic hold" not in text


async def test_an_address_opens_a_node_and_the_filter_hides_the_rest(
    world: World, tmp_path: Path
) -> None:
    world.lose_gpu("node-3")
    async with opened(world, tmp_path, "/#node/node-3") as it:
        await it.page.until("document.querySelector('#panel .finding.fatal')")
        await it.page.evaluate("document.querySelector('#trouble').click()")
        assert await it.count(".tile:not([hidden])") == 1
        await it.page.evaluate("document.querySelector('#trouble').click()")
        assert await it.count(".tile:not([hidden])") == NODES


async def test_a_page_finds_its_way_back_after_the_line_broke(world: World, tmp_path: Path) -> None:
    async with opened(world, tmp_path) as it:
        it.cut_the_line()
        await it.page.until("document.querySelector('#connection.reconnecting')")
        assert "as of" in await it.page.evaluate("document.querySelector('#connection').innerText")
        world.lose_gpu("node-2")
        world.fleet.forget("node-5")
        del world.nodes["node-5"]
        await it.page.until("document.querySelector('#connection.live')")
        await it.page.until("document.querySelector('.tile.fatal[data-node=node-2]')")
        await it.page.until("!document.querySelector('[data-node=node-5]')")
        assert await it.count(".incident.fatal") == 1
        assert all("/api/v1/events" in each for each in it.page.errors)
        it.page.errors.clear()  # the browser's own note that the line broke


async def test_a_thousand_nodes_fit_and_update(tmp_path: Path) -> None:
    world = World()
    for number in range(1000):
        world.report(f"node-{number:04}", score=False)
    world.score()
    async with opened(world, tmp_path) as it:
        assert await it.count(".tile .cell") == 1000 * GPUS
        assert await it.page.evaluate("document.querySelector('#grid').className") == "tiny"
        world.lose_gpu("node-0777")
        it.publish("node-0777")
        await it.page.until("document.querySelector('.tile.fatal[data-node=\"node-0777\"]')")


@pytest.mark.parametrize("width", [390, 1280])
async def test_nothing_sticks_out_sideways(world: World, tmp_path: Path, width: int) -> None:
    world.lose_gpu("node-3")
    async with opened(world, tmp_path, "/#node/node-3") as it:
        await it.page.look_like(width, 800, dark=True)
        await it.page.until("document.querySelector('#panel table')")
        assert await it.page.evaluate("document.documentElement.scrollWidth") == width
