"""A dry run: what we would have written, laid over what the cluster really says."""

from collections import deque
from collections.abc import Mapping

import msgspec

from aggregator.policy.model import (
    ClusterNode,
    Condition,
    Incident,
    Intent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    Taint,
)

REMEMBERED = 10_000
MAX_CLOSED_INCIDENTS = 500


class Overlay:
    """Keeps intents instead of writing them; the newest one about a thing counts."""

    def __init__(self) -> None:
        self.recorded: deque[Intent] = deque(maxlen=REMEMBERED)
        """Everything that was asked for, oldest first."""
        self._taints: dict[str, Taint | None] = {}
        self._conditions: dict[str, dict[str, Condition]] = {}
        self._incidents: dict[str, Incident] = {}

    def record(self, intent: Intent) -> None:
        """Take down one write that is not made."""
        self.recorded.append(intent)
        match intent:
            case SetTaint(node=node, taint=taint):
                self._taints[node] = taint
            case RemoveTaint(node=node):
                self._taints[node] = None
            case SetCondition(node=node, type=type_, condition=condition):
                self._conditions.setdefault(node, {})[type_] = condition
            case SaveIncident(incident=incident):
                self._incidents[incident.name] = incident
                self._trim()

    def _trim(self) -> None:
        """A dry run may last for weeks: forget the closed incidents that were written first."""
        closed = [name for name, each in self._incidents.items() if not each.open]
        for name in closed[: max(0, len(closed) - MAX_CLOSED_INCIDENTS)]:
            del self._incidents[name]

    def nodes(self, real: Mapping[str, ClusterNode]) -> dict[str, ClusterNode]:
        """The nodes as if all had been written."""
        shown = dict(real)
        for name in self._taints.keys() & real.keys():
            shown[name] = msgspec.structs.replace(shown[name], taint=self._taints[name])
        for name in self._conditions.keys() & real.keys():
            conditions = {**shown[name].conditions, **self._conditions[name]}
            shown[name] = msgspec.structs.replace(shown[name], conditions=conditions)
        return shown

    def incidents(self, real: Mapping[str, Incident]) -> dict[str, Incident]:
        """The incidents as if all had been written; what people hold stays held."""
        shown = dict(real)
        for name, incident in self._incidents.items():
            hold = real[name].hold if name in real else incident.hold
            shown[name] = msgspec.structs.replace(incident, hold=hold)
        return shown
