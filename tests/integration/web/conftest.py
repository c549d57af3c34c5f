"""A fleet of three nodes, and a client of the application that serves it."""

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestClient, TestServer

from aggregator.web.api import create_app
from tests.integration.web.client import Client
from tests.integration.web.world import World


@pytest.fixture
def world() -> World:
    made = World()
    for number in range(3):
        made.report(f"node-{number}")
    return made


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_app(world.deps()))) as client:
        yield client
