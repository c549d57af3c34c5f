"""What pods asked for before, so that the next one like them is not read anew. Pure.

The pods of a job differ in their names and volumes, and ask for the same. Of a request written as kube-scheduler writes it the pod is read in one
pass that copies what a wish depends on (``Parts``) and looks at nothing else of it; parts that were seen before have the wish that was
found then. All else goes the long way, through the whole object. So whether the rest of a pod can be read at all (no JSON encoder writes
broken UTF-8) is noticed the first time only. The names of the nodes are left where they are.
"""

from typing import NamedTuple

import msgspec
from msgspec import Raw

from aggregator.feeds.extender_pod import Wish
from aggregator.scores.terms import shared

Parts = tuple[bytes, ...]
"""JSON, as it was written, of all that ``wish_of`` reads, but for what tells whose pod it is: that counts for shared devices alone."""

MAX_WISHES = 512
MAX_PARTS, MAX_PARTS_BYTES = 64, 8 << 10
"""Of one wish: a pod of some twenty containers. What is remembered is 6 MiB at most."""

UNREADABLE = Wish()
"""Of a pod that cannot be read; never learned, so that each one is counted."""

_NOT_THERE = Raw(b"")


class _Container(msgspec.Struct, rename="camel", gc=False):
    resources: Raw = _NOT_THERE
    restart_policy: Raw = _NOT_THERE


class _Spec(msgspec.Struct, rename="camel", gc=False):
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    resource_claims: Raw = _NOT_THERE
    resources: Raw = _NOT_THERE
    overhead: Raw = _NOT_THERE
    node_selector: Raw = _NOT_THERE
    affinity: Raw = _NOT_THERE


class _Annotations(msgspec.Struct, gc=False):
    gpushare_device: Raw = msgspec.field(name="ALIYUN_COM_GPU_MEM_DEV", default=_NOT_THERE)
    gpushare_pod: Raw = msgspec.field(name="ALIYUN_COM_GPU_MEM_POD", default=_NOT_THERE)


class _Metadata(msgspec.Struct, gc=False):
    annotations: _Annotations | None = None


class _Pod(msgspec.Struct, gc=False):
    metadata: _Metadata | None = None
    spec: _Spec | None = None


class _Request(msgspec.Struct, rename="pascal", forbid_unknown_fields=True, gc=False):
    pod: _Pod


class Glance(NamedTuple):
    """A request as far as it was looked at."""

    parts: Parts
    pod: memoryview
    """As it was written."""
    names: memoryview
    """A JSON array, not looked at."""


_BEFORE_POD, _BEFORE_NAMES, _END = b'{"Pod":', b',"Nodes":null,"NodeNames":', b"]}"
"""As Go's encoder writes a request with ``nodeCacheCapable``. Within a string each quotation mark has a backslash, so the middle one is in none."""

_decode = msgspec.json.Decoder(_Request).decode
_decode_names = msgspec.json.Decoder(list[str]).decode


def glance(body: bytes | bytearray) -> Glance | None:
    """The pod of a request in one pass; ``None``: it has to be read with more care, or cannot be read."""
    at = body.find(_BEFORE_NAMES)
    if at < 0 or not body.startswith(_BEFORE_POD) or not body.endswith(_END):
        return None
    try:
        parts = _parts(_decode(body[:at] + b"}").pod)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    view = memoryview(body)
    return Glance(parts, view[len(_BEFORE_POD) : at], view[at + len(_BEFORE_NAMES) : -1])


def names_in(array: memoryview) -> list[str]:
    """The names of the nodes in a request that was glanced at.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: they cannot be read.
    """
    return _decode_names(array)


class Known(msgspec.Struct, frozen=True, eq=False):
    """What is remembered of a kind of pod; each is equal to itself alone."""

    wish: Wish


class Wishes:
    """The wishes of some kinds of pod. Where they become too many, the one learned first is forgotten."""

    def __init__(self) -> None:
        self._known: dict[Parts, Known] = {}

    def recall(self, parts: Parts) -> Known | None:
        """What was learned; ``None``: nothing."""
        return self._known.get(parts)

    def learn(self, parts: Parts, wish: Wish) -> Known | None:
        """The wish of a pod with these parts; ``None``: it is not kept, as another with them may have another, or they are too many."""
        if wish is UNREADABLE or (wish.pod is not None and shared(wish.pod.shape)):
            return None
        if len(parts) > MAX_PARTS or sum(map(len, parts)) > MAX_PARTS_BYTES:
            return None
        if len(self._known) >= MAX_WISHES:
            del self._known[next(iter(self._known))]
        known = self._known[parts] = Known(wish)
        return known


def _parts(pod: _Pod) -> Parts:
    metadata, spec = pod.metadata, pod.spec
    parts: list[Raw] = []
    if spec is not None:
        parts = [spec.resources, spec.overhead, spec.node_selector, spec.affinity]
        parts.append(spec.resource_claims)
        for each in spec.containers or ():
            parts.append(each.resources)
        for each in spec.init_containers or ():
            parts += (_INIT, each.resources, each.restart_policy)
    if metadata is not None and (said := metadata.annotations) is not None:
        parts += (_ANNOTATIONS, said.gpushare_device, said.gpushare_pod)
    return tuple(map(bytes, parts))


_INIT, _ANNOTATIONS = Raw(b"init"), Raw(b"annotations")
"""No JSON: whatever is written, what follows is not taken for something else."""
