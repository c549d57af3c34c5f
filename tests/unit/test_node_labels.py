"""A node's score on the node: it follows, it does not fidget, it stays within its budget, and it never harms."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds.node_labels import (
    AGING_PER_SECOND,
    RAISE_SETTLES,
    Carried,
    LabelMemory,
    LabelSettings,
    Planned,
    ScorePatch,
    plan,
    spend,
    whole,
)
from aggregator.scores.model import NodeScore, Verdict
from contract.vocabulary import SCORE_ANNOTATION, SCORE_BAND_LABEL

GO_NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")
"""Of all that Go's strconv.ParseFloat reads, the plainest: whole, without sign, exponent or leading zero."""

SICK = NodeScore(0, "xid-79", "sick")
UNKNOWN = NodeScore(500, "no report for 40 s", "unknown")


def score(points: float, verdict: Verdict = "healthy") -> NodeScore:
    return NodeScore(points, "healthy", verdict)  # type: ignore[arg-type]  # what a bug may bring


class World:
    """Nodes on a server, and the memory of one leader."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.nodes = {name: Carried() for name in names or ("n1",)}
        self.settings = LabelSettings(**{"enabled": True, **settings})
        self.memory = LabelMemory()
        self.now = 1_000.0
        self.writes: list[tuple[float, ScorePatch]] = []
        self.planned = Planned([], self.memory, 0, 0, 0)

    def look(
        self, scores: NodeScore | Mapping[str, NodeScore], seconds: float = 0.0
    ) -> list[ScorePatch]:
        """One look ``seconds`` after the last; all that is planned is written."""
        self.now += seconds
        each = dict.fromkeys(self.nodes, scores) if isinstance(scores, NodeScore) else scores
        self.planned = plan(each, self.nodes, self.settings, self.memory, self.now)
        self.memory = spend(self.planned.memory, self.planned.patches, self.now)
        for patch in self.planned.patches:
            band, text = patch.texts
            self.nodes[patch.node] = self.nodes[patch.node]._replace(band=band, score=text)
            self.writes.append((self.now, patch))
        return self.planned.patches

    def keys(self, name: str = "n1") -> tuple[str, str]:
        return self.nodes[name].band, self.nodes[name].score

    def carrying(self, band: int, points: int) -> "World":
        """Every node carries this since long ago."""
        for name, each in self.nodes.items():
            self.nodes[name] = each._replace(band=str(band), score=str(points))
        return self


def test_a_first_score_is_written_at_once_and_both_keys_together() -> None:
    world = World()
    [patch] = world.look(score(730))
    assert patch.body == {
        "metadata": {"labels": {SCORE_BAND_LABEL: "7"}, "annotations": {SCORE_ANNOTATION: "725"}}
    }
    assert world.look(score(730), 100) == []


def test_what_changes_little_is_not_written() -> None:
    world = World().carrying(5, 500)
    for points in (510, 495, 524, 505, 480, 519, 499):
        assert world.look(score(points), 100) == []
    assert world.planned.suppressed == 0
    world.look(score(505), 10)
    assert world.planned.suppressed == 1, "it had been outside of its band"


def test_a_clear_change_moves_the_band_and_a_small_one_only_if_it_lasts() -> None:
    world = World(settle_seconds=120).carrying(5, 500)
    [patch] = world.look(score(625))
    assert (patch.band, patch.score) == (6, 625)
    assert world.look(score(595), 100)[0].band == 6, "the annotation follows, the band waits"
    assert world.look(score(595), 100) == []
    [patch] = world.look(score(595), 30)
    assert (patch.band, patch.score) == (5, 575)


def test_a_perfect_score_has_a_band_of_its_own_that_is_reached_by_lasting() -> None:
    world = World(settle_seconds=120).carrying(9, 975)
    assert world.look(score(1000))[0].band == 9
    assert world.look(score(1000), 121)[0].band == 10
    assert world.keys() == ("10", "1000")


def test_a_sick_node_is_told_at_once_even_right_after_another_write() -> None:
    world = World(pause_seconds=60)
    world.look(score(900))
    [patch] = world.look(SICK, 1)
    assert (patch.band, patch.score, patch.reason) == (0, 0, "sick: xid-79")
    assert world.look(score(900), 10) == [], "back only after a pause"
    assert world.look(score(900), 51)[0].band == 9


def test_somebody_who_keeps_undoing_it_is_not_fought_more_than_once_a_minute() -> None:
    world = World(pause_seconds=60)
    writes = 0
    for _ in range(100):
        world.carrying(10, 1000)
        writes += len(world.look(SICK, 3))
    assert writes == 5


def test_a_node_that_falls_silent_keeps_its_score_for_a_while_and_then_is_neutral() -> None:
    world = World(stale_seconds=120).carrying(9, 950)
    assert world.look(UNKNOWN) == []
    assert world.look(UNKNOWN, 119) == []
    [patch] = world.look(UNKNOWN, 2)
    assert (patch.band, patch.score) == (5, 500)
    assert patch.reason == "neutral: no report for 40 s"
    assert world.look(UNKNOWN, 500) == []


def test_a_new_leader_without_any_report_leaves_what_is_there() -> None:
    world = World("a", "b", stale_seconds=120).carrying(9, 950)
    assert world.look({}) == []
    assert world.look(UNKNOWN, 60) == []
    assert world.look(score(955), 30) == []


def test_another_leader_in_between_makes_the_waiting_begin_anew() -> None:
    world = World(stale_seconds=120).carrying(9, 950)
    world.look(UNKNOWN)
    world.now += 3600
    world.memory = world.memory.waking()
    assert world.look(UNKNOWN) == []


def test_a_new_node_of_which_nothing_is_known_is_neutral_at_once() -> None:
    [patch] = World().look({})
    assert (patch.band, patch.score) == (5, 500)


def test_a_silent_node_is_not_preferred_to_the_best_healthy_one_with_room() -> None:
    world = World("silent", "best", "full")
    scores = {"silent": UNKNOWN, "best": score(340), "full": score(100)}
    world.look(scores)
    assert world.keys("silent") == ("3", "300")
    assert world.keys("best")[0] == "3", "equal bands: how full they are decides"
    world.look({**scores, "best": score(730)}, 61)
    world.look({**scores, "best": score(730)}, 61)
    assert world.keys("silent") == ("5", "500"), "and not punished either"


def test_a_healthy_node_that_goes_to_and_fro_does_not_move_all_the_silent_ones() -> None:
    silent = [f"silent-{each}" for each in range(20)]
    world = World("best", *silent)
    unknown = dict.fromkeys(silent, UNKNOWN)
    world.look({"best": score(340), **unknown})
    written: list[str] = []
    for best in (470, 330, 470, 330):
        written += [each.node for each in world.look({"best": score(best), **unknown}, 150)]
    assert written == ["best"] * 4
    for _ in range(3):
        world.look({"best": score(470), **unknown}, RAISE_SETTLES * 120 + 1)
    assert {world.keys(each) for each in silent} == {("4", "400")}, "it does follow"


def test_where_no_healthy_node_has_room_or_is_known_the_silent_one_is_in_the_middle() -> None:
    for others in (UNKNOWN, SICK, score(100), score(40, "degraded"), score(math.nan)):
        world = World("silent", "other")
        world.look({"silent": UNKNOWN, "other": others})
        assert world.keys("silent") == ("5", "500")


def test_silent_nodes_are_not_written_with_each_breath_of_the_best_one() -> None:
    world = World("silent", "best", settle_seconds=120)
    for points in (405, 395, 410, 398, 402, 396, 399):
        world.look({"silent": UNKNOWN, "best": score(points)}, 61)
    assert world.keys("silent") == ("4", "400")
    assert [patch.node for _, patch in world.writes].count("silent") == 1


@pytest.mark.parametrize("points", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_written(points: float) -> None:
    world = World(stale_seconds=120).carrying(7, 700)
    assert world.look(score(points)) == []
    [patch] = world.look(score(points), 121)
    assert (patch.band, patch.score) == (5, 500)


@pytest.mark.parametrize("text", ["", "x", "-1", "11", "5.0", "05", "\u0665", "99999", "NaN"])
def test_a_label_that_makes_no_sense_is_written_anew(text: str) -> None:
    world = World()
    world.nodes["n1"] = Carried(band=text, score="500")
    [patch] = world.look(score(500))
    assert patch.band == 5


def test_what_people_opted_out_is_not_touched_on_or_off() -> None:
    for enabled in (True, False):
        world = World(enabled=enabled)
        world.nodes["n1"] = Carried(band="9", score="900", managed=False)
        assert world.look(SICK, 500) == []


def test_a_node_without_gpus_gets_no_score_but_keeps_one_up_to_date() -> None:
    world = World()
    world.nodes["n1"] = Carried(has_gpus=False)
    assert world.look(score(700)) == []
    world.nodes["n1"] = Carried(band="9", score="900", has_gpus=False)
    assert world.look(score(700))[0].band == 7


def test_switched_off_both_keys_go_from_every_node_within_the_budget() -> None:
    names = [f"n{number}" for number in range(25)]
    world = World(*names, enabled=False, burst=10, writes_per_second=5).carrying(3, 300)
    world.nodes["stranger"] = Carried()
    assert len(world.look({})) == 10
    assert len(world.look({}, 1)) == 5
    world.look({}, 2)
    assert all(not each.band and not each.score for each in world.nodes.values())
    assert world.writes[0][1].body == {
        "metadata": {"labels": {SCORE_BAND_LABEL: None}, "annotations": {SCORE_ANNOTATION: None}}
    }
    assert "stranger" not in {patch.node for _, patch in world.writes}


def test_the_sick_come_first_then_what_has_no_score_then_the_largest_change() -> None:
    world = World("little", "new", "sick", "much", burst=1).carrying(5, 500)
    world.nodes["new"] = Carried()
    scores = {"little": score(540), "new": score(510), "sick": SICK, "much": score(900)}
    order: list[str] = []
    while len(order) < 4:
        order += [each.node for each in world.look(scores, 0.1)]
    assert order == ["sick", "new", "much", "little"]
    assert world.planned.waiting == 0


def test_what_waits_for_the_budget_is_counted_once() -> None:
    world = World("a", "b", "c", burst=1, writes_per_second=1).carrying(5, 500)
    delayed = []
    for _ in range(3):
        world.look(score(700), 1)
        delayed.append(world.planned.delayed)
    assert delayed == [2, 0, 0]


def test_a_small_change_is_not_pushed_back_for_ever_by_large_ones() -> None:
    names = [f"n{number}" for number in range(20)]
    world = World(*names, burst=1, writes_per_second=1, pause_seconds=0).carrying(5, 500)
    for turn in range(200):
        scores = dict.fromkeys(names, score(100 if turn % 2 else 1000))
        scores["n7"] = score(530)
        if "n7" in {each.node for each in world.look(scores, 1)}:
            break
    assert world.keys("n7") == ("5", "525")
    assert turn <= 1000 / AGING_PER_SECOND + 2 * len(names)


def test_a_write_that_fails_is_tried_again_after_the_pause() -> None:
    world = World(pause_seconds=60).carrying(5, 500)
    world.look(score(800))
    world.carrying(5, 500)  # as if it had been refused
    assert world.look(score(800), 59) == []
    assert world.look(score(800), 2)


def test_a_node_that_left_is_forgotten() -> None:
    world = World("a", "b")
    world.look(score(510))
    del world.nodes["a"]
    world.look(score(510), 1)
    assert set(world.memory.wrote) == {"b"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"step": 0}, "step is 0; it has to be 1 to 100"),
        ({"margin": 101}, "margin is 101"),
        ({"burst": 0}, "burst is 0"),
        ({"pause_seconds": -1}, "pause_seconds is -1"),
        ({"settle_seconds": math.nan}, "settle_seconds is nan"),
        ({"writes_per_second": 0}, "more than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelSettings(**wrong)


# --- for any sequence of scores ---------------------------------------------------------------

VERDICTS = st.sampled_from(["sick", "degraded", "unknown", "healthy"])
POINTS = st.one_of(st.integers(-5, 1_100), st.sampled_from([math.nan, math.inf, 499.6]))
SCORES = st.one_of(st.none(), st.builds(score, POINTS, VERDICTS))
NAMES = ("a", "b", "c", "d", "e", "f")
LOOKS = st.lists(
    st.tuples(st.floats(0.0, 40.0), st.lists(SCORES, min_size=6, max_size=6)), max_size=40
)


def played(world: World, looks: Sequence[tuple[float, Sequence[NodeScore | None]]]) -> World:
    for seconds, given_scores in looks:
        pairs = zip(NAMES, given_scores, strict=True)
        world.look({name: each for name, each in pairs if each is not None}, seconds)
    return world


def windows(times: Sequence[float], seconds: float) -> int:
    """The most writes in any window of this length."""
    return max((sum(at <= each <= at + seconds for each in times) for at in times), default=0)


@given(LOOKS, st.integers(1, 8), st.sampled_from([0.05, 0.3, 2.0]), st.sampled_from([1.0, 60.0]))
def test_no_sequence_of_scores_makes_more_writes_than_the_budget(
    looks: Any, burst: int, rate: float, window: float
) -> None:
    world = played(World(*NAMES, burst=burst, writes_per_second=rate, settle_seconds=30), looks)
    times = [at for at, _ in world.writes]
    assert windows(times, window) <= burst + rate * window + 1e-6


@given(LOOKS)
def test_no_sequence_of_scores_writes_a_node_twice_a_minute_unless_it_turns_sick(
    looks: Any,
) -> None:
    world = played(World(*NAMES, settle_seconds=30, pause_seconds=60), looks)
    for name in NAMES:
        mine = [(at, patch.sick) for at, patch in world.writes if patch.node == name]
        for (before, was_sick), (after, is_sick) in pairwise(mine):
            assert after - before >= 60 or (is_sick and not was_sick)
        assert windows([at for at, _ in mine], 59) <= 2


@given(LOOKS)
def test_whatever_the_scores_are_only_whole_numbers_in_range_are_written(looks: Any) -> None:
    for _, patch in played(World(*NAMES, pause_seconds=0), looks).writes:
        band, points = patch.texts
        assert GO_NUMBER.fullmatch(band)
        assert GO_NUMBER.fullmatch(points)
        assert int(float(points)) == int(points) <= 1000
        assert int(band) <= 10


@given(st.integers(0, 1000), st.lists(st.integers(0, 24), min_size=1, max_size=60))
def test_noise_smaller_than_a_step_writes_once_at_most(base: int, noise: list[int]) -> None:
    world = World(settle_seconds=1e6)
    world.look(score(base))
    for each in noise:
        world.look(score(min(1000, base + each)), 100)
    assert len(world.writes) <= 2, "the first score, and one step"


@given(LOOKS, st.lists(st.integers(0, 1000), min_size=6, max_size=6))
def test_once_scores_are_quiet_every_band_is_right_within_a_bounded_time(
    looks: Any, finals: list[int]
) -> None:
    world = played(
        World(*NAMES, settle_seconds=30, pause_seconds=60, burst=2, writes_per_second=0.5), looks
    )
    last = {name: score(points) for name, points in zip(NAMES, finals, strict=True)}
    bound = 60 + 60 + 2 * len(NAMES) / 0.5
    for _ in range(int(bound / 2)):
        world.look(last, 2)
    for name, points in zip(NAMES, finals, strict=True):
        band, text = world.keys(name)
        assert int(band) == points // 100
        assert abs(int(text) - points) < 25
    assert world.look(last, 1_000) == []


@given(SCORES)
def test_a_score_is_a_whole_number_in_range_or_none_at_all(scored: NodeScore | None) -> None:
    assert whole(scored) in (None, *range(1001))
