"""What a fault-injecting proxy does to requests: rules of whom, what and how often, and the answers they give."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.controlplane.api import Json

REASONS = {
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
STORM = (409, 410, 429, 500, 503)


class Seen(NamedTuple):
    """One request that came by."""

    method: str
    path: str
    query: str
    status: int
    """As the client got it; 0: it got none."""
    fault: str
    """What was done to it: ``429``, ``cut before``, ``hang`` …; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answered here; the server never hears of it."""

    status: int
    retry_after_s: int | None = None
    cause: str = ""
    message: str = "a test says so"

    @property
    def name(self) -> str:
        return str(self.status)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}

    def body(self) -> Json:
        """A Status as the API server writes it."""
        details: Json = {}
        if self.retry_after_s is not None:
            details["retryAfterSeconds"] = self.retry_after_s
        if self.cause:
            details["causes"] = [{"reason": self.cause, "message": self.message}]
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": REASONS.get(self.status, "Unknown"),
            "code": self.status,
            **({"details": details} if details else {}),
        }


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks.

    ``before``: the server never hears of the request. ``after``: it does what it was asked for, and the
    client never learns of it. ``middle``: the client gets half of the answer.
    """

    when: Literal["before", "after", "middle"]

    @property
    def name(self) -> str:
        return f"cut {self.when}"


@dataclass(frozen=True, slots=True)
class Delay:
    """The request is held back for a while, then goes on as usual."""

    seconds: float
    name: str = "delay"


@dataclass(frozen=True, slots=True)
class Hang:
    """The request is never answered; the connection stays open until the rule ends or the client leaves."""

    name: str = "hang"


Fault = Answer | Cut | Delay | Hang


@dataclass(slots=True)
class Rule:
    """Whom a fault befalls, and how often. ``taken`` counts how often it did."""

    faults: Sequence[Fault]
    """One; or several, of which one is drawn each time."""
    method: str = ""
    path: str = ""
    """A regular expression for the whole path, without the query; empty: every one."""
    watch: bool | None = None
    """Only watches, only other requests, or (None) both."""
    times: int | None = None
    random: Random | None = None
    share: float = 1.0
    """Of the requests that match, by ``random``."""
    taken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.random is None and (self.share < 1 or len(self.faults) > 1):
            raise ValueError(
                "a rule of chance needs its random.Random, so that a run can be repeated"
            )

    def take(self, method: str, path: str, *, watch: bool) -> Fault | None:
        """What befalls this request, if anything; counted."""
        if self.times is not None and self.taken >= self.times:
            return None
        if (self.method and self.method != method) or self.watch not in (None, watch):
            return None
        if self.path and not re.fullmatch(self.path, path):
            return None
        if self.random is not None and self.random.random() >= self.share:
            return None
        self.taken += 1
        return self.faults[0] if self.random is None else self.random.choice(self.faults)


def expired_event() -> bytes:
    """The last line of a watch whose place in the history the server has forgotten."""
    gone = Answer(410, message="too old resource version").body()
    return msgspec.json.encode({"type": "ERROR", "object": gone}) + b"\n"
