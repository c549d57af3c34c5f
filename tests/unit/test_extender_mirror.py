"""The copy of the scores that answers the scheduler says what the book itself would say, whatever happened in between."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds import extender_publication
from aggregator.feeds.extender import Extender, Verb
from aggregator.feeds.extender_frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Change,
    Update,
    body_bytes,
)
from aggregator.feeds.extender_hosts import FULL_NAMES
from aggregator.feeds.extender_mirror import Mirror
from aggregator.feeds.extender_publication import (
    HOT_SECONDS,
    KEPT_SECONDS,
    MAX_PODS,
)
from aggregator.scores.model import Ints
from aggregator.scores.terms import Newcomer
from aggregator.scores.typical import Typical
from aggregator.scores.values import PodShape
from aggregator.stats import AggregatorStats
from contract.vocabulary import Severity
from tests.mirrored import Wire
from tests.score_builders import GPU, NOW, facts, put, room, wants

NAMES = [f"n{number}" for number in range(90)]
"""More than the table has rows at first, so that it grows."""
ASKED = [*NAMES, *(f"stranger-{number}" for number in range(FULL_NAMES))]
GPUS = (1, 2, 8)


def same(wire: Wire) -> None:
    verbs: tuple[Verb, ...] = ("filter", "prioritize")
    for verb in verbs:
        for gpus in GPUS:
            for names in (NAMES, ASKED):
                body = msgspec.json.encode({"Pod": pod(gpus), "NodeNames": names})
                answers = [
                    Extender(board, AggregatorStats(), clock=lambda: NOW)
                    for board in (wire.book, wire.mirror)
                ]
                by_book, by_mirror = (each.reply(each.read(verb, body)) for each in answers)
                assert by_mirror == by_book


def pod(gpus: int) -> object:
    resources = {"limits": {GPU: str(gpus)}}
    return {"spec": {"containers": [{"resources": resources}]}}


def asked_for(gpus: int) -> Newcomer:
    return wants(gpus, resource=GPU)


names = st.sampled_from(NAMES)
steps = st.one_of(
    st.tuples(
        st.just("health"),
        names,
        st.sampled_from([None, Severity.INFO, Severity.DEGRADED, Severity.FATAL]),
        st.sampled_from(["", "avoid", "quarantined"]),
        st.sampled_from([NOW, NOW - 100]),
    ),
    st.tuples(
        st.just("room"),
        names,
        st.lists(st.sampled_from([0, 300, 1000]), max_size=8),
        st.sets(st.integers(0, 7), max_size=2),
        st.booleans(),
    ),
    st.tuples(st.just("drop"), names),
    st.tuples(st.just("learn"), st.sampled_from(GPUS)),
    st.tuples(st.just("settle")),
    st.tuples(st.just("fill")),
    st.tuples(st.just("push")),
)


@given(st.lists(steps, max_size=25))
def test_it_answers_as_the_book_does_byte_for_byte(operations: list[tuple[object, ...]]) -> None:
    wire = Wire()
    for number, operation in enumerate(operations):
        carry_out(wire, operation, number)
    wire.book.settle(NOW)
    for gpus in GPUS:
        wire.want(asked_for(gpus))
    wire.push()
    assert set(wire.mirror.pods) >= {asked_for(gpus) for gpus in GPUS}
    same(wire)
    wire.push()
    assert wire.told == []


def carry_out(wire: Wire, operation: tuple[object, ...], number: int) -> None:
    book = wire.book
    match operation:
        case "health", str(name), worst, standing, received:
            known = facts(name, worst=worst, standing=standing, received_seconds=received)
            put(book, known, book.table.rooms[book.table.row(name)])
        case "room", str(name), list(free), set(sick), bool(guessed):
            marks = tuple(place in sick for place in range(len(free)))
            left = [0 if bad else milli for milli, bad in zip(free, marks, strict=True)]
            book.take_room(name, room(name, left, sick=marks, guessed=guessed) if free else None)
        case "drop", str(name):
            book.drop(name)
        case "learn", int(gpus):
            book.learn(Typical.of({PodShape(gpu_count=gpus, gpu_milli=1000): 1.0}))
        case ("settle",):
            book.settle(NOW + number)
        case ("fill",):
            for name in NAMES:
                put(book, facts(name), room(name, [1000] * 8))
        case ("push",):
            wire.want(asked_for(GPUS[number % 3]))
            wire.push(leading=number % 2 == 0)


def small_fleet() -> Wire:
    wire = Wire()
    for number, name in enumerate(NAMES):
        put(wire.book, facts(name), room(name, [0] * (number % 8) + [1000] * (8 - number % 8)))
    wire.book.settle(NOW)
    wire.push()
    return wire


def test_only_what_changed_goes_over() -> None:
    wire = small_fleet()
    wire.want(wants())
    wire.push()
    wire.book.take_room("n3", room("n3", [0] * 8))
    wire.push()
    [told] = wire.told
    assert told.scores is not None
    assert told == Update(scores=told.scores)
    assert len(told.scores[1].rows) == 4, "one node's row"


def test_a_pod_that_is_not_asked_for_any_more_follows_the_settling_only() -> None:
    wire = small_fleet()
    wire.want(wants())
    wire.push()
    wire.now += HOT_SECONDS + 1
    before = wire.mirror.array(wants())
    wire.book.take_room("n3", room("n3", [0] * 8))
    wire.push()
    assert not any(each.scores for each in wire.told)
    wire.book.settle(NOW + 1)
    wire.push()
    after = wire.mirror.array(wants())
    assert before is not None
    assert after is not None
    assert after.tolist() == wire.book.array(wants()).tolist() != before.tolist()


def test_a_new_node_in_the_row_of_one_that_left_has_not_its_number() -> None:
    wire = small_fleet()
    wire.want(wants())
    wire.push()
    wire.now += HOT_SECONDS + 1  # the pod's scores follow the settling only
    row = wire.book.table.index["n7"]
    wire.book.drop("n7")
    wire.push()
    put(wire.book, facts("new", worst=Severity.FATAL), room("new", [1000] * 8))
    assert wire.book.table.index["new"] == row
    wire.push()
    assert scores_of(wire)[row] == wire.mirror.generic[row]
    wire.book.settle(NOW + 1)
    wire.push()
    assert scores_of(wire)[row] == wire.book.array(wants())[row] == 0


def scores_of(wire: Wire) -> Ints:
    found = wire.mirror.array(wants())
    assert found is not None
    return found


@pytest.mark.parametrize("told", [1, 2, 3])
def test_a_settling_while_pods_are_told_reaches_those_that_were_told_before_it(told: int) -> None:
    wire = small_fleet()
    pods = [wants(1), wants(2)]
    for each in pods:
        wire.want(each)
    wire.push()
    wire.now += HOT_SECONDS + 1  # they follow the settling only
    put(wire.book, facts("n5"), room("n5", [1000] * 8))
    wire.book.settle(NOW + 1)
    for number, update in enumerate(wire.publication.updates(wire.now, leading=True), start=1):
        wire.mirror.apply(update)
        if number == told:
            put(wire.book, facts("n3", worst=Severity.FATAL), room("n3", [0] * 8))
            wire.book.settle(NOW + 2)
    wire.push()
    assert wire.mirror.settled_seconds == NOW + 2
    for each in pods:
        array = wire.mirror.array(each)
        assert array is not None
        assert array.tolist() == wire.book.array(each).tolist()


def test_a_kind_of_pod_that_somebody_waits_for_is_told_before_all_others() -> None:
    wire = small_fleet()
    for gpus in range(1, 9):
        wire.want(wants(gpus))
        wire.push()
    wire.book.take_room("n3", room("n3", [0] * 8))
    newest = wants(4, milli=1000, cpu_milli=77)
    wire.want(newest)
    wire.push()
    told = [each.scores[0] for each in wire.told if each.scores]
    assert told[0] == newest
    assert len(told) > 1


def test_a_pod_that_is_asked_for_again_is_told_at_once_what_it_missed() -> None:
    wire = small_fleet()
    wire.want(wants())
    wire.push()
    wire.now += HOT_SECONDS + 1
    put(wire.book, facts("n3", worst=Severity.FATAL), room("n3", [0] * 8))
    wire.push()
    before = wire.mirror.array(wants())
    assert not wire.want(wants())
    wire.push()
    after = wire.mirror.array(wants())
    assert before is not None
    assert after is not None
    assert after.tolist() == wire.book.array(wants()).tolist() != before.tolist()


def test_a_pod_that_nobody_asked_for_for_long_is_forgotten_on_both_sides() -> None:
    wire = small_fleet()
    wire.want(wants())
    wire.push()
    wire.now += KEPT_SECONDS + 1
    wire.push()
    assert (wire.publication.pods, wire.mirror.array(wants())) == (0, None)
    assert wire.want(wants())
    wire.push()
    assert wire.mirror.array(wants()) is not None


def test_of_too_many_kinds_of_pod_the_one_not_wanted_for_longest_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extender_publication, "MAX_PODS", 3)
    wire = small_fleet()
    for gpus in (1, 2, 3, 1, 4):
        wire.want(wants(gpus))
        wire.push()
    assert set(wire.mirror.pods) == {wants(3), wants(1), wants(4)}
    assert MAX_PODS > 100


def test_losing_the_lead_goes_over_though_nothing_else_changed() -> None:
    wire = small_fleet()
    assert wire.mirror.leading
    wire.push(leading=False)
    assert not wire.mirror.leading
    assert wire.told == [Update(leading=False)]


def test_rows_that_are_new_are_never_looked_up_in_old_numbers() -> None:
    wire = small_fleet()
    wire.want(wants())
    wire.push()
    wire.now += HOT_SECONDS + 1  # it follows the settling only
    for number in range(300):
        put(wire.book, facts(f"new-{number}"), room("n", [1000] * 8))
    updates = wire.publication.updates(wire.now, leading=True)
    wire.mirror.apply(next(updates))
    assert wire.mirror.array(wants()) is None
    for update in updates:
        wire.mirror.apply(update)
    row = wire.mirror.places(["new-299"])
    array = wire.mirror.array(wants())
    assert array is not None
    assert array[row] == wire.book.lookup(wants(), ["new-299"])


def test_a_mirror_that_was_told_nothing_knows_nobody_and_says_so() -> None:
    stats = AggregatorStats()
    asked = Extender(Mirror(), stats, clock=lambda: NOW)
    body = msgspec.json.encode({"Pod": pod(1), "NodeNames": ["a", "b"]})
    assert msgspec.json.decode(asked.answer_prioritize(body)) == [
        {"Host": "a", "Score": 50},
        {"Host": "b", "Score": 50},
    ]
    assert stats.extender_answers["stale"] == 1


def test_a_pod_whose_scores_are_not_there_is_ranked_as_a_typical_one_and_counted() -> None:
    wire = small_fleet()
    stats = AggregatorStats()
    body = msgspec.json.encode({"Pod": pod(1), "NodeNames": NAMES})
    said = Extender(wire.mirror, stats, clock=lambda: NOW).answer_prioritize(body)
    assert len({each["Score"] for each in msgspec.json.decode(said)}) > 1
    assert stats.extender_passed_over == {"late": 1}
    assert (stats.extender_answers["node"], stats.extender_answers["pod"]) == (1, 0)


def test_a_change_to_what_was_never_told_is_an_error_and_changes_nothing() -> None:
    rows, values = np.array([5], np.int32).tobytes(), np.array([7], np.int16).tobytes()
    with pytest.raises(ValueError, match="never told"):
        Mirror().apply(Update(scores=(wants(), Change(rows, values))))
    with pytest.raises(ValueError, match="bytes"):
        body_bytes((MAX_FRAME_BYTES + 1).to_bytes(HEADER_BYTES))
