"""Writes Incident objects: creates them, replaces their status, deletes them once they are history."""

from urllib.parse import quote

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import Conflict, NotFound
from aggregator.cluster.incident_objects import from_object
from aggregator.cluster.incident_status import to_spec, to_status
from aggregator.cluster.pen import Pen
from aggregator.cluster.reflector import Reflector
from aggregator.policy.model import Incident

__all__ = ["API_VERSION", "INCIDENTS", "IncidentWriter", "from_object", "to_status"]

API_VERSION = "fleetmedic.io/v1alpha1"
INCIDENTS = f"/apis/{API_VERSION}/incidents"


class IncidentWriter:
    """Creates, updates and deletes; never touches an existing ``spec``.

    Args:
        api: the way to the server, for reading anew.
        incidents: where versions are read from and the answers are put.
        pen: writes for us.
    """

    def __init__(self, api: Api, incidents: Reflector[Incident], *, pen: Pen) -> None:
        self._api = api
        self._incidents = incidents
        self._pen = pen

    async def save(self, incident: Incident) -> None:
        """Create the object if there is none, then write its status: one request, or two.

        None, where the status would be the very same. In a dry run an object that is not there is
        only tried to be created, as there is nothing whose status could be written.

        Raises:
            Conflict: somebody changed it meanwhile, say put it on hold, or there is already one
                that tells of something. The view then shows that, and the decision has to be made anew.
            ApiError: it could not be done.
        """
        status = to_status(incident)
        known = self._incidents.entries.get(incident.name)
        if known is not None and to_status(known.value) == status:
            return
        version = known.version if known is not None else await self._create(incident)
        if not version:
            return
        path = incident_path(incident.name)
        metadata = {"name": incident.name, "resourceVersion": version}
        try:
            written = await self._pen.replace(
                f"{path}/status", {**_kind(metadata), "status": status}
            )
        except Conflict:
            self._incidents.put(await self._api.get(path))
            raise
        if not self._pen.dry_run:
            self._incidents.put(written)

    async def forget(self, name: str) -> None:
        """Delete the object of a closed incident, unless somebody changed it since.

        Raises:
            EdgeError: it is not closed.
            Conflict: somebody changed it meanwhile; the view then shows that.
            ApiError: it could not be done.
        """
        known = self._incidents.entries.get(name)
        if known is None:
            return
        if known.value.open and not self._pen.dry_run:
            raise EdgeError(
                f"incident {name} is {known.value.phase}: only closed ones are forgotten"
            )
        path = incident_path(name)
        guard = {"preconditions": {"resourceVersion": known.version}}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", **guard}
        try:
            await self._pen.delete(path, options)
        except NotFound:
            pass  # somebody else did
        except Conflict:
            self._incidents.put(await self._api.get(path))
            raise
        if not self._pen.dry_run:
            self._incidents.drop(name)

    async def _create(self, incident: Incident) -> str:
        """The version of the new object; empty: it was a dry run, and there is none.

        An object that is there already is used only while it says nothing: a lost answer of ours.
        """
        body = {**_kind({"name": incident.name}), "spec": to_spec(incident)}
        try:
            made = await self._pen.create(INCIDENTS, body)
        except Conflict:
            made = await self._api.get(incident_path(incident.name))
            if made.get("status"):
                self._incidents.put(made)
                raise
        else:
            if self._pen.dry_run:
                return ""
        version: str = made["metadata"]["resourceVersion"]
        return version


def incident_path(name: str) -> str:
    """Where an Incident lives."""
    return f"{INCIDENTS}/{quote(name, safe='')}"


def _kind(metadata: Json) -> Json:
    return {"apiVersion": API_VERSION, "kind": "Incident", "metadata": metadata}
