"""DCMI's structs and calls, as its header declares them. A call that fails raises; one that is missing too."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char, c_int, c_ubyte, c_uint, c_ulong, c_ulonglong, c_ushort
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .parent import Dial

NOT_SUPPORTED = -8255
FUNCTION_MISSING = -99998
"""Ours: this version of the library has no such symbol."""

MAX_CARDS = 64
MAX_CHIPS_OF_CARD = 4
MAX_FAULTS = 128
TEXT_BYTES = 256


class DcmiError(Exception):
    """A call answered with a code that is not zero."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class ChipInfo(ctypes.Structure):
    """``struct dcmi_chip_info_v2``; the first version is the same without ``npu_name``."""

    _fields_: ClassVar = [
        ("chip_type", c_char * 32),
        ("chip_name", c_char * 32),
        ("chip_ver", c_char * 32),
        ("aicore_cnt", c_uint),
        ("npu_name", c_char * 32),
    ]


class PcieInfo(ctypes.Structure):
    """``struct dcmi_pcie_info_all``."""

    _fields_: ClassVar = [
        ("venderid", c_uint),
        ("subvenderid", c_uint),
        ("deviceid", c_uint),
        ("subdeviceid", c_uint),
        ("domain", c_int),
        ("bdf_busid", c_uint),
        ("bdf_deviceid", c_uint),
        ("bdf_funcid", c_uint),
        ("reserve", c_ubyte * 32),
    ]


class HbmInfo(ctypes.Structure):
    """``struct dcmi_hbm_info``; sizes in MiB."""

    _fields_: ClassVar = [
        ("memory_size", c_ulonglong),
        ("freq", c_uint),
        ("memory_usage", c_ulonglong),
        ("temp", c_int),
        ("bandwith_util_rate", c_uint),
    ]


class MemoryInfo(ctypes.Structure):
    """``struct dcmi_get_memory_info_stru``: boards without high-bandwidth memory; sizes in MiB."""

    _fields_: ClassVar = [
        ("memory_size", c_ulonglong),
        ("memory_available", c_ulonglong),
        ("freq", c_uint),
        ("hugepagesize", c_ulong),
        ("hugepages_total", c_ulong),
        ("hugepages_free", c_ulong),
        ("utiliza", c_uint),
        ("reserve", c_ubyte * 60),
    ]


class EccInfo(ctypes.Structure):
    """``struct dcmi_ecc_info``."""

    _fields_: ClassVar = [
        ("enable_flag", c_int),
        ("single_bit_error_cnt", c_uint),
        ("double_bit_error_cnt", c_uint),
        ("total_single_bit_error_cnt", c_uint),
        ("total_double_bit_error_cnt", c_uint),
        ("single_bit_isolated_pages_cnt", c_uint),
        ("double_bit_isolated_pages_cnt", c_uint),
        ("single_bit_next_isolated_pages_cnt", c_uint),
        ("double_bit_next_isolated_pages_cnt", c_uint),
    ]


class FaultEvent(ctypes.Structure):
    """``struct dcmi_event`` with the one member its union has."""

    _fields_: ClassVar = [
        ("type", c_int),
        ("_align", c_ulonglong * 0),
        ("event_id", c_uint),
        ("deviceid", c_ushort),
        ("node_type", c_ubyte),
        ("node_id", c_ubyte),
        ("sub_node_type", c_ubyte),
        ("sub_node_id", c_ubyte),
        ("severity", c_ubyte),
        ("assertion", c_ubyte),
        ("event_serial_num", c_int),
        ("notify_serial_num", c_int),
        ("alarm_raised_time", c_ulonglong),
        ("event_name", c_char * 256),
        ("additional_info", c_char * 32),
        ("resv", c_ubyte * 32),
    ]


class EventFilter(ctypes.Structure):
    """``struct dcmi_event_filter``; all zero lets every event through."""

    _fields_: ClassVar = [
        ("filter_flag", c_ulonglong),
        ("event_id", c_uint),
        ("severity", c_ubyte),
        ("node_type", c_ubyte),
        ("resv", c_ubyte * 32),
    ]


EventHandler = ctypes.CFUNCTYPE(None, POINTER(FaultEvent))


class Dcmi:
    """The library, with each call announced on the dial."""

    def __init__(self, path: str, dial: Dial) -> None:
        self._library = ctypes.CDLL(path)
        self._dial = dial

    def call(self, function: str, *arguments: Any, card: int = -1, chip: int = 0) -> None:
        """Make one call.

        Raises:
            DcmiError: it did not succeed.
        """
        self._dial.turn(function, card, chip)
        try:
            found = getattr(self._library, function)
        except AttributeError:
            raise DcmiError(FUNCTION_MISSING) from None
        code = found(*arguments)
        if code:
            raise DcmiError(code)

    def of_chip(self, function: str, card: int, chip: int, *arguments: Any) -> None:
        """One call about one chip; most take card and chip first."""
        self.call(function, card, chip, *arguments, card=card, chip=chip)
