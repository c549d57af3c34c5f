"""The kube-scheduler extender: ``filter`` and ``prioritize`` over scores made beforehand. Pure: bytes in, bytes out.

How many hosts a ``prioritize`` reply names: all, up to ``FULL_NAMES`` of them, with numbers 0..``scale``. Of more hosts it names
those alone whose number is not the commonest one, with the difference to it, which may be negative. For kube-scheduler a host that is
left out has 0, and it adds ``Score · weight · 10`` to a total in which only differences count (``prioritizeNodes`` in its
pkg/scheduler/schedule_one.go), so that the ranking is the same. Decoding a number for every host costs it more than all its other
work on a pod where the fleet is large. Most such replies are there before the question (``extender_fleet``, which says what they owe to that).

What is answered when something is missing or broken, and why:

* A node we know nothing of passes the filter and gets the neutral score: this feed may only ever take
  away places that are known to be bad.
* A pod that asks for no GPU or NPU does not come here, as the scheduler's configuration is shipped. Where its owner lets it
  (no ``managedResources``), all its nodes pass, and those with CPU to spare beside their GPUs come first; one that asks for
  nothing at all has one score everywhere.
* A pod whose wish cannot be told as so and so many devices (MIG, several vendors, resource claims, odd amounts) is
  passed over, with the reason counted: its nodes are ranked by what a typical pod would find there. So is a pod of which the
  scores are not at hand (``late``).
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

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np

from aggregator.feeds.extender_board import Board
from aggregator.feeds.extender_counts import ExtenderCounters
from aggregator.feeds.extender_fleet import FleetReplies
from aggregator.feeds.extender_hosts import FULL_NAMES, told
from aggregator.feeds.extender_pod import Wish, wish_of
from aggregator.feeds.extender_ranking import Ranking, ranked
from aggregator.feeds.extender_scale import DEFAULT_SCALE
from aggregator.feeds.extender_wishes import UNREADABLE, Known, Wishes, glance, names_in
from aggregator.scores.ailing import lacks_healthy_devices
from aggregator.scores.model import (
    NEUTRAL_SCORE,
    STALE_AFTER_SECONDS,
)
from aggregator.scores.terms import Newcomer

Verb = Literal["filter", "prioritize"]

FILTER_PATH = "/scheduler/filter"
PRIORITIZE_PATH = "/scheduler/prioritize"
VERBS: dict[str, Verb] = {FILTER_PATH: "filter", PRIORITIZE_PATH: "prioritize"}
"""By path."""

MAX_BODY_BYTES = 64 << 20
"""Room for about 4,000 full Node objects; 5,000 bare names need 0.2 MiB."""

LARGE_BODY_BYTES, MAX_PARTS = 2 << 20, 2_000_000
"""A larger body may not have more commas: each part of it costs up to a hundred bytes. 4,000 full Node objects have 1.5 million."""

MAX_POD_BYTES = 1 << 20
"""Of one Pod object. etcd takes no more than 1.5 MiB; the parts of a larger one would be looked at for seconds."""

MAX_ERROR_CHARACTERS = 300

DOUBTED_NODES = 5
DOUBTED_SHARE = 0.2
"""Of the fleet: when more than both are sick and not quarantined, ``filter`` refuses quarantined nodes alone."""

LEAST_BYTES = 4 * FULL_NAMES
"""Of names: where they are fewer, they are read."""

LATE = "late"
"""Why a pod was passed over: its scores were not at hand."""

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


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


class _FilterReply(msgspec.Struct, rename="pascal", omit_defaults=True):
    node_names: list[str] | None = None
    nodes: dict[str, list[msgspec.Raw]] | None = None
    failed_nodes: dict[str, str] = {}
    failed_and_unresolvable_nodes: dict[str, str] = {}
    error: str = ""


class Question(msgspec.Struct, kw_only=True):
    """One request, understood."""

    verb: Verb
    names: list[str] = []
    unread: memoryview | None = None
    """The names, as a JSON array that was not read: there may be an answer without …"""
    body: bytes | bytearray = b""
    """… and the whole request then."""
    names_bytes: int = 0
    """What the names took in that array, each with its quotation marks and a comma or bracket."""
    nodes: list[msgspec.Raw] | None = None
    """The full objects, one per name, where the scheduler sent those."""
    wish: Wish = Wish()
    known: Known | None = None
    """What is remembered of such pods, where there may be an answer that is ready."""
    unreadable: str = ""
    """Why it could not be read; empty: it could."""

    @property
    def needs(self) -> Newcomer | None:
        """The pod whose scores the answer rests on; ``None``: it needs none."""
        asked = self.unread is not None or self.names
        return self.wish.pod if self.verb == "prioritize" and asked else None


class Extender:
    """Answers the scheduler; everything is a lookup.

    Args:
        board: the scores.
        counters: what is counted, kept by the caller; how long an answer took, the caller counts.
        clock: Unix time, the board's own.
        scale: the best number that a node can get; the scheduler multiplies it by ten times our weight.
        stale_after_seconds: how old the scores may be.
        fleet: answers that need no names; ``None``: there are none.
    """

    def __init__(
        self,
        board: Board,
        counters: ExtenderCounters,
        *,
        clock: Callable[[], float],
        scale: int = DEFAULT_SCALE,
        stale_after_seconds: float = STALE_AFTER_SECONDS,
        fleet: FleetReplies | None = None,
    ) -> None:
        self._board = board
        self._counters = counters
        self._clock = clock
        self._scale = scale
        self._stale_after_seconds = stale_after_seconds
        self._fleet = fleet
        self._wishes = Wishes()
        self._decode = msgspec.json.Decoder(_Request).decode
        self._decode_pod = msgspec.json.Decoder(dict[str, Any]).decode
        self._decode_node = msgspec.json.Decoder(_Node).decode
        self._encode = msgspec.json.Encoder().encode

    def answer_filter(self, body: bytes | None) -> bytes:
        """The reply to one ``filter`` request; ``None`` stands for one that was too large to take."""
        return self.reply(self.read("filter", body))

    def answer_prioritize(self, body: bytes | None) -> bytes:
        """The reply to one ``prioritize`` request; ``None`` as above."""
        return self.reply(self.read("prioritize", body))

    def read(self, verb: Verb, body: bytes | bytearray | None) -> Question:
        """One request, as far as it can be understood; ``None`` as above."""
        self._counters.extender_requests.add(verb)
        if body is None:
            return Question(verb=verb, unreadable="it is larger than this server takes")
        if len(body) > LARGE_BODY_BYTES and body.count(b",") > MAX_PARTS:
            return Question(verb=verb, unreadable="it has more parts than this server takes")
        if len(body) <= MAX_POD_BYTES and (seen := glance(body)) is not None:
            known = self._wishes.recall(seen.parts)
            wish = self._wish(bytes(seen.pod)) if known is None else known.wish
            asked = Question(verb=verb, unread=seen.names, body=body, wish=wish)
            asked.names_bytes = len(seen.names) - 1
            known = known or self._wishes.learn(seen.parts, wish)
            if self._may_be_ready(asked):
                asked.known = known
            else:
                self._read_names(asked)
            return asked
        asked = Question(verb=verb)
        self._read_all(asked, body)
        return asked

    def reply(self, question: Question) -> bytes:
        """The answer, as of now."""
        if question.unread is not None:
            if (ready := self._ready(question)) is not None:
                return ready
            self._read_names(question)
        if question.unreadable:
            self._counters.extender_errors_total += 1
            self._counters.extender_answers.add("unreadable")
            if question.verb == "prioritize":
                return b"[]"
            words = f"fleetmedic cannot read this request: {question.unreadable}"
            return self._encode(_FilterReply(error=words))
        if question.verb == "prioritize":
            return self._prioritized(question)
        return self._encode(self._filtered(question))

    def look_at_names(self, question: Question) -> None:
        """Once the answer is on its way: see to it, now and then, that the next one may do without them."""
        known, now = question.known, self._clock()
        if self._fleet is None or known is None or not self._fleet.is_due(known, now):
            return
        ready = question.unread is not None
        self._read_names(question)
        rows = self._board.places(question.names)
        self._fleet.look(known, rows, question.names_bytes, now)
        if ready:
            self._counters.extender_unknown_nodes_total += int(np.count_nonzero(rows < 0))

    def _ready(self, asked: Question) -> bytes | None:
        """The answer that needs no names; ``None``: they have to be read."""
        now = self._clock()
        if self._fleet is None or asked.known is None or self._is_stale(now):
            return None
        reply = self._fleet.reply(asked.known, asked.names_bytes, now)
        if reply is not None:
            self._counters.extender_answers.add("pod")
            self._counters.extender_ready_total += 1
        return reply

    def _prioritized(self, asked: Question) -> bytes:
        """A whole number for each host that is told."""
        names, whole = asked.names, len(asked.names) <= FULL_NAMES
        if not self._speaks(asked):
            number = NEUTRAL_SCORE * self._scale // 1000
            return told(names, [number] * len(names)) if whole else b"[]"
        ranking = self._ranking(asked)
        if whole:
            return told(names, ranking.each().tolist())
        places, differences = ranking.few()
        return told([names[place] for place in places], differences)

    def _ranking(self, asked: Question) -> Ranking:
        levels = self._board.levels(asked.wish.pod) or self._board.levels(None)
        assert levels is not None  # noqa: S101 - the protocol's word
        ranking = ranked(levels, self._board.places(asked.names), self._scale)
        self._counters.extender_unknown_nodes_total += ranking.strangers
        return ranking

    def _filtered(self, asked: Question) -> _FilterReply:
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

    def _refused(self, asked: Question) -> tuple[dict[str, str], dict[str, str]]:
        """Nodes that no eviction would make better, and nodes that lack healthy devices now; why."""
        refused: dict[str, str] = {}
        lacking: dict[str, str] = {}
        rows = self._board.places(asked.names)
        self._counters.extender_unknown_nodes_total += int(np.count_nonzero(rows < 0))
        ailing, doubted = self._board.ailing, self._doubted()
        for name, row in zip(asked.names, rows.tolist(), strict=True):
            if (ailment := ailing.get(row)) is None:
                continue
            if ailment.reason:
                if ailment.quarantined or not doubted:
                    refused[name] = f"fleetmedic: {ailment.reason}"
            elif asked.wish.pod and (why := lacks_healthy_devices(ailment, asked.wish.pod.shape)):
                lacking[name] = f"fleetmedic: {why}"
        return refused, lacking

    def _doubted(self) -> bool:
        """Whether so many are sick by their agents' word alone that it is the word that is sick: a driver, a release of ours.

        The policy's breaker quarantines none of them then, and a filter that did would leave pods no node at all.
        """
        told = sum(
            bool(each.reason) and not each.quarantined for each in self._board.ailing.values()
        )
        return told > max(DOUBTED_NODES, DOUBTED_SHARE * self._board.size)

    def _speaks(self, asked: Question) -> bool:
        """Whether the answer tells nodes apart; counts what it rests on."""
        wish = asked.wish
        passed = wish.passed
        if not wish.ours and wish.pod is None:
            basis = "not-ours"
        elif self._is_stale(self._clock()):
            basis = "stale"
        else:
            if asked.needs is not None and self._board.array(asked.needs) is None:
                passed = LATE
            basis = "node" if wish.pod is None or passed else "pod"
            if passed:
                self._counters.extender_passed_over.add(passed)
        self._counters.extender_answers.add(basis)
        return basis in ("node", "pod")

    def _may_be_ready(self, asked: Question) -> bool:
        """Whether it is a kind of question that has one answer whichever nodes it names."""
        ours = asked.wish.ours and asked.wish.pod is not None
        many = asked.names_bytes > LEAST_BYTES
        return self._fleet is not None and asked.verb == "prioritize" and ours and many

    def _is_stale(self, now: float) -> bool:
        settled = self._board.settled_seconds
        return settled is None or not abs(now - settled) <= self._stale_after_seconds

    def _read_names(self, asked: Question) -> None:
        """The names that were left where they are; whoever wrote them otherwise than Go does is read with more care."""
        if asked.unread is None:
            return
        try:
            asked.names = names_in(asked.unread)
        except _UNREADABLE:
            asked.known = None
            self._read_all(asked, asked.body, asked.wish)
        asked.unread = None

    def _read_all(self, asked: Question, body: bytes | bytearray, wish: Wish | None = None) -> None:
        """The whole request, however it is written; its wish, where that was not found before."""
        try:
            request = self._decode(body)
            if wish is None:
                asked.wish = self._wish(bytes(request.upper_pod) or bytes(request.lower_pod))
            listed = request.upper_names or request.camel_names or request.lower_names
            full = request.upper_nodes or request.lower_nodes
            asked.names = listed or []
            if listed is None and full is not None and full.items is not None:
                asked.names = [self._decode_node(node).metadata.name for node in full.items]
                asked.nodes = full.items
        except _UNREADABLE as error:
            asked.unreadable = str(error)[:MAX_ERROR_CHARACTERS]

    def _wish(self, pod: bytes) -> Wish:
        """Of one Pod object; ``UNREADABLE``: it cannot be read."""
        if pod in (b"", b"null"):
            return Wish()
        try:
            wish = wish_of(self._decode_pod(pod)) if len(pod) <= MAX_POD_BYTES else None
        except _UNREADABLE:
            wish = None
        if wish is None:
            self._counters.extender_errors_total += 1
            return UNREADABLE
        return wish
