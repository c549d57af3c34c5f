"""Links that went down between two readings: told once for each event, worse when they come again and again."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.checks.rdma import Memory
from agent.snapshot import RdmaNetdev, RdmaPort, Snapshot
from contract.vocabulary import Action, Severity
from tests.examples.rdma import DOWN, bond, infiniband, node
from tests.support import port
from tests.unit.test_checks_rdma import judge, look, raised

HOUR = 3600.0


def evidence(*ports: RdmaPort, apart: float = 1.0) -> list[str]:
    """What is told of a port with these readings, one reading per tick."""
    memory, told = Memory(), []
    for at, each in enumerate(ports):
        checked = judge([look(each, at=at * apart)], memory)
        memory = checked.memory
        told += [x.evidence for x in checked.observations if x.code.code == "rdma-link-flap"]
    return told


def counts(*values: int | None, **fields: Any) -> list[str]:
    return evidence(*(port(link_downed_total=value, **fields) for value in values))


def carriers(
    *values: int | None, downed: int | None = 0, layer: str = "Ethernet"
) -> list[RdmaPort]:
    return [
        port(
            link_layer=layer,
            link_downed_total=downed,
            netdevs=(RdmaNetdev(name="eth0", operational_state="up", carrier_downs_total=value),),
        )
        for value in values
    ]


def test_a_link_that_went_down_between_two_readings_flapped() -> None:
    assert counts(7, 7, 8, 8) == ["link_downed rose from 7 to 8"]


def test_a_counter_that_goes_backwards_is_a_reload_and_no_flap() -> None:
    assert counts(7, 0, 0) == []
    assert counts(7, 0, 1) == ["link_downed rose from 0 to 1"]


def test_a_counter_not_readable_for_once_hides_no_flap() -> None:
    assert counts(7, None, 8) == ["link_downed rose from 7 to 8"]


@given(st.lists(st.none() | st.integers(0, 20), max_size=12))
def test_flaps_are_the_rises_between_readable_values(values: list[int | None]) -> None:
    known = [value for value in values if value is not None]
    rises = sum(after > before for before, after in pairwise(known))
    assert len(counts(*values)) == rises


def test_a_roce_port_flaps_with_its_carrier() -> None:
    assert evidence(*carriers(3, 3, 5)) == ["carrier losses of eth0 rose from 3 to 5"]
    assert evidence(*carriers(3, 0, 0)) == []
    assert evidence(*carriers(3, None, 4)) == ["carrier losses of eth0 rose from 3 to 4"]


def test_a_member_of_a_bond_flaps_by_itself() -> None:
    (first, second) = bond().netdevs
    lost = RdmaNetdev(name=second.name, operational_state="up", carrier_downs_total=1)
    assert evidence(bond(), bond(netdevs=(first, lost))) == [
        "carrier losses of eth1 rose from 0 to 1"
    ]


def test_ipoib_loses_its_carrier_without_a_flap_of_the_link() -> None:
    assert evidence(*carriers(3, 4, layer="InfiniBand")) == []


@pytest.mark.parametrize("downed", [255, None])
def test_ipoib_stands_in_for_a_flap_counter_that_cannot_tell(downed: int | None) -> None:
    assert len(evidence(*carriers(3, 4, layer="InfiniBand", downed=downed))) == 1


@pytest.mark.parametrize("downed", [255, None])
def test_without_any_counter_the_readings_must_do(downed: int | None) -> None:
    up = port(link_downed_total=downed)
    down = port(link_downed_total=downed, state="DOWN")
    unread = port(link_downed_total=downed, state="")
    assert evidence(up, down, down, up) == ["was down, is active again"]
    assert evidence(up, down, unread, up) == ["was down, is active again"]
    assert evidence(up, unread, up) == []
    assert evidence(up, down, down) == [], "it is down, which is another finding"


def test_a_flap_counter_that_ended_makes_its_port_blind_unless_a_carrier_stands_in() -> None:
    assert judge([look(port(link_downed_total=255))]).blind == {"rdma:mlx5_0/1"}
    (stood_in,) = carriers(3, downed=255)
    assert judge([look(stood_in)]).blind == frozenset()


def test_a_flap_counter_that_goes_on_beyond_its_narrow_end_was_wide_all_along() -> None:
    wide = judge([look(port(link_downed_total=value)) for value in (254, 256, 255)])
    assert wide.blind == frozenset()
    assert wide.observations == ()


def flapping(*times: float, until: float) -> list[Snapshot]:
    """A link that goes down at these seconds; one look every five minutes besides."""
    looks = sorted({0.0, *times, *(300.0 * n for n in range(int(until / 300) + 1)), until})
    return [
        node(at, infiniband(3, link_downed_total=sum(each <= at for each in times))) for at in looks
    ]


def test_one_flap_is_shown_and_forgotten_after_ten_quiet_minutes() -> None:
    (finding,) = raised(flapping(10.0, until=300.0))
    assert (finding.severity, finding.action) == (Severity.DEGRADED, Action.NONE)
    assert raised(flapping(10.0, until=1200.0)) == ()


def test_the_bounces_of_one_event_are_one_flap() -> None:
    bounces = [10.0 + 3 * n for n in range(12)]
    (finding,) = raised(flapping(*bounces, until=50.0))
    assert (finding.count, finding.action) == (1, Action.NONE)
    assert raised(flapping(*bounces, until=1200.0)) == ()


def test_three_flaps_in_twelve_hours_ask_for_a_new_cable_and_five_in_a_day_keep_pods_away() -> None:
    (three,) = raised(flapping(HOUR, 2 * HOUR, 3 * HOUR, until=4 * HOUR))
    assert (three.severity, three.action) == (Severity.DEGRADED, Action.REPLACE_HARDWARE)
    five = [HOUR * n for n in range(1, 6)]
    (worse,) = raised(flapping(*five, until=6 * HOUR))
    assert (worse.severity, worse.action) == (Severity.CRITICAL, Action.REPLACE_HARDWARE)
    assert raised(flapping(*five, until=31 * HOUR)) == (), "it clears by itself"


def test_a_link_that_never_rests_is_critical_within_minutes() -> None:
    ceaseless = [10.0 + 10 * n for n in range(30)]
    (finding,) = raised(flapping(*ceaseless, until=320.0))
    assert finding.severity is Severity.CRITICAL


def test_a_reboot_is_no_flap() -> None:
    before = look(port(link_downed_total=3), boot_id="a")
    after = look(port(link_downed_total=4), at=100.0, boot_id="b")
    assert judge([before, after]).observations == ()
    assert judge([before, look(port(link_downed_total=4), boot_id="a")]).observations != ()


def test_a_port_that_goes_down_and_stays_down_is_down() -> None:
    down = infiniband(3, link_downed_total=1, **DOWN)
    found = raised([node(0), *(node(float(at), down) for at in range(1, 20))])
    assert {each.code for each in found} == {"rdma-port-down", "rdma-link-flap"}
