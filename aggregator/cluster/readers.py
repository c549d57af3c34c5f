"""Who may read the aggregator's HTTP API, as the API server says: whose token it is, and what that one may do.

The right that is asked for is ``get`` on ``services/proxy`` of the aggregator's Service: the very one by which people read the
same answers through the Kubernetes API. (A path as ``nonResourceURL`` would not do: Kubernetes lets everybody who is known ``get`` ``/api/*``.)
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import ApiError, Forbidden
from aggregator.cluster.tokens import REVIEWS

ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
ALLOWED_SECONDS = 60.0
"""How long a right that was taken away may still count."""
REFUSED_SECONDS = 5.0
REMEMBERED = 4_096
"""Tokens, of each kind."""
AT_ONCE = 4
"""Reviews under way, of each kind."""
WAITING = 64
"""Requests with unknown tokens that wait for one; more are turned away, so that a flood of made-up tokens does not become one of
reviews. Who was let in before has turns and a queue of its own: such a flood locks nobody out."""


class Refusal(NamedTuple):
    """Why somebody may not read."""

    status: int
    """HTTP: 401 who are you, 403 you may not, 503 that cannot be known now."""
    text: str


class ReaderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The Service that stands for the aggregator in the rights of people and pods."""

    namespace: str = "fleetmedic"
    service: str = "fleetmedic-aggregator:http"
    """With its port's name, as it stands in the path of the Kubernetes API's proxy."""


class _Verdict(NamedTuple):
    refusal: Refusal | None
    expires: float


class _Queue:
    """Requests that wait until their token is reviewed."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.waiting = 0


class Readers:
    """Asks the API server who somebody is and whether that one may read; remembers the answer, by a hash of the token.

    Args:
        api: the way to the server; it needs ``create`` on ``tokenreviews`` and ``subjectaccessreviews``.
        settings: the Service that the right is asked for.
        clock: monotonic seconds.
    """

    def __init__(self, api: Api, settings: ReaderSettings, *, clock: Callable[[], float]) -> None:
        self._api = api
        self._settings = settings
        self._clock = clock
        self._let_in: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._refused: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._strangers = _Queue()
        self._guests = _Queue()
        """Of those that were let in before."""

    async def refusal(self, token: str) -> Refusal | None:
        """Why the bearer of this token may not read; ``None``: it may."""
        if not token.isascii():
            return Refusal(401, "no token has such characters")
        if not token:
            return Refusal(
                401, f"no token: send `Authorization: Bearer TOKEN` of one with {self._right}"
            )
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        if (known := self._known(digest)) is not None:
            return known.refusal
        queue = self._guests if digest in self._let_in else self._strangers
        if queue.waiting >= WAITING:
            return Refusal(503, "too many tokens are under review: ask again in a few seconds")
        queue.waiting += 1
        try:
            async with queue.turns:
                if (known := self._known(digest)) is not None:  # found out while this one waited
                    return known.refusal
                refusal = await self._review(token)
        except Forbidden as error:
            return Refusal(503, f"tokens cannot be reviewed: {error}; check deploy/base/rbac.yaml")
        except ApiError as error:
            return Refusal(503, f"tokens cannot be reviewed now: {error}")
        finally:
            queue.waiting -= 1
        self._remember(digest, refusal)
        return refusal

    @property
    def _right(self) -> str:
        settings = self._settings
        return f"get on services/proxy {settings.service!r} in namespace {settings.namespace!r}"

    def _known(self, digest: bytes) -> _Verdict | None:
        verdict = self._let_in.get(digest) or self._refused.get(digest)
        return verdict if verdict is not None and self._clock() < verdict.expires else None

    async def _review(self, token: str) -> Refusal | None:
        body: Json = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        status = (await self._api.create(REVIEWS, body)).get("status") or {}
        user = status.get("user") or {}
        if status.get("authenticated") is not True or not user.get("username"):
            return Refusal(401, "the API server does not know this token")
        wanted = {
            "verb": "get",
            "resource": "services",
            "subresource": "proxy",
            "namespace": self._settings.namespace,
            "name": self._settings.service,
        }
        who = {
            "user": user["username"],
            "uid": user.get("uid") or "",
            "groups": user.get("groups") or [],
            "extra": user.get("extra") or {},
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {**who, "resourceAttributes": wanted},
        }
        status = (await self._api.create(ACCESS_REVIEWS, body)).get("status") or {}
        if status.get("allowed") is True:
            return None
        return Refusal(403, f"{user['username']} may not read here: it needs {self._right}")

    def _remember(self, digest: bytes, refusal: Refusal | None) -> None:
        """The two kinds apart: refusals that anybody can have made crowd out nobody who was let in."""
        lasts = REFUSED_SECONDS if refusal else ALLOWED_SECONDS
        kept, other = (self._refused, self._let_in) if refusal else (self._let_in, self._refused)
        other.pop(digest, None)
        kept[digest] = _Verdict(refusal, self._clock() + lasts)
        kept.move_to_end(digest)
        if len(kept) > REMEMBERED:
            kept.popitem(last=False)
