"""Editing nodes: what is ours becomes what is wanted, everybody else's stays."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.cluster import EdgeError
from aggregator.cluster.nodes import (
    NodeRecord,
    cordon_patch,
    edit_taints,
    reduce_node,
    taint_patch,
    uncordon_patch,
    untaint_patch,
)
from aggregator.cluster.overlay import after
from aggregator.policy.model import ClusterNode, Cordon, RemoveTaint, SetTaint, Taint, Uncordon
from contract.vocabulary import CORDONED_BY, QUARANTINED_BY, TAINT_KEY, UNMANAGED_LABEL

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


NAMES = st.sampled_from(["", "i", "j"])


def record(
    taints: list[Any] | None, quarantined_by: str, cordoned_by: str, cordoned: bool
) -> NodeRecord:
    annotations = {"theirs": "1"}
    if quarantined_by:
        annotations[QUARANTINED_BY] = quarantined_by
    if cordoned_by:
        annotations[CORDONED_BY] = cordoned_by
    spec: dict[str, Any] = {"taints": taints}
    if cordoned:
        spec["unschedulable"] = True
    return reduce_node({"metadata": {"name": "n", "annotations": annotations}, "spec": spec})


RECORDS = st.builds(
    record, st.none() | st.lists(FOREIGN | OURS, max_size=4), NAMES, NAMES, st.booleans()
)


def merged(before: NodeRecord, patch: dict[str, Any] | None) -> ClusterNode:
    """The node as the server makes it of a merge patch."""
    spec = {"taints": before.taints, "unschedulable": before.node.unschedulable}
    annotations = {QUARANTINED_BY: before.node.quarantined_by, CORDONED_BY: before.node.cordoned_by}
    if patch is not None:
        assert patch.keys() <= {"metadata", "spec"}
        spec |= patch.get("spec", {})
        annotations |= patch.get("metadata", {}).get("annotations", {})
    metadata = {"name": "n", "annotations": annotations}
    return reduce_node({"metadata": metadata, "spec": spec}).node


@given(RECORDS, st.builds(Taint, CODES, EFFECTS), st.sampled_from(["i", "j"]))
def test_a_signed_taint_is_put_on_unless_a_person_took_that_very_one_off(
    before: NodeRecord, wanted: Taint, incident: str
) -> None:
    taken_off = before.node.taint is None and before.node.quarantined_by == incident
    intent = SetTaint(node="n", taint=wanted, incident=incident, reason="r")
    if taken_off:
        with pytest.raises(EdgeError, match="a person took the taint"):
            taint_patch(before, wanted, incident)
        return
    patch = taint_patch(before, wanted, incident)
    assert merged(before, patch) == after(before.node, intent)
    if patch is None:
        assert (before.node.taint, before.node.quarantined_by) == (wanted, incident)


@given(RECORDS)
def test_taint_and_signature_go_together(before: NodeRecord) -> None:
    patch = untaint_patch(before)
    assert merged(before, patch) == after(before.node, RemoveTaint(node="n", reason="r"))
    if patch is None:
        assert (before.node.taint, before.node.quarantined_by) == (None, "")


@given(RECORDS, st.sampled_from(["i", "j"]))
def test_a_cordon_is_signed_only_where_it_is_ours(before: NodeRecord, incident: str) -> None:
    if not before.node.unschedulable and before.node.cordoned_by == incident:
        with pytest.raises(EdgeError, match="a person uncordoned"):
            cordon_patch(before, incident)
        return
    intent = Cordon(node="n", incident=incident, reason="r")
    assert merged(before, cordon_patch(before, incident)) == after(before.node, intent)


@given(RECORDS)
def test_only_our_own_cordon_is_taken_back(before: NodeRecord) -> None:
    patch = uncordon_patch(before)
    assert merged(before, patch) == after(before.node, Uncordon(node="n", reason="r"))
    if not before.node.cordoned_by:
        assert patch is None


def test_what_the_policy_wants_to_know_of_a_node_is_read() -> None:
    labels = {UNMANAGED_LABEL: "false"}
    node = reduce_node(
        {
            "metadata": {"name": "n", "uid": "u", "labels": labels},
            "status": {"nodeInfo": {"bootID": "b"}},
        }
    ).node
    assert (node.uid, node.boot_id, node.managed) == ("u", "b", False)
    assert reduce_node(
        {"metadata": {"name": "n", "labels": {UNMANAGED_LABEL: "true"}}}
    ).node.managed
    assert reduce_node({"metadata": {"name": "n"}}).node.managed
