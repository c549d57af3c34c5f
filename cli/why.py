"""Why a pod goes to a node: the candidates, each term of their scores, and what would change the order."""

from urllib.parse import quote

from cli.connection import Json, Refused
from cli.reads import Ask, terms
from cli.terminal import Terminal, lasting

STALE_SECONDS = 30.0
"""Scores older than this are not given to any scheduler."""


def why(ask: Ask, out: Terminal, *, pod: str, namespace: str, top: int, as_json: bool) -> int:
    """Print why a pod goes, or went, where it does."""
    before, slash, name = pod.rpartition("/")
    if not name:
        raise Refused(f"{pod!r} names no pod; give NAMESPACE/POD, or POD with -n NAMESPACE")
    where = [before if slash else namespace, name]
    path = "/".join(quote(each, safe="") for each in where if each)
    found = ask(f"/api/v1/why/{path}?top={top}")
    if as_json:
        out.json(found)
        return 0
    out.say(_summary(found), style="bold")
    passed = found["passed_over"]
    out.say(f"Passed over: {passed}." if passed else f"It asks for {found['asks']}.")
    age = found["scores_age_seconds"]
    if age > STALE_SECONDS:
        out.say(f"The scores are {lasting(age)} old: schedulers get the neutral one.", style="red")
    candidates: list[Json] = found["candidates"]
    if candidates:
        _table(out, found, candidates)
        for each in _told(found, candidates):
            _terms(out, each)
        out.heading("What would change the order")
        for change in found["change"].split("; "):
            out.entry("", change)
    if found["unknown"]:
        out.heading("What is not known")
        for text in found["unknown"]:
            out.entry("", text)
    return 0


def _summary(found: Json) -> str:
    whole = f"{found['namespace']}/{found['pod']}"
    if not found["node"]:
        return f"{whole} waits for a node."
    mine = next((each for each in found["candidates"] if each["node"] == found["node"]), None)
    if mine is None:
        return f"{whole} is on {found['node']}."
    rank = f"place {mine['place']} of {found['nodes']}"
    return f"{whole} is on {found['node']}, which scores {mine['score']} for it now: {rank}."


def _table(out: Terminal, found: Json, candidates: list[Json]) -> None:
    out.heading(f"Candidates, best first, of {found['nodes']} nodes")
    rows = []
    for each in candidates:
        age = each["report_age_seconds"]
        mark = " (here)" if each["node"] == found["node"] else ""
        rows.append(
            [
                str(each["place"]),
                each["node"] + mark,
                str(each["score"]),
                "yes" if each["fits"] else "no",
                each["free"],
                each["reason"],
                "never" if age is None else f"{lasting(age)} ago",
            ]
        )
    out.rows(["PLACE", "NODE", "SCORE", "FITS", "FREE", "HEALTH", "REPORT"], rows)


def _told(found: Json, candidates: list[Json]) -> list[Json]:
    """The first two, and the pod's own node."""
    return [
        each
        for number, each in enumerate(candidates)
        if number < 2 or each["node"] == found["node"]
    ]


def _terms(out: Terminal, candidate: Json) -> None:
    out.heading(f"{candidate['node']}: {candidate['score']}")
    terms(out, candidate["terms"])
