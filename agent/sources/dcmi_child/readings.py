"""What is read of one chip, how often, and by which call. Keys name the unit."""

from __future__ import annotations

from ctypes import byref, c_int, c_uint
from typing import TYPE_CHECKING, Any

from .library import ChipInfo, DcmiError, EccInfo, HbmInfo, MemoryInfo, PcieInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from .library import Dcmi

    Values = dict[str, Any]
    Read = Callable[[Dcmi, int, int], Values]

EVERY = 1
OFTEN = 5
NOW_AND_THEN = 10
SELDOM = 30
"""Samples between two readings of one value; at one sample a second these are seconds."""

AI_CORE = 2
"""``input_type`` of the utilisation of the AI cores."""
AI_CORE_CLOCK = 7
HBM = 2
"""``DCMI_DEVICE_TYPE_HBM``."""


def number(key: str, function: str, *before: int) -> Read:
    """A call that answers one signed number."""

    def read(dcmi: Dcmi, card: int, chip: int) -> Values:
        value = c_int()
        dcmi.of_chip(function, card, chip, *before, byref(value))
        return {key: value.value}

    return read


def memory(dcmi: Dcmi, card: int, chip: int) -> Values:
    """High-bandwidth memory; where there is none, the board's ordinary memory."""
    hbm = HbmInfo()
    try:
        dcmi.of_chip("dcmi_get_device_hbm_info", card, chip, byref(hbm))
    except DcmiError:
        hbm.memory_size = 0
    if hbm.memory_size:
        return {
            "memory_size_mebibytes": hbm.memory_size,
            "memory_used_mebibytes": hbm.memory_usage,
            "memory_temperature_celsius": hbm.temp,
        }
    ddr = MemoryInfo()
    dcmi.of_chip("dcmi_get_device_memory_info_v3", card, chip, byref(ddr))
    return {
        "memory_size_mebibytes": ddr.memory_size,
        "memory_used_mebibytes": max(ddr.memory_size - ddr.memory_available, 0),
    }


def ecc(dcmi: Dcmi, card: int, chip: int) -> Values:
    """Error counts of the high-bandwidth memory, where they are counted."""
    info = EccInfo()
    dcmi.of_chip("dcmi_get_device_ecc_info", card, chip, HBM, byref(info))
    if not info.enable_flag:
        return {}
    return {
        "ecc_single_bit": info.single_bit_error_cnt,
        "ecc_double_bit": info.double_bit_error_cnt,
        "ecc_single_bit_life": info.total_single_bit_error_cnt,
        "ecc_double_bit_life": info.total_double_bit_error_cnt,
        "isolated_pages_single_bit": info.single_bit_isolated_pages_cnt,
        "isolated_pages_double_bit": info.double_bit_isolated_pages_cnt,
    }


READINGS: tuple[tuple[int, Read], ...] = (
    (EVERY, number("utilization_percent", "dcmi_get_device_utilization_rate", AI_CORE)),
    (OFTEN, number("temperature_celsius", "dcmi_get_device_temperature")),
    (OFTEN, number("power_deciwatts", "dcmi_get_device_power_info")),
    (OFTEN, memory),
    (SELDOM, number("voltage_centivolts", "dcmi_get_device_voltage")),
    (SELDOM, number("clock_megahertz", "dcmi_get_device_frequency", AI_CORE_CLOCK)),
    (SELDOM, ecc),
    # Last: it was seen to block for long after a card dropped.
    (NOW_AND_THEN, number("network_health", "dcmi_get_device_network_health")),
)


def logic_id(dcmi: Dcmi, card: int, chip: int) -> Values:
    """How device files and resources count it; this call takes its answer first."""
    value = c_int()
    function = "dcmi_get_device_logic_id"
    dcmi.call(function, byref(value), card, chip, card=card, chip=chip)
    return {"index": value.value}


def physical_id(dcmi: Dcmi, card: int, chip: int, index: int) -> Values:
    """How ``hccn_tool`` counts it."""
    value = c_uint()
    function = "dcmi_get_device_phyid_from_logicid"
    dcmi.call(function, index, byref(value), card=card, chip=chip)
    return {"physical_id": value.value}


def model(dcmi: Dcmi, card: int, chip: int) -> Values:
    """What it is called."""
    info = ChipInfo()
    try:
        dcmi.of_chip("dcmi_get_device_chip_info_v2", card, chip, byref(info))
    except DcmiError:
        dcmi.of_chip("dcmi_get_device_chip_info", card, chip, byref(info))
    words = (info.chip_type, info.npu_name or info.chip_name)
    return {"model": " ".join(word.decode(errors="replace").strip() for word in words).strip()}


def bus(dcmi: Dcmi, card: int, chip: int) -> Values:
    """Where it sits, as the kernel writes it."""
    info = PcieInfo()
    dcmi.of_chip("dcmi_get_device_pcie_info_v2", card, chip, byref(info))
    place = f"{info.domain & 0xFFFF:04x}:{info.bdf_busid:02x}:{info.bdf_deviceid:02x}.{info.bdf_funcid:x}"
    return {"bus": place}


FACTS: tuple[Read, ...] = (model, bus)
