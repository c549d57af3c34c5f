"""When the names in a question are read although an answer may be ready; what only they tell goes on unnoticed nowhere."""

import json

import pytest

from aggregator.feeds import extender_fleet
from aggregator.feeds.extender_fleet import (
    CHECK_SECONDS,
    FAVOURITES,
    LINGER_SECONDS,
    MADE_AHEAD,
    TRUST_SECONDS,
)
from aggregator.feeds.extender_hosts import FULL_NAMES
from contract.vocabulary import Severity
from tests.ready_answers import NAMES, Asked, alike, fleet, request_of, settled
from tests.score_builders import facts, put, room


def test_the_second_pod_of_a_kind_is_answered_without_a_look_at_the_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked(alike())
    asked.ask()
    monkeypatch.setattr("aggregator.feeds.extender.names_in", None)  # would fail
    assert max(asked.ask().values()) == FAVOURITES
    assert asked.stats.extender_answers["pod"] == 2
    assert asked.stats.extender_ready_total == 1
    assert asked.stats.extender_requests == {"prioritize": 2}


def test_full_nodes_that_are_not_asked_about_are_not_told() -> None:
    asked = Asked(fleet([("well", 0)] * 30 + [("well", 4)] * (len(NAMES) - 30)))
    settled(asked, NAMES[30:])
    assert asked.ready
    assert min(asked.ask(NAMES).values()) == 0, "as most are"
    asked.now += CHECK_SECONDS
    asked.ask(NAMES)
    for _ in range(int(LINGER_SECONDS / CHECK_SECONDS)):
        asked.now += CHECK_SECONDS
        asked.ask(NAMES[30:])
        assert asked.ready
        assert min(asked.ask(NAMES).values()) < 0, "the scheduler saw room there lately"
        asked.ask(NAMES[30:])


def test_where_there_are_more_scores_than_numbers_the_names_are_read() -> None:
    mixed = [("well", 1 + place % 8) for place in range(len(NAMES))]
    asked = Asked(fleet(mixed), scale=1)
    settled(asked)
    assert not asked.ready
    asked = Asked(fleet(mixed), scale=1000)
    settled(asked)
    assert asked.ready


def test_jobs_that_look_alike_and_may_go_to_other_nodes_get_both_what_the_names_tell() -> None:
    """What tolerations, volumes or quotas forbid does not show here."""
    asked = Asked(alike(free=8))
    other = [*NAMES[20:], "stranger"]
    neutral = Asked(asked.wire).ask(other)["stranger"]
    settled(asked, other)
    for turn in range(6):
        asked.now += CHECK_SECONDS / 2
        asked.ask(NAMES if turn % 2 else other)
        assert asked.ask(other)["stranger"] == neutral != 0


def test_a_host_that_nobody_knows_gets_the_neutral_score_again_after_the_next_look() -> None:
    asked = Asked(fleet([("well", 8)] * len(NAMES)))
    with_stranger = [*NAMES, "stranger"]
    neutral = Asked(asked.wire).ask(with_stranger)["stranger"]
    settled(asked)
    asked.now += CHECK_SECONDS
    assert asked.ask(with_stranger)["stranger"] == 0, "as most are"
    assert asked.ready
    assert asked.stats.extender_unknown_nodes_total == 1, "but it was noticed"
    for _ in range(3):
        asked.now += CHECK_SECONDS
        assert asked.ask(with_stranger)["stranger"] == neutral != 0
        assert not asked.ready
    for _ in range(int(LINGER_SECONDS / CHECK_SECONDS)):
        asked.now += CHECK_SECONDS
        asked.ask()  # it is gone
        assert not asked.ready, "it may come again"
    asked.now += CHECK_SECONDS
    asked.ask()
    asked.ask()
    assert asked.ready


def test_a_full_node_on_which_the_scheduler_sees_room_is_last_of_the_healthy_ones() -> None:
    wire = fleet([("well", 0)] * 5 + [("well", 4)] * (len(NAMES) - 5))
    asked = Asked(wire)
    settled(asked, NAMES[5:])
    assert asked.ready
    asked.now += CHECK_SECONDS
    asked.ask(NAMES)
    found = asked.ask(NAMES)
    assert asked.ready
    assert max(found[name] for name in NAMES[:5]) < min(found[name] for name in NAMES[5:])


def test_names_that_are_not_looked_at_for_long_are_read_before_the_answer() -> None:
    asked = Asked(alike())
    settled(asked)
    asked.now += TRUST_SECONDS + 0.1
    asked.wire.book.settle(asked.now)
    asked.ask()
    assert not asked.ready
    asked.ask()
    assert asked.ready


@pytest.mark.parametrize("later", [11, -11])
def test_old_scores_are_not_told_ready_or_not(later: float) -> None:
    wire = fleet([("well", 4)] * 80 + [("well", 8)] * (len(NAMES) - 80))
    asked = Asked(wire, stale_after_seconds=10)
    assert len(set(settled(asked).values())) > 2
    assert asked.ready
    asked.now += later
    assert abs(later) < TRUST_SECONDS
    assert set(asked.ask().values()) == {0}
    assert not asked.ready
    assert asked.stats.extender_answers["stale"] == 1


def test_after_the_clock_was_set_back_the_names_are_looked_at_again() -> None:
    asked = Asked(alike())
    settled(asked)
    asked.now -= 3600
    asked.wire.book.settle(asked.now)
    asked.wire.push()
    asked.ask()
    assert not asked.ready
    asked.ask()
    assert asked.ready


def test_up_to_a_hundred_hosts_each_has_its_whole_number() -> None:
    asked = Asked(alike())
    settled(asked)
    found = settled(asked, NAMES[:FULL_NAMES])
    assert min(found.values()) > 0
    assert not asked.ready


def test_where_a_reply_would_tell_many_that_nobody_asked_about_the_names_are_read() -> None:
    few = FULL_NAMES + 10
    others = [("well", 1 + place % 7) for place in range(len(NAMES) - few)]
    asked = Asked(fleet([("well", 8)] * few + others))
    settled(asked)
    assert asked.ready
    asked.now += CHECK_SECONDS
    settled(asked, NAMES[:few])
    assert not asked.ready
    asked.now += LINGER_SECONDS + CHECK_SECONDS
    settled(asked)
    assert asked.ready


@pytest.mark.parametrize(
    "limits",
    [
        {"cpu": "4"},
        {"koordinator.sh/gpu-core": "50", "koordinator.sh/gpu-memory-ratio": "50"},
        {"nvidia.com/mig-1g.5gb": "1"},
    ],
)
def test_pods_without_whole_devices_are_answered_by_their_names(limits: dict[str, str]) -> None:
    asked = Asked(alike())
    containers = [{"resources": {"limits": limits}}]
    settled(asked, containers=containers)
    assert not asked.ready


def test_names_that_cannot_be_read_are_an_error_at_the_next_look() -> None:
    asked = Asked(alike())
    settled(asked)
    broken = request_of(NAMES).replace(b'"n007"', b'"n\\xx"')
    asked.now += CHECK_SECONDS
    question = asked.extender.read("prioritize", broken)
    assert asked.extender.reply(question) != b"[]"
    asked.extender.look_at_names(question)
    assert asked.extender.reply(asked.extender.read("prioritize", broken)) == b"[]"
    assert asked.stats.extender_errors_total == 1
    assert asked.stats.extender_answers["unreadable"] == 1


def test_what_was_asked_for_is_made_anew_one_by_one_and_nothing_else() -> None:
    asked = Asked(alike())
    for gpus in (1, 2, 4):
        asked.ask(gpus=gpus)
    settled(asked, gpus=1)
    settled(asked, gpus=2)
    assert not asked.fleet.prepare(), "all is as of now"
    put(asked.wire.book, facts("n007", worst=Severity.FATAL), room("n007", [1000] * 4 + [0] * 4))
    asked.wire.push()
    assert [asked.fleet.prepare() for _ in range(3)] == [True, True, False]
    for _ in range(MADE_AHEAD - 1):
        put(asked.wire.book, facts("n008", worst=Severity.FATAL), room("n008", [1000] * 8))
        asked.wire.push()
        assert [asked.fleet.prepare() for _ in range(3)] == [True, True, False]
    put(asked.wire.book, facts("n009", worst=Severity.FATAL), room("n009", [1000] * 8))
    asked.wire.push()
    assert not asked.fleet.prepare(), "nobody asked since"


def test_one_that_is_asked_about_now_and_then_is_made_anew_as_well() -> None:
    asked = Asked(alike())
    settled(asked)
    for name in ("n007", "n008"):
        asked.now += 1.5 * CHECK_SECONDS
        asked.ask()
        assert asked.ready, "and the names were looked at after it"
        put(asked.wire.book, facts(name, worst=Severity.FATAL), room(name, [1000] * 8))
        asked.wire.push()
        assert asked.fleet.prepare()


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extender_fleet, "MAX_KINDS", 3)
    monkeypatch.setattr(extender_fleet, "MAX_ARRAYS", 2)
    asked = Asked(alike())
    for gpus in range(1, 9):
        settled(asked, gpus=gpus)
    assert len(asked.fleet._kinds) == 3
    assert len(asked.fleet._outlooks) == 2
    for gpus in (6, 7, 8):
        asked.ask(gpus=gpus)
        assert asked.ready
    asked.now += CHECK_SECONDS
    asked.ask(gpus=7)  # looked at again, and nobody goes for it
    asked.ask(gpus=6)
    assert asked.ready
    asked.ask(gpus=1)
    for gpus, kept in ((6, True), (8, False)):
        asked.ask(gpus=gpus)
        assert asked.ready == kept
    asked.now += TRUST_SECONDS + CHECK_SECONDS
    asked.wire.book.settle(asked.now)
    asked.ask(gpus=8)
    assert len(asked.fleet._kinds) == 1, "the others were not asked about for long"


def test_a_request_written_otherwise_is_read_with_more_care_ready_answer_or_not() -> None:
    asked = Asked(alike())
    settled(asked)
    odd = request_of(NAMES)[:-1] + b',"Extra":["x"]}'
    asked.now += TRUST_SECONDS + CHECK_SECONDS
    asked.wire.book.settle(asked.now)
    asked.wire.push()
    for _ in range(2):
        said = json.loads(asked.extender.answer_prioritize(odd))
        assert [each["Score"] for each in said] == [1], "one is filled first"
    assert asked.stats.extender_errors_total == 0


def test_what_a_filter_asks_about_is_not_what_an_order_is_asked_for() -> None:
    """It is asked about more nodes: those that the scheduler's other extenders refuse as well."""
    asked = Asked(alike())
    settled(asked)
    asked.now += CHECK_SECONDS
    question = asked.extender.read("filter", request_of([*NAMES, "stranger"]))
    asked.extender.reply(question)
    asked.extender.look_at_names(question)
    asked.ask()
    assert asked.ready
    asked.ask()
    assert asked.ready
