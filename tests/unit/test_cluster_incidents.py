"""Incidents as Kubernetes objects: what is written is what is read, and nothing stops the reading."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.cluster import times
from aggregator.cluster.incident_objects import from_object
from aggregator.cluster.incident_status import to_spec, to_status
from aggregator.policy.model import (
    Attempt,
    AttemptOutcome,
    DrainProgress,
    DrainState,
    Incident,
    TimelineEntry,
)
from contract.vocabulary import Action, Domain, Finding, Phase, Severity

# The clock's own floats: from one second after 1970, where they step by less than a nanosecond.
SECONDS = st.floats(min_value=2.0**23, max_value=4e9)
TEXT = st.text(max_size=40)
FINDINGS = st.builds(
    Finding,
    code=TEXT,
    subject=TEXT,
    severity=st.sampled_from(Severity),
    action=st.sampled_from(Action),
    domain=st.sampled_from(Domain),
    evidence=TEXT,
    since_seconds=SECONDS,
    last_seen_seconds=SECONDS,
    count=st.integers(min_value=0, max_value=2**40),
    clears=TEXT,
)
ATTEMPTS = st.builds(
    Attempt,
    id=st.text(min_size=1, max_size=40),
    rung=st.text(min_size=1, max_size=40),
    subject=TEXT,
    started_seconds=SECONDS,
    deadline_seconds=SECONDS,
    boot_id=TEXT,
    outcome=st.sampled_from(AttemptOutcome),
    finished_seconds=st.none() | SECONDS,
    text=TEXT,
)
DRAINS = st.builds(
    DrainProgress,
    attempt=TEXT,
    state=st.sampled_from(DrainState),
    pods_total=st.integers(min_value=0, max_value=1000),
    pods_gone=st.integers(min_value=0, max_value=1000),
    text=TEXT,
)
INCIDENTS = st.builds(
    Incident,
    name=TEXT,
    node=TEXT,
    pool=TEXT,
    phase=st.sampled_from(Phase),
    findings=st.lists(FINDINGS, max_size=3).map(tuple),
    opened_seconds=SECONDS,
    quarantined_seconds=st.none() | SECONDS,
    clear_since_seconds=st.none() | SECONDS,
    closed_seconds=st.none() | SECONDS,
    next_step=TEXT,
    hold=st.booleans(),
    approve=st.lists(TEXT, max_size=3).map(tuple),
    cancel=st.booleans(),
    release=st.booleans(),
    note=TEXT,
    phase_since_seconds=st.none() | SECONDS,
    next_step_seconds=st.none() | SECONDS,
    noted_seconds=st.dictionaries(TEXT, SECONDS, max_size=3),
    attempts=st.lists(ATTEMPTS, max_size=3).map(tuple),
    drain=st.none() | DRAINS,
    soak_since_seconds=st.none() | SECONDS,
    muted_until_seconds=st.none() | SECONDS,
    needs=TEXT,
    told_seconds=st.none() | SECONDS,
    timeline=st.lists(
        st.builds(TimelineEntry, SECONDS, st.sampled_from(Phase), TEXT), max_size=3
    ).map(tuple),
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def as_object(incident: Incident) -> dict[str, Any]:
    return {
        "metadata": {"name": incident.name, "creationTimestamp": "2026-11-23T10:00:00Z"},
        "spec": to_spec(incident),
        "status": msgspec.json.decode(msgspec.json.encode(to_status(incident))),
    }


@given(INCIDENTS)
def test_what_is_written_is_what_is_read(incident: Incident) -> None:
    assert from_object(as_object(incident)) == incident


@given(INCIDENTS, st.data())
def test_an_object_with_one_part_spoilt_needs_a_human_or_reads_as_it_is(
    incident: Incident, data: st.DataObject
) -> None:
    obj = as_object(incident)
    spoil(obj["status"], data)
    read = from_object(obj)
    assert read.name == incident.name
    assert read.node == incident.node
    assert (read.hold, read.approve, read.cancel) == (
        incident.hold,
        incident.approve,
        incident.cancel,
    )
    assert len(read.attempts) == len(incident.attempts) or not isinstance(
        obj["status"].get("attempts", []), list
    )
    if read.phase is Phase.NEEDS_HUMAN and incident.phase is not Phase.NEEDS_HUMAN:
        assert read.next_step


def spoil(value: Any, data: st.DataObject) -> None:
    """Put junk in one place of a tree."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = data.draw(st.sampled_from(keys))
        inner = value[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
            value = inner
            continue
        value[key] = data.draw(JUNK)
        return


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status", "kind"]), JUNK))
def test_no_object_is_too_odd_to_be_read(obj: dict[str, Any]) -> None:
    before = copy.deepcopy(obj)
    assert from_object(obj).phase in Phase
    assert repr(obj) == repr(before)


def test_the_reason_names_the_place() -> None:
    obj = {
        "metadata": {"name": "i", "creationTimestamp": "2026-11-23T10:00:00Z"},
        "spec": {"node": "n"},
        "status": {"phase": "draining", "openedTime": "2026-11-23T10:00:00Z", "findings": [{}]},
    }
    read = from_object(obj)
    assert read.phase is Phase.NEEDS_HUMAN
    assert "$.findings[0]" in read.next_step
    assert read.opened_seconds == times.to_seconds("2026-11-23T10:00:00Z")


def test_an_attempt_that_cannot_be_read_still_counts() -> None:
    """Else spoiling one word would give a node its budget of reboots back."""
    good = {
        "id": "a",
        "rung": "reboot-node",
        "startedTime": "2026-11-23T10:00:00Z",
        "deadlineTime": "2026-11-23T10:20:00Z",
        "outcome": "done",
    }
    steps = [{"time": "2026-11-23T11:00:00Z", "phase": "repairing", "text": "reboot"}]
    status = {"phase": "repairing", "openedTime": "2026-11-23T09:00:00Z", "timeline": steps}
    odd = [{**good, "outcome": "perhaps"}, {**good, "startedTime": "then"}, "x", {"rung": 7}]
    read = from_object(
        {
            "metadata": {"name": "i", "creationTimestamp": "2026-11-23T10:00:00Z"},
            "spec": {"node": "n", "hold": True},
            "status": {**status, "attempts": [good, *odd]},
        }
    )
    assert (read.phase, read.node, read.hold) == (Phase.NEEDS_HUMAN, "n", True)
    assert "$.attempts[1]" in read.needs
    assert [each.rung for each in read.attempts] == ["reboot-node"] * 3 + ["unknown", "7"]
    assert [each.outcome for each in read.attempts] == [AttemptOutcome.DONE] + [
        AttemptOutcome.UNKNOWN
    ] * 4
    latest = times.to_seconds("2026-11-23T11:00:00Z")
    assert {each.started_seconds for each in read.attempts[1:]} == {latest}


@pytest.mark.parametrize("status", ["x", [], 7, {"phase": "draining"}, {"phase": 1}, {"a": 1}])
def test_a_status_that_is_none_is_no_beginning(status: Any) -> None:
    """A beginning would start to count from nothing."""
    obj = {"metadata": {"name": "i"}, "spec": {"node": "n"}, "status": status}
    read = from_object(obj)
    assert read.phase is Phase.NEEDS_HUMAN
    assert "mend its status or delete it" in read.needs


@pytest.mark.parametrize("status", [None, {}])
def test_no_status_is_a_beginning(status: Any) -> None:
    obj = {"metadata": {"name": "i"}, "spec": {"node": "n", "release": True}, "status": status}
    read = from_object(obj)
    assert (read.phase, read.release, read.needs) == (Phase.SUSPECT, True, "")


def test_however_tight_it_gets_no_attempt_is_taken_for_another() -> None:
    """An id is what an agent's answer is matched by; a hostile agent's words may take six bytes each."""
    name = "node-" + "x" * 200
    loud = "\u0001" * 1_024
    attempts = tuple(
        Attempt(
            id=f"{name}-{number}",
            rung="reset-device",
            started_seconds=1.0,
            deadline_seconds=2.0,
            outcome=AttemptOutcome.STARTED,
            text=loud,
        )
        for number in range(128)
    )
    steps = tuple(TimelineEntry(1.0, Phase.REPAIRING, loud) for _ in range(100))
    going = DrainProgress(attempt=attempts[-1].id, state=DrainState.RUNNING)
    one = Incident(
        name=name,
        node="n",
        pool="",
        phase=Phase.REPAIRING,
        findings=(),
        opened_seconds=1.0,
        attempts=attempts,
        timeline=steps,
        drain=going,
    )
    status = to_status(one)
    assert len(msgspec.json.encode(status)) < 700_000
    assert [each["id"] for each in status["attempts"]] == [each.id for each in attempts]
    assert status["drain"]["attempt"] == attempts[-1].id


def test_the_action_is_what_is_being_done_else_what_would_mend() -> None:
    finding = Finding(
        code="xid-79",
        subject="gpu:0",
        severity=Severity.FATAL,
        action=Action.REBOOT_NODE,
        domain=Domain.GPU,
        evidence="e",
        since_seconds=1.0,
        last_seen_seconds=1.0,
    )
    attempt = Attempt(id="a", rung="drain", started_seconds=1.0, deadline_seconds=2.0)
    done = msgspec.structs.replace(attempt, outcome=AttemptOutcome.DONE)
    one = Incident(
        name="i", node="n", pool="", phase=Phase.DRAINING, findings=(finding,), opened_seconds=1.0
    )
    assert to_status(one)["action"] == "reboot-node"
    assert to_status(msgspec.structs.replace(one, attempts=(done, attempt)))["action"] == "drain"
    assert to_status(msgspec.structs.replace(one, attempts=(done,)))["action"] == "reboot-node"
    assert "action" not in to_status(msgspec.structs.replace(one, phase=Phase.CLOSED))


@given(SECONDS)
def test_a_time_is_exact(seconds: float) -> None:
    assert times.to_seconds(times.exact(seconds)) == seconds


@given(st.floats())
def test_every_float_gives_a_time_that_is_stable(seconds: float) -> None:
    text = times.exact(seconds)
    assert times.exact(times.to_seconds(text)) == text
    assert times.to_seconds(times.micro(seconds)) == pytest.approx(times.to_seconds(text), abs=2e-6)
    assert times.to_seconds(times.whole(seconds)) <= times.to_seconds(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("1970-01-01t00:00:00.1234567891z", 0.123456789),
    ],
)
def test_times_of_others_are_read(text: str, seconds: float) -> None:
    assert times.to_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time|month"):
        times.to_seconds(text)
