"""An answer that is ready before the question ranks the nodes as one that reads their names, and goes on unnoticed nowhere."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds import extender_fleet
from aggregator.feeds.extender import Extender
from aggregator.feeds.extender_fleet import (
    CHECK_SECONDS,
    FAVOURITES,
    LINGER_SECONDS,
    MADE_AHEAD,
    SPARE,
    TRUST_SECONDS,
    FleetReplies,
)
from aggregator.feeds.extender_hosts import FULL_NAMES
from aggregator.scores.model import HEALTHY, LEAST_HEALTHY_SCORE, NEUTRAL_SCORE, UNKNOWN
from aggregator.scores.table import filling_order
from aggregator.scores.typical import Typical
from aggregator.scores.values import PodShape
from aggregator.stats import AggregatorStats
from contract.vocabulary import Severity
from tests.mirrored import Wire
from tests.score_builders import GPU, NOW, facts, put, room, wants

NAMES = [f"n{number:03d}" for number in range(FULL_NAMES + 60)]
HEALTH: dict[str, dict[str, Any]] = {
    "well": {},
    "weak": {"worst": Severity.DEGRADED},
    "sick": {"worst": Severity.FATAL},
    "silent": {"received_seconds": NOW - 100},
}


def fleet(health: Sequence[tuple[str, int]]) -> Wire:
    """Nodes by health and free GPUs of eight."""
    wire = Wire()
    for name, (how, free) in zip(NAMES, health, strict=True):
        put(wire.book, facts(name, **HEALTH[how]), room(name, [1000] * free + [0] * (8 - free)))
    wire.book.settle(NOW)
    wire.push()
    return wire


def alike(free: int = 4) -> Wire:
    return fleet([("well", free)] * len(NAMES))


class Asked:
    """The extender of the process beside the aggregator; what comes in between two questions it is told at once."""

    def __init__(self, wire: Wire, *, scale: int = 100, **changes: Any) -> None:
        self.wire = wire
        self.stats = AggregatorStats()
        self.now = NOW
        self.fleet = FleetReplies(wire.mirror, scale)
        self.extender = Extender(
            wire.mirror,
            self.stats,
            clock=lambda: self.now,
            scale=scale,
            fleet=self.fleet,
            **changes,
        )
        self.ready = False
        """Whether the newest answer was given before the names were read."""

    def ask(self, names: Sequence[str] = NAMES, *, gpus: int = 1, **spec: Any) -> dict[str, int]:
        """The numbers as kube-scheduler counts them: a host that is left out has none."""
        question = self.extender.read("prioritize", request_of(names, gpus, **spec))
        if question.needs is not None:
            self.wire.want(question.needs)
            self.wire.push()
        said = json.loads(self.extender.reply(question))
        self.ready = question.unread is not None
        self.extender.look_after(question)
        told = {each["Host"]: each["Score"] for each in said}
        return {name: told.get(name, 0) for name in names}


def request_of(names: Sequence[str], gpus: int = 1, **spec: Any) -> bytes:
    """As Go writes it."""
    limits = {"limits": {GPU: str(gpus)}}
    pod = {"spec": {"containers": [{"resources": limits}], **spec}}
    said = {"Pod": pod, "Nodes": None, "NodeNames": list(names)}
    return json.dumps(said, separators=(",", ":")).encode()


def settled(asked: Asked, names: Sequence[str] = NAMES, **options: Any) -> dict[str, int]:
    """Asked twice: the names were looked at after the first answer."""
    asked.ask(names, **options)
    return asked.ask(names, **options)


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
    asked.extender.look_after(question)
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
    asked.extender.look_after(question)
    asked.ask()
    assert asked.ready
    asked.ask()
    assert asked.ready
