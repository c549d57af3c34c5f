"""RDMA ports and their adapters: what is wrong with them now, and what is not."""

from collections.abc import Iterable
from importlib import resources
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue.load import rows, shipped
from agent.checks import Checked, Context, Observation
from agent.checks.rdma import Memory, check, forget
from agent.faults import Book, Timing, findings
from agent.faults.levels import advance
from agent.snapshot import PciDevice, RdmaPort, Snapshot
from contract.vocabulary import Finding, Severity, SourceState
from tests.examples.rdma import DOWN, EXAMPLES, GIGABIT, WAITING, bond, infiniband, node, without
from tests.support import port, snapshot, source

CONTEXT = Context(catalogue=shipped())
TIMING = Timing(hold_seconds=10.0, clear_seconds=60.0)
STATES = ("ACTIVE", "ACTIVE_DEFER", "DOWN", "INIT", "ARMED", "")


def look(*ports: RdmaPort, at: float = 0.0, **fields: Any) -> Snapshot:
    return snapshot(at, rdma_ports=ports, **fields)


def judge(shots: Iterable[Snapshot], memory: Memory | None = None) -> Checked[Memory]:
    """What the last of these snapshots shows."""
    checked = Checked(memory=memory or Memory())
    for each in shots:
        checked = check(each, checked.memory, CONTEXT)
    return checked


def raised(shots: Iterable[Snapshot]) -> tuple[Finding, ...]:
    """What a person sees after all of these snapshots."""
    memory, book = Memory(), Book()
    for each in shots:
        checked = check(each, memory, CONTEXT)
        memory = checked.memory
        book = advance(book, each, checked.observations, TIMING)
    return findings(book, TIMING)


def codes(checked: Checked[Memory]) -> set[tuple[str, str]]:
    return {(each.code.code, each.subject) for each in checked.observations}


def only(checked: Checked[Memory]) -> Observation:
    (observation,) = checked.observations
    return observation


@pytest.mark.parametrize("code", sorted(EXAMPLES))
def test_each_code_is_raised_by_its_example(code: str) -> None:
    found = raised(EXAMPLES[code])
    assert {each.code for each in found} == {code}
    assert all(each.evidence.isprintable() for each in found)


def test_every_code_of_the_table_has_an_example() -> None:
    text = (resources.files("agent.catalogue") / "rdma.yaml").read_bytes()
    assert {each.code for each in rows(text)} == set(EXAMPLES)


def test_a_healthy_node_has_nothing() -> None:
    assert raised(node(float(at)) for at in range(100)) == ()


class TestPort:
    def test_an_unwired_port_is_not_down_and_one_that_was_active_is(self) -> None:
        unwired = port("mlx5_1", state="DOWN", physical_state="Disabled")
        down = port(state="DOWN", physical_state="Polling", link_layer="InfiniBand")
        first = judge([look(port(), unwired)])
        assert first.observations == ()
        second = judge([look(down, unwired)], first.memory)
        assert only(second).subject == "rdma:mlx5_0/1"
        assert only(second).code.code == "rdma-port-down"
        assert only(second).evidence == "InfiniBand was ACTIVE, is DOWN (Polling)"
        third = judge([look(down, unwired)], second.memory)
        assert codes(third) == codes(second), "it stays down, however often it is read"
        assert codes(judge([look(port(), unwired)], third.memory)) <= {
            ("rdma-link-flap", "rdma:mlx5_0/1")
        }

    def test_a_port_that_waits_for_its_subnet_manager_is_not_told_to_be_replaced(self) -> None:
        observation = only(judge([node(0), node(1, infiniband(3, **WAITING))]))
        assert observation.code.code == "rdma-no-subnet-manager"
        assert "subnet manager LID 0" in observation.evidence
        roce = bond(state="INIT")
        assert only(judge([node(0), node(1, roce)])).code.code == "rdma-port-down"

    def test_a_fault_that_all_ports_share_says_so(self) -> None:
        everything = [infiniband(n, **DOWN) for n in range(8)] + [bond(**DOWN)]
        found = judge([node(0), node(1, *everything)]).observations
        assert len(found) == 9
        assert all("all 9 ports of this node alike" in each.evidence for each in found)
        most = judge([node(0), node(1, *everything[:8])]).observations
        assert len(most) == 8
        assert not any("alike" in each.evidence for each in most)

    def test_a_state_that_cannot_be_read_is_neither_down_nor_well(self) -> None:
        checked = judge([look(port()), look(port(state=""))])
        assert checked.observations == ()
        assert checked.blind == {"rdma:mlx5_0/1"}

    def test_a_port_that_vanished_is_missing(self) -> None:
        memory = judge([look(port(), port("mlx5_1"))]).memory
        gone = judge([look(port("mlx5_1"))], memory)
        assert codes(gone) == {("rdma-port-missing", "rdma:mlx5_0/1")}
        everything = judge([look()], gone.memory)
        assert len(everything.observations) == 2
        assert "all 2 ports" in everything.observations[0].evidence

    def test_a_port_taken_out_on_purpose_is_forgotten_when_a_person_says_so(self) -> None:
        gone = judge([node(0), without(3, 1)])
        assert only(gone).code.code == "rdma-port-missing"
        memory = forget(gone.memory, infiniband(3).subject)
        assert judge([without(3, 2)], memory).observations == ()
        assert "rdma:mlx5_3/1" not in msgspec.json.encode(memory).decode().replace(
            "rdma:mlx5_3/1 ib3", "rdma:mlx5_3/1"
        )

    def test_what_is_known_of_the_ports_outlives_a_restart(self) -> None:
        memory = judge([node(0)]).memory
        again = msgspec.json.decode(msgspec.json.encode(memory), type=Memory)
        assert again == memory
        assert codes(judge([without(3, 1)], again)) == {("rdma-port-missing", "rdma:mlx5_3/1")}

    @pytest.mark.parametrize("how", [{"excluded": True}, {"is_virtual_function": True}])
    def test_what_is_not_judged_is_neither_well_nor_a_finding(self, how: dict[str, Any]) -> None:
        """Also when it was judged before, and when it vanishes: virtual functions move into pods."""
        left_alone = infiniband(3, state="DOWN", pcie_width=1, **how)
        checked = judge([node(0), node(1, left_alone), node(2, left_alone)])
        assert checked.observations == ()
        assert checked.blind == {"rdma:mlx5_3/1"}
        assert judge([without(3, 3)], checked.memory).observations == ()

    def test_nothing_is_said_while_the_source_cannot_be_read(self) -> None:
        failing = (source("rdma", SourceState.STUCK),)
        memory = judge([node(0)]).memory
        checked = judge([look(port(state="DOWN"), sources=failing)], memory)
        assert (checked.observations, checked.memory) == ((), memory)

    @given(st.lists(st.lists(st.sampled_from(STATES[2:]), min_size=3, max_size=3), max_size=8))
    def test_a_port_that_never_was_active_is_never_a_finding(self, rows: list[list[str]]) -> None:
        shots = [
            look(
                *(
                    infiniband(n, state=state, link_downed_total=at * 7, pcie_width=1 + n)
                    for n, state in enumerate(row)
                ),
                at=float(at),
            )
            for at, row in enumerate(rows)
        ]
        assert raised([*shots, look(at=100.0), look(at=200.0)]) == ()


class TestPodsThatHoldAdapters:
    """Interfaces and RDMA devices that a pod is given leave the host's network namespace."""

    def test_a_roce_port_whose_interface_is_in_a_pod_is_the_pods_matter(self) -> None:
        away = bond(**DOWN, netdevs=())
        checked = judge([node(0), node(1, away)])
        assert checked.observations == ()
        assert checked.blind == {away.subject}
        (first, second) = bond().netdevs
        counted = msgspec.structs.replace(second, carrier_downs_total=4)
        assert judge([node(2, bond(netdevs=(first, counted)))], checked.memory).observations == ()

    def test_an_interface_that_is_switched_off_is_no_broken_link(self) -> None:
        off = bond(state="DOWN", second="down", enabled=False)
        (first, second) = off.netdevs
        lost = msgspec.structs.replace(second, carrier_downs_total=1)
        observation = only(
            judge([node(0), node(1, msgspec.structs.replace(off, netdevs=(first, lost)))])
        )
        assert observation.code.code == "rdma-netdev-disabled"
        assert observation.evidence.endswith("eth0, eth1 is switched off (ip link)")
        broken = only(judge([node(0), node(1, bond(state="DOWN", enabled=True))]))
        assert broken.code.code == "rdma-port-down"

    def test_a_device_that_may_be_in_a_pod_is_missing_only_with_its_pci_function(self) -> None:
        leaver = infiniband(3, may_leave=True)
        first = node(0, leaver)
        gone = without(3, 1)
        assert judge([first, gone]).observations == ()
        here = PciDevice(address=leaver.pci_address, vendor=0x15B3, device=1, class_code=0x20700)
        for devices, found in (((here,), 0), ((), 1)):
            seen = msgspec.structs.replace(
                gone, pci_devices=devices, sources=(*gone.sources, source("pci"))
            )
            assert len(judge([first, seen]).observations) == found
        stays = judge([first, node(1), without(3, 2)])
        assert only(stays).code.code == "rdma-port-missing", "the setting was taken back"


class TestInterface:
    def test_a_dead_member_of_a_bond_is_told_though_the_bond_works(self) -> None:
        observation = only(judge([node(0), node(1, bond(second="down"))]))
        assert observation.code.code == "rdma-netdev-down"
        assert observation.evidence == (
            "the port is ACTIVE, eth1 is down, 1 of 2 members of its bond"
        )

    def test_a_member_that_was_never_up_is_not_wired(self) -> None:
        assert raised([node(float(at), bond(second="down")) for at in range(60)]) == ()

    @pytest.mark.parametrize("state", ["unknown", "dormant", "", "up"])
    def test_only_down_is_down(self, state: str) -> None:
        assert judge([node(0), node(1, bond(second=state))]).observations == ()

    def test_ipoib_that_is_down_is_no_fault_of_infiniband(self) -> None:
        (own,) = infiniband(3).netdevs
        quiet = infiniband(3, netdevs=(msgspec.structs.replace(own, operational_state="down"),))
        assert judge([node(0), node(1, quiet)]).observations == ()


class TestRate:
    def test_a_link_that_trains_lower_than_it_was_is_slow_once_that_lasts(self) -> None:
        slow = infiniband(3, rate_bits_per_second=100 * GIGABIT, link_width=1)
        shots = [node(0), *(node(float(at), slow) for at in range(1, 60))]
        assert raised(shots) == ()
        (finding,) = raised([*shots, node(62, slow)])
        assert finding.code == "rdma-link-slow"
        assert finding.evidence == "active at 100 Gb/s (1X NDR), was 400 Gb/s"
        assert raised([*shots, node(62, slow), *(node(63.0 + n) for n in range(310))]) == ()

    def test_a_single_lane_beside_siblings_with_four_was_never_meant(self) -> None:
        slow = infiniband(3, rate_bits_per_second=100 * GIGABIT, link_width=1)
        observation = only(judge([node(0, slow)]))
        assert observation.code.code == "rdma-link-slow"
        assert observation.evidence.endswith("its siblings use 4 lanes")

    def test_two_slower_ports_of_a_board_are_meant_so(self) -> None:
        pair = [infiniband(n, rate_bits_per_second=200 * GIGABIT) for n in (6, 7)]
        assert judge([node(0, *pair)]).observations == ()

    def test_other_boards_are_no_siblings(self) -> None:
        management = infiniband(9, rate_bits_per_second=25 * GIGABIT, board="MT_1", link_width=1)
        assert judge([node(0, management)]).observations == ()
        unnamed = [port(f"rxe{n}", rate_bits_per_second=1e9 if n else 5e8) for n in range(5)]
        assert judge([look(*unnamed)]).observations == ()

    def test_the_rate_of_a_port_that_is_down_says_nothing(self) -> None:
        default = {**DOWN, "rate_bits_per_second": 10 * GIGABIT, "link_width": 1}
        found = judge([node(0), node(1, infiniband(3, **default))])
        assert {code for code, _ in codes(found)} == {"rdma-port-down"}

    def test_a_fabric_made_slower_on_purpose_is_accepted_by_a_person(self) -> None:
        slow = infiniband(3, rate_bits_per_second=200 * GIGABIT)
        memory = forget(judge([node(0), node(1, slow)]).memory, slow.subject)
        assert {code for code, _ in codes(judge([node(2, slow)], memory))} <= {
            "rdma-link-below-siblings"
        }


class TestAdapter:
    def test_a_narrow_pcie_link_is_told_and_one_that_cannot_be_read_is_not(self) -> None:
        narrow = judge([node(0), node(1, infiniband(3, pcie_width=8))])
        assert only(narrow).evidence == (
            "0000:48:00.0 runs at 32 GT/s x8, both ends can do 32 GT/s x16"
        )
        unread = infiniband(3, pcie_width=None, pcie_transfers_per_second=None)
        assert judge([node(0), node(1, unread)]).observations == ()

    def test_adapters_that_are_all_alike_were_built_so(self) -> None:
        found = judge(EXAMPLES["rdma-pcie-limited"]).observations
        assert {each.code.severity for each in found} == {Severity.INFO}
        one_worse = [infiniband(n, pcie_transfers_per_second=16e9) for n in range(7)]
        one_worse.append(infiniband(7, pcie_transfers_per_second=2.5e9))
        found = judge([node(0, *one_worse)]).observations
        assert {each.code.code for each in found} == {"rdma-pcie-link"}

    def test_the_adapter_with_other_firmware_is_named_and_not_the_many(self) -> None:
        observation = only(judge([node(0, infiniband(3, firmware="28.39.1002"))]))
        assert observation.evidence == (
            "firmware 28.39.1002, 7 of 8 adapters of board MT_0000000838 run 28.41.1000"
        )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(STATES), st.sampled_from([None, 1e11, 4e11]), st.none() | st.just(8)
        ),
        max_size=20,
    )
)
def test_whatever_happened_it_is_over_once_all_is_well_for_long_enough(
    past: list[tuple[str, float | None, int | None]],
) -> None:
    shots = [
        node(5.0 * at, infiniband(3, state=state, rate_bits_per_second=rate, pcie_width=width))
        for at, (state, rate, width) in enumerate(past)
    ]
    assert raised([*shots, *(node(1000.0 + 30 * n) for n in range(25))]) == ()
