"""What people are told of the quarantine of a single device: Events, the incident's timeline, the explanation."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from aggregator.policy.decide import Decision
from aggregator.policy.explain.explain import explain
from aggregator.policy.explain.explanation import Explanation, Facts
from aggregator.policy.model import ClusterView, RecordEvent, SaveIncident, SetTaint, Taint
from aggregator.policy.notices import device_notices
from contract.vocabulary import Finding, Phase
from tests.policy_builders import NODE, ScriptedEdge, World, finding, incident, of
from tests.unit.test_device_relax import BAD, OTHER, SICK, effect, quarantined, relaxed
from tests.unit.test_engine import Bench

RELAXED = f"the node takes new pods again, other nodes preferred: only {BAD} is kept from them now"
WORDS = "dra: no new pods: fleetmedic-1 taints gpu.example.com/n/gpu-0"
KEPT = {NODE: frozenset({BAD})}


def last(world: World) -> str:
    return world.only_incident(NODE).timeline[-1].text


def view(kept: dict[str, frozenset[str]] | None, **words: str) -> ClusterView:
    said = {NODE: {BAD: words["words"]}} if words else {}
    return ClusterView(
        synced=True, nodes={}, incidents={}, device_quarantines=kept, device_words=said
    )


class Seeing(ScriptedEdge):
    """An edge whose desk sees what the test says."""

    kept: Mapping[str, frozenset[str]] = {}

    def view(self) -> ClusterView:
        return msgspec.structs.replace(super().view(), device_quarantines=self.kept)


class TestTimeline:
    def test_it_tells_when_the_node_was_relaxed_and_for_what(self) -> None:
        world = relaxed()
        told = world.only_incident(NODE).timeline[-1]
        assert (told.text, told.phase, told.time_seconds) == (
            RELAXED,
            Phase.QUARANTINED,
            world.now,
        )

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            (None, f"{BAD} is not seen to be kept from them by itself"),
            (finding(subject=OTHER), f"{OTHER} is not seen to be kept from them by itself"),
            (finding(subject="host"), "xid-79 on host is not about one device"),
        ],
        ids=["it is gone", "another GPU", "the host"],
    )
    def test_it_tells_why_the_hard_taint_is_back(self, more: Finding | None, why: str) -> None:
        world = relaxed()
        if more is None:
            world.device_quarantines = {}
        else:
            world.report(NODE, SICK, more)
        world.round(1.0)
        assert effect(world) == "NoSchedule"
        assert last(world) == f"no new pods on the whole node again: {why}"

    def test_a_silent_node_tells_it_too(self) -> None:
        world = relaxed()
        world.report(NODE, SICK, age_seconds=600.0)
        world.device_quarantines = {}
        world.round(1.0)
        assert "is not seen to be kept from them by itself" in last(world)

    def test_a_taint_that_cannot_be_written_is_told_once(self) -> None:
        world = quarantined()
        world.device_quarantines = KEPT
        for _ in range(3):
            world.now += 1.0
            decision: Decision = world.decide()
            assert of(decision, SetTaint)
            world.apply(of(decision, SaveIncident))
        told = [each.text for each in world.only_incident(NODE).timeline]
        assert told.count(RELAXED) == 1

    def test_the_first_quarantine_and_the_release_are_told_as_ever(self) -> None:
        world = relaxed()
        world.report(NODE, clear_seconds=0.0)
        world.round(1.0)
        world.report(NODE, clear_seconds=61.0)
        world.round(61.0)
        (closed,) = world.incidents.values()
        first, began, told, ended = closed.timeline
        assert first.text.startswith("first seen")
        assert began.text.startswith("quarantined for")
        assert told.text == RELAXED
        assert ended.text.startswith("released")


class TestEvents:
    def test_one_when_it_begins_to_hold_with_what_keeps_it(self) -> None:
        (event,) = device_notices({}, view(KEPT, words=WORDS))
        assert event == RecordEvent(
            node=NODE,
            type="Normal",
            event_reason="DeviceQuarantined",
            reason=f"{BAD} is kept from new pods by itself: {WORDS}",
        )
        assert not list(device_notices(KEPT, view(KEPT, words=WORDS)))

    def test_a_warning_with_the_reason_when_it_is_lost_while_it_is_wanted(self) -> None:
        (event,) = device_notices(KEPT, view({}, words="dra: a person deleted its rule"))
        assert (event.type, event.event_reason) == ("Warning", "DeviceQuarantineLost")
        assert event.reason.endswith("any more: dra: a person deleted its rule")

    def test_one_when_it_is_over(self) -> None:
        (event,) = device_notices(KEPT, view({}))
        assert (event.type, event.event_reason) == ("Normal", "DeviceReleased")
        assert BAD in event.reason

    @pytest.mark.parametrize(("before", "after"), [(None, KEPT), (KEPT, None), (None, {})])
    def test_while_nobody_looked_nothing_is_news(
        self, before: dict[str, frozenset[str]] | None, after: dict[str, frozenset[str]] | None
    ) -> None:
        assert not list(device_notices(before, view(after)))

    @pytest.mark.looptime(start=0)
    async def test_they_reach_the_node_and_the_list_of_decisions(self) -> None:
        edge = Seeing()
        bench = Bench(edge=edge)
        async with bench.running():
            await bench.keep_reporting("n", seconds=5)
            edge.kept = {"n": frozenset({BAD})}
            await bench.keep_reporting("n", seconds=5)
            edge.kept = {}
            await bench.keep_reporting("n", seconds=5)
        told = [each for _, each in edge.log if isinstance(each, RecordEvent)]
        assert [each.event_reason for each in told] == ["DeviceQuarantined", "DeviceReleased"]
        listed = [each.text for each in bench.journal.recent() if each.kind == "record-event"]
        assert [BAD in each for each in listed] == [True, True]


class TestExplanation:
    def told(self, **changes: Any) -> Explanation:
        world = relaxed()
        known = {
            "name": NODE,
            "node": world.nodes[NODE],
            "incident": world.only_incident(NODE),
            "health": world.health[NODE],
            "config": world.config,
            "now": world.now,
            "devices": {BAD: WORDS},
        }
        return explain(Facts(**{**known, **changes}))

    def test_each_quarantine_of_a_device_has_its_sentence(self) -> None:
        said = [each.text for each in self.told().state]
        assert f"Quarantine of {BAD} by itself: {WORDS}." in said

    def test_without_any_there_is_none(self) -> None:
        assert not [each for each in self.told(devices={}).state if "by itself" in each.text]

    def test_the_summary_says_that_the_node_serves_on(self) -> None:
        assert "has only its bad devices quarantined by Fleetmedic" in self.told().summary

    def test_a_node_that_waits_for_a_place_in_the_budget_is_only_avoided(self) -> None:
        waiting = incident(NODE, Phase.SUSPECT, findings=(SICK,))
        assert "is avoided by Fleetmedic" in self.told(incident=waiting, devices={}).summary

    def test_the_story_says_when_the_node_was_relaxed(self) -> None:
        assert f"quarantined: {RELAXED}" in [each.text for each in self.told().done]

    def test_a_hard_taint_is_told_as_ever(self) -> None:
        world = quarantined()
        told = self.told(node=world.nodes[NODE], incident=world.only_incident(NODE))
        assert world.taint(NODE) == Taint("xid-79", "NoSchedule")
        assert "is quarantined by Fleetmedic" in told.summary
