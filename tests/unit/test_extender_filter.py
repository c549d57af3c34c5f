"""Where devices of a node are sick: which pods the filter keeps away, only where that is sure."""

import json
from typing import Any

from aggregator.feeds.extender import Extender
from aggregator.scores.book import ScoreBook
from aggregator.stats import AggregatorStats
from tests.score_builders import NOW, book_of, facts, put, room


def wants_gpus(count: int) -> dict[str, Any]:
    return {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": str(count)}}}]}}


def asked(known: ScoreBook) -> Extender:
    return Extender(known, AggregatorStats(), clock=lambda: NOW)


def test_filter_names_a_node_whose_healthy_devices_are_too_few() -> None:
    sick = (True,) + (False,) * 7
    known = book_of(room("seven", [0] + [1000] * 7, sick=sick), room("eight", [1000] * 8))
    body = json.dumps({"Pod": wants_gpus(8), "NodeNames": ["seven", "eight"]}).encode()
    assert json.loads(asked(known).answer_filter(body)) == {
        "NodeNames": ["eight"],
        "FailedNodes": {"seven": "fleetmedic: 7 of its 8 devices are healthy, the pod needs 8"},
    }


def test_filter_refuses_nothing_on_a_guess() -> None:
    """One device is sick, two are needed and one is free: who sits where is guessed."""
    left = room("n", [0, 1000, 0], sick=(True, False, False), guessed=True)
    pod = wants_gpus(2)
    body = json.dumps({"Pod": pod, "NodeNames": ["n"]}).encode()
    known = book_of(left)
    assert json.loads(asked(known).answer_filter(body)) == {"NodeNames": ["n"]}


def test_a_node_of_which_a_device_is_sick_and_that_is_silent_is_not_refused() -> None:
    """What its agent said last may be over."""
    sick = (True,) + (False,) * 7
    known = ScoreBook()
    put(known, facts("n", received_seconds=NOW - 100), room("n", [0] + [1000] * 7, sick=sick))
    known.settle(NOW)
    body = json.dumps({"Pod": wants_gpus(8), "NodeNames": ["n"]}).encode()
    assert json.loads(asked(known).answer_filter(body)) == {"NodeNames": ["n"]}
