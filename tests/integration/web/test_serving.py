"""What is served beside the API: probes, metrics, static files, the extender, and headers on everything."""

import pytest

from tests.integration.web.client import Client
from tests.integration.web.world import World


async def test_probes_and_metrics(world: World, client: Client) -> None:
    assert (await client.get("/healthz")).status == 200
    assert (await client.get("/readyz")).status == 200
    world.leading = world.synced = False
    refused = await client.get("/readyz")
    assert refused.status == 503
    assert len((await refused.text()).splitlines()) == 2
    assert (await client.get("/healthz")).status == 200
    metrics = await client.get("/metrics")
    assert await metrics.read() == b"fleetmedic_up 1\n"
    assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/api/v1/summary", "/api/v1/nope", "/metrics", "/static/nope"]
)
async def test_every_answer_carries_the_security_headers(client: Client, path: str) -> None:
    reply = await client.get(path)
    assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in reply.headers


async def test_static_files_stay_in_their_folder(client: Client) -> None:
    for path in ("/static/../api.py", "/static/%2e%2e/api.py", "/static/"):
        assert (await client.get(path)).status in {403, 404}


async def test_the_extender_is_part_of_it(world: World, client: Client) -> None:
    pod = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}
    reply = await client.post(
        "/scheduler/prioritize", json={"Pod": pod, "NodeNames": ["node-0", "other"]}
    )
    assert await reply.json() == [
        {"Host": "node-0", "Score": 100},
        {"Host": "other", "Score": 50},
    ]
