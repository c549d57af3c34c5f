"""An answer that is ready before the question ranks the nodes as one that reads their names, as they are now."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.extender_fleet import (
    FAVOURITES,
    SPARE,
)
from aggregator.feeds.extender_hosts import FULL_NAMES
from aggregator.scores.model import HEALTHY, LEAST_HEALTHY_SCORE, NEUTRAL_SCORE, UNKNOWN
from aggregator.scores.table import filling_order
from aggregator.scores.typical import Typical
from aggregator.scores.values import PodShape
from contract.vocabulary import Severity
from tests.mirrored import Wire
from tests.ready_answers import HEALTH, NAMES, Asked, alike, fleet, settled
from tests.score_builders import GPU, NOW, facts, put, room, wants

some = st.sets(st.integers(0, len(NAMES) - 1), min_size=FULL_NAMES + 10).map(sorted)


health = st.lists(
    st.tuples(st.sampled_from([*HEALTH, "well", "well"]), st.integers(0, 8)),
    min_size=len(NAMES),
    max_size=len(NAMES),
) | st.lists(
    st.sampled_from([("well", 8), ("well", 8), ("well", 8), ("well", 0), ("sick", 8)]),
    min_size=len(NAMES),
    max_size=len(NAMES),
)


@given(health, some, some, st.sampled_from([10, 100, 1000]), st.sampled_from([1, 4]))
def test_the_order_is_that_of_the_scores_whoever_is_asked_about(
    health: list[tuple[str, int]], first: list[int], then: list[int], scale: int, gpus: int
) -> None:
    wire = fleet(health)
    asked = Asked(wire, scale=scale)
    asked.ask([NAMES[place] for place in first], gpus=gpus)
    names = [NAMES[place] for place in then]
    numbers = np.array(list(asked.ask(names, gpus=gpus).values()))
    if not asked.ready:
        return
    pod = wants(gpus, resource=GPU)
    scores = wire.book.lookup(pod, names)
    verdicts = wire.book.verdicts[wire.mirror.places(names)]
    full = np.array([is_full(wire, gpus, name) for name in names])
    spoken = ~full | any(is_full(wire, gpus, NAMES[place]) for place in first)
    known = spoken & (verdicts != UNKNOWN)
    better = (scores[:, None] > scores[None, :]) & known[:, None] & known[None, :]
    assert np.all((numbers[:, None] > numbers[None, :])[better])

    silent = verdicts == UNKNOWN
    seen = wire.mirror.places([NAMES[place] for place in first])
    seen = seen[wire.book.verdicts[seen] == HEALTHY]
    best = sorted(wire.book.array(pod)[seen], reverse=True)[:SPARE]
    best = [score for score in best if score > LEAST_HEALTHY_SCORE]
    if silent.any() and best:
        spared = (verdicts == HEALTHY) & (scores >= best[-1])
        assert numbers[silent].max() <= min(numbers[spared], default=math.inf)
    if silent.any():
        worse = (verdicts != UNKNOWN) & (verdicts != HEALTHY)
        assert numbers[silent].min() > max(numbers[worse], default=-math.inf)


def is_full(wire: Wire, gpus: int, name: str) -> bool:
    row = wire.book.table.index[name]
    healthy = wire.book.verdicts[row] == HEALTHY
    pod = wants(gpus, resource=GPU)
    return bool(healthy and wire.book.lookup(pod, [name])[0] == LEAST_HEALTHY_SCORE)


@given(health, st.sampled_from([1, 4]))
def test_asked_about_the_same_nodes_again_it_ranks_them_as_before(
    health: list[tuple[str, int]], gpus: int
) -> None:
    asked = Asked(fleet(health))
    names = [name for name in NAMES if not is_full(asked.wire, gpus, name)]
    before = asked.ask(names, gpus=gpus)
    after = asked.ask(names, gpus=gpus)
    if not asked.ready:
        assert after == before
        return
    assert order(after)[:1] == order(before)[:1]
    for one, other in pairwise(names):
        if before[one] > before[other]:
            assert after[one] > after[other]
        elif before[one] < before[other]:
            assert after[one] < after[other]


def order(numbers: dict[str, int]) -> list[str]:
    """Names, the one that is filled first at the beginning."""
    return sorted(numbers, key=lambda name: -numbers[name])


def test_a_node_that_falls_sick_is_last_in_the_next_answer() -> None:
    asked = Asked(alike())
    settled(asked)
    put(asked.wire.book, facts("n007", worst=Severity.FATAL), room("n007", [1000] * 4 + [0] * 4))
    asked.wire.push()
    found = asked.ask()
    assert asked.ready
    assert found["n007"] < min(number for name, number in found.items() if name != "n007")


def test_a_node_on_which_a_pod_was_placed_has_its_new_number_in_the_next_answer() -> None:
    asked = Asked(alike(free=8))
    before = settled(asked)
    asked.wire.book.take_room("n007", room("n007", [1000] + [0] * 7))
    asked.wire.push()
    found = asked.ask()
    assert asked.ready
    assert before["n007"] == 0
    assert order(found)[0] == "n007", "the last free device of a node that is in use"


def test_a_full_node_of_which_a_device_falls_sick_is_told_since_the_scheduler_may_see_room() -> (
    None
):
    """Its score is what it was."""
    wire = alike()
    put(wire.book, facts("n007"), room("n007", [0] * 8))
    wire.book.settle(NOW)
    wire.push()
    asked = Asked(wire)
    settled(asked, [*NAMES[:7], *NAMES[8:]])
    assert asked.ready
    assert asked.ask()["n007"] == 0
    put(wire.book, facts("n007"), room("n007", [0] * 8, sick=(True,) + (False,) * 7))
    wire.push()
    found = asked.ask()
    assert asked.ready
    assert found["n007"] < 0 == found["n008"]


def test_one_that_is_the_best_alone_has_its_own_number_and_no_more() -> None:
    asked = Asked(fleet([("well", 1)] + [("well", 8)] * (len(NAMES) - 1)))
    before = asked.ask()
    assert asked.ask() == before
    assert asked.ready


def test_no_healthy_node_is_behind_a_silent_one_though_others_are_better() -> None:
    """Of a pod's own pool all are below the middle, and elsewhere there are nodes above it."""
    wire = alike(free=8)
    pairs = Typical.of({PodShape(gpu_count=gpus, gpu_milli=1000): 0.5 for gpus in (1, 8)})
    wire.book.learn(pairs)
    for name in NAMES[:3]:
        put(wire.book, facts(name, received_seconds=NOW - 100), room(name, [1000] * 8))
    for name in NAMES[3:]:
        up = 8 * (name in NAMES[-20:])
        put(wire.book, facts(name, ports_up=up, ports_total=8), room(name, [1000] * 8))
    wire.book.settle(NOW)
    wire.push()
    pod = wants(2, resource=GPU)
    best, other = wire.book.lookup(pod, [NAMES[-1], NAMES[50]])
    assert best > NEUTRAL_SCORE > other, "else there is nothing to see"
    asked = Asked(wire)
    found = settled(asked, NAMES[:-20], gpus=2)
    assert asked.ready
    assert max(found[name] for name in NAMES[:3]) <= min(found[name] for name in NAMES[3:-20])


def test_a_silent_node_is_behind_as_many_healthy_ones_as_may_be_filled_unseen() -> None:
    few = [("well", 1)] * (SPARE - 1)
    wire = fleet([("silent", 8)] * 3 + few + [("well", 8)] * (len(NAMES) - 3 - len(few)))
    asked = Asked(wire)
    found = settled(asked)
    assert asked.ready
    empty = NAMES[3 + len(few) :]
    assert max(found[name] for name in NAMES[:3]) <= min(found[name] for name in empty)


def test_pods_that_come_before_we_see_where_the_last_ones_went_go_to_one_node_after_the_other() -> (
    None
):
    asked = Asked(alike())
    found = settled(asked)
    rows = asked.wire.mirror.places(NAMES)
    as_filled = [NAMES[place] for place in np.argsort(filling_order(rows))]
    left = list(NAMES)
    for expected in as_filled[:FAVOURITES]:
        found = asked.ask(left)
        assert asked.ready
        best = [name for name in left if found[name] == max(found.values())]
        assert best == [expected]
        left.remove(expected)  # the scheduler found it full
    assert set(asked.ask(left).values()) == {0}


def test_the_first_of_those_that_are_asked_about_is_filled_first_where_others_are_not() -> None:
    """A pod that may go to some nodes only."""
    asked = Asked(alike())
    pool = NAMES[-FULL_NAMES - 10 :]
    found = settled(asked, pool, nodeSelector={"pool": "b"})
    assert asked.ready
    rows = asked.wire.mirror.places(pool)
    assert order(found)[0] == pool[int(filling_order(rows).argmin())]
    assert sorted(found.values())[-FAVOURITES:] == [1, 2, 3, 4]


@pytest.mark.parametrize("better", [10, 30])
def test_no_favourite_is_before_a_better_node_that_nobody_asked_about_before(better: int) -> None:
    wire = fleet([("well", 1)] * better + [("well", 8)] * (len(NAMES) - better))
    asked = Asked(wire, scale=2)
    settled(asked, NAMES[better:])
    found = asked.ask(NAMES)
    assert asked.ready
    assert min(found[name] for name in NAMES[:better]) > max(found[name] for name in NAMES[better:])


def test_a_silent_node_is_not_before_the_best_healthy_one() -> None:
    asked = Asked(fleet([("silent", 8)] * 3 + [("well", 8)] * (len(NAMES) - 3)))
    found = settled(asked)
    assert asked.ready
    assert asked.wire.book.verdicts[asked.wire.mirror.places(["n000"])[0]] == UNKNOWN
    assert max(found[name] for name in NAMES[:3]) < max(found.values())


def test_a_node_that_left_is_in_no_reply_and_a_new_one_in_its_row_has_its_own_number() -> None:
    asked = Asked(alike())
    settled(asked)
    asked.wire.book.drop("n007")
    put(asked.wire.book, facts("new", worst=Severity.FATAL), room("new", [1000] * 8))
    asked.wire.book.settle(NOW)
    asked.wire.push()
    found = asked.ask([*NAMES[:7], *NAMES[8:], "new"])
    assert asked.ready
    assert found["new"] < 0 == found["n008"]


def test_a_node_that_is_new_is_told_as_soon_as_its_scores_are_here() -> None:
    asked = Asked(alike(free=8))
    settled(asked)
    put(asked.wire.book, facts("new"), room("new", [1000] + [0] * 7))
    asked.wire.push()
    found = asked.ask([*NAMES, "new"])
    assert asked.ready
    assert order(found)[0] == "new"
