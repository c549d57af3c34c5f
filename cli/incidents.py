"""The Incident of a node, and what a person writes into its ``spec``: only if nobody changed it meanwhile."""

from collections.abc import Callable
from urllib.parse import quote, urlencode

from cli.connection import MERGE, Answer, Connection, Json, Refused

INCIDENTS = "/apis/fleetmedic.io/v1alpha1/incidents"

TRIES = 5
"""The aggregator writes too, so a conflict is no more than bad luck."""

Change = Callable[[Json], Json]
"""The spec as it is → what of it is to be otherwise; empty: nothing."""


def open_incident(api: Connection, node: str) -> Json:
    """The open incident of a node: of several, the one that the aggregator goes by.

    Raises:
        Refused: it has none, or they cannot be read.
    """
    query = urlencode({"fieldSelector": f"spec.node={node}"})
    answer = api.ask("GET", f"{INCIDENTS}?{query}")
    if answer.status != 200:
        raise Refused(_why(answer, api, "list", node))
    listed: list[Json] = answer.body.get("items") or []
    found = sorted((each for each in listed if _phase(each) != "closed"), key=_standing)
    if found:
        return found[0]
    known = f"; its {len(listed)} earlier ones are closed" if listed else ""
    raise Refused(
        f"node {node!r} has no open incident{known}. `fleetmedic incidents` lists those that are open, "
        f"`fleetmedic explain {node}` says how the node stands"
    )


def edit(api: Connection, node: str, change: Change) -> tuple[Json, Json]:
    """Change the spec of the node's open incident.

    Returns:
        The object as it is now, and what was changed; that is empty where it was so already.

    Raises:
        Refused: there is none, or it may not be written.
    """
    for _ in range(TRIES):
        incident = open_incident(api, node)
        wanted = change(incident.get("spec") or {})
        if not wanted:
            return incident, {}
        name = incident["metadata"]["name"]
        version = incident["metadata"]["resourceVersion"]
        answer = api.ask(
            "PATCH",
            f"{INCIDENTS}/{quote(name, safe='')}",
            {"metadata": {"resourceVersion": version}, "spec": wanted},
            content_type=MERGE,
        )
        if answer.status == 200:
            return answer.body, wanted
        if answer.status not in (404, 409):
            raise Refused(_why(answer, api, "patch", node))
    raise Refused(f"the incident of {node!r} is being changed all the time; try again")


def _phase(incident: Json) -> str:
    return str((incident.get("status") or {}).get("phase") or "suspect")


def _standing(incident: Json) -> tuple[bool, bool, bool, str, str]:
    spec, status = incident.get("spec") or {}, incident.get("status") or {}
    metadata = incident["metadata"]
    return (
        not spec.get("hold"),
        not status.get("attempts"),
        _phase(incident) == "suspect",
        str(metadata.get("creationTimestamp")),
        metadata["name"],
    )


def _why(answer: Answer, api: Connection, verb: str, node: str) -> str:
    if answer.status == 401:
        return f"the Kubernetes API at {api.url} does not know you: log in, or name another --kubeconfig"
    if answer.status == 403:
        return f"forbidden: {answer.message}; you need the verb {verb} on incidents.fleetmedic.io"
    if answer.status == 404:
        return (
            f"the cluster at {api.url} has no incidents.fleetmedic.io: is Fleetmedic installed there? "
            "Name another cluster with --kubeconfig or --context"
        )
    return f"{verb} of the incident of {node!r}: {answer.message}"
