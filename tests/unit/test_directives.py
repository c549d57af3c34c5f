"""Directives on their way to agents: signed, repeated until known, and only while we may."""

import msgspec
import pytest

from aggregator.cluster import EdgeError
from aggregator.directives import RESEND_SECONDS, Directives, DryDirectives
from aggregator.policy.model import DirectiveOrder
from contract import report_pb2 as pb
from contract.codec import directive_from_wire, directive_to_wire
from contract.vocabulary import Directive, OutcomeState

ORDER = DirectiveOrder(
    node="n1",
    id="i-1",
    kind="reset-device",
    subject="gpu:0000:3b:00.0",
    code="xid-48",
    expires_seconds=1_100.0,
    boot_id="b1",
    reason="because",
)


class Plain:
    """A signer whose signature anybody could make; who checks them is tested elsewhere."""

    def sign(self, directive: Directive) -> pb.SignedDirective:
        return pb.SignedDirective(directive=directive_to_wire(directive).SerializeToString())


class Post:
    """Directives with a clock, a stream and a lease in the test's hand."""

    def __init__(self, signer: Plain | None = None) -> None:
        self.now = 1_000.0
        self.sent: list[tuple[str, Directive]] = []
        self.connected = True
        self.known: set[str] = set()
        self.may = True
        self.directives = Directives(
            signer=signer or Plain(),
            send=self._send,
            permit=self._permit,
            knows=lambda node, id_: id_ in self.known,
            wall=lambda: self.now,
        )

    def _send(self, node: str, signed: pb.SignedDirective) -> bool:
        if self.connected:
            told = directive_from_wire(pb.Directive.FromString(signed.directive))
            self.sent.append((node, told))
        return self.connected

    def _permit(self) -> None:
        if not self.may:
            raise EdgeError("not the leader")

    def carry(self, *orders: DirectiveOrder, after: float = 0.0) -> int:
        self.now += after
        self.directives.carry(orders)
        return len(self.sent)


def test_everything_that_was_decided_is_in_what_is_signed() -> None:
    post = Post()
    post.carry(ORDER)
    ((node, told),) = post.sent
    assert node == "n1"
    assert told == Directive(
        id="i-1",
        kind="reset-device",
        node="n1",
        subject=ORDER.subject,
        code="xid-48",
        issued_seconds=1_000.0,
        expires_seconds=1_100.0,
        boot_id="b1",
        reason="because",
    )


def test_it_is_sent_again_in_a_calm_rhythm_until_the_agent_knows_it() -> None:
    post = Post()
    for _ in range(10):
        post.carry(ORDER)
    assert len(post.sent) == 1
    assert post.carry(ORDER, after=RESEND_SECONDS) == 2
    post.known.add("i-1")
    assert post.carry(ORDER, after=60.0) == 2


def test_what_expired_is_not_sent() -> None:
    assert Post().carry(ORDER, after=100.0) == 0


@pytest.mark.parametrize("lost", ["lease", "stream"])
def test_without_a_lease_or_a_stream_nothing_goes_out(lost: str) -> None:
    post = Post()
    post.may, post.connected = lost != "lease", lost != "stream"
    assert post.carry(ORDER) == 0
    post.may = post.connected = True
    assert post.carry(ORDER, after=RESEND_SECONDS) == 1


def test_an_order_that_is_withdrawn_is_forgotten() -> None:
    post = Post()
    post.carry(ORDER)
    assert post.carry(after=60.0) == 1
    assert post.carry(msgspec.structs.replace(ORDER, id="i-2")) == 2


def test_a_dry_run_sends_nothing_and_answers_refused_once() -> None:
    dry = DryDirectives(lambda: 1_000.0)
    for _ in range(3):
        dry.carry([ORDER])
    (outcome,) = dry.outcomes("n1")
    assert (outcome.id, outcome.state) == ("i-1", OutcomeState.REFUSED)
    assert dry.outcomes("n2") == ()
    for number in range(100):
        dry.carry([msgspec.structs.replace(ORDER, id=f"i-{number}")])
    assert len(dry.outcomes("n1")) <= 20
