"""Changes, sent to every open page. A slow page is cut off and starts anew; it is never waited for.

``publish`` only notes what changed; one task builds the events, in slices, so that neither a decision nor
a scheduler's question ever waits for the pages. An event is encoded once for all pages.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import msgspec
import structlog

from aggregator.journal import Decision
from aggregator.policy.model import ClusterNode, Incident
from aggregator.scores.model import NodeScore
from aggregator.web.deps import WebDeps
from aggregator.web.rows import Moment, NodeRow, RowBook
from aggregator.web.shapes import by_urgency, incident_shape, newest_first
from aggregator.web.summary import Summary, summarize

NODES_PER_EVENT = 50
"""A slice that takes about two milliseconds to build."""

RECENT_DECISIONS = 200

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


def event(name: str, data: object) -> bytes:
    """One server-sent event. JSON has no raw line breaks, so one data line is enough."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(data))


def slices(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Names, as many at a time as one event carries."""
    return (names[i : i + NODES_PER_EVENT] for i in range(0, len(names), NODES_PER_EVENT))


class Subscriber:
    """One open page's bounded queue."""

    def __init__(self, length: int, cut_off: Callable[[], None]) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(length)
        self._cut_off = cut_off
        self.dropped = False

    def put(self, message: bytes | None) -> None:
        """Queue an event, or the end (``None``); a full queue ends the connection."""
        if self.dropped:
            return
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped = True
            self._cut_off()

    async def get(self) -> bytes | None:
        """The next event; ``None`` when the stream ends."""
        return await self._queue.get()


class _Seen(NamedTuple):
    """What the last round saw, to find what changed without being told."""

    scores: Mapping[str, NodeScore]
    nodes: Mapping[str, ClusterNode]
    incidents: Mapping[str, Incident]

    @classmethod
    def at(cls, moment: Moment) -> Self:
        view = moment.view
        return cls(dict(moment.scores), dict(view.nodes), dict(view.incidents))


class Broadcaster:
    """The event stream's sending side. One owner: the event loop."""

    def __init__(self, deps: WebDeps, rows: RowBook) -> None:
        self._deps = deps
        self._rows = rows
        self._subscribers: set[Subscriber] = set()
        self._changed: set[str] = set()
        self._decisions = deque[Decision](maxlen=RECENT_DECISIONS)
        self._due = asyncio.Event()
        self._seen: _Seen | None = None
        self._closed = False
        self.dropped_total = 0
        """Pages cut off because they read too slowly."""

    @property
    def subscribers(self) -> int:
        """How many pages are open."""
        return len(self._subscribers)

    def publish(self, changed_nodes: Iterable[str]) -> None:
        """Tell the pages, soon, about these nodes and about all else that changed.

        Call it once per tick. Changes of scores, incidents and our marks on nodes are found by comparing.
        """
        self._changed.update(changed_nodes)
        self._due.set()

    def subscribe(self, cut_off: Callable[[], None]) -> Subscriber:
        """Open one page's queue; ``cut_off`` must end its connection at once."""

        def drop() -> None:
            self.dropped_total += 1
            self._subscribers.discard(subscriber)
            cut_off()

        subscriber = Subscriber(self._deps.max_queued_events, drop)
        if self._closed:
            subscriber.put(None)
        self._subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """The page is gone."""
        self._subscribers.discard(subscriber)

    def close(self) -> None:
        """End every stream after what is queued for it."""
        self._closed = True
        for subscriber in tuple(self._subscribers):
            subscriber.put(None)

    async def run(self) -> None:
        """Send until cancelled. A round that fails is logged; the next one starts from what is true then."""
        stop = self._deps.journal.listen(self._decisions.append)
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                try:
                    await self._round()
                except Exception:  # noqa: BLE001 - the page must not die of one bad round
                    _log.exception("the fleet page missed one update")
        finally:
            stop()

    async def _round(self) -> None:
        changed, self._changed = self._changed, set()
        decisions = list(self._decisions)
        self._decisions.clear()
        moment = Moment(self._deps)
        before, self._seen = self._seen or _Seen({}, {}, {}), _Seen.at(moment)
        if not self._subscribers:
            return
        incidents = _changed_values(before.incidents, moment.view.incidents)
        gone = sorted(before.incidents.keys() - moment.view.incidents.keys())
        changed |= _changed_keys(before.scores, moment.scores)
        changed |= _changed_keys(before.nodes, moment.view.nodes)
        changed.update(each.node for each in incidents)
        self._send("summary", summarize(self._deps, self._rows.all(moment), moment))
        if incidents or gone:
            shapes = [incident_shape(each) for each in by_urgency(incidents)]
            self._send("incident", {"incidents": shapes, "gone": gone})
        if decisions:
            self._send("decision", {"decisions": newest_first(decisions)})
        for names in slices(sorted(changed)):
            self._send("node", self._slice(names, moment))
            await asyncio.sleep(0)

    def _slice(self, names: Iterable[str], moment: Moment) -> dict[str, list[NodeRow] | list[str]]:
        rows = {name: self._rows.row(name, moment) for name in names}
        return {
            "nodes": [row for row in rows.values() if row is not None],
            "gone": [name for name, row in rows.items() if row is None],
        }

    def _send(self, name: str, data: object) -> None:
        message = event(name, data)
        for subscriber in tuple(self._subscribers):
            subscriber.put(message)


def _changed_values(
    before: Mapping[str, Incident], after: Mapping[str, Incident]
) -> list[Incident]:
    return [value for key, value in after.items() if before.get(key) != value]


def _changed_keys(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    changed = {key for key, value in after.items() if before.get(key) != value}
    return changed | (before.keys() - after.keys())


def current_summary(deps: WebDeps, rows: RowBook) -> Summary:
    """The header line as of now."""
    moment = Moment(deps)
    return summarize(deps, rows.all(moment), moment)
