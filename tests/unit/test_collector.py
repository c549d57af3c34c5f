"""The garbage collector looks at the fleet once, and not again while it stays the same."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from aggregator.collector import THAW_SECONDS, YOUNG_OBJECTS, Collector


@pytest.fixture(autouse=True)
def _unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


class Nodes:
    """As many as a test says."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        return self.count


def test_nothing_is_frozen_while_the_fleet_still_comes_in() -> None:
    nodes = Nodes()
    collector = Collector(nodes)
    for number, count in enumerate((0, 0, 10, 500, 5000)):
        nodes.count = count
        assert not collector.look(number)
    assert not gc.get_freeze_count()


def test_once_all_are_there_they_are_frozen_once() -> None:
    nodes = Nodes()
    collector = Collector(nodes)
    nodes.count = 100
    assert [collector.look(each) for each in range(4)] == [False, True, False, False]
    assert gc.get_freeze_count()


def test_a_node_more_is_not_worth_it_and_many_are() -> None:
    nodes = Nodes()
    collector = Collector(nodes)
    nodes.count = 100
    collector.look(0), collector.look(1)
    nodes.count = 101
    assert not any(collector.look(each) for each in (2, 3, 4))
    nodes.count = 200
    assert [collector.look(each) for each in (5, 6, 7)] == [False, True, False]


def test_cycles_among_what_was_frozen_are_found_after_an_hour() -> None:
    collector = Collector(lambda: 10)
    collector.look(0), collector.look(1)
    assert not collector.look(THAW_SECONDS)
    assert collector.look(THAW_SECONDS + 1)


async def test_young_objects_are_looked_through_more_rarely_for_as_long_as_it_runs() -> None:
    before = gc.get_threshold()
    task = asyncio.create_task(Collector(lambda: 0).run())
    await asyncio.sleep(0)
    assert gc.get_threshold() == (max(before[0], YOUNG_OBJECTS), *before[1:])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert gc.get_threshold() == before
