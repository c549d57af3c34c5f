"""The score of a pod on a node: what its terms mean, that the book stays true while things change, and that no nonsense leaves."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.scores.book import MAX_ARRAYS, ScoreBook
from aggregator.scores.explain import node_words, terms_of, why
from aggregator.scores.model import (
    HEALTHY,
    LEAST_HEALTHY_SCORE,
    NEUTRAL_SCORE,
    UNKNOWN,
    VERDICTS,
    grade,
    grades,
    judge,
)
from aggregator.scores.terms import Newcomer, ScoreTerms
from aggregator.scores.typical import Typical, TypicalPods
from aggregator.scores.values import NodeRoom, PodShape
from contract.vocabulary import Severity
from tests.score_builders import NOW, book_of, facts, put, room, wants

USUAL = Typical.of(
    {
        PodShape(cpu_milli=8_000, gpu_count=1, gpu_milli=1000): 4,
        PodShape(cpu_milli=4_000, gpu_count=1, gpu_milli=500): 3,
        PodShape(cpu_milli=32_000, gpu_count=8, gpu_milli=1000): 1,
    }
)
ONLY: dict[str, dict[str, Any]] = {
    name: {
        each: float(each == name)
        for each in ("packing", "keep_whole", "rdma", "neighbourhood", "use")
    }
    for name in ("packing", "keep_whole", "rdma", "neighbourhood")
}
SOCKETS = (0, 0, 0, 0, 1, 1, 1, 1)

devices = st.lists(st.sampled_from([0, 250, 500, 1000]), min_size=1, max_size=8)
rooms = st.builds(
    lambda gpus, cpu, sick: room("n", gpus, cpu_free_milli=cpu, sick=(sick,)),
    devices,
    st.integers(0, 96_000),
    st.booleans(),
)
pods = st.one_of(
    st.builds(wants, st.integers(1, 8), cpu_milli=st.integers(0, 50_000)),
    st.builds(lambda milli: wants(1, milli), st.integers(1, 999)),
    st.just(Newcomer(shape=PodShape(cpu_milli=1_000))),
)
severities = st.sampled_from([None, Severity.INFO, Severity.DEGRADED, Severity.CRITICAL])


def of(book: ScoreBook, pod: Newcomer) -> dict[str, int]:
    names = list(book.table)
    return dict(zip(names, book.lookup(pod, names).tolist(), strict=True))


def book_with(*known: tuple[str, NodeRoom | None, dict[str, Any]], **terms: Any) -> ScoreBook:
    book = ScoreBook(ScoreTerms(**terms))
    book.learn(USUAL)
    for name, left, changes in known:
        put(book, facts(name, **changes), left)
    book.settle(NOW)
    return book


# ---- the scale


@given(st.sampled_from(range(4)), st.floats(allow_nan=True, allow_infinity=True))
def test_whatever_the_value_is_the_score_stays_in_the_range_of_its_verdict(
    code: int, value: float
) -> None:
    low, high = ((0, 0), (1, 99), (500, 500), (100, 1000))[code]
    assert low <= grade(VERDICTS[code], value) <= high


@given(st.sampled_from(range(4)), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_value_never_scores_lower(code: int, one: float, other: float) -> None:
    codes = np.array([code, code], dtype=np.int8)
    low, high = grades(codes, np.array(sorted((one, other))))
    assert low <= high


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(rooms, severities), min_size=1, max_size=6), pods)
def test_every_score_is_a_whole_number_in_its_range_and_no_nan_leaves(
    fleet: list[tuple[NodeRoom, Severity | None]], pod: Newcomer
) -> None:
    book = book_with(*((f"n{n}", left, {"worst": worst}) for n, (left, worst) in enumerate(fleet)))
    for name, score in of(book, pod).items():
        verdict = book.scores[name].verdict
        low, high = {"sick": (0, 0), "degraded": (1, 99), "healthy": (100, 1000)}[verdict]
        assert low <= score <= high
        assert 0 <= book.scores[name].score <= 1000
        assert not math.isnan(book.scores[name].score)


@settings(max_examples=60, deadline=None)
@given(st.lists(rooms, min_size=2, max_size=5), st.lists(rooms, min_size=2, max_size=5), pods)
def test_what_changed_is_told_the_same_as_a_book_made_anew(
    before: list[NodeRoom], after: list[NodeRoom], pod: Newcomer
) -> None:
    book = book_with(*((f"n{n}", left, {}) for n, left in enumerate(before)))
    of(book, pod)
    for n, left in enumerate(after):
        put(book, facts(f"n{n}"), left)
    for n in range(len(after), len(before)):
        book.drop(f"n{n}")
    book.settle(NOW)
    fresh = book_with(*((f"n{n}", left, {}) for n, left in enumerate(after)))
    assert of(book, pod) == of(fresh, pod)
    assert {name: each.score for name, each in book.scores.items()} == {
        name: each.score for name, each in fresh.scores.items()
    }


def test_a_thousand_nodes_come_and_go_and_none_keeps_anothers_score() -> None:
    book = book_with()
    for turn in range(3):
        for n in range(300):
            put(book, facts(f"n{turn}-{n}"), room("n", [1000] * (1 + n % 8)))
        book.settle(NOW)
        for n in range(300):
            book.drop(f"n{turn}-{n}")
    put(book, facts("last", worst=Severity.FATAL), room("n", [1000] * 8))
    book.settle(NOW)
    assert of(book, wants()) == {"last": 0}
    assert set(book.scores) == {"last"}
    assert book.lookup(wants(), ["n0-0"]).tolist() == [NEUTRAL_SCORE]


def test_the_kinds_of_pod_that_are_kept_are_bounded() -> None:
    book = book_of(room("n", [1000] * 8))
    for cpu in range(3 * MAX_ARRAYS):
        book.array(wants(cpu_milli=cpu))
    assert len(book._kept) <= MAX_ARRAYS


# ---- the terms


def test_a_suspect_node_ranks_below_every_healthy_one_and_is_still_ordered() -> None:
    book = book_with(
        ("good-fit", room("n", [0] * 7 + [1000]), {"worst": Severity.DEGRADED}),
        ("bad-fit", room("n", [0] * 8), {"suspect_reason": "xid-79"}),
        ("healthy-full", room("n", [0] * 8), {}),
    )
    found = of(book, wants())
    assert 0 < found["bad-fit"] < found["good-fit"] < found["healthy-full"]


def test_the_last_whole_node_is_kept_for_gangs_and_the_pod_that_needs_it_all_gets_it() -> None:
    last = book_with(
        ("part", room("n", [0] + [1000] * 7), {}),
        ("whole", room("n", [1000] * 8), {}),
        **ONLY["keep_whole"],
    )
    assert of(last, wants()) == {"part": 1000, "whole": 100}
    many = book_with(
        *((f"n{n}", room("n", [1000] * 8), {}) for n in range(10)), **ONLY["keep_whole"]
    )
    assert set(of(many, wants()).values()) == {505}
    assert np.isnan(many.values(wants(8), many.table.rows())).all()


def test_a_pod_on_several_gpus_prefers_nodes_whose_rdma_ports_are_up() -> None:
    left = room("n", [1000] * 8)
    book = book_with(
        ("all", left, {"ports_up": 8, "ports_total": 8}),
        ("half", left, {"ports_up": 4, "ports_total": 8}),
        ("none", left, {"ports_up": 0, "ports_total": 0}),
        **ONLY["rdma"],
    )
    assert of(book, wants(2)) == {"all": 1000, "half": 550, "none": 100}
    assert np.isnan(book.values(wants(1), book.table.rows())).all()


def test_a_pod_on_several_gpus_prefers_devices_near_each_other() -> None:
    near = room("n", [1000, 1000, 0, 0, 0, 0, 0, 0])
    apart = room("n", [1000, 0, 0, 0, 1000, 0, 0, 0])
    book = book_with(
        ("near", near, {"neighbourhoods": SOCKETS}),
        ("apart", apart, {"neighbourhoods": SOCKETS}),
        ("untold", near, {}),
        **ONLY["neighbourhood"],
    )
    found = of(book, wants(2))
    assert found["near"] == 1000
    assert found["apart"] == 550
    row = book.table.index["untold"]
    assert terms_of(book, wants(2), row)[0].value is None
    assert "not known" in terms_of(book, wants(2), row)[0].words


def test_terms_that_abstain_leave_their_weight_to_the_others() -> None:
    book = book_with(("n", room("n", [0] * 7 + [1000]), {}))
    lines = {each.name: each for each in terms_of(book, wants(), book.table.index["n"])}
    assert lines["rdma"].value is None
    speaking = [each for each in lines.values() if each.value is not None]
    value = float(book.values(wants(), np.array([book.table.index["n"]]))[0])
    assert sum(each.share for each in speaking) == pytest.approx(value, abs=1e-3)


def test_a_weight_of_zero_switches_a_term_off() -> None:
    book = book_with(("n", room("n", [1000] * 8), {}), packing=0.0)
    assert "packing" not in {each.name for each in terms_of(book, wants(), book.table.index["n"])}


def test_without_a_room_health_and_use_decide() -> None:
    book = book_with(("used", None, {"use_ratio": 0.5}), ("idle", None, {"use_ratio": 0.0}))
    assert of(book, wants()) == {"used": 750, "idle": 500}
    assert {name: each.score for name, each in book.scores.items()} == {"used": 750, "idle": 500}


def test_without_a_pod_in_hand_a_node_is_judged_by_the_pods_that_usually_come() -> None:
    book = book_with(
        ("tight", room("n", [0] * 7 + [500]), {}),
        ("full", room("n", [0] * 8), {}),
        ("silent", room("n", [0] * 8), {"received_seconds": None}),
    )
    assert book.scores["full"].score == 100
    assert book.scores["tight"].score > 100
    assert book.scores["silent"].score == NEUTRAL_SCORE
    assert "0 of 8 devices free, 1 in part" in book.scores["tight"].reason


# ---- bad input


def test_unknown_nodes_get_the_neutral_score() -> None:
    book = book_of(room("n", [1000] * 8))
    assert book.lookup(wants(), ["n", "stranger", ""]).tolist()[1:] == [NEUTRAL_SCORE] * 2
    assert book.lookup(wants(), []).tolist() == []


def test_a_pod_without_a_device_has_a_place_on_a_node_whose_devices_are_taken() -> None:
    book = book_with(("a", room("n", [1000] * 8), {}), ("b", room("n", [0] * 8), {}))
    assert of(book, Newcomer(shape=PodShape(cpu_milli=500)))["b"] > LEAST_HEALTHY_SCORE


def test_absurd_amounts_fit_nowhere_and_break_nothing() -> None:
    book = book_of(room("n", [1000] * 8))
    for pod in (wants(10_000), wants(1, 10**9), wants(cpu_milli=10**12), wants(memory_mib=10**15)):
        assert of(book, pod) == {"n": 100}


def test_a_room_with_odd_amounts_is_brought_into_bounds() -> None:
    odd = room("odd", [5_000, -3, 1000], cpu_free_milli=-1, memory_free_mib=-1)
    assert 100 <= of(book_of(odd), wants())["odd"] <= 1000


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf])
def test_a_use_that_is_no_number_never_leaves(nonsense: float) -> None:
    book = book_with(
        ("n", None, {"use_ratio": nonsense}), ("m", room("m", [1000]), {"use_ratio": nonsense})
    )
    assert all(100 <= score <= 1000 for score in of(book, wants()).values())


class Raving:
    """A term that answers nonsense."""

    name = "use"

    def values(self, pod: Newcomer, rows: Any) -> Any:
        return np.resize(np.array([np.nan, np.inf, -np.inf, 7.0, -7.0]), len(rows))

    def words(self, pod: Newcomer, row: int) -> str:
        return "nonsense"

    def wish(self, row: int, value: float) -> str:
        return "if it made sense"


def test_a_term_that_goes_mad_moves_a_score_by_no_more_than_its_weight() -> None:
    calm = book_of(*(room(f"n{n}", [1000] * 8) for n in range(5)))
    mad = book_of(*(room(f"n{n}", [1000] * 8) for n in range(5)))
    mad.add_term(Raving())
    total = sum(weight for _, weight in mad.terms)
    for name, score in of(calm, wants()).items():
        assert abs(of(mad, wants())[name] - score) <= 900 * mad.weights.use / (total - 3) + 1


def test_a_tenants_thousand_odd_pods_move_the_scores_within_the_stated_bound() -> None:
    """At most half a device's worth per typical pod's share: see ``typical.py``; here by what a person sees."""
    usual, poisoned = TypicalPods(), TypicalPods()
    for learned in (usual, poisoned):
        for n in range(400):
            shape = PodShape(cpu_milli=8_000, gpu_count=1 + n % 2, gpu_milli=1000)
            learned.saw(shape, f"team-{n % 8}", NOW)
    for n in range(1_000):
        poisoned.saw(PodShape(cpu_milli=90_000 - n, gpu_count=1, gpu_milli=1 + n % 999), "odd", NOW)
    fleet: list[tuple[str, NodeRoom, dict[str, Any]]] = [
        (f"n{n}", room("n", [0] * n + [1000] * (8 - n)), {}) for n in range(8)
    ]
    one, other = book_with(*fleet), book_with(*fleet)
    one.learn(usual.typical(NOW))
    other.learn(poisoned.typical(NOW))
    for book in (one, other):
        for _ in range(3):
            book.settle(NOW)
    clean, dirty = of(one, wants(2, cpu_milli=8_000)), of(other, wants(2, cpu_milli=8_000))
    assert max(abs(clean[name] - dirty[name]) for name in clean) <= 250
    assert poisoned.shares(NOW)["odd"] <= 0.25


def test_another_histogram_comes_in_piece_by_piece_and_health_at_once() -> None:
    book = book_with(("n", room("n", [1000] * 8), {}), ("m", room("m", [1000]), {}))
    asked = [wants(count) for count in (1, 2, 4)]
    for pod in asked:
        book.array(pod)
    book.learn(Typical.of({PodShape(gpu_count=4, gpu_milli=1000): 1.0}))
    put(book, facts("n", worst=Severity.FATAL), room("n", [1000] * 8))
    assert all(of(book, pod)["n"] == 0 for pod in asked)
    for _ in range(8):
        book.settle(NOW)
    assert {kept.generation for kept in book._kept.values()} == {book._generation}


# ---- why


def test_the_smallest_change_that_would_lift_the_second_is_named() -> None:
    left = room("n", [1000] * 8)
    book = book_with(
        ("a", left, {"ports_up": 8, "ports_total": 8}),
        ("b", left, {"ports_up": 6, "ports_total": 8}),
    )
    told = why(book, wants(4), NOW)
    assert [each.node for each in told.candidates] == ["a", "b"]
    equal = why(book, wants(1), NOW)
    assert "as good as" in equal.change
    assert "b" in told.change
    assert "a" in told.change


def test_what_is_guessed_or_assumed_is_said() -> None:
    book = book_of(room("n", [1000] * 8, guessed=True), room("m", [1000] * 8))
    told = why(book, wants(), NOW)
    assert any("assumed" in each for each in told.unknown)
    assert any("n: it is guessed" in each for each in told.unknown)


def test_a_node_nobody_knows_has_no_words() -> None:
    assert node_words(book_of(), "stranger") is None


def test_the_verdict_codes_are_the_names_in_order() -> None:
    assert (VERDICTS[HEALTHY], VERDICTS[UNKNOWN]) == ("healthy", "unknown")


def test_the_words_are_written_node_by_node_and_others_have_their_turn_between() -> None:
    book = ScoreBook()
    for name in ("a", "b", "c"):
        put(book, facts(name), room(name, [1000] * 8))
    written = [len(book.scores) for _ in book.settling(NOW)]
    assert written == [1, 2, 3]


def test_its_version_tells_whether_anything_was_taken_in() -> None:
    book = ScoreBook()
    put(book, facts("a"), room("a", [1000] * 8))
    seen = book.version
    book.take_room("a", room("a", [1000] * 8))
    assert book.version == seen
    changes: tuple[Callable[[], None], ...] = (
        lambda: book.take_room("a", room("a", [0] * 8)),
        lambda: book.take_health(facts("a", use_ratio=0.5), judge(facts("a"), NOW, 30.0)),
        lambda: book.drop("a"),
        lambda: book.settle(NOW),
    )
    for change in changes:
        seen = book.version
        change()
        assert book.version != seen
