"""The desk of the extender's process: what it does beside answering, when nobody waits."""

import asyncio
import json

import pytest

from aggregator.feeds.extender import PRIORITIZE_PATH, Extender
from aggregator.feeds.extender_child import Desk
from aggregator.feeds.extender_counts import Counts
from aggregator.feeds.extender_fleet import FleetReplies
from tests.ready_answers import NAMES, alike, request_of
from tests.score_builders import NOW, room


class Asked:
    """A desk that is asked as kube-scheduler asks; what the mirror is told it is told too."""

    def __init__(self) -> None:
        self.wire = alike(free=8)
        self.counts = Counts()
        fleet = FleetReplies(self.wire.mirror, 100)
        extender = Extender(self.wire.mirror, self.counts, clock=lambda: NOW, fleet=fleet)
        self.desk = Desk(self.wire.mirror, extender, fleet, self.counts, lambda word: True)

    def ask(self, gpus: int) -> dict[str, int]:
        replies: list[bytes] = []
        body = request_of(NAMES, gpus)
        question = self.desk._extender.read("prioritize", body)
        assert question.needs is not None
        self.wire.want(question.needs)
        self.push()
        self.desk.ask(PRIORITIZE_PATH, body, replies.append)
        return {each["Host"]: each["Score"] for each in json.loads(replies[0])}

    def push(self) -> None:
        for update in self.wire.publication.updates(0.0, leading=True):
            self.wire.mirror.apply(update)
            self.desk.take(update)


async def test_answers_that_were_given_are_made_anew_before_the_next_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked()
    for gpus in (1, 1, 2, 2):
        asked.ask(gpus)
    assert asked.counts.extender_ready_total == 2
    asked.wire.book.take_room("n007", room("n007", [1000] * 2 + [0] * 6))
    asked.push()
    for _ in range(5):
        await asyncio.sleep(0)
    monkeypatch.setattr(FleetReplies, "_made", None)  # would fail
    for gpus in (1, 2):
        found = asked.ask(gpus)
        assert max(found, key=lambda name: found[name]) == "n007"
    assert asked.counts.extender_ready_total == 4
