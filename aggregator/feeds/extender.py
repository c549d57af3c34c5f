"""The kube-scheduler extender: ``filter`` and ``prioritize`` over scores made beforehand.

What is answered when something is missing or broken, and why:

* A node we know nothing of passes the filter and gets the neutral score: this feed may only ever take
  away places that are known to be bad.
* A pod that asks for no GPU or NPU does not come here, as the scheduler's configuration is shipped. Where its owner lets it
  (no ``managedResources``), all its nodes pass, and those with CPU to spare beside their GPUs come first; one that asks for
  nothing at all has one score everywhere.
* A pod whose wish cannot be told as so and so many devices (MIG, several vendors, resource claims, odd amounts) is
  passed over, with the reason counted: its nodes are ranked by what a typical pod would find there.
* A request of which the node names can be read, but not the pod, is answered as if for a pod without a GPU.
* A request of which not even the names can be read gets HTTP 200: ``filter`` says so in ``Error``,
  which is the protocol's own way. The scheduler then does what its owner chose with ``ignorable``, and the
  words reach the pod's events; a status 400 would have the same effect but lose the words.
  ``prioritize`` has no room for an error and answers no scores at all: all hosts stay equal.
* Where more than a fifth of the fleet is sick by its agents' word and not quarantined, the word is doubted: ``filter`` lets
  those nodes pass. ``prioritize`` ranks them last all the same.
* Scores that nobody renewed for ``stale_after_seconds`` are not trusted: all nodes pass, all with one score.

The scheduler hides an extender's errors, so they are counted here.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np
from aiohttp import web

from aggregator.feeds.extender_pod import Wish, wish_of
from aggregator.feeds.extender_scale import DEFAULT_SCALE, favour, spread
from aggregator.scores.book import ScoreBook
from aggregator.scores.model import (
    HEALTHY,
    NEUTRAL_SCORE,
    SICK,
    STALE_AFTER_SECONDS,
    UNKNOWN,
    Ints,
    no_prize_for_silence,
)
from aggregator.scores.table import Places
from aggregator.scores.terms import lacks_healthy_devices

FILTER_PATH = "/scheduler/filter"
PRIORITIZE_PATH = "/scheduler/prioritize"

MAX_BODY_BYTES = 64 << 20
"""Room for about 4,000 full Node objects; 5,000 bare names need 0.2 MiB."""

MAX_ERROR_CHARACTERS = 300

DOUBTED_NODES = 5
DOUBTED_SHARE = 0.2
"""Of the fleet: when more than both are sick and not quarantined, ``filter`` refuses quarantined nodes alone."""

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Tally(Protocol):
    def add(self, key: str, amount: int = 1) -> None:
        """Count it."""


class _Histogram(Protocol):
    def observe(self, value: float) -> None:
        """Count one value, in seconds."""


class ExtenderCounters(Protocol):
    """The counters kept here; plain numbers that the exporter reads."""

    @property
    def extender_requests(self) -> _Tally:
        """Asked, by verb: ``filter``, ``prioritize``."""

    @property
    def extender_answers(self) -> _Tally:
        """Answered, by what the answer rests on: ``pod``, ``node``, ``not-ours``, ``stale``, ``unreadable``."""

    @property
    def extender_passed_over(self) -> _Tally:
        """Pods that could not be scored by their own wish, by reason."""

    @property
    def extender_seconds(self) -> _Histogram:
        """From the body read to the reply made."""

    extender_unknown_nodes_total: int
    extender_errors_total: int


class _NodeList(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


class _Metadata(msgspec.Struct):
    name: str


class _Node(msgspec.Struct):
    metadata: _Metadata


class _Request(msgspec.Struct):
    """Go's encoder writes ``NodeNames``, its decoder takes any case; so do we."""

    upper_names: list[str] | None = msgspec.field(name="NodeNames", default=None)
    camel_names: list[str] | None = msgspec.field(name="nodeNames", default=None)
    lower_names: list[str] | None = msgspec.field(name="nodenames", default=None)
    upper_nodes: _NodeList | None = msgspec.field(name="Nodes", default=None)
    lower_nodes: _NodeList | None = msgspec.field(name="nodes", default=None)
    upper_pod: msgspec.Raw = msgspec.field(name="Pod", default=msgspec.Raw(b""))
    lower_pod: msgspec.Raw = msgspec.field(name="pod", default=msgspec.Raw(b""))


class _Host(msgspec.Struct, rename="pascal", gc=False):
    host: str
    score: int


class _FilterReply(msgspec.Struct, rename="pascal", omit_defaults=True):
    node_names: list[str] | None = None
    nodes: dict[str, list[msgspec.Raw]] | None = None
    failed_nodes: dict[str, str] = {}
    failed_and_unresolvable_nodes: dict[str, str] = {}
    error: str = ""


class _Asked(msgspec.Struct, frozen=True):
    """One request, understood."""

    names: list[str]
    nodes: list[msgspec.Raw] | None
    """The full objects, one per name, where the scheduler sent those."""
    wish: Wish


class Extender:
    """Answers the scheduler. Everything but reading the body is a lookup.

    Args:
        book: the scores.
        counters: what is counted, kept by the caller.
        clock: Unix time, the book's own.
        scale: the best number that a node can get; the scheduler multiplies it by ten times our weight.
        stale_after_seconds: how old the book may be.
        leading: whether agents report to this process. Where they do not, the connection is closed after each answer: a
            scheduler would else keep the one it has and never ask the new leader.
    """

    def __init__(
        self,
        book: ScoreBook,
        counters: ExtenderCounters,
        *,
        clock: Callable[[], float],
        scale: int = DEFAULT_SCALE,
        stale_after_seconds: float = STALE_AFTER_SECONDS,
        leading: Callable[[], bool] = lambda: True,
    ) -> None:
        self._leading = leading
        self._book = book
        self._counters = counters
        self._clock = clock
        self._scale = scale
        self._stale_after_seconds = stale_after_seconds
        self._decode = msgspec.json.Decoder(_Request).decode
        self._decode_pod = msgspec.json.Decoder(dict[str, Any]).decode
        self._decode_node = msgspec.json.Decoder(_Node).decode
        self._encode = msgspec.json.Encoder().encode

    def routes(self) -> list[web.RouteDef]:
        """The two verbs, as the scheduler's configuration names them."""
        return [web.post(FILTER_PATH, self._filter), web.post(PRIORITIZE_PATH, self._prioritize)]

    async def _filter(self, request: web.Request) -> web.Response:
        return self._reply(self.answer_filter(await _body(request)))

    async def _prioritize(self, request: web.Request) -> web.Response:
        return self._reply(self.answer_prioritize(await _body(request)))

    def _reply(self, body: bytes) -> web.Response:
        response = web.Response(body=body, content_type="application/json")
        if not self._leading():
            response.force_close()
        return response

    def answer_filter(self, body: bytes | None) -> bytes:
        """The reply to one ``filter`` request; ``None`` stands for one that was too large to take."""
        return self._answer("filter", body, self._filtered, _unread)

    def answer_prioritize(self, body: bytes | None) -> bytes:
        """The reply to one ``prioritize`` request; ``None`` as above."""
        return self._answer("prioritize", body, self._prioritized, lambda words: [])

    def _answer(
        self,
        verb: str,
        body: bytes | None,
        answer: Callable[[_Asked], object],
        unread: Callable[[str], object],
    ) -> bytes:
        started = time.perf_counter()
        self._counters.extender_requests.add(verb)
        try:
            reply = answer(self._understand(body))
        except _UNREADABLE as error:
            self._counters.extender_errors_total += 1
            self._counters.extender_answers.add("unreadable")
            reply = unread(str(error)[:MAX_ERROR_CHARACTERS])
        encoded = self._encode(reply)
        self._counters.extender_seconds.observe(time.perf_counter() - started)
        return encoded

    def _prioritized(self, asked: _Asked) -> list[_Host]:
        """One whole number per host that was named."""
        if not self._speaks(asked):
            return [_Host(name, NEUTRAL_SCORE * self._scale // 1000) for name in asked.names]
        rows = self._book.places(asked.names)
        self._counters.extender_unknown_nodes_total += int(np.count_nonzero(rows < 0))
        verdicts = np.where(rows < 0, UNKNOWN, self._book.table.verdicts[rows])
        scores = no_prize_for_silence(self._scores(asked.wish)[rows], verdicts)
        numbers = spread(scores, self._scale)
        if len(rows) and (chosen := self._favourite(rows, scores)) is not None:
            numbers = favour(numbers, chosen, self._scale)
        return list(map(_Host, asked.names, numbers.tolist()))

    def _favourite(self, rows: Places, scores: Ints) -> int | None:
        """The place of the node that is filled first, where several healthy ones are the best; ``None``: there is one, or none is."""
        best = np.flatnonzero(scores == scores.max())
        if len(best) < 2:
            return None
        healthy = best[(rows[best] >= 0) & (self._book.table.verdicts[rows[best]] == HEALTHY)]
        return int(healthy[np.argmin(rows[healthy])]) if len(healthy) else None

    def _scores(self, wish: Wish) -> Ints:
        return self._book.generic if wish.pod is None else self._book.array(wish.pod)

    def _filtered(self, asked: _Asked) -> _FilterReply:
        """The nodes that may take the pod, and why the others may not."""
        judged = self._speaks(asked) and asked.wish.ours
        refused, lacking = self._refused(asked) if judged else ({}, {})
        if asked.nodes is None:
            names = asked.names
            if refused or lacking:
                names = [name for name in names if name not in refused and name not in lacking]
            return _FilterReply(names, None, lacking, refused)
        kept = [
            node
            for name, node in zip(asked.names, asked.nodes, strict=True)
            if name not in refused and name not in lacking
        ]
        return _FilterReply(None, {"items": kept}, lacking, refused)

    def _refused(self, asked: _Asked) -> tuple[dict[str, str], dict[str, str]]:
        """Nodes that no eviction would make better, and nodes that lack healthy devices now; why."""
        refused, lacking = {}, {}
        table, known = self._book.table, self._book.scores.get
        doubted = self._doubted()
        for name in asked.names:
            score, row = known(name), table.index.get(name)  # the owner may drop it in between
            if score is None or row is None:
                self._counters.extender_unknown_nodes_total += 1
            elif score.verdict == "sick":
                if not doubted or self._quarantined(row):
                    refused[name] = f"fleetmedic: {score.reason}"
            elif (
                asked.wish.pod
                and score.verdict != "unknown"
                and (why := lacks_healthy_devices(table, asked.wish.pod.shape, row))
            ):
                lacking[name] = f"fleetmedic: {why}"
        return refused, lacking

    def _doubted(self) -> bool:
        """Whether so many are sick by their agents' word alone that it is the word that is sick: a driver, a release of ours.

        The policy's breaker quarantines none of them then, and a filter that did would leave pods no node at all.
        """
        sick = np.flatnonzero(self._book.table.verdicts == SICK).tolist()
        told = sum(not self._quarantined(row) for row in sick)
        return told > max(DOUBTED_NODES, DOUBTED_SHARE * len(self._book.table))

    def _quarantined(self, row: int) -> bool:
        facts = self._book.table.facts[row]
        return facts is not None and facts.standing == "quarantined"

    def _speaks(self, asked: _Asked) -> bool:
        """Whether the answer tells nodes apart; counts what it rests on."""
        settled = self._book.settled_seconds
        if not asked.wish.ours and asked.wish.pod is None:
            basis = "not-ours"
        elif settled is None or not self._clock() - settled <= self._stale_after_seconds:
            basis = "stale"
        else:
            basis = "node" if asked.wish.pod is None else "pod"
            if asked.wish.passed:
                self._counters.extender_passed_over.add(asked.wish.passed)
        self._counters.extender_answers.add(basis)
        return basis in ("node", "pod")

    def _understand(self, body: bytes | None) -> _Asked:
        if body is None:
            raise msgspec.DecodeError("it is larger than this server takes")
        request = self._decode(body)
        wish = self._wish(bytes(request.upper_pod) or bytes(request.lower_pod))
        listed = request.upper_names or request.camel_names or request.lower_names
        full = request.upper_nodes or request.lower_nodes
        if listed is not None or full is None or full.items is None:
            return _Asked(listed or [], None, wish)
        found = [self._decode_node(node).metadata.name for node in full.items]
        return _Asked(found, full.items, wish)

    def _wish(self, pod: bytes) -> Wish:
        if pod in (b"", b"null"):
            return Wish()
        try:
            wish = wish_of(self._decode_pod(pod))
        except _UNREADABLE:
            wish = None
        if wish is None:
            self._counters.extender_errors_total += 1
            return Wish()
        return wish


def _unread(words: str) -> _FilterReply:
    return _FilterReply(error=f"fleetmedic cannot read this request: {words}")


async def _body(request: web.Request) -> bytes | None:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None
