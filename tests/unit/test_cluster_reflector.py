"""The reflector against a script of what the server says, word by word."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from aggregator.cluster.client import PAGE, Api, Json, Query
from aggregator.cluster.control import Control
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.errors import (
    ApiError,
    Forbidden,
    Gone,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from aggregator.cluster.reflector import Reflector, Timings, older
from contract.vocabulary import CONTROL_CONFIG_MAP


def obj(name: str, version: int, value: str = "") -> Json:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "value": value}


def page(version: int, *items: Json) -> Json:
    return {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


def event(kind: str, one: Json) -> Json:
    return {"type": kind, "object": one}


Listing = list[Json] | ApiError
Watching = list[Json | ApiError | Callable[[], object]]


class Script(Api):
    """Answers each list and each watch from the script, then stays silent."""

    def __init__(self, lists: list[Listing], watches: list[Watching]) -> None:
        super().__init__(Credentials(None))
        self.lists = lists
        self.watches = watches
        self.asked: list[str] = []
        self.while_listing: Callable[[], object] = lambda: None
        self.silent = asyncio.Event()

    async def pages(
        self, path: str, *, limit: int = PAGE, query: Query | None = None
    ) -> AsyncGenerator[Json]:
        self.asked.append("list")
        listing = self.lists.pop(0)
        if isinstance(listing, ApiError):
            raise listing
        for one in listing:
            yield one
            self.while_listing()

    async def watch(
        self,
        path: str,
        *,
        version: str,
        seconds: float,
        idle_seconds: float,
        query: Query | None = None,
    ) -> AsyncGenerator[Json]:
        self.asked.append(f"watch {version}")
        if not self.watches:
            self.silent.set()
            await asyncio.Event().wait()
        for one in self.watches.pop(0):
            if isinstance(one, ApiError):
                raise one
            if isinstance(one, dict):
                yield one
            else:
                one()


class Told:
    """A reflector of ``value``, and how often it said that something changed."""

    def __init__(self, script: Script) -> None:
        self.changes = 0
        self.script = script
        self.now = 0.0
        self.reflector = Reflector(
            script,
            "/things",
            lambda one: str(one["value"]),
            on_change=self._changed,
            clock=lambda: self.now,
            random=lambda: 0.0,
            timings=Timings(backoff_seconds=0.0),
        )

    def _changed(self) -> None:
        self.changes += 1

    @property
    def values(self) -> dict[str, str]:
        return {name: entry.value for name, entry in self.reflector.entries.items()}

    async def to_the_end(self) -> None:
        """Run until the script is used up."""
        task = asyncio.create_task(self.reflector.run())
        ending = asyncio.create_task(self.script.silent.wait())
        await asyncio.wait({task, ending}, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        for one in (task, ending):
            one.cancel()
        for one in (task, ending):
            with contextlib.suppress(asyncio.CancelledError):
                await one
        assert self.script.silent.is_set()


Tell = Callable[[list[Listing], list[Watching]], Awaitable[Told]]


async def tell(lists: list[Listing], watches: list[Watching]) -> Told:
    told = Told(Script(lists, watches))
    await told.to_the_end()
    return told


async def test_pages_and_changes_are_taken_in() -> None:
    told = await tell(
        [[page(10, obj("a", 1, "x")), page(10, obj("b", 2, "y"), obj("c", 3, "z"))]],
        [
            [
                event("MODIFIED", obj("a", 11, "xx")),
                event("ADDED", obj("d", 12, "new")),
                event("DELETED", obj("b", 13, "y")),
                event("BOOKMARK", {"metadata": {"resourceVersion": "20"}}),
            ]
        ],
    )
    assert told.values == {"a": "xx", "c": "z", "d": "new"}
    assert told.reflector.synced
    assert told.script.asked == ["list", "watch 10", "watch 20"]
    assert told.changes == 4  # the list and three events, not the bookmark


async def test_a_change_that_leaves_the_value_as_it_is_tells_nobody() -> None:
    told = await tell([[page(10, obj("a", 1, "x"))]], [[event("MODIFIED", obj("a", 11, "x"))]])
    assert told.changes == 1
    assert told.reflector.entries["a"].version == "11"


@pytest.mark.parametrize("how", ["status", "event"])
async def test_a_forgotten_place_leads_to_a_new_list_and_missed_deletions(how: str) -> None:
    told = await tell(
        [
            [page(10, obj("a", 1, "x"), obj("b", 2, "y"))],
            [page(50, obj("a", 40, "xx"))],
        ],
        [[Gone("too old")] if how == "status" else [event("ADDED", obj("c", 11)), Gone("too old")]],
    )
    assert told.values == {"a": "xx"}
    assert told.script.asked == ["list", "watch 10", "list", "watch 50"]


@pytest.mark.parametrize(
    "error",
    [Unavailable("no connection"), TooManyRequests("slow", status=429, retry_after_seconds=0.0)],
)
async def test_a_lost_connection_is_taken_up_where_it_was(error: ApiError) -> None:
    told = await tell(
        [[page(10, obj("a", 1, "x"))]],
        [[event("MODIFIED", obj("a", 11, "xx")), error], [error], []],
    )
    assert told.script.asked == ["list", "watch 10", "watch 11", "watch 11", "watch 11"]


async def test_a_collection_that_is_not_there_yet_is_listed_again() -> None:
    told = await tell([NotFound("no such type"), Unavailable("down"), [page(10)]], [])
    assert told.script.asked == ["list", "list", "list", "watch 10"]
    assert told.reflector.synced
    assert told.changes == 1  # an empty list is news too, the first time


async def test_an_older_event_does_not_undo_what_we_wrote() -> None:
    told = Told(Script([[page(10, obj("a", 1, "x"))]], []))
    await told.to_the_end()
    told.reflector.put(obj("a", 15, "ours"))
    assert told.values == {"a": "ours"}
    told.reflector._take("MODIFIED", obj("a", 12, "of before"))
    told.reflector._take("DELETED", obj("a", 14, "of before"))
    assert told.values == {"a": "ours"}
    told.reflector._take("MODIFIED", obj("a", 16, "later"))
    assert told.values == {"a": "later"}
    told.reflector.put(obj("a", 15, "ours"))
    assert told.values == {"a": "later"}


async def test_what_was_deleted_is_not_brought_back_by_a_late_answer() -> None:
    told = Told(Script([[page(10, obj("a", 1, "x"))]], []))
    await told.to_the_end()
    told.reflector._take("DELETED", obj("a", 20, "x"))
    told.reflector.put(obj("a", 15, "answered late"))
    assert told.values == {}
    told.reflector.put(obj("b", 21, "created by us"))
    assert told.values == {"b": "created by us"}


async def test_what_we_write_while_a_list_is_read_survives_it() -> None:
    script = Script([[page(10, obj("a", 1, "x"), obj("b", 2, "y"))]], [])
    told = Told(script)

    def write() -> None:
        told.reflector.put(obj("a", 11, "ours"))
        told.reflector.put(obj("new", 12, "ours too"))
        told.reflector.put(obj("old", 9, "deleted before the list"))

    script.while_listing = write
    await told.to_the_end()
    assert told.values == {"a": "ours", "b": "y", "new": "ours too"}


async def test_the_age_of_the_last_word_grows_in_silence() -> None:
    told = await tell([[page(10)]], [])
    told.now += 42
    assert told.reflector.last_event_age == 42


def test_pauses_double_up_to_a_limit_and_are_spread() -> None:
    luck = 0.0
    reflector = Reflector(
        Script([], []),
        "/things",
        str,
        on_change=lambda: None,
        clock=lambda: 0.0,
        random=lambda: luck,
    )
    assert [reflector._backoff() for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15]
    luck = 1.0
    assert reflector._backoff() == 30.0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("9", "10", True),
        ("10", "9", False),
        ("10", "10", False),
        ("x", "y", False),
        ("9", "", False),
    ],
)
def test_versions_are_ordered_as_integers(a: str, b: str, expected: bool) -> None:
    assert older(a, b) is expected


@pytest.mark.looptime(start=0)
async def test_a_stop_is_seen_soon_even_where_no_watch_holds() -> None:
    """Rights to list and none to watch, or a proxy that ends every stream: our patience is not the person's."""
    loop = asyncio.get_running_loop()

    class NoWatch(Script):
        async def pages(
            self, path: str, *, limit: int = PAGE, query: Query | None = None
        ) -> AsyncGenerator[Json]:
            stop = {"metadata": {"name": CONTROL_CONFIG_MAP, "resourceVersion": "5"}}
            items = [{**stop, "data": {"stop": "now"}}] if loop.time() >= 300 else []
            yield {"metadata": {"resourceVersion": "5"}, "items": items}

    control = Control(
        NoWatch([], [[Forbidden("watch: 403", status=403)] for _ in range(1_000)]),
        "ns",
        on_change=lambda: None,
        clock=loop.time,
        random=lambda: 0.9,
        timings=Timings(),
    )
    task = asyncio.create_task(control.reflector.run())
    await asyncio.sleep(299)
    assert not control.forbids
    await asyncio.sleep(2.1)
    assert control.stopped == "now"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
