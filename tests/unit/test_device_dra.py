"""A DeviceTaintRule: in which steps it comes and goes, and when it is left to the node's taint."""

import msgspec
import pytest

from aggregator.policy.devices import dra_objects
from aggregator.policy.devices.dra import look
from aggregator.policy.devices.signature import SIGNATURE
from aggregator.policy.devices.values import Wanted, parse_back_ends
from tests.device_world import ALL, NAME, A, device, foreign_rule, slices, word, world
from tests.policy_builders import START


def test_no_effect_then_signature_then_effect() -> None:
    made = world().with_dra()
    made.look()
    assert made.effects == {"gpu-0": "None"}
    made.look()
    assert made.effects == {"gpu-0": "None"}
    assert "GPU-a" in made.annotations[SIGNATURE]
    made.look()
    assert made.effects == {"gpu-0": "NoSchedule"}
    assert made.look().in_force == {NAME: frozenset({A})}


@pytest.mark.parametrize(("tells", "says"), [(2, "would hit 2 devices"), (8, "8 devices")])
def test_a_rule_that_would_hit_more_is_deleted_and_not_made_again_for_a_while(
    tells: int, says: str
) -> None:
    made = world().with_dra()
    made.tells = tells
    made.looks(2)
    assert not made.rules
    later = made.look()
    assert not later.steps
    assert says in word(later)
    assert not later.in_force
    made.look(ALL.retry_seconds)
    assert made.effects == {"gpu-0": "None"}


def test_a_server_that_does_not_tell_is_given_up_with_a_remedy() -> None:
    made = world().with_dra()
    made.tells = 0
    made.looks(4)
    assert made.effects == {"gpu-0": "None"}
    made.look(20)
    assert not made.rules
    assert "DRADeviceTaintRules" in word(made.look())


def test_what_is_not_understood_is_never_raised() -> None:
    made = world().with_dra()
    made.look()
    picture = made.picture()
    odd = msgspec.structs.replace(picture.rules[0], told="one device, in other words")
    found = look(
        {A: Wanted(node=NAME, device=A, uuid="GPU-a", incident="i1", code="xid-79")},
        msgspec.structs.replace(picture, rules=(odd,)),
        {},
        ALL,
        made.now,
    )
    assert [each.verb for each in found.steps] == ["delete"]
    assert "not understood: 'one device, in other words'" in found.refused[A]


@pytest.mark.parametrize("text", ["0000:3b:00.0", "00000000:3B:00.0", " 0000:3B:00.0"])
def test_an_address_is_the_same_however_it_is_written(text: str) -> None:
    assert dra_objects.pci_address(text) == "0000:3b:00.0"
    assert dra_objects.pci_address("10000:3b:00.0") == "10000:3b:00.0"


def test_a_rule_that_only_carries_our_label_is_not_ours() -> None:
    rule = dra_objects.rule_of({**foreign_rule("x"), "status": {}}, START)
    assert rule is None


def test_a_gpu_that_is_published_in_parts_is_left_to_the_node() -> None:
    made = world().with_dra()
    made.devices.append(device("mig-0", "MIG-0", "gpu:", parentUUID="GPU-a"))
    found = made.look()
    assert not found.steps
    assert "published as 2 devices" in word(found)


def test_agent_and_driver_that_disagree_about_hardware_are_not_touched() -> None:
    made = world().with_dra()
    made.hardware[A] = "GPU-other"
    found = made.look()
    assert not found.steps
    assert "its ResourceSlice says GPU-a" in word(found)


def test_a_pool_that_is_not_complete_is_waited_for() -> None:
    made = world().with_dra()
    made.looks(4)
    made.whole = False
    found = made.look()
    assert not found.steps
    assert not found.in_force
    made.whole = True
    assert made.look().in_force


def test_a_gpu_that_is_gone_from_its_slices_keeps_its_rule() -> None:
    made = world().with_dra()
    made.looks(4)
    del made.devices[0]
    found = made.look()
    assert not found.steps
    assert found.in_force == {NAME: frozenset({A})}


def test_the_name_of_a_gpu_that_was_replaced_is_let_go() -> None:
    made = world().with_dra()
    made.looks(4)
    made.devices[0] = device("gpu-0", "GPU-new", A)
    made.hardware[A] = "GPU-new"
    made.looks(2)
    assert not made.rules
    made.looks(4)
    assert made.effects == {"gpu-0": "NoSchedule"}, "still sick, says its agent"
    assert "GPU-new" in made.annotations[SIGNATURE]
    assert "GPU-a" not in made.annotations[SIGNATURE]


@pytest.mark.parametrize("first", ["GPU-a", ""], ids=["it was told", "it was not"])
def test_a_rule_stays_while_an_agent_has_not_told_its_hardware_yet(first: str) -> None:
    made = world().with_dra()
    made.devices = [device("gpu-0", "", A)]
    made.hardware[A] = first
    assert made.looks(4).in_force == {NAME: frozenset({A})}
    for now in ("", "GPU-a"):
        made.hardware[A] = now
        found = made.looks(3)
        assert found.in_force == {NAME: frozenset({A})}
        assert made.effects == {"gpu-0": "NoSchedule"}


def test_a_person_who_lowers_our_rule_has_the_last_word() -> None:
    made = world().with_dra()
    made.looks(4)
    (name,) = made.rules
    made.person_edits_rule(name, taint={"effect": "None"})
    found = made.looks(3)
    assert made.effects == {"gpu-0": "None"}
    assert not found.in_force
    made.well()
    made.looks(3)
    assert not made.rules


def test_a_rule_that_a_person_widened_is_theirs() -> None:
    made = world().with_dra()
    made.looks(4)
    (name,) = made.rules
    made.person_edits_rule(name, deviceSelector={"device": None})
    found = made.look()
    assert "it is theirs now" in word(found)
    assert not found.in_force
    made.well()
    made.looks(4)
    assert list(made.rules) == [name]
    assert SIGNATURE not in made.annotations


def test_devices_of_a_plugin_beside_it_are_out_of_its_reach() -> None:
    made = world(plugin_devices=8).with_dra()
    assert not made.looks(5).in_force
    assert made.effects == {"gpu-0": "NoSchedule"}


def test_only_the_stable_api_counts_without_a_persons_word() -> None:
    made = world(parse_back_ends("auto")).with_dra()
    made.dra_version = "v1beta2"
    made.looks(5)
    assert not made.look(60).in_force
    made.dra_version = "v1"
    made.look()
    assert made.look(60).in_force


def test_attributes_are_found_under_any_domain_and_depth() -> None:
    made = device("gpu-0", "GPU-a", A)
    old = {"name": "gpu-0", "basic": {"attributes": made["attributes"]}}
    qualified = {
        "name": "gpu-0",
        "attributes": {
            "gpu.nvidia.com/uuid": {"string": "GPU-a"},
            "pcieBusID": {"string": "00000000:3B:00.0"},
        },
    }
    for each in (made, old, qualified):
        ((one,), whole) = dra_objects.published(slices([each]))
        assert (one.uuid, one.pci_bus_id, whole) == ("GPU-a", "0000:3b:00.0", True)


def test_only_the_newest_generation_of_a_pool_counts() -> None:
    old, new = slices([device("a", "1", A)]), slices([device("b", "2", A)])
    new[0]["spec"]["pool"]["generation"] = 2
    found, whole = dra_objects.published([*old, *new])
    assert [each.name for each in found] == ["b"]
    assert whole
    new[0]["spec"]["pool"]["resourceSliceCount"] = 2
    assert not dra_objects.published(new)[1]
