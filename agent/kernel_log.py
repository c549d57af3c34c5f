"""Kernel-log lines → events. Pure: bytes and a time base in, typed values out."""

import re

import msgspec

from contract.vocabulary import Event
from contract.wire import MAX_TEXT

MAX_LINE_BYTES = 8_192
"""The kernel's own bound on one record; a longer line is cut here and counted."""

_XID = re.compile(r"NVRM: Xid \(PCI:([0-9A-Fa-f:.]{1,32})\b([^)]*)\): (\d+)(.*)")
_OFF_BUS = re.compile(
    r"NVRM: (?:The NVIDIA )?GPU (?:at )?(?:PCI:)?([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.\d)?)\b"
    r".*fallen off the bus"
)
_MAX_NUMBER_DIGITS = 20
"""Of a 64-bit number; a longer one is no header of the kernel's."""
_RECOVERY_ACTION = re.compile(r"\bto 0x([0-9A-Fa-f]+)")

XID_FALLEN_OFF_THE_BUS = 79
XID_RECOVERY_ACTION_CHANGED = 154


class Record(msgspec.Struct, frozen=True):
    """One kernel-log record."""

    sequence: int | None
    """The kernel's own number; ``None`` for a line without the /dev/kmsg header."""
    uptime_seconds: float | None
    """Time since boot; ``None`` likewise."""
    text: str
    clipped: bool = False
    """The line was longer than a record can be, or not UTF-8."""


def parse_record(line: bytes) -> Record:
    """One line of /dev/kmsg (``prio,seq,usec,flags;text``) or of plain ``dmesg``. Never raises."""
    clipped = len(line) > MAX_LINE_BYTES
    raw = line[:MAX_LINE_BYTES]
    text = raw.decode("utf-8", "replace")
    clipped = clipped or "\ufffd" in text
    header, separator, body = text.partition(";")
    fields = header.split(",")
    if separator and len(fields) >= 3 and all(_is_number(field) for field in fields[:3]):
        return Record(int(fields[1]), int(fields[2]) / 1e6, body.rstrip("\n"), clipped)
    return Record(None, None, text.rstrip("\n"), clipped)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_NUMBER_DIGITS


def event_from(record: Record, *, id: str, time_seconds: float) -> Event | None:  # noqa: A002
    """What a record says that we care about; ``None`` for ordinary noise.

    Args:
        record: as parsed.
        id: the event's id if there is one.
        time_seconds: Unix time of the record.
    """
    if "NVRM" not in record.text:  # the one cheap test that most lines fail
        return _cleared_by_hand(record, id, time_seconds)
    if match := _XID.search(record.text):
        bus, partition, code, rest = match.groups()
        return Event(
            id=id,
            time_seconds=time_seconds,
            kind="xid",
            subject=f"gpu:{normalise_bus_id(bus)}",
            message=f"Xid {code}{partition}{rest}"[:MAX_TEXT],
            code=int(code[:9]),
        )
    if match := _OFF_BUS.search(record.text):
        return Event(
            id=id,
            time_seconds=time_seconds,
            kind="xid",
            subject=f"gpu:{normalise_bus_id(match[1])}",
            message=record.text[:MAX_TEXT],
            code=XID_FALLEN_OFF_THE_BUS,
        )
    return None


def _cleared_by_hand(record: Record, id_: str, time_seconds: float) -> Event | None:
    """``fleetmedic: clear CODE SUBJECT``, which only root on the node can write into the kernel log."""
    words = record.text.split() if record.text.startswith("fleetmedic: clear ") else []
    if len(words) != 4:
        return None
    return Event(
        id=id_, time_seconds=time_seconds, kind="clear", subject=words[3], message=words[2]
    )


def normalise_bus_id(text: str) -> str:
    """Any way of writing a PCI address → ``0000:3b:00.0``.

    >>> normalise_bus_id("00000000:3B:00.0"), normalise_bus_id("0000:3b:00"), normalise_bus_id("3B:00.0")
    ('0000:3b:00.0', '0000:3b:00.0', '0000:3b:00.0')
    """
    address, _, function = text.lower().partition(".")
    parts = address.split(":")
    domain = parts[-3] if len(parts) >= 3 else "0"
    device = parts[-1]
    bus = parts[-2] if len(parts) >= 2 else "00"
    return f"{int(domain or '0', 16):04x}:{bus}:{device}.{function or '0'}"


def recovery_action_in(message: str) -> int | None:
    """The driver's new verdict in an XID 154 line; its number, since the words differ by driver."""
    match = _RECOVERY_ACTION.search(message)
    return int(match[1], 16) if match else None
