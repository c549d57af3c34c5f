"""What can be asked: incidents, why a node stands as it does, what a drain of it would do now."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from cli.connection import Answer, Connection, Json, Refused, cluster, server
from cli.settings import CliSettings
from cli.terminal import Terminal, clock, lasting, when

Ask = Callable[[str], Json]
"""Path under the aggregator's root → its JSON."""

PARTS = {
    "state": "What state is it in, and by whom",
    "evidence": "On what evidence",
    "done": "What was done",
    "next": "What happens next",
}

ORDERS = {"stop": "How to stop it", "go_on": "How to let it go on"}

LAST = {"refuse": -1, "leave": 1}
"""What is listed first and last of a plan: what stands in its way, and what it does not touch."""


def aggregator(settings: CliSettings) -> Ask:
    """The way to the aggregator: its own address, else through the Kubernetes API's proxy.

    Raises:
        Refused: there is none.
    """
    if settings.server:
        direct = server(settings)
        return lambda path: _answered(direct, path, settings)
    kubernetes = cluster(settings)
    where = f"{quote(settings.namespace, safe='')}/services/{quote(settings.service, safe='')}"
    prefix = f"/api/v1/namespaces/{where}:http/proxy"
    return lambda path: _answered(kubernetes, prefix + path, settings)


def _answered(connection: Connection, path: str, settings: CliSettings) -> Json:
    answer = connection.ask("GET", path)
    if answer.status == 200 and answer.body:
        return answer.body
    raise Refused(_why(answer, connection, settings))


def _why(answer: Answer, connection: Connection, settings: CliSettings) -> str:
    """The refusal, by whoever refused: the aggregator says ``error``, the API server sends a ``Status``."""
    if "error" in answer.body:
        return answer.message
    if answer.status == 401:
        return f"the Kubernetes API at {connection.url} does not know you: log in, or name another --kubeconfig"
    if answer.status == 403:
        return (
            f"forbidden: {answer.message}; you need the verb get on services/proxy in namespace "
            f"{settings.namespace!r}, or --server URL"
        )
    if settings.server:
        return (
            f"{connection.url} is no aggregator: status {answer.status}; name another with --server"
        )
    service = f"{settings.namespace}/{settings.service}"
    return (
        f"no aggregator answers behind Service {service} ({answer.message}); look at "
        f"`kubectl -n {settings.namespace} get pods`, or name another with --namespace, --service or --server"
    )


def incidents(ask: Ask, out: Terminal, *, everything: bool, as_json: bool) -> int:
    """Print the incidents, open and worst first."""
    found = ask(f"/api/v1/incidents?state={'all' if everything else 'open'}")
    listed: list[Json] = found["incidents"]
    if as_json:
        out.json(listed)
        return 0
    if not listed:
        out.say("No incidents." if everything else "No open incidents. Nothing needs you.")
        return 0
    now = ask("/api/v1/summary")["time_seconds"]
    if out.wide:
        heads = ["NODE", "DEVICE", "CODE", "PHASE", "ACTION", "AGE", "NEXT"]
        out.rows(heads, [[*_incident(each, now), _next(each, now)] for each in listed])
    else:
        heads = ["NODE", "DEVICE", "CODE", "PHASE", "AGE"]
        rows = [[cell for n, cell in enumerate(_incident(each, now)) if n != 4] for each in listed]
        out.rows(heads, rows, under=[_next(each, now) for each in listed])
    return 0


def _incident(each: Json, now: float) -> list[str]:
    worst: Mapping[str, Any] = each["findings"][0] if each["findings"] else {}
    phase = each["phase"] + (" (held)" if each["hold"] else "")
    since = each["opened_seconds"] if each["open"] else each["closed_seconds"] or now
    return [
        each["node"],
        worst.get("subject", "-"),
        worst.get("code", "-"),
        phase,
        worst.get("action", "-"),
        lasting(now - since),
    ]


def _next(each: Json, now: float) -> str:
    if each["needs"]:
        return f"needs you: {each['needs']}"
    at = f" ({when(each['next_step_seconds'], now)})" if each["next_step_seconds"] else ""
    return f"{each['next_step']}{at}" if each["next_step"] else ""


def explain(ask: Ask, out: Terminal, *, node: str, as_json: bool) -> int:
    """Print why a node stands as it does, what comes next, and how to stop it."""
    found = ask(f"/api/v1/nodes/{quote(node, safe='')}/explain")
    if as_json:
        out.json(found)
        return 0
    now = found["time_seconds"]
    out.say(found["summary"], style="bold")
    for name, heading in PARTS.items():
        out.heading(heading)
        for line in found[name]:
            if name == "done" and line["time_seconds"] is not None:
                out.step(clock(line["time_seconds"], now), line["text"])
            else:
                out.entry(when(line["time_seconds"], now), line["text"])
    for name, heading in ORDERS.items():
        if found[name]:
            out.heading(heading)
        for way in found[name]:
            out.entry("", way["what"])
            if way["command"]:
                out.command(way["command"])
    if score := found.get("score"):
        out.heading("Score")
        out.entry("", f"{score['score']} of 1000: {score['reason']}")
        out.entry("", f"{score['pod_score']} for a pod that asks for {score['pod']}:")
        terms(out, score["terms"])
    return 0


def terms(out: Terminal, listed: Sequence[Json]) -> None:
    """The terms of a score, a line each."""
    rows = [
        [
            each["name"],
            "-" if each["value"] is None else f"{each['value']:.2f}",
            f"{each['weight']:g}",
            "-" if each["value"] is None else f"{each['share']:.3f}",
            each["words"],
        ]
        for each in listed
    ]
    out.rows(["TERM", "VALUE", "WEIGHT", "PART", "BECAUSE"], rows)


def plan(ask: Ask, out: Terminal, *, node: str, devices: Sequence[str], as_json: bool) -> int:
    """Print what a drain would do now, pod by pod; nothing is done."""
    query = f"?{urlencode([('subject', each) for each in devices])}" if devices else ""
    found = ask(f"/api/v1/nodes/{quote(node, safe='')}/plan{query}")
    if as_json:
        out.json(found)
        return 0
    pods: list[Json] = found["pods"]
    of = f" of {', '.join(devices)}" if devices else ""
    counts = {each["verdict"]: 0 for each in pods}
    for each in pods:
        counts[each["verdict"]] += 1
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no pods"
    out.say(f"A drain of {node}{of} would find: {told}. Nothing is done now.", style="bold")
    if found["executable"]:
        out.say(f"It would take at most {lasting(found['seconds_at_most'])}.")
    else:
        out.say("It would not begin: pods that may not go refuse it as a whole.", style="red")
    pods = sorted(
        pods, key=lambda pod: (LAST.get(pod["verdict"], 0), pod["namespace"], pod["name"])
    )
    names = [f"{each['namespace']}/{each['name']}" for each in pods]
    whys = [_why_so(each) for each in pods]
    out.heading("Pod by pod")
    if out.wide:
        rows = [
            [each["verdict"], name, why] for each, name, why in zip(pods, names, whys, strict=True)
        ]
        out.rows(["VERDICT", "POD", "WHY"], rows)
    else:
        rows = [[each["verdict"], name] for each, name in zip(pods, names, strict=True)]
        out.rows(["VERDICT", "POD"], rows, under=whys)
    for gang in found["gangs"]:
        elsewhere = len(gang["elsewhere"])
        if elsewhere:
            out.heading(gang["gang"])
            out.entry(
                "",
                f"{elsewhere} of its pods are on other nodes and share this fate: {gang['reason']}",
            )
    return 0


def _why_so(pod: Json) -> str:
    job = f"; part of {pod['job']}" if pod["job"] else ""
    budget = f"; under PDB {pod['pdb']}" if pod["pdb"] else ""
    return f"{pod['reason']}{job}{budget}"
