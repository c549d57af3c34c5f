"""Quarantine of single devices: what is written, in which order, what is left alone, and how it ends."""

from typing import Any

import msgspec
import pytest

from aggregator.policy.devices import hami
from aggregator.policy.devices.planner import DeviceMemory, plan
from aggregator.policy.devices.signature import SIGNATURE
from aggregator.policy.devices.values import AUTO, BackEnd, DeviceSettings, parse_back_ends
from aggregator.policy.devices.wanted import only_devices
from contract.vocabulary import Phase, Severity
from tests.device_world import ALL, NAME, A, B, DeviceWorld, word, world
from tests.policy_builders import START, finding


class TestSetting:
    def test_it_is_off_unless_asked_for(self) -> None:
        assert parse_back_ends("") == parse_back_ends(" off ") == DeviceSettings()

    def test_auto_vouches_for_nothing(self) -> None:
        assert parse_back_ends("auto") == DeviceSettings(back_ends=AUTO)

    def test_who_names_a_back_end_vouches_for_it(self) -> None:
        found = parse_back_ends("koordinator, dra")
        assert found.back_ends == (BackEnd.DRA, BackEnd.KOORDINATOR)
        assert found.vouched == set(found.back_ends)

    @pytest.mark.parametrize("text", ["dra,auto", "off,hami", "volcano"])
    def test_another_word_is_refused_and_named(self, text: str) -> None:
        with pytest.raises(
            ValueError, match=r"is not off, auto or a list of dra, hami, koordinator"
        ):
            parse_back_ends(text)


class TestWhichDevices:
    @pytest.mark.parametrize(
        "changes",
        [
            {"phase": Phase.SUSPECT, "quarantined_seconds": None},
            {"phase": Phase.VERIFYING, "soak_since_seconds": START},
            {"phase": Phase.CLOSED},
            {"cancel": True},
        ],
        ids=["only watched", "on probation", "closed", "cancelled"],
    )
    def test_none_outside_of_a_quarantine(self, changes: dict[str, Any]) -> None:
        made = DeviceWorld(ALL).with_dra().with_hami()
        made.sick(A, **changes)
        assert not made.look().steps

    def test_a_partition_stands_for_its_gpu(self) -> None:
        made = DeviceWorld(ALL).with_hami()
        made.sick(f"{A}/mig:3")
        made.look()
        assert made.cordoned == ["GPU-a"]

    def test_on_a_held_node_nothing_changes_in_either_direction(self) -> None:
        made = world().with_hami()
        made.sick(A, hold=True)
        assert not made.look().steps
        made.sick(A)
        made.look()
        made.sick(B, hold=True)
        assert not made.look().steps
        assert made.cordoned == ["GPU-a"]

    def test_nothing_is_decided_while_stopped_or_unsynced(self) -> None:
        made = world().with_hami()
        for view in (
            msgspec.structs.replace(made.view, stopped="night"),
            msgspec.structs.replace(made.view, synced=False),
        ):
            found = plan(view, [made.picture()], {}, ALL, DeviceMemory(), START)
            assert not found.steps
            assert not found.in_force

    def test_a_finding_about_the_host_is_no_matter_of_devices(self) -> None:
        soft = finding(subject="host", severity=Severity.DEGRADED)
        assert only_devices([finding(subject=A), soft])
        assert not only_devices([finding(subject=A), finding(subject="host")])
        assert not only_devices([finding(subject="rdma:mlx5_0/1")])


class TestHami:
    @pytest.mark.parametrize(
        ("text", "ids"),
        [
            ('[{"id":"GPU-a","count":10},{"id":"GPU-b"}]', ("GPU-a", "GPU-b")),
            (
                "GPU-a,10,81920,100,NVIDIA-H100,0,true:GPU-b,10,81920,100,x,0,true:",
                ("GPU-a", "GPU-b"),
            ),
            ("", ()),
            ("[", ()),
            ('[1, {"id": 2}, null]', ()),
            ("garbage", ()),
            ("[" * 100_000, ()),
        ],
    )
    def test_its_register_is_read_in_both_forms(self, text: str, ids: tuple[str, ...]) -> None:
        assert hami.registered(text) == ids

    @pytest.mark.parametrize("before", ["", "x", " x , y", "x,,y", "x,y,"])
    def test_what_others_wrote_stays_as_it_is(self, before: str) -> None:
        after = hami.removed(hami.added(before, "GPU-a"), "GPU-a")
        assert hami.cordoned(after or "") == hami.cordoned(before)
        if hami.cordoned(before):
            assert after == before

    def test_a_cordon_of_a_person_counts_and_stays(self) -> None:
        made = world().with_hami(cordon="GPU-a")
        found = made.look()
        assert not found.steps
        assert found.in_force == {NAME: frozenset({A})}
        made.well()
        made.looks(3)
        assert made.cordoned == ["GPU-a"]

    def test_the_spelling_of_the_register_is_used(self) -> None:
        made = world().with_hami()
        made.hardware[A] = "gpu-A"
        made.look()
        assert made.cordoned == ["GPU-a"]

    def test_a_silent_agent_is_no_reason_to_release(self) -> None:
        made = world().with_hami()
        made.look()
        made.hardware = {}
        found = made.looks(2)
        assert not found.steps
        assert found.in_force

    def test_a_gpu_that_was_replaced_is_taken_off_and_the_new_one_put_on(self) -> None:
        made = world().with_hami(cordon="x")
        made.look()
        made.annotations[hami.REGISTER] = '[{"id":"GPU-new"},{"id":"GPU-b"}]'
        made.hardware[A] = "GPU-new"
        made.looks(3)
        assert made.cordoned == ["x", "GPU-new"]

    def test_a_persons_word_holds_for_the_incident_whatever_hardware_comes_and_goes(self) -> None:
        made = world().with_hami()
        made.look()
        made.person_notes(hami.CORDON, None)
        made.looks(2)
        for uuid in ("GPU-new", "GPU-a"):
            made.hardware[A] = uuid
            made.looks(2)
        assert made.cordoned == []
        made.sick(A, name="i2")
        made.look()
        assert made.cordoned == ["GPU-a"]

    def test_what_a_person_took_off_and_put_there_again_is_theirs(self) -> None:
        made = world().with_hami()
        made.look()
        made.person_notes(hami.CORDON, None)
        made.look()
        made.person_notes(hami.CORDON, "GPU-a")
        assert made.look().in_force
        made.well()
        made.looks(3)
        assert made.cordoned == ["GPU-a"]
        assert SIGNATURE not in made.annotations

    def test_another_spelling_of_a_uuid_is_the_same_gpu(self) -> None:
        made = world().with_hami()
        made.hardware[A] = "gpu-A"
        made.look()
        assert not made.looks(3).steps
        assert made.cordoned == ["GPU-a"]

    @pytest.mark.parametrize("text", ["not JSON", '{"hami":{"u":{"x":' + "[" * 100_000])
    def test_without_an_annotation_that_can_be_read_nothing_is_ours(self, text: str) -> None:
        made = world().with_hami(cordon="x")
        made.annotations[SIGNATURE] = text
        found = made.look()
        assert not found.steps
        assert "cannot be read" in word(found)

    def test_in_auto_it_is_told_and_the_node_stays_tainted(self) -> None:
        """An older HAMi ignores the list, and nothing on a node tells which one it is."""
        made = world(parse_back_ends("auto")).with_hami()
        made.look()
        assert made.cordoned == ["GPU-a"]
        assert not made.look(60).in_force


class TestKoordinator:
    def test_only_the_health_of_one_device_changes_and_comes_back(self) -> None:
        made = world().with_koordinator()
        assert made.device_object is not None
        before = made.device_object["spec"]
        assert made.looks(2).in_force == {NAME: frozenset({A})}
        assert made.health == {"GPU-a": False, "GPU-b": True}
        made.well()
        made.looks(2)
        assert made.device_object["spec"] == before

    def test_what_was_not_healthy_before_us_is_not_made_healthy_by_us(self) -> None:
        made = world().with_koordinator()
        assert made.device_object is not None
        made.device_object["spec"]["devices"][0]["health"] = False
        assert made.look().in_force
        made.well()
        made.looks(3)
        assert made.health["GPU-a"] is False

    @pytest.mark.parametrize(
        "metadata",
        [
            {"managedFields": [{"manager": "koordlet"}]},
            {"ownerReferences": [{"name": "koordlet-abc"}]},
            {"labels": {"app": "koordlet"}},
        ],
    )
    def test_koordlets_object_is_never_written(self, metadata: dict[str, object]) -> None:
        made = world().with_koordinator()
        assert made.device_object is not None
        made.device_object["metadata"] |= metadata
        found = made.look()
        assert not found.steps
        assert not found.in_force


class TestTogether:
    def test_every_back_end_that_hands_it_out_must_hold_it(self) -> None:
        made = world().with_dra().with_hami().with_koordinator()
        seen = [bool(made.look().in_force) for _ in range(8)]
        assert seen == sorted(seen), "no coming and going"
        assert seen[-1]
        assert made.cordoned == ["GPU-a"]
        made.annotations.pop("hami.io/device-cordon")
        assert not made.look().in_force

    def test_a_node_that_no_back_end_knows_stays_tainted(self) -> None:
        found = world().look()
        assert not found.steps
        assert not found.in_force
        assert word(found) == "no back-end hands it out: the node's taint stays"

    @pytest.mark.parametrize(
        ("published", "readable", "counts"),
        [(False, True, True), (True, True, False), (False, False, False)],
        ids=["no slices", "slices and no rules", "nobody may look"],
    )
    def test_where_dra_hands_it_out_and_cannot_be_told_the_node_stays_tainted(
        self, published: bool, readable: bool, counts: bool
    ) -> None:
        made = world().with_hami()
        made.troubles = {BackEnd.DRA: "the server serves no DeviceTaintRules"}
        if published:
            made.with_dra()
        made.whole = readable
        found = made.looks(3)
        assert bool(found.in_force) is counts
        assert ("serves no DeviceTaintRules" in word(found)) is not counts
        assert not made.rules

    def test_it_has_to_hold_for_a_while_but_not_again_after_a_restart(self) -> None:
        settled = DeviceSettings(
            back_ends=ALL.back_ends, vouched=ALL.vouched, settle_seconds=30, probe_seconds=20
        )
        made = world(settled).with_hami()
        made.looks(2)
        assert not made.look().in_force
        assert made.look(30).in_force
        made.memory = DeviceMemory()
        assert made.look().in_force

    def test_a_clock_that_is_set_back_costs_one_more_wait_and_no_more(self) -> None:
        settled = DeviceSettings(
            back_ends=ALL.back_ends, vouched=ALL.vouched, settle_seconds=30, probe_seconds=20
        )
        made = world(settled).with_hami()
        made.looks(2)
        assert made.look(30).in_force
        assert not made.look(-86_400).in_force
        assert made.look(30).in_force

    def test_a_refusal_ends_although_the_clock_was_set_back(self) -> None:
        made = world().with_dra()
        made.tells = 2
        made.looks(2)
        made.tells = 1
        assert not made.look().steps
        made.look(-86_400)
        assert made.effects == {"gpu-0": "None"}

    @pytest.mark.parametrize("number", [1, 2], ids=["one back-end", "two"])
    def test_the_label_by_which_it_is_found_after_a_crash_is_put_back(self, number: int) -> None:
        made = world().with_hami()
        if number == 2:
            made.with_koordinator()
        made.looks(3)
        before = dict(made.annotations)
        del made.node["metadata"]["labels"]
        if made.device_object is not None:
            del made.device_object["metadata"]["labels"]
        assert len(made.look().steps) == number
        assert SIGNATURE in made.node["metadata"]["labels"]
        assert made.annotations == before
        assert not made.look().steps

    def test_a_writes_failure_does_not_hold_up_the_other_device(self) -> None:
        made = world().with_dra()
        made.sick(A, B)
        made.write = lambda step: None  # type: ignore[method-assign]
        tried = {step.name for _ in range(4) for step in made.look().steps}
        assert len(tried) == 2

    def test_no_more_writes_in_one_look_than_allowed(self) -> None:
        one = DeviceSettings(
            back_ends=ALL.back_ends, vouched=ALL.vouched, settle_seconds=0, steps_per_look=1
        )
        made = world(one).with_dra().with_hami().with_koordinator()
        for _ in range(12):
            assert len(made.look().steps) <= 1
        assert made.look().in_force == {NAME: frozenset({A})}

    def test_turned_off_everything_is_taken_back(self) -> None:
        made = world().with_dra().with_hami(cordon="x").with_koordinator()
        made.looks(6)
        made.settings = DeviceSettings()
        made.memory = DeviceMemory()
        made.looks(6)
        assert not made.rules
        assert made.cordoned == ["x"]
        assert all(made.health.values())
        assert SIGNATURE not in made.annotations
        assert not made.look().steps
