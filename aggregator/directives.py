"""Directives to agents: signed, sent again until the agent says that it knows them.

An agent carries out an id at most once, ever, and answers a repeat with what it knows. So sending again is harmless, and
a new leader simply goes on.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from aggregator.cluster import EdgeError
from aggregator.policy.model import DirectiveOrder
from contract import report_pb2 as pb
from contract.vocabulary import Directive, DirectiveOutcome, OutcomeState

log = structlog.get_logger("directive")

RESEND_SECONDS = 5.0


class Signs(Protocol):
    """Whoever holds the private key."""

    def sign(self, directive: Directive) -> pb.SignedDirective:
        """The directive's bytes with a signature over them."""


class Directives:
    """Sends what is ordered. One owner: the event loop.

    Args:
        signer: signs; ``None``: nothing can be sent, and settings see to it that nothing is asked for.
        send: hands a directive to a node's stream; False where there is none.
        permit: raises ``EdgeError`` when this process may not act now; asked before each send.
        knows: whether a node's agent already told of this id.
        wall: Unix time.
    """

    def __init__(
        self,
        *,
        signer: Signs | None,
        send: Callable[[str, pb.SignedDirective], bool],
        permit: Callable[[], None],
        knows: Callable[[str, str], bool],
        wall: Callable[[], float],
    ) -> None:
        self._signer = signer
        self._send = send
        self._permit = permit
        self._knows = knows
        self._wall = wall
        self._sent: dict[str, float] = {}

    def carry(self, orders: Sequence[DirectiveOrder]) -> None:
        """Send each order that is still in time and that its agent does not know."""
        now = self._wall()
        asked = {each.id for each in orders}
        self._sent = {id_: at for id_, at in self._sent.items() if id_ in asked}
        for order in orders:
            waited = now - self._sent.get(order.id, 0.0) >= RESEND_SECONDS
            if waited and now < order.expires_seconds and not self._knows(order.node, order.id):
                self._sent[order.id] = now
                self._try(order, now)

    def outcomes(self, node: str) -> Sequence[DirectiveOutcome]:
        """Agents tell all there is."""
        return ()

    def _try(self, order: DirectiveOrder, now: float) -> None:
        if self._signer is None:
            return
        try:
            self._permit()
        except EdgeError as error:
            log.warning("not sent", id=order.id, node=order.node, why=str(error))
            return
        signed = self._signer.sign(
            Directive(
                id=order.id,
                kind=order.kind,
                node=order.node,
                subject=order.subject,
                code=order.code,
                issued_seconds=now,
                expires_seconds=order.expires_seconds,
                boot_id=order.boot_id,
                reason=order.reason,
            )
        )
        sent = self._send(order.node, signed)
        log.info(
            "sent" if sent else "its agent is not connected",
            id=order.id,
            kind=order.kind,
            node=order.node,
            subject=order.subject,
            reason=order.reason,
        )


class DryDirectives:
    """In a dry run and without a cluster nothing is sent; each is answered as refused, so that the ladder goes on."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._refused: dict[str, list[DirectiveOutcome]] = {}

    def carry(self, orders: Sequence[DirectiveOrder]) -> None:
        """Note what would have been sent."""
        known = {each.id for listed in self._refused.values() for each in listed}
        for order in orders:
            if order.id in known:
                continue
            log.info("would be sent", id=order.id, kind=order.kind, node=order.node)
            self._refused.setdefault(order.node, []).append(
                DirectiveOutcome(
                    id=order.id,
                    kind=order.kind,
                    state=OutcomeState.REFUSED,
                    subject=order.subject,
                    evidence="nothing is written in this mode, so it was not sent",
                    started_seconds=self._wall(),
                    finished_seconds=self._wall(),
                )
            )
            del self._refused[order.node][:-20]

    def outcomes(self, node: str) -> Sequence[DirectiveOutcome]:
        """What would have been sent to this node."""
        return self._refused.get(node, ())
