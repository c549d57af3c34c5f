"""Why a pod goes where it goes: the candidates with each term of their scores, as the extender would answer now. Read-only."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from aggregator.feeds.extender_pod import Wish, wish_of_placed
from aggregator.scores.explain import TOP, Why, shape_words, why, without
from aggregator.scores.placed import PlacedPod
from aggregator.scores.terms import Newcomer
from aggregator.scores.values import PodShape
from aggregator.web.deps import WebDeps
from aggregator.web.replies import json_reply

MAX_TOP = 100
MAX_NAMED = 10
"""Pods of one name that an answer lists."""


class WhyThisNode:
    """Answers ``why``."""

    def __init__(self, deps: WebDeps) -> None:
        self._deps = deps

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/api/v1/why/{namespace}/{pod}", self.why),
            web.get("/api/v1/why/{pod}", self.why),
        ]

    async def why(self, request: web.Request) -> web.Response:
        """The answer about one pod; without a namespace it has to be the only one of its name."""
        name, namespace = request.match_info["pod"], request.match_info.get("namespace", "")
        top = _top(request.query.get("top"))
        found = self._find(namespace, name)
        if isinstance(found, web.Response):
            return found
        if self._deps.book.settled_seconds is None:
            text = "no scores yet: the aggregator has just started; ask again in a second"
            return json_reply({"error": text}, status=503)
        return json_reply(self._answer(found, top))

    def _find(self, namespace: str, name: str) -> PlacedPod | web.Response:
        deps = self._deps
        pods = deps.rooms.pods
        if not pods and not deps.rooms.pods_known:
            trouble = deps.pods_trouble() or "they are not read yet"
            return json_reply({"error": f"pods are not known here: {trouble}"}, status=503)
        if namespace and (pod := pods.get(f"{namespace}/{name}")):
            return pod
        named = sorted(each.key for each in pods.values() if each.name == name)
        if not namespace and len(named) == 1:
            return pods[named[0]]
        listed = ", ".join(named[:MAX_NAMED]) + (", …" if len(named) > MAX_NAMED else "")
        if not named:
            where = f" in namespace {namespace!r}" if namespace else ""
            text = (
                f"no pod named {name!r}{where} is pending or running; look at `kubectl get pods -A`"
            )
            return json_reply({"error": text}, status=404)
        if namespace:
            text = f"no pod named {name!r} in namespace {namespace!r}; there is {listed}"
            return json_reply({"error": text}, status=404)
        text = f"several pods are named {name!r}: {listed}; name one as NAMESPACE/POD"
        return json_reply({"error": text}, status=409)

    def _answer(self, pod: PlacedPod, top: int) -> Mapping[str, Any]:
        deps = self._deps
        now = deps.clock()
        wish = wish_of_placed(pod)
        told: dict[str, Any] = {
            "namespace": pod.namespace,
            "pod": pod.name,
            "node": pod.node,
            "phase": pod.phase,
            "kind": pod.kind,
            "workload": pod.workload,
            "asks": shape_words(pod.ask) if isinstance(pod.ask, PodShape) else wish.reason,
            "passed_over": _passed(wish),
            "time_seconds": now,
            "scores_age_seconds": max(0.0, now - (deps.book.settled_seconds or now)),
        }
        if not wish.ours:
            return {**told, "nodes": 0, "candidates": [], "change": "", "unknown": []}
        newcomer = wish.pod or deps.book.most_common or _ONE_GPU
        if wish.pod is None:
            found = why(deps.book, newcomer, now, there=pod.node, top=top, generic=True)
        else:
            found = self._compare(pod, newcomer, top, now)
        if not deps.rooms.pods_known:
            trouble = deps.pods_trouble() or "they are not read yet"
            found = msgspec.structs.replace(
                found, unknown=(*found.unknown, f"what pods hold: {trouble}")
            )
        return {**told, **msgspec.to_builtins(found)}

    def _compare(self, pod: PlacedPod, newcomer: Newcomer, top: int, now: float) -> Why:
        """A pod that has its place is looked at as if it came again: without what it takes itself."""
        deps = self._deps
        room = deps.rooms.room(pod.node) if pod.node else None
        if room is None:
            return why(deps.book, newcomer, now, top=top)
        before = without(room, deps.rooms.device_pods(pod.node), pod)
        with deps.book.as_if(pod.node, before):
            return why(deps.book, newcomer, now, there=pod.node, top=top)


_ONE_GPU = Newcomer(shape=PodShape(gpu_count=1, gpu_milli=1000))


def _passed(wish: Wish) -> str:
    if not wish.ours:
        return "it asks for no GPU or NPU: schedulers do not ask Fleetmedic about it, as shipped"
    if wish.pod is None:
        return f"it {wish.reason}; nodes are ranked as for typical pods"
    return ""


def _top(text: str | None) -> int:
    if text is None:
        return TOP
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_TOP:
        return int(text)
    raise web.HTTPBadRequest(text=f"top={text!r}: use a whole number from 1 to {MAX_TOP}")
