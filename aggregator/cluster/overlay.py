"""What we would have written, or are just writing, laid over what the cluster really says."""

from collections import deque
from collections.abc import Mapping

import msgspec

from aggregator.policy.model import (
    ClusterNode,
    Condition,
    Cordon,
    ForgetIncident,
    Incident,
    Intent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    Uncordon,
)

REMEMBERED = 10_000
MAX_CLOSED_INCIDENTS = 500


class Overlay:
    """Keeps intents instead of writing them; the newest one about a thing counts."""

    def __init__(self) -> None:
        self.recorded: deque[Intent] = deque(maxlen=REMEMBERED)
        """Everything that was asked for, oldest first."""
        self._taints: dict[str, SetTaint | RemoveTaint] = {}
        self._cordons: dict[str, Cordon | Uncordon] = {}
        self._conditions: dict[str, dict[str, Condition]] = {}
        self._incidents: dict[str, Incident] = {}
        self._closed: dict[str, None] = {}
        """Names of those that are closed, the one written first in front."""
        self._forgotten: set[str] = set()

    def record(self, intent: Intent) -> None:
        """Take down one write that is not made."""
        self.recorded.append(intent)
        match intent:
            case SetTaint() | RemoveTaint():
                self._taints[intent.node] = intent
            case Cordon() | Uncordon():
                self._cordons[intent.node] = intent
            case SetCondition(node=node, type=type_, condition=condition):
                self._conditions.setdefault(node, {})[type_] = condition
            case SaveIncident(incident=incident):
                self._forgotten.discard(incident.name)
                self._incidents[incident.name] = incident
                self._trim(incident)
            case ForgetIncident(name=name):
                self._incidents.pop(name, None)
                self._closed.pop(name, None)
                self._forgotten.add(name)

    def _trim(self, written: Incident) -> None:
        """A dry run may last for weeks: forget the closed incidents that were written first."""
        self._closed.pop(written.name, None)
        if not written.open:
            self._closed[written.name] = None
        if len(self._closed) > MAX_CLOSED_INCIDENTS:
            first = next(iter(self._closed))
            del self._closed[first], self._incidents[first]

    def saved(self, name: str) -> bool:
        """Whether this incident was to be written."""
        return name in self._incidents

    def nodes(self, real: Mapping[str, ClusterNode]) -> dict[str, ClusterNode]:
        """The nodes as if all had been written."""
        shown = dict(real)
        for name in self._taints.keys() & real.keys():
            shown[name] = after(shown[name], self._taints[name])
        for name in self._cordons.keys() & real.keys():
            shown[name] = after(shown[name], self._cordons[name])
        for name in self._conditions.keys() & real.keys():
            conditions = {**shown[name].conditions, **self._conditions[name]}
            shown[name] = msgspec.structs.replace(shown[name], conditions=conditions)
        return shown

    def incidents(self, real: Mapping[str, Incident]) -> dict[str, Incident]:
        """The incidents as if all had been written; what people said stays said."""
        self._forgotten &= real.keys()
        shown = {name: each for name, each in real.items() if name not in self._forgotten}
        for name, incident in self._incidents.items():
            shown[name] = as_people_said(incident, real[name]) if name in real else incident
        return shown


def after(node: ClusterNode, intent: SetTaint | RemoveTaint | Cordon | Uncordon) -> ClusterNode:
    """The node as the real edge would leave it: a cordon of somebody else's stays as it is."""
    match intent:
        case SetTaint():
            signature = intent.incident or node.quarantined_by
            return msgspec.structs.replace(node, taint=intent.taint, quarantined_by=signature)
        case RemoveTaint():
            return msgspec.structs.replace(node, taint=None, quarantined_by="")
        case Cordon():
            if node.unschedulable:
                return node
            return msgspec.structs.replace(node, unschedulable=True, cordoned_by=intent.incident)
        case Uncordon():
            if not node.cordoned_by:
                return node
            return msgspec.structs.replace(node, unschedulable=False, cordoned_by="")


def as_people_said(incident: Incident, real: Incident) -> Incident:
    """The incident with what people wrote into the real object's ``spec``."""
    return msgspec.structs.replace(
        incident,
        hold=real.hold,
        approve=real.approve,
        cancel=real.cancel,
        release=real.release,
        note=real.note,
    )
