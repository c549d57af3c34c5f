"""The shared words and their wire form: nothing is lost on the way, and nothing that arrives is an error."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from contract import codec
from contract import report_pb2 as pb
from contract.process import split_address
from contract.vocabulary import (
    CONDITIONS,
    Action,
    Directive,
    Domain,
    Event,
    Finding,
    Severity,
    SourceState,
    SourceStatus,
    Word,
    readable,
)
from contract.wire import MAX_TEXT

WORDS: list[type[Word]] = [Severity, Action, Domain, SourceState]
ENUMS = [pb.Severity, pb.Action, pb.Domain, pb.SourceState]
text = st.text(st.characters(codec="utf-8"), max_size=40)
times = st.floats(0, 4e9)


@pytest.mark.parametrize("kind", WORDS)
def test_every_word_reads_back_from_its_label(kind: type[Word]) -> None:
    for word in kind:
        assert kind.from_label(word.label) is word
        assert word.label == word.label.lower()
    with pytest.raises(ValueError, match=r"'nonsense' is not a .*; use one of: .*, "):
        kind.from_label("nonsense")


@pytest.mark.parametrize(("kind", "enum"), list(zip(WORDS, ENUMS, strict=True)))
def test_the_words_numbers_are_the_wires(kind: type[Word], enum: Any) -> None:
    wire = {value for name, value in enum.items() if not name.endswith("_UNSPECIFIED")}
    assert {int(word) for word in kind} == wire


@given(st.sampled_from(WORDS), st.integers(-(2**31), 2**31 - 1))
def test_an_unknown_number_reads_as_the_nearest_weaker_word(kind: type[Word], number: int) -> None:
    word = kind.at_most(number)
    assert word <= number or word is min(kind)
    assert not [other for other in kind if word < other <= number]


def test_every_domain_has_a_condition_of_its_own() -> None:
    assert set(CONDITIONS) == set(Domain)
    assert len(set(CONDITIONS.values())) == len(Domain)


def test_a_finding_as_people_see_it() -> None:
    shown = readable(
        Finding(
            code="xid-79",
            subject="gpu:0000:3b:00.0",
            severity=Severity.FATAL,
            action=Action.REBOOT_NODE,
            domain=Domain.GPU,
            evidence="off the bus",
            since_seconds=1.0,
            last_seen_seconds=2.0,
            count=3,
            clears="a new boot",
        )
    )
    assert shown == {
        "code": "xid-79",
        "subject": "gpu:0000:3b:00.0",
        "severity": "fatal",
        "action": "reboot-node",
        "domain": "gpu",
        "evidence": "off the bus",
        "since": 1.0,
        "last_seen": 2.0,
        "count": 3,
        "clears": "a new boot",
    }


OURS = st.one_of(
    st.builds(
        Finding,
        **dict.fromkeys(("code", "subject", "evidence"), text),
        severity=st.sampled_from(Severity),
        action=st.sampled_from(Action),
        domain=st.sampled_from(Domain),
        since_seconds=times,
        last_seen_seconds=times,
        count=st.integers(1, 2**64 - 1),
    ),
    st.builds(
        SourceStatus,
        name=text,
        reason=text,
        state=st.sampled_from(SourceState),
        since_seconds=times,
    ),
    st.builds(
        Event,
        **dict.fromkeys(("id", "kind", "subject", "message"), text),
        time_seconds=times,
        code=st.none() | st.integers(-(2**63), 2**63 - 1),
    ),
    st.builds(
        Directive,
        **dict.fromkeys(("id", "kind", "subject", "code", "reason"), text),
        expires_seconds=times,
    ),
)
WAYS: dict[type, tuple[Callable[[Any], Message], Callable[[Any], Any], type[Message]]] = {
    Finding: (codec.finding_to_wire, codec.finding_from_wire, pb.Finding),
    SourceStatus: (codec.source_to_wire, codec.source_from_wire, pb.SourceStatus),
    Event: (codec.event_to_wire, codec.event_from_wire, pb.Event),
    Directive: (codec.directive_to_wire, codec.directive_from_wire, pb.Directive),
}


@given(OURS)
def test_what_is_sent_is_what_arrives(value: Any) -> None:
    to_wire, from_wire, kind = WAYS[type(value)]
    assert from_wire(kind.FromString(to_wire(value).SerializeToString())) == value


def arbitrary(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Any message of this kind: every field may be missing, odd or absurd."""
    texts = st.text(st.characters(codec="utf-8"), max_size=2000)
    by_type: dict[int, st.SearchStrategy[Any]] = {
        FieldDescriptor.TYPE_STRING: texts,
        FieldDescriptor.TYPE_DOUBLE: st.floats(),
        FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
        FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        FieldDescriptor.TYPE_ENUM: st.integers(-(2**31), 2**31 - 1),
    }
    fields = {field.name: by_type[field.type] for field in kind.DESCRIPTOR.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: kind(**given))


@pytest.mark.parametrize("kind", WAYS)
@given(data=st.data())
def test_no_message_is_an_error_and_all_that_arrives_is_bounded(
    kind: type, data: st.DataObject
) -> None:
    to_wire, from_wire, wire = WAYS[kind]
    value = from_wire(data.draw(arbitrary(wire)))
    for name in value.__struct_fields__:
        field = getattr(value, name)
        assert not isinstance(field, str) or len(field) <= MAX_TEXT
        assert not isinstance(field, float) or math.isfinite(field)
    assert from_wire(to_wire(value)) == value  # and it can be sent on


@pytest.mark.parametrize("kind", WAYS)
@given(raw=st.binary(max_size=200))
def test_bytes_are_a_message_or_no_message(kind: type, raw: bytes) -> None:
    _, from_wire, wire = WAYS[kind]
    try:
        message = wire.FromString(raw)
    except DecodeError:
        return
    assert isinstance(from_wire(message), kind)


def test_what_was_not_said() -> None:
    finding = codec.finding_from_wire(pb.Finding())
    assert (finding.severity, finding.action, finding.domain, finding.count) == (
        *(Severity.INFO, Action.NONE, Domain.HOST),
        1,
    )
    assert codec.event_from_wire(pb.Event()).code is None
    assert codec.event_from_wire(pb.Event(code=0)).code == 0
    assert codec.source_from_wire(pb.SourceStatus()).state is SourceState.FAILING


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (-1, SourceState.FAILING),
        (1, SourceState.FAILING),
        (9, SourceState.FAILING),
        (10, SourceState.OK),
        (35, SourceState.FAILING),
        (1000, SourceState.STUCK),
    ],
)
def test_a_source_is_trusted_only_when_it_says_so(number: int, state: SourceState) -> None:
    message = pb.SourceStatus.FromString(b"\x10" + _varint(number))
    assert codec.source_from_wire(message).state is state


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@pytest.mark.parametrize("kind", WAYS)
def test_no_text_from_outside_is_kept_whole_however_long(kind: type) -> None:
    _, from_wire, wire = WAYS[kind]
    strings = [each.name for each in wire.DESCRIPTOR.fields if each.type == each.TYPE_STRING]
    value = from_wire(wire(**dict.fromkeys(strings, "x" * 5000)))
    fields = [getattr(value, name) for name in value.__struct_fields__]
    assert [len(each) for each in fields if isinstance(each, str)] == [MAX_TEXT] * len(strings)


def test_long_evidence_is_cut_before_it_is_sent() -> None:
    event = Event(id="1", time_seconds=0.0, kind="xid", subject="s", message="m" * 10_000)
    assert len(codec.event_to_wire(event).SerializeToString()) < 2 * MAX_TEXT


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("0.0.0.0:9402", ("0.0.0.0", 9402)),
        ("[::]:9402", ("::", 9402)),
        (":9402", ("", 9402)),
        ("aggregator.fleetmedic.svc:0", ("aggregator.fleetmedic.svc", 0)),
    ],
)
def test_an_address(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "9402", "host", "host:", "host:x", "host:65536", "host:-1"]
)
def test_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="is not address:port, like"):
        split_address(address)


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_is_refused_in_words(address: str) -> None:
    try:
        _, port = split_address(address)
    except ValueError as error:
        assert "is not address:port" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert 0 <= port <= 65_535
