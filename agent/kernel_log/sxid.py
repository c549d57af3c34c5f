"""What the NVSwitch driver writes: SXids. Pure."""

import re

from agent.kernel_log.addresses import PCI_ADDRESS, normalise_bus_id
from agent.kernel_log.nvidia import spoken_by
from agent.kernel_log.record import Record
from contract.vocabulary import Event
from contract.wire import MAX_TEXT

NVSWITCH = "nvidia-nvswitch"

_SXID = re.compile(
    rf"nvidia-nvswitch\d{{1,4}}: SXid \((?:PCI:)?({PCI_ADDRESS})\): (\d+)(.*)", re.ASCII
)
# Two or three lines of registers follow each SXid under the same number.
_DETAILS = (", Severity ", ", Data {")


def sxid_event(record: Record, *, id: str, time_seconds: float) -> Event | None:  # noqa: A002
    """The SXid that a line tells of; ``None`` for the driver's other words and for lines of others.

    The driver says ``Fatal``, ``Non-fatal`` or ``Correctable`` itself, and that decides which code it raises.
    """
    text = spoken_by(NVSWITCH, record.text)
    match = _SXID.match(text) if text else None
    if match is None:
        return None
    address, number, rest = match.groups()
    if rest.startswith(_DETAILS):
        return None
    code = int(number[:9])
    is_fatal = rest.startswith(", Fatal,")
    return Event(
        id=id,
        time_seconds=time_seconds,
        kind="sxid",
        subject=f"nvswitch:{normalise_bus_id(address)}",
        message=f"SXid {number[:9]}{rest}"[:MAX_TEXT],
        code=code,
        finding=f"sxid-{code}" if is_fatal else f"sxid-nonfatal-{code}",
    )
