"""A node's hard taint while its bad devices are quarantined by themselves: when it is relaxed, and when it is back."""

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from aggregator.feeds.kueue_quota import taken_out
from aggregator.policy.config import budget
from aggregator.policy.decide import Decision
from aggregator.policy.devices.values import BackEnd, DeviceSettings
from aggregator.policy.devices.wanted import hard_devices, only_devices
from aggregator.policy.guards import under_work, was_quarantined
from aggregator.policy.ladder import Rung
from aggregator.policy.model import Intent, SaveIncident, SetTaint, Taint
from contract.vocabulary import Finding, Severity
from contract.vocabulary import Phase as Stage
from tests.device_world import NAME as DESK_NODE
from tests.device_world import A, DeviceWorld
from tests.policy_builders import HARD, NODE, World, finding, nodes, of, one_node
from tests.unit.test_treatment_machine import NAMES, Treatment
from tests.ward import config, dead_gpu, ward_with

BAD, OTHER = "gpu:0000:3b:00.0", "gpu:0000:86:00.0"
SICK = finding(subject=BAD)


def quarantined() -> World:
    world = one_node(SICK)
    world.round()
    assert world.taint(NODE) == Taint("xid-79", "NoSchedule"), "first and at once"
    return world


def relaxed() -> World:
    world = quarantined()
    world.device_quarantines = {NODE: frozenset({BAD})}
    world.round(1.0)
    assert effect(world) == "PreferNoSchedule"
    return world


def effect(world: World) -> str | None:
    taint = world.taint(NODE)
    return taint.effect if taint else None


def test_without_a_device_quarantine_nothing_is_other_than_before() -> None:
    world = quarantined()
    assert not world.round(1.0).intents
    assert effect(world) == "NoSchedule"


def test_once_it_holds_other_nodes_are_only_preferred_and_it_settles() -> None:
    world = relaxed()
    assert not world.round(1.0).intents
    assert world.only_incident(NODE).phase is Stage.QUARANTINED
    assert world.nodes[NODE].quarantined_by, "still signed, so that a person's act is seen"
    assert not taken_out(world.nodes[NODE])


@pytest.mark.parametrize(
    "now", [{}, {NODE: frozenset({OTHER})}], ids=["nothing is seen", "another device"]
)
def test_the_hard_taint_is_back_in_the_round_that_sees_it_gone(
    now: dict[str, frozenset[str]],
) -> None:
    world = relaxed()
    world.device_quarantines = now
    world.round(1.0)
    assert effect(world) == "NoSchedule"


@pytest.mark.parametrize(
    "more",
    [finding(subject=OTHER), finding(subject="host"), finding(subject="rdma:mlx5_0/1")],
    ids=["another GPU", "the host", "a port"],
)
def test_a_further_finding_brings_it_back_at_once(more: Finding) -> None:
    world = relaxed()
    world.report(NODE, SICK, more)
    world.round(1.0)
    assert effect(world) == "NoSchedule"


def test_a_further_degraded_finding_does_not() -> None:
    world = relaxed()
    world.report(NODE, SICK, finding("gpu-too-hot", Severity.DEGRADED, subject=OTHER))
    world.round(1.0)
    assert effect(world) == "PreferNoSchedule"


def test_after_a_restart_nothing_flaps_until_somebody_looked() -> None:
    world = relaxed()
    world.device_quarantines = None
    assert not world.round(1.0).intents
    world = quarantined()
    world.device_quarantines = None
    assert not world.round(1.0).intents


def test_it_is_released_as_ever_and_waits_as_relaxed() -> None:
    world = relaxed()
    world.report(NODE, clear_seconds=0.0)
    world.round(1.0)
    assert effect(world) == "PreferNoSchedule"
    world.report(NODE, clear_seconds=61.0)
    world.round(61.0)
    assert world.taint(NODE) is None
    assert not world.open_incidents(NODE)


def test_a_person_who_takes_the_soft_taint_off_has_overruled_us() -> None:
    world = relaxed()
    world.change_node(NODE, taint=None)
    world.round(1.0)
    assert world.taint(NODE) is None
    assert not world.open_incidents(NODE)


def test_a_relaxed_node_still_has_its_place_in_the_budget() -> None:
    world = World(nodes(10))
    world.settle()
    world.report(NODE, SICK)
    world.round()
    world.device_quarantines = {NODE: frozenset({BAD})}
    world.round(1.0)
    assert effect(world) == "PreferNoSchedule"
    world.report("a001", SICK)
    world.round(1.0)
    assert budget(10, world.config) == 1
    assert world.only_incident("a001").phase is Stage.SUSPECT


def test_a_drain_of_the_device_stands_while_the_device_is_kept_and_no_longer() -> None:
    ward = ward_with(
        dead_gpu("reset-device"), settings=config(act=frozenset({Rung.TAINT, Rung.DRAIN_DEVICE}))
    )
    ward.play(30)
    assert ward.rungs() == [("drain-device", "done")]
    bad = frozenset(hard_devices(ward.only_incident(NODE).findings))
    ward.device_quarantines = {NODE: bad}
    ward.play(600)
    assert effect(ward) == "PreferNoSchedule"
    assert ward.rungs() == [("drain-device", "done")], "its pods were moved, and none came since"
    ward.device_quarantines = {}
    ward.play(600)
    assert effect(ward) == "NoSchedule"
    assert ward.rungs() == [("drain-device", "done")] * 2, "pods may have come to it meanwhile"


def test_a_rung_that_needs_the_node_keeps_it() -> None:
    act = frozenset({Rung.TAINT, Rung.DRAIN})
    settings_ = config(act=act, needs_approval=frozenset({Rung.DRAIN}))
    ward = ward_with(dead_gpu("replace-hardware"), settings=settings_)
    ward.play(30)
    bad = frozenset(hard_devices(ward.only_incident(NODE).findings))
    ward.device_quarantines = {NODE: bad}
    ward.play(30)
    assert "waits for a person" in ward.only_incident(NODE).next_step
    assert effect(ward) == "NoSchedule"
    ward.person_edits(NODE, approve=("drain",))
    ward.play(30)
    assert ward.rungs() == [("drain", "done")]
    assert effect(ward) == "NoSchedule"


def test_a_reset_that_waits_for_a_person_leaves_the_others_serving() -> None:
    settings_ = config(needs_approval=frozenset({Rung.RESET_DEVICE}))
    ward = ward_with(dead_gpu("reset-device"), settings=settings_)
    ward.play(30)
    bad = frozenset(hard_devices(ward.only_incident(NODE).findings))
    ward.device_quarantines = {NODE: bad}
    ward.play(30)
    assert effect(ward) == "PreferNoSchedule"
    ward.person_edits(NODE, approve=("reset-device",))
    decision = ward.decide()
    kinds = [type(each) for each in of(decision, SetTaint, SaveIncident)]
    assert kinds == [SetTaint, SaveIncident], "the hard taint before the attempt"
    ward.until("closed")
    assert ward.rungs() == [("drain-device", "done"), ("reset-device", "done")]


@pytest.mark.parametrize("reported", [True, False], ids=["silent", "never reported to us"])
def test_a_node_that_does_not_report_is_not_left_open_once_nothing_keeps_its_device(
    reported: bool,
) -> None:
    world = relaxed()
    if reported:
        world.report(NODE, SICK, age_seconds=600.0)
    else:
        del world.health[NODE]
    for known in (None, {NODE: frozenset({BAD})}):
        world.device_quarantines = known
        world.round(1.0)
        assert effect(world) == "PreferNoSchedule"
    world.device_quarantines = {}
    assert len(of(world.round(1.0), SetTaint)) == 1
    assert world.taint(NODE) == Taint("xid-79", "NoSchedule")
    assert not world.round(1.0).intents


@pytest.mark.parametrize("act", ["hold", "cancel", "managed"])
def test_what_people_have_of_a_node_that_never_reported_to_us_is_theirs(act: str) -> None:
    world = relaxed()
    del world.health[NODE]
    world.device_quarantines = {}
    if act == "managed":
        world.change_node(NODE, managed=False)
    else:
        world.person_edits(NODE, **{act: True})
    assert not of(world.round(1.0), SetTaint)


def test_probation_of_a_silent_node_is_no_device_quarantine() -> None:
    world = relaxed()
    world.person_edits(NODE, phase=Stage.VERIFYING, soak_since_seconds=world.now)
    world.report(NODE, age_seconds=600.0)
    world.device_quarantines = {}
    assert not of(world.round(1.0), SetTaint)


class Story:
    """Policy and planner together, each seeing what the other did, every five seconds."""

    def __init__(self) -> None:
        self.world = one_node(finding(subject=A))
        vouched = frozenset({BackEnd.DRA, BackEnd.HAMI})
        asked = DeviceSettings(back_ends=tuple(vouched), vouched=vouched, settle_seconds=15)
        self.desk = DeviceWorld(asked).with_dra().with_hami()
        self.seen: list[str] = []
        """Each state in order: the node's taint, DRA's effects, HAMi's list."""

    def play(self, seconds: float) -> None:
        for _ in range(int(seconds / 5)):
            self.world.round(5.0)
            opened = self.world.open_incidents(NODE)
            self.desk.incident = None
            if opened:
                self.desk.incident = msgspec.structs.replace(opened[0], node=DESK_NODE)
            self.world.device_quarantines = {
                NODE: self.desk.look().in_force.get(DESK_NODE, frozenset())
            }
            ruled = "".join(self.desk.effects.values())
            now = f"{effect(self.world)} {ruled or '-'} {len(self.desk.cordoned)}"
            self.seen += [now] if self.seen[-1:] != [now] else []


def test_the_node_first_then_the_device_then_only_the_device_and_back_in_that_order() -> None:
    story = Story()
    story.play(60)
    assert story.seen == [
        "NoSchedule None 1",
        "NoSchedule NoSchedule 1",
        "PreferNoSchedule NoSchedule 1",
    ]
    story.world.report(NODE, clear_seconds=0.0)
    story.play(60)
    story.world.report(NODE, clear_seconds=120.0)
    story.play(60)
    assert all(each.startswith("None ") for each in story.seen[3:])
    assert story.seen[3] == "None NoSchedule 1", "the device is last to come back"
    assert story.seen[-1] == "None - 0"


def test_a_person_who_deletes_the_rule_gets_the_hard_taint_back() -> None:
    story = Story()
    story.play(60)
    story.desk.rules.clear()
    story.play(30)
    assert story.seen[3:] == ["PreferNoSchedule - 1", "NoSchedule - 1"]


class WithDevices(Treatment):
    """The whole ladder, while device quarantines come, go, and are not known."""

    def begin_devices(self) -> dict[str, frozenset[str]]:
        known = self.world.device_quarantines
        return dict(known) if known else {}

    @rule(node=NAMES, devices=st.sets(st.sampled_from(["gpu:0", "gpu:1"])))
    def devices_are_seen_to_be_kept(self, node: str, devices: set[str]) -> None:
        self.world.device_quarantines = self.begin_devices() | {node: frozenset(devices)}
        self.time_passes(1)

    @rule(known=st.booleans())
    def nobody_sees_any(self, known: bool) -> None:
        self.world.device_quarantines = {} if known else None
        self.time_passes(1)

    @rule()
    def all_are_kept(self) -> None:
        both = frozenset({"gpu:0", "gpu:1"})
        self.world.device_quarantines = dict.fromkeys(self.world.nodes, both)
        self.time_passes(2)

    def apply(self, decision: Decision) -> None:
        super().apply(decision)
        ordered = [*(e.node for e in decision.drains), *(e.node for e in decision.directives)]
        for node in ordered:
            taint = self.world.taint(node)
            assert taint is None or taint.effect in HARD or self._soaks(node)

    def _soaks(self, node: str) -> bool:
        return any(e.soak_since_seconds is not None for e in self.world.open_incidents(node))

    def check_intent(self, intent: Intent) -> None:
        super().check_intent(intent)
        if not isinstance(intent, SetTaint) or intent.taint.effect in HARD:
            return
        for each in self.world.open_incidents(intent.node):
            if not was_quarantined(each) or self._soaks(intent.node) or each.soak_since_seconds:
                continue
            if each.phase is Stage.VERIFYING:
                continue  # its soak begins with this very write
            kept = (self.world.device_quarantines or {}).get(intent.node, frozenset())
            assert hard_devices(each.findings).keys() <= kept, "relaxed, and nothing keeps it"
            assert only_devices(each.findings)
            whole = any(one.open and one.rung == Rung.DRAIN for one in each.attempts)
            assert not (under_work(each) and whole)


WithDevices.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
TestWithDevices = WithDevices.TestCase
