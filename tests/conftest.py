"""What every test gets: the control plane's fixtures, repeatable hypothesis runs, a loop that may not block."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

from tests.timelines import scoreboard

pytest_plugins = ["tests.controlplane.fixtures", "tests.consumers.fixtures"]

settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# On Python 3.11 pytest-asyncio asks for the current loop and so makes one that nobody closes, which
# `filterwarnings = error` then charges to some unrelated test. Without a policy's loop there is none to leak.
asyncio.set_event_loop(None)

WATCHED = [
    *("agent.runtime", "agent.sources", "agent.http"),
    *("aggregator.engine", "aggregator.writes", "aggregator.intake", "aggregator.fleet"),
]
"""What runs all the time. Start-up may read files: the page's folder, a kubeconfig, certificates."""


@pytest.fixture(autouse=True)
def nothing_of_ours_blocks_the_loop() -> Iterator[None]:
    """A call of ours that blocks inside a coroutine fails the test."""
    with blockbuster_ctx(WATCHED) as watch:
        # gRPC's server takes a lock when the garbage collector gets to it, wherever that happens to be.
        watch.functions["threading.Lock.acquire"].deactivate()
        watch.functions["threading.Lock.acquire_lock"].deactivate()
        for function in watch.functions.values():  # a device node, opened with O_NONBLOCK
            function.can_block_in("agent/sources/kmsg.py", "_open")
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The scoreboard of the timelines, where any were played."""
    if scoreboard.PLAYED:
        terminalreporter.section("timelines")
        terminalreporter.write_line("\n".join(scoreboard.lines()))
