"""A real Prometheus and a real Alertmanager for one test, on ports that the kernel picks."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from contract.metrics import CONTENT_TYPE
from tests.prometheus import tools

LISTENING = re.compile(rb'msg="Listening on" address=(\S+)')
START_SECONDS = 30


@asynccontextmanager
async def running(*command: str | Path) -> AsyncIterator[str]:
    """One server process; gives its base URL once it says on which port it listens."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    assert process.stderr is not None
    drain: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(START_SECONDS):
            url = f"http://{await _address(process.stderr)}"
            drain = asyncio.create_task(process.stderr.read())
            await _ready(url)
        yield url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if drain is not None:
            await drain


async def _address(log: asyncio.StreamReader) -> str:
    seen = []
    async for line in log:
        if found := LISTENING.search(line):
            return found[1].decode()
        seen.append(line.decode(errors="replace"))
    raise AssertionError("it ended before it listened:\n" + "".join(seen))


async def _ready(url: str) -> None:
    """It listens before it serves; polled, for a real process offers no event."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/-/ready") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def prometheus(
    folder: Path, targets: Mapping[str, str], rules: Path | None = None
) -> AsyncIterator[str]:
    """A Prometheus that scrapes every target each second.

    Args:
        folder: an empty one, for its configuration and data.
        targets: ``host:port/path`` → the value of the label ``instance``.
        rules: a rule file to load.
    """
    scrapes = []
    for address, instance in targets.items():
        host, _, path = address.partition("/")
        names = {"__metrics_path__": f"/{path}", "instance": instance}
        scrapes.append({"targets": [host], "labels": names})
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [
            {"job_name": "fleetmedic", "honor_labels": True, "static_configs": scrapes}
        ],
    }
    file = folder / "prometheus.json"
    file.write_text(json.dumps(config))  # JSON is YAML
    async with running(
        tools.need("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ) as url:
        yield url


@asynccontextmanager
async def alertmanager(folder: Path, config: Path) -> AsyncIterator[str]:
    """An Alertmanager of its own, without a cluster of peers."""
    async with running(
        tools.need("prometheus-alertmanager"),
        f"--config.file={config}",
        f"--storage.path={folder}",
        "--web.listen-address=127.0.0.1:0",
        "--cluster.listen-address=",
    ) as url:
        yield url


@asynccontextmanager
async def serving(pages: Mapping[str, bytes]) -> AsyncIterator[str]:
    """An HTTP server for rendered pages, by path; gives its ``host:port``."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=pages[request.path], headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get(path, answer) for path in pages])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


async def get_json(url: str, **parameters: str) -> Any:
    """What a GET answers; any status but 200 is an error with the body in it."""
    async with aiohttp.ClientSession() as session, session.get(url, params=parameters) as answer:
        body = await answer.text()
        assert answer.status == 200, f"{url} {parameters}: {answer.status} {body}"
        return json.loads(body)


async def until_value(url: str, query: str, seconds: float = 20) -> list[dict[str, Any]]:
    """Ask Prometheus until a query has a result; polled, for a real process offers no event."""
    async with asyncio.timeout(seconds):
        while True:
            answer = await get_json(f"{url}/api/v1/query", query=query)
            if result := answer["data"]["result"]:
                return list(result)
            await asyncio.sleep(0.1)
