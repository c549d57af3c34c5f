"""Kubernetes Events about a Node: what ``kubectl describe node`` and ``kubectl events`` show.

The same words about the same node are one Event that is counted. Its name follows from them, so
that a restarted or another leader goes on counting instead of starting anew.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from aggregator.cluster import times
from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import Conflict, NotFound
from aggregator.cluster.pen import Pen
from aggregator.policy.model import RecordEvent

NAMESPACE = "default"
"""Where Events on objects without a namespace live."""
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
COMPONENT = "fleetmedic"
REMEMBERED = 4096
MESSAGE_LENGTH = 1024


class EventRecorder:
    """Writes Events; remembers the newest few thousand counts.

    Args:
        api: the way to the server.
        pen: writes for us.
        wall: Unix time.
    """

    def __init__(self, api: Api, *, pen: Pen, wall: Callable[[], float]) -> None:
        self._api = api
        self._pen = pen
        self._wall = wall
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def record(self, event: RecordEvent, uid: str) -> None:
        """Create the Event, or count the one that is there.

        Raises:
            ApiError: it could not be done.
        """
        name = event_name(event)
        count = self._counts.pop(name, 0)
        written = await self._count(name, count + 1) if count else None
        if written is None:
            written = await self._create(name, event, uid)
        self._counts[name] = int(written.get("count") or 1)
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)

    async def _create(self, name: str, event: RecordEvent, uid: str) -> Json:
        try:
            return await self._pen.create(EVENTS, self._object(name, event, uid))
        except Conflict:  # from before our start
            there = await self._api.get(f"{EVENTS}/{name}")
            return await self._count(name, int(there.get("count") or 1) + 1) or there

    async def _count(self, name: str, count: int) -> Json | None:
        """Raise the count; ``None`` when the Event expired, as Events do after an hour."""
        now = times.whole(self._wall())
        try:
            return await self._pen.patch(f"{EVENTS}/{name}", {"count": count, "lastTimestamp": now})
        except NotFound:
            return None

    def _object(self, name: str, event: RecordEvent, uid: str) -> Json:
        now = times.whole(self._wall())
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": event.node,
                "uid": uid or event.node,
            },
            "type": event.type,
            "reason": event.event_reason,
            "message": event.reason[:MESSAGE_LENGTH],
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


def event_name(event: RecordEvent) -> str:
    """A DNS name made of the node and of everything that is said about it."""
    words = "\0".join((event.type, event.event_reason, event.reason))
    digest = hashlib.sha256(words.encode(errors="replace")).hexdigest()[:16]
    return f"{event.node[:230].rstrip('.-')}.{digest}"
