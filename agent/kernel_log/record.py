"""One kernel-log record from one line. Pure; never raises."""

import re

import msgspec

MAX_LINE_BYTES = 8_192
"""The kernel's own bound on one record; a longer line is cut here and counted."""

_SYSLOG = re.compile(
    r"(?:[A-Z][a-z]{2} [ \d]\d [\d:]{8}|\d{4}-\d\d-\d\dT[\d:.,+Z-]{8,30}) \S{1,255} kernel: "
)
"""Date and host name, as ``journalctl -k`` and syslog write them."""

_PREFIX = re.compile(
    r"(?:<\d{1,3}>)?\[(?:\s{0,12}(\d{1,12}\.\d{1,9})|[A-Z][a-z]{2} [^\]]{10,30})\] ?"
)
"""``[  123.456789]``, or the date that ``dmesg -T`` writes."""

_MAX_NUMBER_DIGITS = 20
"""Of a 64-bit number; a longer one is no header of the kernel's."""


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
    return _plain(text.rstrip("\n"), clipped)


def _plain(text: str, clipped: bool) -> Record:
    """A line as ``dmesg``, ``journalctl -k`` or syslog show it; what stands before the message is taken off."""
    if heading := _SYSLOG.match(text):
        text = text[heading.end() :]
    match = _PREFIX.match(text)
    if match is None:
        return Record(None, None, text, clipped)
    uptime = float(match[1]) if match[1] else None
    return Record(None, uptime, text[match.end() :], clipped)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_NUMBER_DIGITS
