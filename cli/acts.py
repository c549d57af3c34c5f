"""What a person can decide about a node's incident, and about everything: said in words, written once, safe to repeat.

All of it goes into ``spec`` of the Incident (or into the kill switch) through the Kubernetes API, with the person's own
rights. The aggregator's own HTTP API takes no orders.
"""

import time

from cli.connection import MERGE, Answer, Connection, Json, Refused
from cli.incidents import edit, open_incident
from cli.terminal import Terminal
from contract.vocabulary import CONTROL_CONFIG_MAP

SWITCH_TRIES = 5
TAKEN_BACK_SECONDS = 15.0
"""For the aggregator to see that an earlier word was taken back."""
BETWEEN_LOOKS_SECONDS = 0.2


def hold(api: Connection, out: Terminal, *, node: str, note: str | None) -> int:
    """Decide nothing more about this node."""
    name, changed = _edit(api, node, {"hold": True}, note)
    out.say(f"{node} is on hold (incident {name}){_told(changed)}.")
    out.say(
        "Fleetmedic decides nothing more about it: taint, cordon and what is on the node stay as they are. "
        "Nothing new is begun; a drain under way stops."
    )
    out.say(f"To let it go on: fleetmedic resume {node}")
    return 0


def resume(api: Connection, out: Terminal, *, node: str, note: str | None) -> int:
    """Take a hold off."""
    name, changed = _edit(api, node, {"hold": False}, note)
    out.say(f"{node} is not on hold (incident {name}){_told(changed)}.")
    out.say("Fleetmedic goes on from where the incident stands, within its budgets.")
    return 0


def approve(api: Connection, out: Terminal, *, node: str, rung: str, note: str | None) -> int:
    """Agree to one rung, for this incident."""

    def change(spec: Json) -> Json:
        agreed = list(spec.get("approve") or ())
        return {} if rung in agreed else {"approve": [*agreed, rung]}

    incident, changed = edit(api, node, lambda spec: {**change(spec), **_note(spec, note)})
    out.say(f"{rung} is approved for {node} (incident {_name(incident)}){_told(changed)}.")
    out.say(
        f"It is done when the ladder comes to it, within the budgets; `fleetmedic explain {node}` says when. "
        "The next incident of this node asks again."
    )
    _say_hold(out, incident, node)
    return 0


def cancel(api: Connection, out: Terminal, *, node: str, note: str | None) -> int:
    """Stop, take off what is ours, close, and leave these faults alone for a while."""

    def change(spec: Json) -> Json:
        # A held incident is not even closed.
        wanted = {"cancel": True, "hold": False}
        return {key: value for key, value in wanted.items() if bool(spec.get(key)) != value}

    incident, changed = edit(api, node, lambda spec: {**change(spec), **_note(spec, note)})
    off = " The hold that was on it is taken off." if "hold" in changed else ""
    out.say(
        f"The incident of {node} is cancelled (incident {_name(incident)}){_told(changed)}.{off}"
    )
    out.say(
        "Fleetmedic stops what it does there, takes its own taint and cordon off, closes the incident, and leaves "
        "the same faults alone on this node for the mute time (4 h unless set otherwise). Other people's cordons stay."
    )
    return 0


def release(api: Connection, out: Terminal, *, node: str, note: str | None) -> int:
    """Say that a person mended it."""
    _take_back_an_old_release(api, node)
    incident, changed = _edit_object(api, node, {"release": True}, note)
    out.say(f"{node} is said to be mended (incident {_name(incident)}){_told(changed)}.")
    out.say(
        "Fleetmedic checks it now, and lets pods back once its checks are clean and its probation is over. "
        f"A fault that is still there keeps it back; `fleetmedic explain {node}` tells."
    )
    _say_hold(out, incident, node)
    return 0


def _take_back_an_old_release(api: Connection, node: str) -> None:
    """One that was acted upon, and whose check is over, counts anew only once it was seen to be taken back.

    Raises:
        Refused: it was not seen in time.
    """
    if not _acted_upon(open_incident(api, node)):
        return
    edit(api, node, lambda spec: {"release": False} if spec.get("release") else {})
    until = time.monotonic() + TAKEN_BACK_SECONDS
    while _acted_upon(open_incident(api, node)):
        if time.monotonic() >= until:
            raise Refused(
                f"Fleetmedic has not seen yet that the earlier release of {node!r} is taken back: run this again in a "
                f"minute; where the incident is on hold or everything is stopped, let it go on first "
                f"(`fleetmedic explain {node}` says so)"
            )
        time.sleep(BETWEEN_LOOKS_SECONDS)


def _acted_upon(incident: Json) -> bool:
    status = incident.get("status") or {}
    return bool(status.get("releaseTakenTime")) and status.get("phase") != "verifying"


def note(api: Connection, out: Terminal, *, node: str, text: str) -> int:
    """Leave a word for the others."""
    incident, changed = edit(api, node, lambda spec: _note(spec, text))
    out.say(f"Noted for {node} (incident {_name(incident)}){_told(changed)}.")
    return 0


def stop(api: Connection, out: Terminal, *, namespace: str, reason: str) -> int:
    """Throw the kill switch."""
    before = _switch(api, namespace, reason)
    again = "; it was so already" if before == reason else f"; before: {before!r}" if before else ""
    out.say(f"Stopped: {reason!r} (ConfigMap {namespace}/{CONTROL_CONFIG_MAP}{again}).", "bold")
    out.say(
        "Within a second Fleetmedic writes nothing more anywhere in the cluster: no taint, no cordon, no eviction, no "
        "repair, and no release either. It goes on watching. What a node's agent has begun already ends by itself."
    )
    out.say("To let it go on: fleetmedic go")
    return 0


def go(api: Connection, out: Terminal, *, namespace: str) -> int:
    """Take the kill switch back."""
    before = _switch(api, namespace, None)
    was = f"it was stopped: {before!r}" if before else "it was not stopped"
    out.say(f"Fleetmedic acts ({was}).", "bold")
    if before:
        out.say(
            "It goes on from what it finds in the cluster; what was missed meanwhile is not caught up blindly."
        )
    return 0


def _edit(
    api: Connection, node: str, wanted: dict[str, bool], text: str | None
) -> tuple[str, Json]:
    incident, changed = _edit_object(api, node, wanted, text)
    return _name(incident), changed


def _edit_object(
    api: Connection, node: str, wanted: dict[str, bool], text: str | None
) -> tuple[Json, Json]:
    def change(spec: Json) -> Json:
        new = {key: value for key, value in wanted.items() if bool(spec.get(key)) != value}
        return {**new, **_note(spec, text)}

    return edit(api, node, change)


def _note(spec: Json, text: str | None) -> Json:
    return {} if text is None or spec.get("note", "") == text else {"note": text}


def _name(incident: Json) -> str:
    return str(incident["metadata"]["name"])


def _told(changed: Json) -> str:
    return "" if changed else "; it was so already, nothing is changed"


def _say_hold(out: Terminal, incident: Json, node: str) -> None:
    if incident["spec"].get("hold"):
        out.say(
            f"It is on hold: nothing happens until that is taken off (fleetmedic resume {node})."
        )


def _switch(api: Connection, namespace: str, reason: str | None) -> str:
    """Write the kill switch; what it said before."""
    collection = f"/api/v1/namespaces/{namespace}/configmaps"
    for _ in range(SWITCH_TRIES):
        found = api.ask("GET", f"{collection}/{CONTROL_CONFIG_MAP}")
        if found.status not in (200, 404):
            raise Refused(_why(found, "get", namespace))
        before = _stopped(found.body) if found.status == 200 else ""
        if before == (reason or ""):
            return before
        if found.status == 404:
            body = {"metadata": {"name": CONTROL_CONFIG_MAP}, "data": {"stop": reason}}
            answer, verb = api.ask("POST", collection, body), "create"
        else:
            version = found.body["metadata"]["resourceVersion"]
            patch: Json = {
                "metadata": {"resourceVersion": version},
                "data": {"stop": reason},
                "binaryData": {"stop": None},
            }
            path, verb = f"{collection}/{CONTROL_CONFIG_MAP}", "patch"
            answer = api.ask("PATCH", path, patch, content_type=MERGE)
        if answer.status in (200, 201):
            return before
        if answer.status != 409:
            raise Refused(_why(answer, verb, namespace))
    raise Refused(f"{namespace}/{CONTROL_CONFIG_MAP} is being changed all the time; try again")


def _stopped(switch: Json) -> str:
    """What a switch says; whatever stands under its key stops."""
    if said := (switch.get("data") or {}).get("stop"):
        return str(said)
    return "no reason given" if (switch.get("binaryData") or {}).get("stop") else ""


def _why(answer: Answer, verb: str, namespace: str) -> str:
    need = f"the verb {verb} on configmaps in namespace {namespace!r}"
    if answer.status == 403:
        return f"forbidden: {answer.message}; you need {need}"
    if answer.status == 404:
        return f"{answer.message}; name the aggregator's namespace with --namespace"
    return f"{verb} of ConfigMap {namespace}/{CONTROL_CONFIG_MAP}: {answer.message}"
