"""Of many hosts the extender names only those that are not as most are: the same ranking in fewer words."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.extender import FULL_NAMES, Extender
from aggregator.feeds.extender_scale import short
from aggregator.scores.book import ScoreBook
from aggregator.scores.model import no_prize_for_silence
from aggregator.stats import AggregatorStats
from contract.vocabulary import Severity
from tests.score_builders import NOW, facts, put, room, wants

POD = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}


def asked(known: ScoreBook, stats: AggregatorStats | None = None, **changes: Any) -> Extender:
    return Extender(known, stats or AggregatorStats(), **{"clock": lambda: NOW, **changes})


def prioritized(known: ScoreBook, names: list[str], **changes: Any) -> dict[str, int]:
    body = json.dumps({"Pod": POD, "NodeNames": names}).encode()
    reply = json.loads(asked(known, **changes).answer_prioritize(body))
    return {each["Host"]: each["Score"] for each in reply}


def told(known: ScoreBook, names: list[str], **changes: Any) -> dict[str, int]:
    """The numbers as kube-scheduler counts them: a host that is left out has none."""
    return dict.fromkeys(names, 0) | prioritized(known, names, **changes)


MANY = [f"n{number:03d}" for number in range(FULL_NAMES + 100)]


@given(
    st.lists(st.integers(0, 100), max_size=60).map(lambda found: np.array(found, dtype=np.int64))
)
def test_a_short_reply_ranks_as_the_whole_one(numbers: Any) -> None:
    places, differences = short(numbers)
    counted = np.zeros(len(numbers), dtype=np.int64)
    counted[places] = differences
    assert np.all(
        np.sign(np.subtract.outer(counted, counted)) == np.sign(np.subtract.outer(numbers, numbers))
    )
    assert 0 not in differences
    if len(numbers):
        assert len(places) == len(numbers) - np.bincount(numbers).max()


@given(
    health=st.lists(
        st.tuples(st.sampled_from(["well", "weak", "sick", "silent"]), st.integers(0, 8)),
        min_size=len(MANY),
        max_size=len(MANY),
    ),
    scale=st.sampled_from([10, 100, 1000]),
)
def test_of_many_nodes_the_order_is_that_of_the_scores_and_sick_ones_are_last(
    health: list[tuple[str, int]], scale: int
) -> None:
    changes: dict[str, Any] = {
        "well": {},
        "weak": {"worst": Severity.DEGRADED},
        "sick": {"worst": Severity.FATAL},
        "silent": {"received_seconds": NOW - 100},
    }
    known = ScoreBook()
    for name, (how, free) in zip(MANY, health, strict=True):
        put(known, facts(name, **changes[how]), room(name, [1000] * free + [0] * (8 - free)))
    known.settle(NOW)
    few = told(known, MANY, scale=scale)
    whole = np.array([few[name] for name in MANY])
    scores = no_prize_for_silence(known.lookup(wants(), MANY), known.verdicts[known.places(MANY)])
    better = scores[:, None] > scores[None, :]
    assert np.all((whole[:, None] >= whole[None, :])[better])
    if len(set(scores.tolist()) - {0}) <= scale:
        assert np.all((whole[:, None] > whole[None, :])[better])
    sick = np.array([how == "sick" for how, _ in health])
    if sick.any() and not sick.all():
        assert whole[sick].max() < whole[~sick].min()
    assert len(prioritized(known, MANY, scale=scale)) < len(MANY)


def test_a_short_reply_names_only_those_that_are_not_as_most_are() -> None:
    known = ScoreBook()
    for name in MANY:
        put(known, facts(name, use_ratio=0.5))
    put(known, facts("n007", worst=Severity.FATAL))
    put(known, facts("n011", use_ratio=0.9))
    known.settle(NOW)
    assert prioritized(known, MANY) == {"n007": -75, "n011": 20}


def test_where_all_of_many_are_equal_nothing_is_said() -> None:
    known, stats = ScoreBook(), AggregatorStats()
    put(known, facts("n007", worst=Severity.FATAL))
    known.settle(NOW)
    names = json.dumps(MANY).encode()
    wish = json.dumps(POD).encode()
    nothing = b'{"Pod": {"spec": {"containers": [{}]}}, "NodeNames": %b}' % names
    assert asked(known, stats).answer_prioritize(nothing) == b"[]"
    late = asked(known, stats, clock=lambda: NOW + 31)
    assert late.answer_prioritize(b'{"Pod": %b, "NodeNames": %b}' % (wish, names)) == b"[]"
    assert (stats.extender_answers["not-ours"], stats.extender_answers["stale"]) == (1, 1)


def test_up_to_a_hundred_nodes_each_gets_its_whole_number() -> None:
    assert prioritized(ScoreBook(), MANY[:FULL_NAMES]) == dict.fromkeys(MANY[:FULL_NAMES], 50)


def test_which_of_equals_is_filled_first_has_nothing_to_do_with_who_came_first() -> None:
    known = ScoreBook()
    for name in MANY:
        put(known, facts(name, use_ratio=0.5))
    known.settle(NOW)
    filled: list[str] = []
    left = list(MANY)
    while len(filled) < 20:
        found = prioritized(known, left[:FULL_NAMES])
        filled.append(max(found, key=lambda name: found[name]))
        left.remove(filled[-1])
    gaps = [abs(MANY.index(one) - MANY.index(other)) for one, other in pairwise(filled)]
    assert min(gaps) > 1
