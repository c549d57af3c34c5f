"""Tells a ticket system that a person is needed: one POST with everything that is known about the incident.

A failure is an ``EdgeError``, so that the next round tells it again; the ``Idempotency-Key`` makes repeats of the
same news recognisable. Nothing of the receiver's answer is believed but its status.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from aggregator.cluster import EdgeError
from aggregator.cluster.incident_status import to_status
from aggregator.policy.model import Incident, Notify

TIMEOUT_SECONDS = 10.0
ANSWER_LENGTH = 200
"""Characters of an answer that an error repeats."""
ANSWER_BYTES = 4 * ANSWER_LENGTH
TOKEN_BYTES = 16_384


class Webhook:
    """Calls one URL.

    Args:
        url: https, or http to this machine.
        token_file: with the bearer token, read at each call so that it may be renewed; ``None``: none is sent.
        timeout_seconds: for the whole call.
    """

    def __init__(
        self, url: str, *, token_file: Path | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self._url = url
        self._token_file = token_file
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def __call__(self, notify: Notify) -> None:
        """Tell about one incident.

        Raises:
            EdgeError: it was not taken, as far as we know.
        """
        incident = notify.incident
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "fleetmedic",
            "Idempotency-Key": _key(incident),
            **await self._authorization(),
        }
        body = msgspec.json.encode(message(notify))
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                # A redirect would carry the token and the evidence to where nobody meant them to go.
                session.post(
                    self._url, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                if not 200 <= response.status < 300:
                    said = (await response.content.read(ANSWER_BYTES)).decode(errors="replace")
                    raise EdgeError(
                        f"the webhook did not take {incident.name}: {response.status} "
                        f"{' '.join(said.split())[:ANSWER_LENGTH]}".rstrip()
                    )
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            # Some services keep their secret in the URL.
            words = (str(error) or type(error).__name__).replace(self._url, "its URL")
            raise EdgeError(f"the webhook cannot be told of {incident.name}: {words}") from error

    async def _authorization(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            token = await asyncio.to_thread(_read(self._token_file))
        except (OSError, UnicodeDecodeError) as error:
            raise EdgeError(
                f"the webhook's token cannot be read from {self._token_file}: "
                f"{type(error).__name__}; check webhook_token_file"
            ) from error
        if not token or not token.isascii() or not token.isprintable():
            raise EdgeError(f"{self._token_file} holds no bearer token; check webhook_token_file")
        return {"Authorization": f"Bearer {token}"}


def message(notify: Notify) -> dict[str, Any]:
    """What is sent: the words of ``kubectl get inc -o yaml``, with what a ticket's title needs in front."""
    incident: Incident = notify.incident
    return {
        "incident": incident.name,
        "node": incident.node,
        "pool": incident.pool,
        "phase": incident.phase,
        "reason": notify.reason,
        "needs": incident.needs,
        "note": incident.note,
        "status": to_status(incident),
    }


def _key(incident: Incident) -> str:
    """The same for repeats of the same news; another one when the incident comes to this phase a second time."""
    since = incident.phase_since_seconds
    entered = "" if since is None else f":{since:.0f}"
    return f"{incident.name}:{incident.phase}{entered}"


def _read(path: Path) -> Callable[[], str]:
    def read() -> str:
        with path.open("rb") as file:
            return file.read(TOKEN_BYTES).decode().strip()

    return read
