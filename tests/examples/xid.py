"""Lines of the NVIDIA and the NVSwitch driver, as they stand in the kernel log: one per code and more for some."""

from collections.abc import Iterable

BUS = "0000:3b:00"
SWITCH = "nvidia-nvswitch3: SXid (PCI:0000:86:00.0)"

UNITS = {
    "SAW_MVB": (144, 0x021, "saw-mvb"),
    "RLW_CTRL": (145, 0x062, "rlw-ctrl"),
    "RLW_REMAP": (145, 0x082, "rlw-remap"),
    "RLW_RSPCOL": (145, 0x0A2, "rlw-rspcol"),
    "RLW_RXPIPE": (145, 0x0C2, "rlw-rxpipe"),
    "RLW_SRC_TRACK": (145, 0x0E2, "rlw-src-track"),
    "RLW_TAGSTATE": (145, 0x102, "rlw-tagstate"),
    "TLW_CTRL": (146, 0x123, "tlw-ctrl"),
    "TLW_RX": (146, 0x143, "tlw-rx"),
    "TLW_TX": (146, 0x163, "tlw-tx"),
    "TREX": (147, 0x184, "trex"),
    "NVLPW_CTRL": (148, 0x005, "nvlpw"),
    "NETIR": (149, 0x006, "netir"),
    "NETIR_BER_EVENT": (149, 0x226, "ber"),
    "NETIR_LINK_EVT": (149, 0x1C6, "link"),
    "NETIR_MFDE_EVENT": (149, 0x246, "mfde"),
    "MSE_WATCHDOG": (150, 0x000, "mse-watchdog"),
}
"""Unit → its XID, the low bits of ``intrinfo`` in first-generation drivers, its name in our codes."""

LINK_REASONS = (0, 1, 2, 4, 10, 15, 16, 17, 18, 21, 22, *range(32, 39), 40, 42, 43)
"""Why an NVLink can go down: the sub-codes of XID 149 that NVIDIA lists."""

WORDS = {
    13: "Graphics SM Warp Exception on (GPC 5, TPC 0, SM 1): Out Of Range Address",
    31: "Ch 00000010, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC2 GPCCLIENT_T1_7 faulted @ "
    "0x2b57_b3000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_WRITE",
    43: "Ch 00000010",
    45: "Ch 00000010, errorString CTX SWITCH TIMEOUT, Info 0x4c000",
    48: "An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer",
    54: "GPU power cables are not connected",
    63: "Row Remapper: New row marked for remapping, reset gpu to activate.",
    64: "Row Remapper: Failed to remap row",
    74: "NVLink: fatal error detected on link 4(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
    79: "GPU has fallen off the bus.",
    94: "Contained: SM (0x1). RST: No, D-RST: No",
    95: "Uncontained: LTC TAG (0x2, 0x1). RST: Yes, D-RST: No",
    119: "Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76",
    154: "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
}
"""What the driver writes after the number; the others are made up alike."""


def xid_line(number: int) -> str:
    """A plain XID."""
    return f"NVRM: Xid (PCI:{BUS}): {number}, pid=48211, name=python3, {WORDS.get(number, 'x')}"


def nvlink5_line(unit: str, severity: str, *, status: int = 1, reason: int = 0) -> str:
    """An XID with a sub-code."""
    number, low_bits, _ = UNITS[unit]
    intrinfo = reason << 20 | 8 << 13 | low_bits
    return (
        f"NVRM: Xid (PCI:{BUS}): {number}, {unit} {severity} XC0 i0 Link 08 "
        f"(0x{intrinfo:08x} 0x{status:08x} 0x00000000 0x00000000 0x00000000 0x00000000)"
    )


def sxid_line(number: int, severity: str) -> str:
    """An SXid."""
    return f"{SWITCH}: {number:05d}, {severity}, Link 30 something happened (First)"


FATAL_SXIDS = (
    *(10003, 11001, 11009, 11013, 11018, 11019, 11020, 12001, 12002, 12020, 12022, 12024, 12025),
    *(12026, 12027, 12030, 12031, 12032, 14017, 15001, 15006, 15009, 15010, 15012, 15013, 19047),
    *(19048, 19054, 19056, 19058, 19060, 19061, 19063, 19064, 19066, 19067, 19069, 19070, 20034),
    *(22003, 22011, 22012, *range(23001, 23018), 24004, 24005, 24006, 24007),
)
OTHER_SXIDS = (
    *(10001, 10002, 10004, 10005, 11004, 11012, 11021, 11022, 11023, 12021, 12023, 12028, 15008),
    *(15011, 19049, 19055, 19057, 19059, 19062, 19065, 19068, 19071, 19084, 20001, 20009, 20012),
    *(22012, 22013, 24001, 24002, 24003),
)


def _nvlink5_lines() -> Iterable[tuple[str, str]]:
    for unit, (number, _, name) in UNITS.items():
        if unit != "NETIR_LINK_EVT":
            yield f"xid-{number}-{name}", nvlink5_line(unit, "Fatal")
        yield f"xid-{number}-{name}-nonfatal", nvlink5_line(unit, "Nonfatal")
        for severity in ("Fatal", "Nonfatal"):
            unheard_of = nvlink5_line(unit, severity).replace(unit, "NEW_UNIT")
            yield f"xid-{number}-{severity.lower()}", unheard_of
    for reason in LINK_REASONS:
        line = nvlink5_line("NETIR_LINK_EVT", "Fatal", status=0, reason=reason)
        yield f"xid-149-link-{reason}", line


LINES: dict[str, list[str]] = {
    **{f"xid-{number}": [xid_line(number)] for number in range(1, 177)},
    **{code: [line] for code, line in _nvlink5_lines()},
    **{f"sxid-{number}": [sxid_line(number, "Fatal")] for number in FATAL_SXIDS},
    **{f"sxid-nonfatal-{number}": [sxid_line(number, "Non-fatal")] for number in OTHER_SXIDS},
    "gpu-init-failed": ["NVRM: GPU 0000:3b:00.0: RmInitAdapter failed! (0x26:0x56:1482)"],
    "gpu-not-supported": [
        (
            r"NVRM: The NVIDIA GPU 0000:3b:00.0 (PCI ID: 10de:139b)\x0aNVRM: installed in this system"
            r" is not supported by the\x0aNVRM: NVIDIA 595.45.04 driver release."
        )
    ],
    "gpu-bar-invalid": [
        (
            r"NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:\x0aNVRM: BAR1 is 0M"
            r" @ 0x0 (PCI:0000:3b:00.0)"
        )
    ],
    "nvidia-version-mismatch": [
        r"NVRM: API mismatch: the client 'python3' (pid 48211)\x0aNVRM: has the version 570.124.06"
    ],
}

FALLBACKS = {
    "xid-149-link": nvlink5_line("NETIR_LINK_EVT", "Fatal", reason=63),
    "sxid": sxid_line(28006, "Fatal"),
    "sxid-nonfatal": sxid_line(28006, "Non-fatal"),
}
"""Rows that judge numbers without a row: code → a line that raises such a number."""
