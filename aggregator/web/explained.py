"""Two questions about one node: why does it stand as it does, and what would a drain do now. Read-only.

What people decide goes into an Incident's ``spec`` through the Kubernetes API, with their own rights: this API has no
login, so it takes no orders.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from aiohttp import web

from aggregator.cluster.workloads import WorkloadError
from aggregator.fleet import NodeState
from aggregator.policy.explain.explain import explain
from aggregator.policy.explain.explanation import Explanation, Facts, Line, Way
from aggregator.policy.explain.words import away, moment
from aggregator.policy.health import NodeHealth
from aggregator.scores.explain import NodeWords, node_words
from aggregator.scores.inputs import open_incidents
from aggregator.web.deps import WebDeps
from aggregator.web.replies import json_reply, no_such_node

MAX_PLANS = 3
"""Made at once: each reads the node's pods and their owners from the API server."""

PLAN_SECONDS = 25.0

MAX_SUBJECTS = 32
MAX_SUBJECT = 256
"""Characters."""


class Explained:
    """Answers ``explain`` and ``plan``."""

    def __init__(self, deps: WebDeps) -> None:
        self._deps = deps
        self._plans = 0

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/api/v1/nodes/{name}/explain", self.explain),
            web.get("/api/v1/nodes/{name}/plan", self.plan, allow_head=False),
        ]

    async def explain(self, request: web.Request) -> web.Response:
        """The explanation, as sentences and as one ``text``."""
        name = request.match_info["name"]
        facts = self.facts(name)
        if facts is None:
            return no_such_node(name)
        explanation = explain(facts)
        whole = msgspec.to_builtins(explanation)
        score = node_words(self._deps.book, name)
        text = as_text(explanation) + (score_text(score) if score else "")
        return json_reply({**whole, "score": score, "text": text})

    async def plan(self, request: web.Request) -> web.Response:
        """What a drain would do now; ``subject`` names a device, and may be given several times."""
        name, subjects = request.match_info["name"], request.query.getall("subject", [])
        if self.facts(name) is None:
            return no_such_node(name)
        if len(subjects) > MAX_SUBJECTS or any(len(each) > MAX_SUBJECT for each in subjects):
            text = f"subject: at most {MAX_SUBJECTS} of at most {MAX_SUBJECT} characters"
            return json_reply({"error": text}, status=400)
        if self._deps.plan is None:
            text = (
                f"no plan: in {self._deps.mode()} mode there is no cluster whose pods could be read"
            )
            return json_reply({"error": text}, status=503)
        if not self._deps.leading():
            text = "no plan: this replica is not the leader; ask the one that the Service leads to"
            return json_reply({"error": text}, status=503)
        if self._plans >= MAX_PLANS:
            text = f"{MAX_PLANS} plans are being made already; ask again in a few seconds"
            return json_reply({"error": text}, status=429)
        self._plans += 1
        try:
            async with asyncio.timeout(PLAN_SECONDS):
                plan = await self._deps.plan(name, subjects)
        except TimeoutError:
            text = f"no plan: the API server did not answer within {PLAN_SECONDS:g} s"
            return json_reply({"error": text}, status=504)
        except WorkloadError as error:
            return json_reply({"error": f"no plan: {error}"}, status=502)
        finally:
            self._plans -= 1
        return json_reply({"node": name, "subjects": list(subjects), **plan})

    def facts(self, name: str) -> Facts | None:
        """All that is known of a node now; ``None``: there is no such node."""
        deps = self._deps
        now, view, state = deps.clock(), deps.view(), deps.fleet.get(name)
        node = view.nodes.get(name)
        incidents = [each for each in view.incidents.values() if each.node == name]
        if state is None and node is None and not incidents:
            return None
        return Facts(
            name=name,
            node=node,
            incident=open_incidents(view).get(name),
            closed=tuple(each for each in incidents if not each.open),
            devices=view.device_words.get(name, {}),
            health=_health(state, deps.pool_of(node, state), now),
            config=deps.policy,
            stopped=view.stopped,
            mode=deps.mode(),
            namespace=deps.namespace,
            now=now,
        )


def _health(state: NodeState | None, pool: str, now: float) -> NodeHealth | None:
    if state is None or not state.reports_total:
        return None
    return NodeHealth(
        name=state.name,
        pool=pool,
        findings=state.findings,
        sources=state.sources,
        age_seconds=now - state.received_seconds,
        clear_seconds=now - state.clear_since_seconds,
    )


HEADINGS: Mapping[str, str] = {
    "state": "What state is it in, and by whom",
    "evidence": "On what evidence",
    "done": "What was done",
    "next": "What happens next",
    "stop": "How to stop it",
    "go_on": "How to let it go on",
}
"""Part of an explanation → the question that it answers."""


def as_text(explanation: Explanation) -> str:
    """The explanation as plain text, its times in UTC; what cannot be printed is left out."""
    lines = [explanation.summary]
    for name, heading in HEADINGS.items():
        entries: Sequence[Line | Way] = getattr(explanation, name)
        if entries:
            lines += ["", f"{heading}:", *_entries(entries, explanation.time_seconds)]
    return "".join(f"{printable(line)}\n" for line in lines)


def score_text(score: NodeWords) -> str:
    """The score with its terms as plain text, after an empty line."""
    lines = ["", "What schedulers are told of it:", f"  - {score.score} of 1000: {score.reason}"]
    lines.append(f"  - {score.pod_score} for a pod that asks for {score.pod}, made of")
    for each in score.terms:
        value = "abstains" if each.value is None else f"{each.value:.2f}"
        lines.append(f"      {each.name} {value} (weight {each.weight:g}): {each.words}")
    return "".join(f"{printable(line)}\n" for line in lines)


def _entries(entries: Iterable[Line | Way], now: float) -> Iterable[str]:
    for each in entries:
        if isinstance(each, Way):
            yield f"  - {each.what}"
            if each.command:
                yield f"      {each.command}"
        elif each.time_seconds is None:
            yield f"  - {each.text}"
        else:
            when = f"{moment(each.time_seconds)}, {away(each.time_seconds, now)}"
            yield f"  - {each.text}  [{when}]"


def printable(text: str) -> str:
    """One line, without characters that steer a terminal."""
    return "".join(each for each in " ".join(text.split("\n")) if each.isprintable())
