"""Why a node stands as it does: every state has its sentence, and an open incident always has a way to stop it."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.ladder_file import shipped
from aggregator.policy.config import PolicyConfig
from aggregator.policy.explain.explain import MAX_EVIDENCE, explain
from aggregator.policy.explain.explanation import Explanation, Facts, Line
from aggregator.policy.explain.words import away, lasting, moment
from aggregator.policy.health import NodeHealth
from aggregator.policy.ladder import Rung
from aggregator.policy.model import (
    Attempt,
    AttemptOutcome,
    ClusterNode,
    DrainProgress,
    DrainState,
    Incident,
    Taint,
    TimelineEntry,
)
from aggregator.web.explained import as_text
from contract.vocabulary import Action, Domain, Finding, Phase, Severity, SourceState, SourceStatus

NOW = 1_760_000_000.0
CONFIG = PolicyConfig(
    act=frozenset(Rung), needs_approval=frozenset({Rung.REBOOT_NODE}), ladder=shipped()
)
LOST = Finding(
    code="gpu-lost",
    subject="gpu:0000:3b:00.0",
    severity=Severity.FATAL,
    action=Action.REBOOT_NODE,
    domain=Domain.GPU,
    evidence="fell off the bus.",
    since_seconds=NOW - 60,
    last_seen_seconds=NOW,
    count=3,
    clears="reboot",
)
HARD = Taint("gpu-lost", "NoSchedule")
SOFT = Taint("gpu-lost", "PreferNoSchedule")


def node(**changes: Any) -> ClusterNode:
    return ClusterNode(**{"name": "gpu-07", "gpu_capacity": 8, **changes})


def health(*findings: Finding, **changes: Any) -> NodeHealth:
    return NodeHealth(**{"name": "gpu-07", "pool": "h100", "findings": findings, **changes})


def incident(phase: Phase = Phase.QUARANTINED, **changes: Any) -> Incident:
    return Incident(
        **{
            "name": "inc-7",
            "node": "gpu-07",
            "pool": "h100",
            "phase": phase,
            "findings": (LOST,),
            "opened_seconds": NOW - 60,
            "quarantined_seconds": NOW - 59,
            "next_step": "drain of the whole node",
            "timeline": (TimelineEntry(NOW - 60, Phase.SUSPECT, "first seen"),),
            **changes,
        }
    )


def told(**changes: Any) -> Explanation:
    known = {"name": "gpu-07", "node": node(), "health": health(), "config": CONFIG, "now": NOW}
    return explain(Facts(**{**known, **changes}))


def words(lines: tuple[Line, ...]) -> str:
    return " ".join(each.text for each in lines)


def commands(explanation: Explanation) -> list[str]:
    return [each.command for each in (*explanation.stop, *explanation.go_on) if each.command]


CLOSED = incident(Phase.CLOSED, closed_seconds=NOW - 30, muted_until_seconds=NOW + 3_600)

STATES: list[tuple[dict[str, Any], str]] = [
    ({}, "In service: Fleetmedic keeps no pods from it."),
    ({"node": None}, "The cluster lists no node of this name."),
    (
        {"node": node(taint=HARD, quarantined_by="inc-7"), "incident": incident()},
        (
            "It takes no new pods: taint fleetmedic.io/quarantine=gpu-lost:NoSchedule, "
            "put there by Fleetmedic for incident inc-7."
        ),
    ),
    ({"node": node(taint=HARD)}, "put there by Fleetmedic."),
    ({"node": node(taint=SOFT)}, "Other nodes are preferred to it"),
    (
        {"node": node(taint=Taint("gpu-lost", "NoExecute"))},
        "those that do not tolerate it were removed",
    ),
    (
        {"node": node(quarantined_by="inc-7")},
        "A person took Fleetmedic's taint off (it was for incident inc-7).",
    ),
    (
        {"node": node(unschedulable=True, cordoned_by="inc-7")},
        "Cordoned by Fleetmedic for incident inc-7.",
    ),
    (
        {"node": node(unschedulable=True)},
        "Cordoned by a person or another tool, not by Fleetmedic; Fleetmedic will not undo it.",
    ),
    (
        {"node": node(cordoned_by="inc-7")},
        "A person uncordoned it (Fleetmedic had cordoned it for incident inc-7).",
    ),
    ({"node": node(managed=False)}, "Opted out by its label fleetmedic.io/managed=false"),
    (
        {"closed": (CLOSED,)},
        (
            "A person overruled Fleetmedic (incident inc-7). Until 2025-10-09 09:53:20Z (in 60 min) "
            "these are shown here and not acted on: gpu-lost."
        ),
    ),
    ({"incident": incident(hold=True)}, "On hold by a person: Fleetmedic decides nothing more"),
    ({"incident": incident(cancel=True)}, "Cancelled by a person"),
    ({"incident": incident(release=True)}, "A person says that it is mended"),
    ({"incident": incident(approve=("drain",))}, "A person agreed to: drain."),
    ({"incident": incident(note="ticket 4711")}, "Note: ticket 4711"),
    ({"incident": incident()}, "Incident inc-7 is open, in phase quarantined."),
    ({"stopped": "power work"}, "Everything is stopped by the kill switch: 'power work'."),
    ({"mode": "observe"}, "This aggregator is in observe mode: it decides and writes nothing."),
    ({"health": None}, "No agent of this node ever reported"),
    ({"health": health(age_seconds=300.0)}, "Its agent has been silent for 5 min"),
]


@pytest.mark.parametrize(("facts", "sentence"), STATES)
def test_every_state_has_its_sentence(facts: dict[str, Any], sentence: str) -> None:
    assert sentence in words(told(**facts).state)


@pytest.mark.parametrize(
    ("facts", "summary"),
    [
        ({}, "gpu-07 is in service. No incident is open."),
        ({"node": None}, "gpu-07 is not listed by the cluster. No incident is open."),
        (
            {"closed": (CLOSED,)},
            (
                "gpu-07 is in service. No incident is open. A person had Fleetmedic leave its faults "
                "alone."
            ),
        ),
        (
            {"node": node(taint=HARD), "incident": incident()},
            (
                "gpu-07 is quarantined by Fleetmedic: gpu-lost on gpu:0000:3b:00.0. "
                "Next: drain of the whole node"
            ),
        ),
        (
            {
                "node": node(taint=HARD, unschedulable=True, cordoned_by="i"),
                "incident": incident(hold=True),
            },
            (
                "gpu-07 is quarantined and cordoned by Fleetmedic: gpu-lost on gpu:0000:3b:00.0. "
                "It is on hold by a person."
            ),
        ),
        (
            {"node": node(taint=HARD, unschedulable=True), "incident": incident(next_step="")},
            (
                "gpu-07 is quarantined by Fleetmedic and cordoned by somebody else: gpu-lost on "
                "gpu:0000:3b:00.0."
            ),
        ),
        (
            {"node": node(taint=SOFT), "incident": incident(Phase.VERIFYING), "stopped": "x"},
            (
                "gpu-07 is on probation by Fleetmedic: gpu-lost on gpu:0000:3b:00.0. "
                "Everything is stopped by the kill switch."
            ),
        ),
        (
            {"incident": incident(Phase.NEEDS_HUMAN)},
            "gpu-07 is in service and watched: gpu-lost on gpu:0000:3b:00.0. It needs a person.",
        ),
        (
            {"node": node(unschedulable=True), "health": health(LOST)},
            (
                "gpu-07 is cordoned by a person or another tool, not by Fleetmedic: gpu-lost on "
                "gpu:0000:3b:00.0. No incident is open."
            ),
        ),
    ],
)
def test_one_sentence_says_it_all(facts: dict[str, Any], summary: str) -> None:
    assert told(**facts).summary == summary


def test_evidence_tells_what_is_raised_what_was_and_what_cannot_be_seen() -> None:
    past = msgspec.structs.replace(LOST, code="xid-79", action=Action.NONE)
    blind = SourceStatus(name="nvidia", state=SourceState.STUCK, reason="no answer for 30 s")
    open_now = incident(findings=(LOST, past))
    found = told(health=health(LOST, sources=(blind,)), incident=open_now)
    assert found.evidence == (
        Line(
            "gpu-lost on gpu:0000:3b:00.0 (fatal, seen 3 times): fell off the bus; "
            "suggested: reboot-node; ends with: reboot",
            NOW - 60,
        ),
        Line(
            "xid-79 on gpu:0000:3b:00.0 (fatal, seen 3 times): fell off the bus; "
            "no action suggested; ends with: reboot (no longer raised)",
            NOW - 60,
        ),
        Line("Not seen: nvidia is stuck: no answer for 30 s"),
    )
    silent = told(health=health(age_seconds=99.0), incident=open_now)
    assert "not seen anew: no fresh report" in silent.evidence[0].text
    assert words(told().evidence) == "Nothing is wrong that Fleetmedic can see."
    assert words(told(health=None).evidence) == "Nothing is known of it now."
    many = [msgspec.structs.replace(LOST, subject=f"gpu:{index}") for index in range(25)]
    assert told(health=health(*many)).evidence[MAX_EVIDENCE].text == "And 5 more."


def attempt(outcome: AttemptOutcome, **changes: Any) -> Attempt:
    ended = None if outcome is AttemptOutcome.STARTED else NOW - 10
    given = {"id": "inc-7-1", "rung": "reset-device", "started_seconds": NOW - 40}
    times = {"deadline_seconds": NOW + 600, "finished_seconds": ended}
    return Attempt(**{**given, **times, "outcome": outcome, **changes})


@pytest.mark.parametrize(
    ("tried", "text"),
    [
        (
            attempt(AttemptOutcome.STARTED),
            "reset-device: under way, at most until 2025-10-09 09:03:20Z (in 10 min)",
        ),
        (
            attempt(AttemptOutcome.DONE, subject="gpu:1", text="counters restarted"),
            "reset-device of gpu:1: done after 30 s: counters restarted",
        ),
        (
            attempt(AttemptOutcome.FAILED, text="in use"),
            "reset-device: failed after 30 s: in use",
        ),
        (attempt(AttemptOutcome.REFUSED), "reset-device: refused, nothing was done"),
        (attempt(AttemptOutcome.UNKNOWN), "reset-device: outcome unknown, so it is not repeated"),
        (attempt(AttemptOutcome.CANCELLED), "reset-device: stopped by a person"),
    ],
)
def test_what_was_tried_is_told_with_its_outcome(tried: Attempt, text: str) -> None:
    found = told(incident=incident(attempts=(tried,)))
    assert found.done == (Line("suspect: first seen", NOW - 60), Line(text, NOW - 40))


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (DrainState.RUNNING, "Drain under way"),
        (DrainState.DONE, "Drain done"),
        (DrainState.STUCK, "Drain stuck, nothing was forced"),
    ],
)
def test_a_drain_tells_how_far_it_is_and_what_holds_it_up(state: DrainState, word: str) -> None:
    drain = DrainProgress(
        attempt="a", state=state, pods_total=7, pods_gone=5, text="2 blocked by PDB serving/llm"
    )
    found = told(incident=incident(Phase.DRAINING, drain=drain))
    assert found.done[-1].text == f"{word}, 5 of 7 pods gone: 2 blocked by PDB serving/llm"


def test_earlier_incidents_are_told_and_counted() -> None:
    assert words(told().done) == "Nothing: no incident of this node is kept."
    closed = tuple(
        msgspec.structs.replace(CLOSED, name=f"inc-{n}", closed_seconds=NOW - n) for n in range(5)
    )
    assert [each.text for each in told(closed=closed).done] == [
        *(f"Earlier incident inc-{n}: first seen" for n in (2, 1, 0)),
        "suspect: first seen",  # the story of the newest
    ]
    with_open = told(closed=closed, incident=incident())
    assert with_open.done[-1].text.startswith("Before this one: 5 earlier")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, [("Nothing: no incident is open.", None)]),
        (
            {"incident": incident(next_step_seconds=NOW + 60)},
            [("drain of the whole node", NOW + 60)],
        ),
        (
            {"incident": incident(hold=True)},
            [
                ("Nothing until the hold is taken off.", None),
                ("Then: drain of the whole node", None),
            ],
        ),
        (
            {"incident": incident(Phase.NEEDS_HUMAN, needs="replace GPU 3", next_step="")},
            [("A person is needed: replace GPU 3", None)],
        ),
        (
            {"incident": incident(), "stopped": "x"},
            [
                ("Nothing until a person clears the kill switch.", None),
                ("Then: drain of the whole node", None),
            ],
        ),
        (
            {"incident": incident(), "health": health(age_seconds=99.0)},
            [
                (
                    (
                        "Nothing until its agent reports again: nothing is decided about what is not "
                        "seen."
                    ),
                    None,
                ),
                ("Then: drain of the whole node", None),
            ],
        ),
        (
            {"closed": (CLOSED,)},
            [
                (
                    (
                        "Faults that are still there at 2025-10-09 09:53:20Z (in 60 min) are acted on "
                        "again."
                    ),
                    NOW + 3_600,
                )
            ],
        ),
        (
            {"node": node(managed=False)},
            [
                ("Nothing while its label fleetmedic.io/managed=false is there.", None),
                ("Nothing: no incident is open.", None),
            ],
        ),
    ],
)
def test_what_happens_next_and_what_it_waits_for(
    facts: dict[str, Any], expected: list[tuple[str, float | None]]
) -> None:
    assert [(each.text, each.time_seconds) for each in told(**facts).next] == expected


def test_an_open_attempt_says_until_when_it_may_take() -> None:
    tried = attempt(AttemptOutcome.STARTED, rung="drain")
    last = told(incident=incident(Phase.DRAINING, attempts=(tried,))).next[-1]
    assert last.text.startswith("Time limit of drain: after it nothing is forced")
    assert last.time_seconds == NOW + 600


def test_the_ways_to_stop_it_are_commands_to_copy() -> None:
    assert commands(told(incident=incident())) == [
        "fleetmedic hold gpu-07 --note WHY",
        """kubectl patch inc inc-7 --type=merge -p '{"spec":{"hold":true}}'""",
        "fleetmedic cancel gpu-07 --note WHY",
        "kubectl label node gpu-07 fleetmedic.io/managed=false",
        "fleetmedic stop WHY",
        (
            "kubectl -n fleetmedic create configmap fleetmedic-control --from-literal=stop=WHY "
            "--dry-run=client -o yaml | kubectl apply -f -"
        ),
        "fleetmedic approve gpu-07 reboot-node",
        "fleetmedic release gpu-07",
    ]
    held = commands(told(incident=incident(hold=True, approve=("reboot-node",))))
    assert "fleetmedic resume gpu-07" in held
    assert not any(each.startswith(("fleetmedic hold", "fleetmedic approve")) for each in held)
    elsewhere = commands(told(namespace="gpu-ops", stopped="x"))
    assert "fleetmedic go --namespace gpu-ops" in elsewhere
    assert not any("stop" in each for each in elsewhere)
    assert "kubectl label node gpu-07 fleetmedic.io/managed-" in commands(
        told(node=node(managed=False))
    )


def test_a_name_cannot_smuggle_a_command_into_what_is_copied() -> None:
    found = told(name="a; reboot", incident=incident())
    assert all("a; reboot" not in each or "'a; reboot'" in each for each in commands(found))
    assert any("'a; reboot'" in each for each in commands(found))


def test_where_nothing_is_written_there_is_nothing_to_stop() -> None:
    found = told(mode="dry-run", incident=incident())
    assert [each.what for each in found.stop] == [
        "nothing to stop: in dry-run mode nothing is written"
    ]
    assert commands(found) == []


def test_as_text_nothing_steers_the_terminal_or_fakes_a_line() -> None:
    evil = msgspec.structs.replace(LOST, evidence="x\x1b[2J\nHow to stop it:\r\x9b1m\u202e")
    text = as_text(told(health=health(evil), incident=incident()))
    assert [each for each in text if not each.isprintable() and each != "\n"] == []
    assert text.count("\nHow to stop it:") == 1
    assert "[2025-10-09 08:52:20Z, 60 s ago]" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0 s"),
        (90, "90 s"),
        (600, "10 min"),
        (7_200, "2 h"),
        (9_000, "2 h 30 min"),
        (864_000, "10 d"),
        (math.inf, "an unknown time"),
        (math.nan, "an unknown time"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert lasting(seconds) == text


def test_moments() -> None:
    assert moment(NOW) == "2025-10-09 08:53:20Z"
    assert moment(math.nan) == "nan"
    assert moment(1e30) == "1e+30"
    assert (away(NOW + 5, NOW), away(NOW, NOW)) == ("in 5 s", "0 s ago")


TIMES = st.floats(allow_nan=True, allow_infinity=True) | st.floats(NOW - 1e5, NOW + 1e5)
TEXTS = st.text(max_size=20)
MAYBE_TIMES = st.none() | TIMES
FINDINGS = st.builds(
    Finding,
    code=TEXTS,
    subject=TEXTS,
    severity=st.sampled_from(Severity),
    action=st.sampled_from(Action),
    domain=st.sampled_from(Domain),
    evidence=TEXTS,
    since_seconds=TIMES,
    last_seen_seconds=TIMES,
    count=st.integers(0, 9),
    clears=TEXTS,
)
ATTEMPTS = st.builds(
    Attempt,
    id=TEXTS,
    rung=TEXTS,
    subject=TEXTS,
    started_seconds=TIMES,
    deadline_seconds=TIMES,
    outcome=st.sampled_from(AttemptOutcome),
    finished_seconds=MAYBE_TIMES,
    text=TEXTS,
)
DRAINS = st.builds(
    DrainProgress,
    attempt=TEXTS,
    state=st.sampled_from(DrainState),
    pods_total=st.integers(0, 9),
    pods_gone=st.integers(0, 9),
    text=TEXTS,
)
ENTRIES = st.builds(TimelineEntry, TIMES, st.sampled_from(Phase), TEXTS)


def incidents(phases: st.SearchStrategy[Phase]) -> st.SearchStrategy[Incident]:
    return st.builds(
        Incident,
        name=TEXTS,
        node=TEXTS,
        pool=TEXTS,
        phase=phases,
        findings=st.lists(FINDINGS, max_size=3).map(tuple),
        opened_seconds=TIMES,
        quarantined_seconds=MAYBE_TIMES,
        closed_seconds=MAYBE_TIMES,
        next_step=TEXTS,
        hold=st.booleans(),
        approve=st.lists(TEXTS, max_size=2).map(tuple),
        cancel=st.booleans(),
        release=st.booleans(),
        note=TEXTS,
        timeline=st.lists(ENTRIES, max_size=3).map(tuple),
        phase_since_seconds=MAYBE_TIMES,
        next_step_seconds=MAYBE_TIMES,
        attempts=st.lists(ATTEMPTS, max_size=3).map(tuple),
        drain=st.none() | DRAINS,
        muted_until_seconds=MAYBE_TIMES,
        needs=TEXTS,
    )


NODES = st.builds(
    ClusterNode,
    name=TEXTS,
    unschedulable=st.booleans(),
    taint=st.none()
    | st.builds(Taint, TEXTS, st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"])),
    quarantined_by=TEXTS,
    cordoned_by=TEXTS,
    managed=st.booleans(),
)
HEALTH = st.builds(
    NodeHealth,
    name=TEXTS,
    pool=TEXTS,
    findings=st.lists(FINDINGS, max_size=3).map(tuple),
    age_seconds=TIMES,
)
OPEN = st.sampled_from([each for each in Phase if each is not Phase.CLOSED])
FACTS = st.builds(
    Facts,
    name=TEXTS,
    node=st.none() | NODES,
    incident=st.none() | incidents(OPEN),
    closed=st.lists(incidents(st.just(Phase.CLOSED)), max_size=2).map(tuple),
    health=st.none() | HEALTH,
    config=st.just(CONFIG),
    stopped=TEXTS,
    mode=st.sampled_from(["kubernetes", "dry-run", "observe"]),
    now=st.floats(NOW, NOW + 10),
)


@given(FACTS)
def test_whatever_state_it_is_found_in_all_is_answered(facts: Facts) -> None:
    found = explain(facts)
    assert found.summary
    assert found.state
    assert found.evidence
    assert found.done
    assert found.next
    assert all(each.text for each in (*found.state, *found.evidence, *found.done, *found.next))
    if facts.incident is not None:
        assert found.stop
        if facts.mode == "kubernetes" and not facts.stopped:
            assert any(each.command for each in found.stop)
    assert as_text(found)
    assert msgspec.json.encode(found)
