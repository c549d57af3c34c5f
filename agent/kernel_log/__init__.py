"""Kernel-log lines → events. Pure: bytes and a time base in, typed values out."""

from agent.kernel_log.addresses import normalise_bus_id
from agent.kernel_log.nvidia import (
    XID_FALLEN_OFF_THE_BUS,
    XID_RECOVERY_ACTION_CHANGED,
    nvidia_event,
    recovery_action_in,
)
from agent.kernel_log.record import MAX_LINE_BYTES, Record, parse_record
from agent.kernel_log.rules import kernel_event
from agent.kernel_log.sxid import sxid_event
from contract.vocabulary import Event

__all__ = [
    "MAX_LINE_BYTES",
    "XID_FALLEN_OFF_THE_BUS",
    "XID_RECOVERY_ACTION_CHANGED",
    "Record",
    "event_from",
    "normalise_bus_id",
    "parse_record",
    "recovery_action_in",
]


def event_from(record: Record, *, id: str, time_seconds: float) -> Event | None:  # noqa: A002
    """What a record says that we care about; ``None`` for ordinary noise.

    Args:
        record: as parsed.
        id: the event's id if there is one.
        time_seconds: Unix time of the record.
    """
    event = None
    if "NVRM: " in record.text:
        event = nvidia_event(record, id=id, time_seconds=time_seconds)
    elif "SXid (" in record.text:
        event = sxid_event(record, id=id, time_seconds=time_seconds)
    if event is not None:
        return event
    if record.text.startswith("fleetmedic: "):
        return _cleared_by_hand(record, id, time_seconds)
    return kernel_event(record, id=id, time_seconds=time_seconds)


def _cleared_by_hand(record: Record, id_: str, time_seconds: float) -> Event | None:
    """``fleetmedic: clear CODE SUBJECT``, which only root on the node can write into the kernel log."""
    words = record.text.split()
    if len(words) != 4 or words[1] != "clear":
        return None
    return Event(
        id=id_, time_seconds=time_seconds, kind="clear", subject=words[3], message=words[2]
    )
