"""Volcano's usage source over custom.metrics.k8s.io: two metrics of all nodes, as an API server extension answers them.

Volcano's usage plugin (``metrics: {type: prometheus_adaptor}``) asks twice per interval, for the root-scoped Node metrics
``node_cpu_usage_avg`` and ``node_memory_usage_avg``: a share 0..1 as a quantity, with a timestamp. It lets data older than five
minutes pass its filter and scores them 0. So:

* Each value carries the time of its node's newest report: a silent node is never filtered out, and after five minutes
  ranks behind those that are known.
* A node of which nothing is known is not there, which Volcano takes for data that are too old: the same.
* Where we do not lead the list is empty, so that after five minutes all nodes are equal, while discovery goes on: a group whose discovery fails holds up the deletion of
  namespaces in the whole cluster.

Shapes: Kubernetes' own ``custom_metrics`` v1beta2 and v1beta1, and ``meta/v1`` discovery.
"""

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from aggregator.feeds.steps import Steps, gently
from aggregator.usage import Usage

Json = dict[str, Any]

GROUP = "custom.metrics.k8s.io"
VERSIONS = ("v1beta2", "v1beta1")
"""Preferred first."""

METRICS = {"node_cpu_usage_avg": 0, "node_memory_usage_avg": 1}
"""Metric → place in a node's three summaries."""

WINDOW_SECONDS = 600.0
"""As long as Volcano's own Prometheus source averages over."""


def group() -> Json:
    """The APIGroup."""
    served = [{"groupVersion": f"{GROUP}/{each}", "version": each} for each in VERSIONS]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": served,
        "preferredVersion": served[0],
    }


def group_list() -> Json:
    """The APIGroupList of a server that has this group alone."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]}


def resources(version: str) -> Json:
    """The APIResourceList of one version."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{GROUP}/{version}",
        "resources": [
            {
                "name": f"nodes/{metric}",
                "singularName": "",
                "namespaced": False,
                "kind": "MetricValueList",
                "verbs": ["get"],
            }
            for metric in METRICS
        ],
    }


def values_in_steps(
    usage: Usage, metric: str, version: str, now: float, names: Sequence[str] | None = None
) -> Steps[Json]:
    """A MetricValueList of the nodes in ``names``, or of all; nodes that nothing is known of are left out.

    Args:
        usage: what is known.
        metric: one of ``METRICS``.
        version: one of ``VERSIONS``.
        now: Unix time.
        names: which nodes.
    """
    place = METRICS[metric]
    if names is None:
        summaries = yield from usage.window_in_steps(WINDOW_SECONDS, now)
    else:
        summaries = usage.window(WINDOW_SECONDS, now, names)
    items = [
        _value(name, metric, version, summary.average, usage.latest[name].received_seconds)
        for name, three in sorted(summaries.items())
        if name in usage.latest and (summary := three[place]) is not None
    ]
    return {
        "kind": "MetricValueList",
        "apiVersion": f"{GROUP}/{version}",
        "metadata": {},
        "items": items,
    }


def quantity(share: float) -> str:
    """A share as a Kubernetes quantity in thousandths, 0..1: ``375m``; ``0`` for what is no number."""
    thousandths = 0 if math.isnan(share) else round(1000 * min(1.0, max(0.0, share)))
    return f"{thousandths}m" if thousandths else "0"


def _value(node: str, metric: str, version: str, share: float, taken_seconds: float) -> Json:
    taken = datetime.datetime.fromtimestamp(int(taken_seconds), datetime.UTC)
    described = {"kind": "Node", "name": node, "apiVersion": "/v1"}
    named: Json = (
        {"metric": {"name": metric, "selector": None}}
        if version == "v1beta2"
        else {"metricName": metric, "selector": None}
    )
    window = "windowSeconds" if version == "v1beta2" else "window"
    return {
        "describedObject": described,
        **named,
        "timestamp": taken.strftime("%Y-%m-%dT%H:%M:%SZ"),
        window: int(WINDOW_SECONDS),
        "value": quantity(share),
    }


def refusal(code: int, reason: str, message: str) -> Json:
    """A ``Status`` that tells of a failure."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }


class CustomMetrics:
    """The feed over HTTP; the API server wants it behind TLS. One owner: the event loop.

    The API server looks at the rights of who asks through it. Whoever else reaches the port may read as well, unless
    ``RenewedTls`` demands the API server's own certificate: it tells how busy nodes are, no more than ``/metrics`` does.

    Args:
        usage: what is known.
        serving: whether this process leads and is not about to go.
        clock: Unix time.
    """

    def __init__(
        self, usage: Usage, *, serving: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        self._usage = usage
        self._serving = serving
        self._clock = clock
        self.requests_total = 0

    def routes(self) -> list[web.RouteDef]:
        """Discovery and the metrics, in both versions."""
        return [
            web.get("/apis", self._groups),
            web.get(f"/apis/{GROUP}", self._group),
            web.get(f"/apis/{GROUP}/{{version}}", self._resources),
            web.get(f"/apis/{GROUP}/{{version}}/nodes/{{node}}/{{metric}}", self._values),
        ]

    async def _groups(self, _: web.Request) -> web.Response:
        return web.json_response(group_list())

    async def _group(self, _: web.Request) -> web.Response:
        return web.json_response(group())

    async def _resources(self, request: web.Request) -> web.Response:
        version = request.match_info["version"]
        if version not in VERSIONS:
            return _refused(404, "NotFound", f"{version} of {GROUP} is not served: use {VERSIONS}")
        return web.json_response(resources(version))

    async def _values(self, request: web.Request) -> web.Response:
        self.requests_total += 1
        asked: Mapping[str, str] = request.match_info
        metric, version, node = asked["metric"], asked["version"], asked["node"]
        if version not in VERSIONS or metric not in METRICS:
            known = ", ".join(METRICS)
            return _refused(
                404, "NotFound", f"{version} {metric} is not served; nodes have {known}"
            )
        for selector in ("labelSelector", "metricLabelSelector"):
            if request.query.get(selector):
                return _refused(400, "BadRequest", f"{selector} is not understood: ask for all, *")
        usage = self._usage if self._serving() else Usage()
        steps = values_in_steps(
            usage, metric, version, self._clock(), None if node == "*" else [node]
        )
        found = await gently(steps)
        if node != "*" and not found["items"]:
            return _refused(404, "NotFound", f"nothing is known of node {node} now")
        return web.json_response(found)


def _refused(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(refusal(code, reason, message), status=code)
