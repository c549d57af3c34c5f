"""Of many hosts the extender names only those that are not as most are: the same ranking in fewer words."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.extender import Extender
from aggregator.feeds.extender_hosts import FULL_NAMES
from aggregator.feeds.extender_ranking import ranked
from aggregator.feeds.extender_scale import favour, spread
from aggregator.scores.book import ScoreBook
from aggregator.scores.levels import levels_of
from aggregator.scores.model import HEALTHY, UNKNOWN, no_prize_for_silence
from aggregator.scores.table import filling_order
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


nodes = st.lists(
    st.tuples(st.sampled_from([0, 1, 90, 400, 500, 501, 750, 1000]), st.integers(0, 3)), max_size=30
)


alike = st.lists(
    st.sampled_from([(750, HEALTHY), (750, HEALTHY), (400, HEALTHY), (750, UNKNOWN)]),
    min_size=4,
    max_size=12,
)


@given(
    nodes=nodes | alike,
    stranger=st.sampled_from([0, 500]),
    scale=st.sampled_from([1, 10, 100, 1000]),
    data=st.data(),
)
def test_what_is_decided_by_level_is_what_would_be_decided_node_by_node(
    nodes: list[tuple[int, int]], stranger: int, scale: int, data: st.DataObject
) -> None:
    scores = np.array([*(score for score, _ in nodes), stranger], dtype=np.int64)
    verdicts = np.array([verdict for _, verdict in nodes], dtype=np.int8)
    asked = st.lists(st.integers(-1, len(nodes) - 1), max_size=60)
    rows = np.array(data.draw(asked), dtype=np.int64)

    found = ranked(levels_of(scores, verdicts), rows, scale)

    mine = np.array([UNKNOWN if row < 0 else verdicts[row] for row in rows], dtype=np.int8)
    each = no_prize_for_silence(scores[rows], mine)
    expected = spread(each, scale)
    best = np.flatnonzero(each == each.max(initial=0))
    healthy = best[mine[best] == HEALTHY]
    if len(best) > 1 and len(healthy):
        first = healthy[np.argmin(filling_order(rows[healthy]))]
        number, beside = favour(expected, scale)
        expected = beside.copy()
        expected[first] = number
    assert found.each().tolist() == expected.tolist()
    assert found.strangers == np.count_nonzero(rows < 0)

    places, differences = found.few()
    told = np.zeros(len(rows), dtype=np.int64)
    told[places] = differences
    assert 0 not in differences
    if len(rows):
        assert set(expected - told) == {np.bincount(expected).argmax()}


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


@pytest.mark.parametrize(
    ("scores", "scale", "commonest"),
    [
        ([750, 750, 400], 100, 40),  # 76, 75 and 40: each once
        ([750, 750, 0], 1, 1),  # 1, 1 and 0: no room for a favourite
        ([750, 750, 750, 400, 400], 100, 40),
        ([750, 750, 750, 400], 100, 75),
    ],
)
def test_the_commonest_number_is_the_smallest_of_those_that_most_nodes_have(
    scores: list[int], scale: int, commonest: int
) -> None:
    rows = np.arange(len(scores))
    verdicts = np.full(len(scores), HEALTHY, dtype=np.int8)
    assert ranked(levels_of(np.array([*scores, 500]), verdicts), rows, scale).commonest == commonest


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
