"""The kill switch: a ConfigMap in the namespace of the Lease, with which anybody who may edit it stops every write.

    kubectl -n fleetmedic create configmap fleetmedic-control --from-literal=stop="power work in row 7"
    kubectl -n fleetmedic delete configmap fleetmedic-control

That there is none is the normal case, and means go. That nobody can say whether there is one means stop.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from aggregator.cluster.client import Api, Json
from aggregator.cluster.reflector import Reflector, Timings
from contract.vocabulary import CONTROL_CONFIG_MAP

KEY = "stop"
REASON_LENGTH = 200
PAUSE_SECONDS = 1.0
"""Longest pause before it is read again where reading or watching failed: a stop must not wait for our patience."""
GRACE_SECONDS = 30.0
"""Between a watch that is given up for silence and the new list."""


class Control:
    """What the kill switch says, as its watch brings it. One owner: the event loop.

    Args:
        api: the way to the server.
        namespace: of the ConfigMap.
        on_change: called after each change of it.
        clock: monotonic seconds.
        random: 0 ≤ x < 1.
        timings: how patient to be.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        *,
        on_change: Callable[[], None],
        clock: Callable[[], float],
        random: Callable[[], float],
        timings: Timings,
    ) -> None:
        self.reflector: Reflector[str] = Reflector(
            api,
            f"/api/v1/namespaces/{namespace}/configmaps",
            stop_reason,
            on_change=on_change,
            clock=clock,
            random=random,
            timings=msgspec.structs.replace(
                timings, backoff_max_seconds=min(timings.backoff_max_seconds, PAUSE_SECONDS)
            ),
            query={"fieldSelector": f"metadata.name={CONTROL_CONFIG_MAP}"},
        )
        self._where = f"{namespace}/{CONTROL_CONFIG_MAP}"
        self._silence_seconds = timings.idle_seconds + GRACE_SECONDS

    @property
    def known(self) -> bool:
        """Whether it was read, and not too long ago: a server with nothing to say still sends bookmarks."""
        reflector = self.reflector
        return reflector.synced and reflector.last_event_age <= self._silence_seconds

    @property
    def stopped(self) -> str:
        """Why a person stopped us; empty: nobody did."""
        entry = self.reflector.entries.get(CONTROL_CONFIG_MAP)
        return entry.value if entry is not None else ""

    @property
    def forbids(self) -> str:
        """Why nothing may be written now; empty: it may."""
        if self.stopped:
            return f"stopped by a person: {self.stopped}"
        if not self.known:
            return (
                f"whether a person stopped us is not known: ConfigMap {self._where} cannot be read"
            )
        return ""


def stop_reason(obj: Json) -> str:
    """The reason that a ConfigMap gives to stop; empty: it gives none. Whatever else stands under the key stops."""
    for part in ("data", "binaryData"):
        values: Any = obj.get(part)
        said = values.get(KEY) if isinstance(values, dict) else None
        if said:
            words = " ".join(str(said).split()) if part == "data" else ""
            return words[:REASON_LENGTH] or "no reason given"
    return ""
