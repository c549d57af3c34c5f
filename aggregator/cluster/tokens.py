"""Which node an agent runs on, as the API server vouches for it.

The kubelet mounts a token into the agent's pod that is bound to the pod and so to its node. The
server reads that binding back to us: an agent cannot claim another node.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from aggregator.cluster.client import Api, Json

REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
NODE_NAME = "authentication.kubernetes.io/node-name"
AUDIENCE = "fleetmedic"
PROVEN_SECONDS = 60.0
REFUSED_SECONDS = 5.0
REMEMBERED = 16_384


class _Verdict(NamedTuple):
    node: str | None
    expires: float


class TokenReviewer:
    """Asks the API server about tokens; remembers what it said, by a hash of the token.

    Args:
        api: the way to the server.
        service_account: ``namespace/name`` of the agents.
        clock: monotonic seconds.
        audience: that a token has to be meant for.
    """

    def __init__(
        self,
        api: Api,
        service_account: str,
        *,
        clock: Callable[[], float],
        audience: str = AUDIENCE,
    ) -> None:
        namespace, _, name = service_account.partition("/")
        if not namespace or not name:
            raise ValueError(f"{service_account!r} is not a service account: write namespace/name")
        self._api = api
        self._user = f"system:serviceaccount:{namespace}:{name}"
        self._audience = audience
        self._clock = clock
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()

    async def review(self, token: str) -> str | None:
        """The node that this token proves, ``None`` when it proves none.

        Raises:
            ApiError: the server could not be asked, so nothing is known.
        """
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        known = self._verdicts.get(digest)
        if known is not None and self._clock() < known.expires:
            return known.node
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        node = self._node((await self._api.create(REVIEWS, body)).get("status") or {})
        lasts = PROVEN_SECONDS if node else REFUSED_SECONDS
        self._remember(digest, _Verdict(node, self._clock() + lasts))
        return node

    def _node(self, status: Json) -> str | None:
        user = status.get("user") or {}
        vouched = (
            status.get("authenticated") is True
            and self._audience in (status.get("audiences") or ())
            and user.get("username") == self._user
        )
        names: list[str] = (user.get("extra") or {}).get(NODE_NAME) or []
        return names[0] if vouched and len(names) == 1 and names[0] else None

    def _remember(self, digest: bytes, verdict: _Verdict) -> None:
        self._verdicts[digest] = verdict
        self._verdicts.move_to_end(digest)
        if len(self._verdicts) > REMEMBERED:
            self._verdicts.popitem(last=False)
