"""Editing the list of taints: ours becomes what is wanted, everybody else's stays."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aggregator.cluster.nodes import edit_taints, reduce_node
from aggregator.policy.model import Taint
from contract.vocabulary import TAINT_KEY

EFFECTS = st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"])
CODES = st.sampled_from(["xid-79", "ecc", "gpu-lost"])
TIMES = {"timeAdded": st.just("2026-01-02T03:04:05Z")}


def taint(keys: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"key": keys, "effect": EFFECTS}, optional={"value": CODES, **TIMES}
    )


FOREIGN = taint(st.sampled_from(["node.kubernetes.io/not-ready", "a/b", "fleetmedic.io/other"]))
OURS = taint(st.just(TAINT_KEY))
ODD: st.SearchStrategy[Any] = st.none() | st.integers() | st.just({})
TAINTS = st.none() | st.lists(FOREIGN | OURS | ODD, max_size=8)
WANTED = st.none() | st.builds(Taint, CODES, EFFECTS)


def is_ours(one: Any) -> bool:
    return isinstance(one, dict) and one.get("key") == TAINT_KEY


@given(TAINTS, WANTED)
def test_foreign_taints_stay_as_they_are_in_their_order(
    taints: list[Any] | None, wanted: Taint | None
) -> None:
    edited = edit_taints(taints, wanted)
    if edited is not None:
        assert [one for one in edited if not is_ours(one)] == [
            one for one in taints or () if not is_ours(one)
        ]


@given(TAINTS, WANTED)
def test_ours_is_what_is_wanted_and_only_once(
    taints: list[Any] | None, wanted: Taint | None
) -> None:
    edited = edit_taints(taints, wanted)
    result = list(taints or ()) if edited is None else edited
    ours = [one for one in result if is_ours(one)]
    if wanted is None:
        assert ours == []
    else:
        assert [(one["value"], one["effect"]) for one in ours] == [(wanted.code, wanted.effect)]


@given(TAINTS, WANTED)
def test_a_second_edit_has_nothing_to_do(taints: list[Any] | None, wanted: Taint | None) -> None:
    edited = edit_taints(taints, wanted)
    if edited is not None:
        assert edited != (taints or [])
        assert edit_taints(edited, wanted) is None


@given(st.lists(FOREIGN, max_size=4), OURS, st.lists(FOREIGN, max_size=4), WANTED)
def test_ours_keeps_its_place(
    before: list[Any], ours: dict[str, Any], after: list[Any], wanted: Taint | None
) -> None:
    edited = edit_taints([*before, ours, *after], wanted)
    if edited is not None and wanted is not None:
        assert is_ours(edited[len(before)])


@given(TAINTS, WANTED)
def test_the_argument_is_not_changed(taints: list[Any] | None, wanted: Taint | None) -> None:
    copy = [dict(one) if isinstance(one, dict) else one for one in taints or ()]
    edit_taints(taints, wanted)
    assert list(taints or ()) == copy


def test_the_time_of_ours_is_kept_while_its_effect_stays() -> None:
    timed = {"key": TAINT_KEY, "value": "a", "effect": "NoExecute", "timeAdded": "t"}
    assert edit_taints([timed], Taint("b", "NoExecute")) == [{**timed, "value": "b"}]
    assert edit_taints([timed], Taint("b", "NoSchedule")) == [
        {"key": TAINT_KEY, "value": "b", "effect": "NoSchedule"}
    ]


@given(TAINTS, WANTED)
def test_the_view_of_an_edited_node_shows_what_was_wanted(
    taints: list[Any] | None, wanted: Taint | None
) -> None:
    edited = edit_taints(taints, wanted)
    if edited is not None:
        obj = {"metadata": {"name": "n"}, "spec": {"taints": edited}}
        assert reduce_node(obj).node.taint == wanted


def test_the_first_pool_label_that_a_node_carries_names_its_pool() -> None:
    labels = {"nvidia.com/gpu.product": "H100", "fleetmedic.io/pool": "train"}
    obj = {"metadata": {"name": "n", "labels": labels}}
    assert reduce_node(obj).node.pool == "train"
    del labels["fleetmedic.io/pool"]
    assert reduce_node(obj).node.pool == "H100"
    capacity = {"nvidia.com/gpu": "8", "nvidia.com/gpumem": "640000", "nvidia.com/gpucores": "800"}
    unlabelled = reduce_node({"metadata": {"name": "n"}, "status": {"capacity": capacity}}).node
    assert (unlabelled.pool, unlabelled.gpu_capacity) == ("default", 8)
    assert reduce_node({"metadata": {"name": "n"}}).node.pool == "no-gpus"


def test_accelerators_of_every_make_are_counted() -> None:
    capacity = {"nvidia.com/gpu": "8", "huawei.com/Ascend910": "4", "cpu": "64", "amd.com/gpu": "?"}
    obj = {"metadata": {"name": "n"}, "status": {"capacity": capacity}}
    assert reduce_node(obj).node.gpu_capacity == 12
