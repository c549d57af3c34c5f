"""What the NVIDIA driver writes: XID in every shape it has, and what it says without a number. Pure.

Only a line that begins with the driver's own words counts: what another part of the kernel quotes, such as the name of a
process, forges no fault.
"""

import re

from agent.kernel_log.addresses import PCI_ADDRESS, normalise_bus_id
from agent.kernel_log.record import Record
from contract.vocabulary import Event
from contract.wire import MAX_TEXT

XID_FALLEN_OFF_THE_BUS = 79
XID_RECOVERY_ACTION_CHANGED = 154
NVLINK5_XIDS = range(144, 151)
"""Their lines carry a unit, a severity and a sub-code."""
INSTANCE_XIDS = frozenset({13, 31, 43, 45, 94})
"""Faults of one program: where the driver names a MIG instance, the rest of the GPU is well."""

NVRM = "NVRM: "

# dmesg and journalctl put times, levels and the host before the text; /dev/kmsg does not.
_PREFIX = re.compile(
    r"(?:(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT[-+:.\dZ]{8,24}) \S{1,253} kernel: "
    r"|kernel: |kern *:[a-z]{1,8} *: )?"
    r"(?:\[[^\]]{1,32}\] *)*",
    re.ASCII,
)
# Old drivers write no "PCI:" and name no process; on a MIG GPU "GPU-I:05 GPU-CI:00" follows the address.
_XID = re.compile(rf"NVRM: Xid \((?:PCI:)?({PCI_ADDRESS})\b([^)]{{0,64}})\): (\d+)(.*)", re.ASCII)
_INSTANCE = re.compile(r"\bGPU-I:(\d{1,3})\b", re.ASCII)
# The name of a process comes before these, and may hold anything: the last match is the driver's.
_NVLINK5 = re.compile(
    r".*[ ,]([A-Z][A-Z0-9_/]{1,63})\s+(Fatal|Nonfatal)\s+XC\d+\s+i\d+\s+Link\s+-?\d+\s+"
    r"\(0x([0-9A-Fa-f]{1,8})\b",
    re.ASCII,
)
_RECOVERY_ACTION = re.compile(
    r".*\bfrom 0x[0-9A-Fa-f]{1,8} (?:\([^)]*\) )?to 0x([0-9A-Fa-f]{1,8})\b", re.ASCII
)
_SUB_CODE_SHIFT = 20
_SUB_CODE_MASK = 0x3F

_NVLINK5_UNITS = {
    "SAW_MVB": "saw-mvb",
    "RLW_CTRL": "rlw-ctrl",
    "RLW_REMAP": "rlw-remap",
    "RLW_RSPCOL": "rlw-rspcol",
    "RLW_RXPIPE": "rlw-rxpipe",
    "RLW_SRC_TRACK": "rlw-src-track",
    "RLW_TAGSTATE": "rlw-tagstate",
    "TLW_CTRL": "tlw-ctrl",
    "TLW_RX": "tlw-rx",
    "TLW_RX_PIPE0": "tlw-rx",
    "TLW_RX_PIPE1": "tlw-rx",
    "TLW_TX": "tlw-tx",
    "TLW_TX_PIPE0": "tlw-tx",
    "TLW_TX_PIPE1": "tlw-tx",
    "TREX": "trex",
    "NVLPW_CTRL": "nvlpw",
    "NVLPW": "nvlpw",
    "NETIR": "netir",
    "NETIR_INT": "netir",
    "NETIR_BER_EVENT": "ber",
    "NETIR_LINK_EVT": "link",
    "NETIR_LINK_DOWN": "link",
    "NETIR_MFDE_EVENT": "mfde",
    "MSE_WATCHDOG": "mse-watchdog",
}
"""As two generations of drivers name them → as the codes of nvlink5.yaml do."""

# One record can hold several of the driver's lines; /dev/kmsg writes the line ends as \x0a.
_OFF_BUS = re.compile(
    rf"NVRM: (?:The NVIDIA )?GPU (?:at )?(?:PCI:)?({PCI_ADDRESS})\b.{{0,160}}?"
    r"\bfallen off the bus",
    re.ASCII | re.DOTALL,
)
_WITHOUT_NUMBER = (
    (
        "gpu-init-failed",
        re.compile(rf"NVRM: GPU ({PCI_ADDRESS}): RmInitAdapter failed!", re.ASCII),
    ),
    (
        "gpu-not-supported",
        re.compile(
            rf"NVRM: The NVIDIA v?GPU ({PCI_ADDRESS}) \(PCI ID: [0-9A-Fa-f:]{{1,20}}\).{{1,40}}?"
            r"installed in this (?:vGPU host )?system is not supported",
            re.ASCII | re.DOTALL,
        ),
    ),
    (
        "gpu-bar-invalid",
        re.compile(
            r"NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:"
            rf".{{1,99}}?\(PCI:({PCI_ADDRESS})\)",
            re.ASCII | re.DOTALL,
        ),
    ),
)
_VERSION_MISMATCH = "NVRM: API mismatch: "


def nvidia_event(record: Record, *, id: str, time_seconds: float) -> Event | None:  # noqa: A002
    """What a line of the driver tells of; ``None`` for its ordinary words and for lines of others."""
    text = spoken_by(NVRM, record.text)
    if text is None:
        return None
    if match := _XID.match(text):
        address, partition, number, rest = match.groups()
        code = int(number[:9])
        return Event(
            id=id,
            time_seconds=time_seconds,
            kind="xid",
            subject=_subject(address, partition, code),
            message=f"Xid {number[:9]}{partition}{rest}"[:MAX_TEXT],
            code=code,
            finding=_finding(code, rest),
        )
    if match := _OFF_BUS.match(text):
        # It mostly follows the line with the number, so it must not count as a second loss.
        return Event(
            id=id.replace(":", "-text:", 1),
            time_seconds=time_seconds,
            kind="xid",
            subject=f"gpu:{normalise_bus_id(match[1])}",
            message=text[:MAX_TEXT],
            code=XID_FALLEN_OFF_THE_BUS,
            finding=f"xid-{XID_FALLEN_OFF_THE_BUS}",
        )
    return _without_number(text, id, time_seconds)


def spoken_by(speaker: str, text: str) -> str | None:
    """The text from where ``speaker`` begins, if nothing but times and the host stands before it."""
    if text.startswith(speaker):
        return text
    prefix = _PREFIX.match(text)
    start = prefix.end() if prefix else 0
    return text[start:] if text.startswith(speaker, start) else None


def recovery_action_in(message: str) -> int | None:
    """The driver's new verdict in an XID 154 line; its number, since the words differ by driver."""
    match = _RECOVERY_ACTION.match(message)
    return int(match[1], 16) if match else None


def _subject(address: str, partition: str, code: int) -> str:
    gpu = f"gpu:{normalise_bus_id(address)}"
    instance = _INSTANCE.search(partition) if partition and code in INSTANCE_XIDS else None
    return f"{gpu}/mig:{int(instance[1])}" if instance else gpu


def _finding(code: int, rest: str) -> str:
    match = _NVLINK5.match(rest[:MAX_TEXT]) if code in NVLINK5_XIDS else None
    if match is None:
        return f"xid-{code}"
    units, severity, intrinfo = match.groups()
    # Where a unit has two names the line may give both.
    unit = next((_NVLINK5_UNITS[each] for each in units.split("/") if each in _NVLINK5_UNITS), "")
    if severity == "Nonfatal":
        return f"xid-{code}-{unit}-nonfatal" if unit else f"xid-{code}-nonfatal"
    if unit == "link":
        reason = int(intrinfo, 16) >> _SUB_CODE_SHIFT & _SUB_CODE_MASK
        return f"xid-{code}-link-{reason}"
    return f"xid-{code}-{unit or 'fatal'}"


def _without_number(text: str, id_: str, time_seconds: float) -> Event | None:
    finding, subject = _told_without_number(text)
    if not finding:
        return None
    return Event(
        id=id_,
        time_seconds=time_seconds,
        kind="kernel",
        subject=subject,
        message=text[:MAX_TEXT],
        finding=finding,
    )


def _told_without_number(text: str) -> tuple[str, str]:
    for finding, pattern in _WITHOUT_NUMBER:
        if match := pattern.match(text):
            return finding, f"gpu:{normalise_bus_id(match[1])}"
    return ("nvidia-version-mismatch", "host") if text.startswith(_VERSION_MISMATCH) else ("", "")
