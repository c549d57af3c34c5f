"""The extender in a thread of its own: a scheduler is answered while the loop is busy, and nothing is torn."""

import asyncio
import json
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aggregator.feeds.extender import PRIORITIZE_PATH, Extender
from aggregator.feeds.extender_server import ExtenderServer
from aggregator.scores.book import ScoreBook
from aggregator.stats import AggregatorStats
from tests.score_builders import NOW, facts, put, room, wants

NAMES = [f"n{number}" for number in range(50)]


def guarded_book() -> ScoreBook:
    book = ScoreBook(guard=threading.RLock())
    for number, name in enumerate(NAMES):
        put(book, facts(name), room(name, [0] * (number % 8) + [1000] * (8 - number % 8)))
    book.settle(NOW)
    return book


@asynccontextmanager
async def serving(book: ScoreBook, listen: str = "127.0.0.1:0") -> AsyncIterator[ExtenderServer]:
    server = ExtenderServer(Extender(book, AggregatorStats(), clock=lambda: NOW), listen)
    task = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(10):
            await server.started.wait()
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def ask(port: int, gpus: int = 1) -> Any:
    pod = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]}}
    body = json.dumps({"Pod": pod, "NodeNames": NAMES}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{PRIORITIZE_PATH}", body)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.loads(reply.read())


async def test_a_scheduler_is_answered_while_the_loop_stands_still() -> None:
    async with serving(guarded_book()) as server:
        found = ask(server.port)  # the loop waits for it and does nothing else
    assert [each["Host"] for each in found] == NAMES


async def test_it_lets_go_of_its_port() -> None:
    async with serving(guarded_book()) as server:
        port = server.port
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))


async def test_an_address_that_is_taken_is_an_error_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = ExtenderServer(
            Extender(guarded_book(), AggregatorStats(), clock=lambda: NOW),
            f"127.0.0.1:{taken.getsockname()[1]}",
        )
        with pytest.raises(OSError, match="address"):
            await server.run()


async def test_answers_are_whole_while_the_fleet_changes_under_them() -> None:
    book = guarded_book()
    async with serving(book) as server:
        asked = [asyncio.to_thread(ask, server.port, 1 + number % 8) for number in range(40)]
        pending = asyncio.gather(*asked)
        turn = 0
        while not pending.done():
            for number in range(0, 50, 7):
                put(book, facts(f"n{number}"), room("n", [1000] * (1 + (turn + number) % 8)))
            put(book, facts(f"new-{turn}"), room("n", [1000] * 8))
            book.drop(f"new-{turn - 3}")
            book.settle(NOW)
            turn += 1
            await asyncio.sleep(0)
        for found in pending.result():
            assert [each["Host"] for each in found] == NAMES
            assert all(0 <= each["Score"] <= 100 for each in found)
    anew = guarded_book()
    for number in range(0, 50, 7):
        put(anew, facts(f"n{number}"), room("n", [1000] * (1 + (turn - 1 + number) % 8)))
    for number in range(max(0, turn - 3), turn):
        put(anew, facts(f"new-{number}"), room("n", [1000] * 8))
    anew.settle(NOW)
    assert book.lookup(wants(), NAMES).tolist() == anew.lookup(wants(), NAMES).tolist()
