"""The kube-scheduler extender: ``filter`` and ``prioritize`` over scores made beforehand.

What is answered when something is missing or broken, and why:

* A node we know nothing of passes the filter and gets the neutral score: this feed may only ever take
  away places that are known to be bad.
* A pod that asks for no GPU or NPU is none of our business: all its nodes pass, all with one score.
* A request of which the node names can be read, but not the pod, is answered as if for such a pod.
* A request of which not even the names can be read gets HTTP 200: ``filter`` says so in ``Error``,
  which is the protocol's own way. The scheduler then does what its owner chose with ``ignorable``, and the
  words reach the pod's events; a status 400 would have the same effect but lose the words.
  ``prioritize`` has no room for an error and answers no scores at all: all hosts stay equal.

The scheduler hides an extender's errors, so they are counted here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from aggregator.scores.model import NEUTRAL_SCORE, NodeScore

FILTER_PATH = "/scheduler/filter"
PRIORITIZE_PATH = "/scheduler/prioritize"

MAX_BODY_BYTES = 64 << 20
"""Room for about 4,000 full Node objects; 5,000 bare names need 0.2 MiB."""

MAX_ERROR_CHARACTERS = 300

ACCELERATOR_PREFIXES = (
    "nvidia.com/",
    "huawei.com/Ascend",
    "huawei.com/npu",
    "koordinator.sh/gpu",
    "koordinator.sh/npu",
    "kubernetes.io/gpu",
    "aliyun.com/gpu",
    "amd.com/gpu",
    "volcano.sh/vgpu",
    "volcano.sh/vnpu",
)
"""Resource names that mean a GPU or NPU, or a share of one."""

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_ZERO = frozenset({b"0", b'"0"'})


class ExtenderCounters(Protocol):
    """The counters kept here; plain numbers that the exporter reads."""

    @property
    def extender_requests(self) -> dict[str, int]:
        """By verb: ``filter``, ``prioritize``."""

    extender_unknown_nodes_total: int
    extender_errors_total: int


class _Resources(msgspec.Struct):
    requests: dict[str, msgspec.Raw] | None = None
    limits: dict[str, msgspec.Raw] | None = None


class _Container(msgspec.Struct):
    resources: _Resources | None = None


class _PodSpec(msgspec.Struct, rename="camel"):
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    resources: _Resources | None = None
    resource_claims: list[msgspec.Raw] | None = None


class _Pod(msgspec.Struct):
    spec: _PodSpec | None = None


class _NodeList(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


class _Metadata(msgspec.Struct):
    name: str


class _Node(msgspec.Struct):
    metadata: _Metadata


class _Names(msgspec.Struct):
    """The nodes of a request. Go's encoder writes ``NodeNames``, its decoder takes any case; so do we."""

    upper_names: list[str] | None = msgspec.field(name="NodeNames", default=None)
    camel_names: list[str] | None = msgspec.field(name="nodeNames", default=None)
    lower_names: list[str] | None = msgspec.field(name="nodenames", default=None)
    upper_nodes: _NodeList | None = msgspec.field(name="Nodes", default=None)
    lower_nodes: _NodeList | None = msgspec.field(name="nodes", default=None)


class _Request(_Names):
    upper_pod: _Pod | None = msgspec.field(name="Pod", default=None)
    lower_pod: _Pod | None = msgspec.field(name="pod", default=None)


class _Host(msgspec.Struct, rename="pascal", gc=False):
    host: str
    score: int


class _FilterReply(msgspec.Struct, rename="pascal", omit_defaults=True):
    node_names: list[str] | None = None
    nodes: dict[str, list[msgspec.Raw]] | None = None
    failed_nodes: dict[str, str] = {}
    failed_and_unresolvable_nodes: dict[str, str] = {}
    error: str = ""


class _Asked(msgspec.Struct, frozen=True):
    """One request, understood."""

    names: list[str]
    nodes: list[msgspec.Raw] | None
    """The full objects, one per name, where the scheduler sent those."""
    ours: bool
    """Whether the pod asks for an accelerator."""


class Extender:
    """Answers the scheduler. Everything but reading the body is a lookup."""

    def __init__(
        self, scores: Callable[[], Mapping[str, NodeScore]], counters: ExtenderCounters
    ) -> None:
        self._scores = scores
        self._counters = counters
        self._decode = msgspec.json.Decoder(_Request).decode
        self._decode_names = msgspec.json.Decoder(_Names).decode
        self._decode_node = msgspec.json.Decoder(_Node).decode
        self._encode = msgspec.json.Encoder().encode

    def routes(self) -> list[web.RouteDef]:
        """The two verbs, as the scheduler's configuration names them."""
        return [web.post(FILTER_PATH, self._filter), web.post(PRIORITIZE_PATH, self._prioritize)]

    async def _filter(self, request: web.Request) -> web.Response:
        return _json(self.answer_filter(await _body(request)))

    async def _prioritize(self, request: web.Request) -> web.Response:
        return _json(self.answer_prioritize(await _body(request)))

    def answer_filter(self, body: bytes | None) -> bytes:
        """The reply to one ``filter`` request; ``None`` stands for one that was too large to take."""
        self._count("filter")
        try:
            return self._encode(self._filtered(self._understand(body)))
        except _UNREADABLE as error:
            self._counters.extender_errors_total += 1
            words = str(error)[:MAX_ERROR_CHARACTERS]
            return self._encode(_FilterReply(error=f"fleetmedic cannot read this request: {words}"))

    def answer_prioritize(self, body: bytes | None) -> bytes:
        """The reply to one ``prioritize`` request; ``None`` as above."""
        self._count("prioritize")
        try:
            return self._encode(self._prioritized(self._understand(body)))
        except _UNREADABLE:
            self._counters.extender_errors_total += 1
            return b"[]"

    def _filtered(self, asked: _Asked) -> _FilterReply:
        """The nodes that may take the pod, and why the others may not."""
        refused = self._refused(asked.names) if asked.ours else {}
        if asked.nodes is None:
            names = asked.names
            if refused:
                names = [name for name in names if name not in refused]
            return _FilterReply(node_names=names, failed_and_unresolvable_nodes=refused)
        kept = [
            node for name, node in zip(asked.names, asked.nodes, strict=True) if name not in refused
        ]
        return _FilterReply(nodes={"items": kept}, failed_and_unresolvable_nodes=refused)

    def _prioritized(self, asked: _Asked) -> list[_Host]:
        """One integer score per host that was named."""
        if not asked.ours:
            return [_Host(name, NEUTRAL_SCORE) for name in asked.names]
        known = self._scores().get
        scores = [known(name) for name in asked.names]
        self._counters.extender_unknown_nodes_total += scores.count(None)
        return [
            _Host(name, NEUTRAL_SCORE if score is None else score.score)
            for name, score in zip(asked.names, scores, strict=True)
        ]

    def _refused(self, names: Sequence[str]) -> dict[str, str]:
        known = self._scores().get
        refused = {}
        for name in names:
            score = known(name)
            if score is None:
                self._counters.extender_unknown_nodes_total += 1
            elif score.verdict == "sick":
                refused[name] = f"fleetmedic: {score.reason}"
        return refused

    def _understand(self, body: bytes | None) -> _Asked:
        if body is None:
            raise msgspec.DecodeError("it is larger than this server takes")
        asked: _Names
        try:
            request = asked = self._decode(body)
            ours = _asks_for_accelerator(request.upper_pod or request.lower_pod)
        except msgspec.DecodeError:
            asked = self._decode_names(body)
            ours = False
            self._counters.extender_errors_total += 1
        return self._asked(asked, ours)

    def _asked(self, names: _Names, ours: bool) -> _Asked:
        listed = names.upper_names or names.camel_names or names.lower_names
        full = names.upper_nodes or names.lower_nodes
        if listed is not None or full is None or full.items is None:
            return _Asked(listed or [], None, ours)
        found = [self._decode_node(node).metadata.name for node in full.items]
        return _Asked(found, full.items, ours)

    def _count(self, verb: str) -> None:
        requests = self._counters.extender_requests
        requests[verb] = requests.get(verb, 0) + 1


def _asks_for_accelerator(pod: _Pod | None) -> bool:
    """Whether any container needs a GPU or NPU. A resource claim may be one, so it counts as one."""
    if pod is None or pod.spec is None:
        return False
    spec = pod.spec
    if spec.resource_claims:
        return True
    wanted = [each.resources for each in [*(spec.containers or ()), *(spec.init_containers or ())]]
    return any(
        name.startswith(ACCELERATOR_PREFIXES) and bytes(amount) not in _ZERO
        for resources in [spec.resources, *wanted]
        if resources is not None
        for amounts in (resources.requests, resources.limits)
        if amounts
        for name, amount in amounts.items()
    )


async def _body(request: web.Request) -> bytes | None:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
