"""Fault events the moment they come: on a thread of the driver's, which must never wait for the sampler."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from .library import Dcmi, DcmiError, EventFilter, EventHandler

if TYPE_CHECKING:
    from .parent import Outlet

EVERY_CHIP = -1


def subscribe(dcmi: Dcmi, outlet: Outlet) -> Any:
    """Ask for the events of all chips. Where DCMI refuses, the faults are seen when they are next polled.

    Returns:
        What must be kept alive for as long as events may come.
    """

    def tell(event: Any) -> None:
        happened = event.contents
        outlet.send(
            kind="event",
            code=happened.event_id,
            index=happened.deviceid,
            severity=happened.severity,
            assertion=happened.assertion,
            serial=happened.notify_serial_num,
            text=happened.event_name.decode(errors="replace").strip(),
        )

    handler = EventHandler(tell)
    with contextlib.suppress(DcmiError):
        dcmi.call("dcmi_subscribe_fault_event", EVERY_CHIP, EVERY_CHIP, EventFilter(), handler)
    return handler
