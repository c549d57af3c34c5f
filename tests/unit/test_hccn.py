"""What hccn_tool prints, read. The outputs are those of public recordings and of the tool's own documentation."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.snapshot.npu import Optics
from agent.sources import hccn_text as text

OPTICAL = """optical info:
present              : present
temperature          : 47 C
high power enable reg: enabled
vendor name          : Hisense
vendor org unique id : 0xac 0x4a 0x0
xsfp wave length     : 850 nm
Vcc                  : 3262.90 mV
Tx Power0            : 1.4035 mW
Rx Power0            : 1.0189 mW
Tx Power1            : 1.3968 mW
Rx Power1            : 0.0054 mW
Vcc High Thres       : 3465.00 mV
Temp High Thres      : 70 C
Temp Low Thres       : 0 C
TxPower High Thres   : 3.5481 mW
TxPower Low Thres    : 0.2818 mW
RxPower High Thres   : 3.5481 mW
RxPower Low Thres    : 0.1445 mW
Tx Bias0             : 7.9360 mA
Rx Los Flag          : 0xff
Host SNR Lane0       : not supported
Media SNR Lane0      : 23.1211 dB
"""

LINK_STAT = """[devid 0]current time        : Wed Aug  2 03:09:26 2022
[devid 0]link up count       : 2
[devid 0]link change records :
[devid 0]    Tue Aug  1 14:43:40 2022    LINK UP
[devid 0]    Tue Aug  1 14:43:40 2022    LINK DOWN
"""

STAT = """packet statistics:
mac_tx_mac_pause_num:0
mac_rx_bad_pkt_num:12
roce_rx_err_pkt_num:3
roce_new_pkt_rty_num:
roce_out_of_order_num:not supported
roce_cqe_num:5
nic_rx_all_oct_num:482237805
"""

READERS: tuple[Callable[[str], object], ...] = (
    *(text.link_up, text.speed_bits_per_second, text.link_ups),
    *(text.counters, text.net_health, text.optics),
)


@pytest.mark.parametrize(
    ("output", "up"),
    [
        ("link status: UP\n", True),
        ("link status: DOWN\n", False),
        ("link status: Up", True),
        ("[device 3]link status : DOWN", False),
        ("link status: Unknown!", None),
        ("Cmd executed failed!\n", None),
        ("", None),
    ],
)
def test_link(output: str, up: bool | None) -> None:
    assert text.link_up(output) is up


@pytest.mark.parametrize(
    ("output", "bits"),
    [
        ("Speed: 100000 Mb/s\n", 1e11),
        ("Speed: 200000 Mb/s", 2e11),
        ("ROCE Interface Information\nSpeed: 200 G", 2e11),
        ("Speed: Unknown!", None),
        ("Speed:", None),
        ("", None),
    ],
)
def test_speed(output: str, bits: float | None) -> None:
    assert text.speed_bits_per_second(output) == bits


@pytest.mark.parametrize(
    ("output", "count"),
    [
        (LINK_STAT, 2),
        (LINK_STAT.replace("devid", "device"), 2),
        ("link up count : 5\nlink down count : 2\n", 5),
        ("link up count : many", None),
        ("", None),
    ],
)
def test_link_ups(output: str, count: int | None) -> None:
    assert text.link_ups(output) == count


def test_counters_that_are_numbers_and_of_use() -> None:
    assert text.counters(STAT) == {
        "mac_rx_bad_pkt_num": 12,
        "roce_rx_err_pkt_num": 3,
        "nic_rx_all_oct_num": 482237805,
    }
    assert text.counters("packet statistics:\n") is None


@pytest.mark.parametrize(
    ("output", "number"),
    [
        ("net health status: Success\n", 0),
        ("net health status: Socket fail", 1),
        ("net health status: Socket failed", 1),
        ("net health status: Receive timeout", 2),
        ("net health status: Fault", 5),
        ("net health status: Init", 6),
        ("net health status: Unknown", None),
        ("net health status:", None),
        ("", None),
    ],
)
def test_net_health(output: str, number: int | None) -> None:
    assert text.net_health(output) == number


def test_optics_with_the_modules_own_thresholds() -> None:
    found = text.optics(OPTICAL)
    assert found is not None
    assert (found.present, found.temperature_celsius, found.temperature_high_celsius) == (
        True,
        47,
        70,
    )
    assert found.transmit_watts == pytest.approx((0.0014035, 0.0013968))
    assert found.receive_watts == pytest.approx((0.0010189, 0.0000054))
    assert found.transmit_low_watts == pytest.approx(0.0002818)
    assert found.transmit_high_watts == pytest.approx(0.0035481)
    assert found.receive_low_watts == pytest.approx(0.0001445)
    assert found.receive_high_watts == pytest.approx(0.0035481)


def test_optics_of_older_tools() -> None:
    one = text.optics("present : present\nTx Power : 4.4035 mW\nRx Power : NA\nVcc : NA")
    assert one is not None
    assert one.transmit_watts == pytest.approx((0.0044035,))
    assert one.receive_watts == ()
    decibels = text.optics("present: present\nTX Power0: -10.0 dBm\nRxPower Lane1(dBm): 0.0\n")
    assert decibels is not None
    assert decibels.transmit_watts == pytest.approx((1e-4,))
    assert decibels.receive_watts == pytest.approx((1e-3,))
    gone = text.optics("optical info:\npresent              : not present\n")
    assert gone == Optics(present=False)


@pytest.mark.parametrize("output", ["", "Control link unreachable\n", "optical info:\n"])
def test_optics_that_cannot_be_read_are_none(output: str) -> None:
    assert text.optics(output) is None


@given(st.text(), st.sampled_from([OPTICAL, LINK_STAT, STAT, "link status: UP", "Speed: 1 G"]))
def test_no_output_makes_a_reader_fail(noise: str, output: str) -> None:
    for readable in (noise, output + noise, noise + output):
        for read in READERS:
            read(readable)
