"""What hccn_tool prints, as values. Pure; a line that says nothing of use is passed over.

The forms were taken from the tool's own sources and from recorded outputs in public projects; older versions write
``[device 0]`` for ``[devid 0]``, one lane without its number, and powers in dBm.
"""

import re

from agent.snapshot.npu import Optics

NET_HEALTH = (
    "success",
    "socket fail",
    "receive timeout",
    "unreachable",
    "time exceeded",
    "fault",
    "init",
    "thread error",
    "detect ip set",
)
"""The tool's words, in the order of DCMI's numbers."""

COUNTERS = frozenset(
    {
        *("mac_rx_bad_pkt_num", "mac_tx_bad_pkt_num", "mac_rx_fcs_err_pkt_num"),
        *("mac_rx_pfc_pkt_num", "mac_tx_pfc_pkt_num"),
        *("roce_rx_all_pkt_num", "roce_tx_all_pkt_num"),
        *("roce_rx_err_pkt_num", "roce_tx_err_pkt_num", "roce_verification_err_num"),
        *("roce_rx_cnp_pkt_num", "roce_tx_cnp_pkt_num"),
        *("roce_out_of_order_num", "roce_new_pkt_rty_num", "roce_unexpected_ack_num"),
        *("roce_qp_status_err_num", "nic_rx_all_oct_num", "nic_tx_all_oct_num"),
    }
)
"""What is kept of ``-stat``."""

_PREFIX = re.compile(r"^\[dev(?:id|ice) \d+\]\s*")
_QUANTITY = re.compile(r"^(-?\d+(?:\.\d+)?)\s*(\S*)$")
_LANE = re.compile(r"^([tr]x) ?power(?: lane)? ?\d*(\(dbm\))?$")
_BITS = {"mb/s": 1e6, "gb/s": 1e9, "g": 1e9, "m": 1e6}


def link_up(text: str) -> bool | None:
    """``link status: UP``."""
    return {"up": True, "down": False}.get(_pairs(text).get("link status", "").lower())


def speed_bits_per_second(text: str) -> float | None:
    """``Speed: 200000 Mb/s``; ``Unknown!`` while the link is down."""
    found = _QUANTITY.match(_pairs(text).get("speed", ""))
    scale = _BITS.get(found[2].lower()) if found else None
    return float(found[1]) * scale if found and scale else None


def link_ups(text: str) -> int | None:
    """``[devid 0]link up count : 2``."""
    return _whole(_pairs(text).get("link up count", ""))


def counters(text: str) -> dict[str, int] | None:
    """``roce_rx_err_pkt_num:0``, one per line."""
    found = {name: _whole(value) for name, value in _pairs(text).items() if name in COUNTERS}
    return {name: value for name, value in found.items() if value is not None} or None


def net_health(text: str) -> int | None:
    """``net health status: Success`` as DCMI's number; ``Unknown`` is none."""
    words = _pairs(text).get("net health status", "").lower().removesuffix("ed")
    return NET_HEALTH.index(words) if words in NET_HEALTH else None


def optics(text: str) -> Optics | None:
    """The block after ``optical info:``."""
    pairs = _pairs(text)
    if "present" not in pairs:
        return None
    lanes: dict[str, list[float]] = {"tx": [], "rx": []}
    for name, value in pairs.items():
        lane = _LANE.match(name)
        if lane is None:
            continue
        power = _watts(f"{value} dBm" if lane[2] else value)
        if power is not None:
            lanes[lane[1]].append(power)
    return Optics(
        present={"present": True, "not present": False}.get(pairs["present"].lower()),
        temperature_celsius=_celsius(pairs.get("temperature", "")),
        temperature_high_celsius=_celsius(pairs.get("temp high thres", "")),
        transmit_watts=tuple(lanes["tx"]),
        transmit_low_watts=_watts(pairs.get("txpower low thres", "")),
        transmit_high_watts=_watts(pairs.get("txpower high thres", "")),
        receive_watts=tuple(lanes["rx"]),
        receive_low_watts=_watts(pairs.get("rxpower low thres", "")),
        receive_high_watts=_watts(pairs.get("rxpower high thres", "")),
    )


def _pairs(text: str) -> dict[str, str]:
    """``name : value`` per line, names in lower case, without the device in front."""
    pairs: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = _PREFIX.sub("", line.strip()).partition(":")
        if colon:
            pairs.setdefault(name.strip().lower(), value.strip())
    return pairs


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _quantity(text: str, unit: str) -> float | None:
    found = _QUANTITY.match(text)
    return float(found[1]) if found and found[2].lower() == unit else None


def _celsius(text: str) -> float | None:
    return _quantity(text, "c")


def _watts(text: str) -> float | None:
    milliwatts = _quantity(text, "mw")
    if milliwatts is not None:
        return milliwatts / 1000
    decibels = _quantity(text, "dbm")
    return None if decibels is None else 10 ** (decibels / 10) / 1000
