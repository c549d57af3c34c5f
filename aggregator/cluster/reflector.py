"""A collection of the API server kept in memory: list once, then follow its changes.

Only a reduced value of each object stays, so that thousands of Nodes remain small. What we write
ourselves is put in at once (``put``), so that a decision never overlooks our own last write.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Generic, NamedTuple, TypeVar

import msgspec
import structlog

from aggregator.cluster.client import PAGE, Api, Json, Query
from aggregator.cluster.errors import (
    ApiError,
    Forbidden,
    Gone,
    NotFound,
    TooManyRequests,
    Unavailable,
)

T = TypeVar("T")

log = structlog.get_logger()


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a reflector is."""

    watch_seconds: float = 300.0
    """How long one watch lasts, at least; up to twice as long, so that not all end at once."""
    idle_seconds: float = 150.0
    """A watch this silent is dead: the server sends a bookmark every minute."""
    backoff_seconds: float = 0.5
    """The pause after a first failure; doubles with each further one."""
    backoff_max_seconds: float = 30.0


class Entry(NamedTuple, Generic[T]):
    """One object: the version that the server gave it, and what we keep of it."""

    version: str
    value: T


def older(version: str, than: str) -> bool:
    """Whether a resourceVersion comes before another one.

    Kubernetes promises that they are ordered integers (conformance since 1.35); a server that
    breaks it is believed in the order in which it speaks.
    """
    if version.isdecimal() and than.isdecimal():
        return int(version) < int(than)
    return False


def name_of(obj: Json) -> str:
    """What tells objects of a collection apart in which names are unique."""
    name: str = obj["metadata"]["name"]
    return name


class Reflector(Generic[T]):
    """One collection. One owner: the event loop.

    Args:
        api: the way to the server.
        path: of the collection.
        reduce: what to keep of an object; total, and equal values mean that nothing changed.
        on_change: called after each change of a value.
        clock: monotonic seconds.
        random: 0 ≤ x < 1.
        timings: how patient to be.
        query: what narrows the collection, a field selector.
        key: what tells objects apart, where names alone do not: those of all namespaces.
        on_each: called with the key and the former value (``None``: it is new) of each object that is another one now, or
            gone, before ``on_change``.
        page: how many objects to read at once; each page holds up the event loop while it is taken in.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        reduce: Callable[[Json], T],
        *,
        on_change: Callable[[], None],
        clock: Callable[[], float],
        random: Callable[[], float],
        timings: Timings | None = None,
        query: Query | None = None,
        key: Callable[[Json], str] = name_of,
        on_each: Callable[[str, T | None], None] | None = None,
        page: int = PAGE,
    ) -> None:
        self._api = api
        self._key = key
        self._on_each = on_each
        self._page = page
        self._path = path
        self._reduce = reduce
        self._on_change = on_change
        self._clock = clock
        self._random = random
        self._timings = timings or Timings()
        self._query = query
        self._entries: dict[str, Entry[T]] = {}
        self._position: str | None = None  # the newest version seen; None: list first
        self._written: dict[str, Entry[T]] | None = {}  # put during a list; None outside of one
        self._failures = 0
        self._heard = clock()
        self.errors_total = 0
        """Lists and watches that failed; that a version is too old (``Gone``) is no failure."""
        self.trouble = ""
        """Why it cannot be read now; empty: nothing is known to be wrong."""
        self._turn: asyncio.Timeout | None = None  # while running; ends early when a list is due
        self.synced = False
        """Whether there was a full list; what is known then only ever gets older, not partial."""

    @property
    def entries(self) -> Mapping[str, Entry[T]]:
        """All objects by name; changes under the reader's hands."""
        return self._entries

    @property
    def last_event_age(self) -> float:
        """Seconds since the server last said anything about this collection."""
        return self._clock() - self._heard

    async def run(self) -> None:
        """Follow the collection until cancelled; no answer of the server ends it."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):  # a new list is due: begin anew
                    async with asyncio.timeout(None) as self._turn:
                        await asyncio.sleep(await self._attempt())
        finally:
            self._turn = None

    def refresh(self) -> None:
        """List again at once, whatever is under way: what is known may be old. Not ``synced`` until then."""
        self.synced = False
        self._position = None
        self._failures = 0
        if self._turn is not None and not self._turn.expired():
            self._turn.reschedule(asyncio.get_running_loop().time())

    async def _attempt(self) -> float:
        """List if need be and follow until that ends; how long to pause then."""
        started = self._clock()
        try:
            if self._position is None:
                await self._list()
            await self._follow()
        except Gone:
            self._position = None
            return self._backoff()
        except ApiError as error:
            self.errors_total += 1
            self.trouble = str(error)
            pause = self._backoff()
            if isinstance(error, TooManyRequests):
                pause = max(pause, error.retry_after_seconds)
            elif not isinstance(error, Unavailable):
                self._position = None
            log.warning(
                "lost sight of a collection",
                path=self._path,
                error=str(error),
                retry_seconds=round(pause, 1),
                **_remedy(error),
            )
            return pause
        # An end this early is a failure in disguise.
        return self._backoff() if self._clock() - started < 1.0 else 0.0

    def put(self, obj: Json) -> Entry[T]:
        """Take in an object as the server answered one of our own requests.

        Ignored where something newer is known, as is an object that was deleted since.

        Returns:
            The object as given, reduced.
        """
        name, entry = self._read(obj)
        if self._written is not None:
            self._written[name] = entry
        elif name not in self._entries and older(entry.version, self._position or ""):
            return entry
        known = self._entries.get(name)
        if self._store(name, entry):
            self._tell(name, known)
        return entry

    def drop(self, name: str) -> None:
        """Forget an object that we deleted ourselves; the watch says the same a moment later."""
        if self._written is not None:
            self._written.pop(name, None)
        known = self._entries.pop(name, None)
        if known is not None:
            self._tell(name, known)

    def _tell(self, name: str, known: Entry[T] | None) -> None:
        if self._on_each is not None:
            self._on_each(name, known.value if known is not None else None)
        self._on_change()

    def _read(self, obj: Json) -> tuple[str, Entry[T]]:
        return self._key(obj), Entry(obj["metadata"]["resourceVersion"], self._reduce(obj))

    def _store(self, name: str, entry: Entry[T]) -> bool:
        """Keep an object unless a newer one is known; whether its value changed."""
        known = self._entries.get(name)
        if known is not None and older(entry.version, known.version):
            return False
        self._entries[name] = entry
        return known is None or known.value != entry.value

    async def _list(self) -> None:
        """Read everything; what is not in it any more is deleted, unless we wrote it meanwhile."""
        self._written = {}
        found: dict[str, Entry[T]] = {}
        version = ""
        reading = self._api.pages(self._path, limit=self._page, query=self._query)
        async with aclosing(reading) as pages:
            async for page in pages:
                version = version or page["metadata"]["resourceVersion"]
                found.update(self._read(item) for item in page.get("items") or ())
        written = self._written.items()
        found.update({name: entry for name, entry in written if older(version, entry.version)})
        self._written = None
        before, self._entries = self._entries, found
        self._position = version
        self._heard = self._clock()
        self.trouble = ""
        first, self.synced = not self.synced, True
        differ = self._differing(before, found)
        if self._on_each is not None:
            for name in differ:
                self._on_each(name, before[name].value if name in before else None)
        if first or differ:
            self._on_change()

    def _differing(
        self, before: Mapping[str, Entry[T]], after: Mapping[str, Entry[T]]
    ) -> list[str]:
        """What is in one and not in the other, or is another value there."""
        gone = [name for name in before if name not in after]
        return gone + [
            name
            for name, entry in after.items()
            if (known := before.get(name)) is None or known.value != entry.value
        ]

    async def _follow(self) -> None:
        """Take in changes until the server ends the watch."""
        stream = self._api.watch(
            self._path,
            version=self._position or "",
            seconds=self._timings.watch_seconds * (1 + self._random()),
            idle_seconds=self._timings.idle_seconds,
            query=self._query,
        )
        async with aclosing(stream) as events:
            async for event in events:
                self._heard = self._clock()
                self._failures = 0
                self.trouble = ""
                self._take(event["type"], event["object"])

    def _take(self, kind: str, obj: Json) -> None:
        self._position = obj["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        name, entry = self._read(obj)
        known = self._entries.get(name)
        if kind != "DELETED":
            changed = self._store(name, entry)
        else:
            changed = known is not None and not older(entry.version, known.version)
            if changed:
                del self._entries[name]
        if changed:
            self._tell(name, known)

    def _backoff(self) -> float:
        """Half to all of a pause that doubles with each failure in a row."""
        longest = self._timings.backoff_seconds * 2.0 ** min(self._failures, 16)
        self._failures += 1
        return min(longest, self._timings.backoff_max_seconds) * (0.5 + self._random() / 2)


def _remedy(error: ApiError) -> dict[str, str]:
    """What a person has to do, where waiting will not help."""
    if isinstance(error, NotFound):
        return {"remedy": "install the CRD: kubectl apply -f deploy/crd/incidents.yaml"}
    if isinstance(error, Forbidden):
        return {"remedy": "check the token and the rights in deploy/base/rbac.yaml"}
    return {}
