"""Storms: counted whole, told short."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.storm import LONGEST_WINDOW_SECONDS, WINDOW_SECONDS, Storms, collapsed
from contract.vocabulary import Event
from tests.support import START, xid

CLEAR = Event(id="kmsg:9", time_seconds=START, kind="clear", subject="s", message="xid-45")


def test_a_fleets_worst_two_days_are_a_handful_of_events() -> None:
    """168,924 XID 45 of one GPU: nothing is lost from the count."""
    storms, at = Storms(), 0.0
    told: list[Event] = []
    for _ in range(1689):
        at += 0.1
        told += storms.tell(collapsed([xid(45, at)] * 100), START + at)
        told += storms.flush(START + at)
    told += storms.flush(START + at + LONGEST_WINDOW_SECONDS)
    assert sum(each.count for each in told) == 168_900
    assert len(told) < 8


def test_the_first_one_is_never_held_back() -> None:
    storms = Storms()
    assert [each.code for each in storms.tell([xid(45), xid(79), xid(45)], START)] == [45, 79]


def test_after_a_quiet_while_the_next_is_news_again() -> None:
    storms = Storms()
    storms.tell([xid(45)], START)
    assert storms.flush(START + WINDOW_SECONDS) == ()
    assert len(storms.tell([xid(45)], START + WINDOW_SECONDS)) == 1


def test_nothing_moves_across_a_persons_word() -> None:
    assert [(each.kind, each.count) for each in collapsed([xid(45), xid(45), CLEAR, xid(45)])] == [
        ("xid", 2),
        ("clear", 1),
        ("xid", 1),
    ]


def test_the_drivers_verdicts_are_never_merged() -> None:
    assert len(collapsed([xid(154), xid(154)])) == 2
    storms = Storms()
    assert len(storms.tell([xid(154), xid(154)], START)) == 2


@given(
    st.lists(st.tuples(st.sampled_from([13, 45, 79]), st.integers(0, 3), st.floats(0, 30))),
)
def test_every_one_is_counted_exactly_once(happenings: list[tuple[int, int, float]]) -> None:
    storms = Storms()
    told: list[Event] = []
    for number, gpu_index, at in sorted(happenings, key=lambda each: each[2]):
        told += storms.tell([xid(number, at, gpu_index=gpu_index)], START + at)
        told += storms.flush(START + at)
    told += storms.flush(START + 1000)
    assert sum(each.count for each in told) == len(happenings)


def test_a_log_that_is_read_again_keeps_its_days_apart() -> None:
    days = [xid(79, -3 * 86_400), xid(79, -5), xid(79, -4.5)]
    assert [(each.count, each.time_seconds) for each in collapsed(days)] == [
        (1, START - 3 * 86_400),
        (2, START - 5),
    ]


def test_the_words_of_a_batch_are_the_first_ones() -> None:
    first = msgspec.structs.replace(xid(45), message="first")
    assert collapsed([first, xid(45)])[0].message == "first"
