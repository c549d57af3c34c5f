"""Device quarantines over time, with a machine that tries to make the planner do harm.

Faults, recoveries, people's edits, swapped hardware, silent agents, lost writes and crashes come in any order.
"""

from itertools import cycle

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator.policy.devices.hami import CORDON, removed
from aggregator.policy.devices.planner import DeviceMemory, Planned
from aggregator.policy.devices.signature import SIGNATURE, read
from aggregator.policy.devices.values import BackEnd, DeviceSettings, Step
from tests.device_world import NAME, A, B, DeviceWorld, device, foreign_rule

SETTINGS = DeviceSettings(
    back_ends=tuple(BackEnd),
    vouched=frozenset(BackEnd),
    settle_seconds=0,
    probe_seconds=12,
    retry_seconds=40,
)
DEVICES = st.sampled_from([A, B])
SOME = st.sets(DEVICES, min_size=1)
ENOUGH = 30
"""Looks after which nothing is due any more, whatever happened."""


class Quarantines(RuleBasedStateMachine):
    """One node with two GPUs, which DRA, HAMi and Koordinator all hand out."""

    @initialize()
    def begin(self) -> None:
        self.world = DeviceWorld(SETTINGS).with_dra().with_hami().with_koordinator()
        self.world.rules["theirs"] = foreign_rule("theirs")
        self.theirs = dict(self.world.rules["theirs"])
        self.foreign: list[str] = []
        """What people cordoned in HAMi."""
        self.unhealthy: set[str] = set()
        """What others say is not healthy in Koordinator."""
        self.taken_off: set[tuple[str, str, str]] = set()
        """(incident, back-end, UUID) of what a person took back from us."""
        self.number = 0

    # -- what happens

    @rule(bad=SOME, hold=st.sampled_from([False, False, False, True]))
    def an_incident(self, bad: set[str], hold: bool) -> None:
        self.number += 1
        self.world.sick(*sorted(bad), name=f"i{self.number}", hold=hold)

    @rule(bad=SOME, looks=st.integers(1, 9))
    def a_quarantine_goes_on_undisturbed(self, bad: set[str], looks: int) -> None:
        """Far into it, from where everything else may go wrong."""
        if self.world.incident is None or self.world.incident.hold:
            self.an_incident(bad, hold=False)
        self.looks(looks)

    @rule(bad=SOME)
    def the_incident_grows(self, bad: set[str]) -> None:
        if self.world.incident is not None:
            known = {each.subject for each in self.world.incident.findings}
            self.world.sick(*sorted(known | bad), name=self.world.incident.name)

    @rule()
    def it_is_over(self) -> None:
        self.world.well()

    @rule(times=st.sampled_from([1, 1, 3, 5]))
    def looks(self, times: int) -> None:
        for _ in range(times):
            self.look(cycle([True]))

    @rule(kept=st.lists(st.booleans(), min_size=1, max_size=5))
    def only_some_writes_succeed(self, kept: list[bool]) -> None:
        self.look(cycle(kept))

    @rule()
    def a_crash(self) -> None:
        self.world.memory = DeviceMemory()

    @rule(bad=SOME)
    def a_quarantine_that_nobody_disturbs_comes_into_force(self, bad: set[str]) -> None:
        """Whatever happened before: where the hardware is as it was, and the incident is a new one."""
        self.hardware_changes("restore")
        self.an_incident(bad, hold=False)
        self.looks(ENOUGH)
        assert self.world.planned().in_force == {NAME: frozenset(bad)}

    @rule(times=st.sampled_from([1, 4]))
    def the_agent_does_not_tell_its_hardware_for_a_while(self, times: int) -> None:
        self.world.hardware = {}
        self.looks(times)
        self.world.hardware = self._hardware()

    @rule(tells=st.sampled_from([0, 2]), times=st.sampled_from([1, 4]))
    def rules_would_hit_too_much_or_nobody_tells_for_a_while(self, tells: int, times: int) -> None:
        self.world.tells = tells
        if self.world.incident is None:
            self.an_incident({A}, hold=False)
        self.looks(times)
        self.world.tells = 1

    @rule(times=st.sampled_from([1, 4]))
    def the_driver_publishes_anew_for_a_while(self, times: int) -> None:
        self.world.whole = False
        self.looks(times)
        self.world.whole = True

    @rule(kind=st.sampled_from(["swap", "replace", "lose", "restore", "restore", "restore"]))
    def hardware_changes(self, kind: str) -> None:
        self.number += 1
        new = f"GPU-{self.number}"
        self.world.devices = {
            "swap": [device("gpu-1", "GPU-a", A), device("gpu-0", "GPU-b", B)],
            "replace": [device("gpu-0", new, A), device("gpu-1", "GPU-b", B)],
            "lose": [device("gpu-1", "GPU-b", B)],
            "restore": [device("gpu-0", "GPU-a", A), device("gpu-1", "GPU-b", B)],
        }[kind]
        self.world.hardware = self._hardware()

    # -- what people do

    @rule(uuid=st.sampled_from(["GPU-a", "GPU-b", "GPU-x"]))
    def a_person_cordons(self, uuid: str) -> None:
        if uuid not in self.world.cordoned:
            self.foreign.append(uuid)
            before = self.world.annotations.get(CORDON)
            self.world.person_notes(CORDON, f"{before}, {uuid}" if before else uuid)

    @precondition(lambda self: self.world.cordoned)
    @rule()
    def a_person_takes_one_off(self) -> None:
        uuid = self.world.cordoned[0]
        self.world.person_notes(CORDON, removed(self.world.annotations[CORDON], uuid))
        if uuid in self.foreign:
            self.foreign.remove(uuid)
        else:
            self._taken_off("hami", uuid)
        self.looks(3)

    @precondition(lambda self: self._raised())
    @rule(how=st.sampled_from(["delete", "lower", "evict"]))
    def a_person_edits_our_rule(self, how: str) -> None:
        name = self._raised()[0]
        uuid = self.world.rules[name]["metadata"]["annotations"]["fleetmedic.io/uuid"]
        if how == "delete":
            del self.world.rules[name]
        else:
            effect = {"lower": "None", "evict": "NoExecute"}[how]
            self.world.person_edits_rule(name, taint={"effect": effect})
        if how != "evict":
            self._taken_off("dra", uuid)
        self.looks(3)

    # -- what must hold

    @invariant()
    def what_is_not_ours_is_never_touched(self) -> None:
        assert self.world.rules["theirs"] == self.theirs
        assert [each for each in self.world.cordoned if each in self.foreign] == self.foreign
        signed = read(self.world.annotations)
        assert signed is not None
        ours = set(self.world.cordoned) - set(self.foreign)
        assert ours <= signed.get("hami", {}).keys(), "an entry that nobody will take back"

    def look(self, kept: "cycle[bool]") -> Planned:
        """One look, and some of its writes."""
        self.world.now += 5.0
        planned = self.world.planned()
        self.world.memory = planned.memory
        self.in_force_is_true(planned)
        asked = self.world.incident
        if asked is not None and asked.hold:
            assert not planned.steps, "against a person's hold"
        for step, keep in zip(planned.steps, kept, strict=False):
            assert step.reason.strip()
            self.check(step)
            if keep:
                self.world.write(step)
        return planned

    def check(self, step: Step) -> None:
        """One write before it is sent."""
        incident = self.world.incident
        bad = {each.subject for each in incident.findings} if incident else set()
        if step.kind == "rule":
            self.check_rule(step, bad)
        if step.kind == "node":
            self.check_not_put_back(step, "hami")
        if step.kind == "device" and "spec" in step.body:
            assert self.world.device_object is not None
            before = self.world.health
            after = {each["id"]: each["health"] for each in step.body["spec"]["devices"]}
            changed = [each for each in after if after[each] != before[each]]
            assert len(changed) == 1, "never more than the one device"
            if not after[changed[0]]:
                assert {"GPU-a": A, "GPU-b": B}[changed[0]] in bad

    def check_rule(self, step: Step, bad: set[str]) -> None:
        assert step.name != "theirs"
        if step.verb == "delete":
            return
        at = step.body if step.verb == "create" else self.world.rules[step.name]
        notes, selector = at["metadata"]["annotations"], at["spec"]["deviceSelector"]
        assert notes["fleetmedic.io/device"] in bad
        assert set(selector) == {"driver", "pool", "device"}, "an open selector hits every device"
        (chosen,) = (each for each in self.world.devices if each["name"] == selector["device"])
        assert chosen["attributes"]["uuid"]["string"] == notes["fleetmedic.io/uuid"]
        address = chosen["attributes"]["resource.kubernetes.io/pciBusID"]["string"]
        assert f"gpu:{address}" in bad
        effect = step.body["spec"]["taint"]["effect"]
        assert effect == ("None" if step.verb == "create" else "NoSchedule")
        assert self.world.incident is not None
        key = (self.world.incident.name, "dra", notes["fleetmedic.io/uuid"])
        assert key not in self.taken_off, "put back what a person took off"
        if effect == "NoSchedule":
            assert self.world.tells == 1, "raised without knowing what it hits"

    def check_not_put_back(self, step: Step, back_end: str) -> None:
        if step.back_end != back_end:
            return
        text = step.body["metadata"]["annotations"].get(CORDON) or ""
        added = {each.strip() for each in text.split(",")} - set(self.world.cordoned) - {""}
        assert len(added) <= 1
        for uuid in added:
            assert self.world.incident is not None
            assert (self.world.incident.name, back_end, uuid) not in self.taken_off

    def in_force_is_true(self, planned: Planned) -> None:
        for each in planned.in_force.get(NAME, ()):
            uuid = self._hardware().get(each) or self.world.hardware.get(each)
            hit = [
                one["spec"]["deviceSelector"]["device"]
                for name, one in self.world.rules.items()
                if name != "theirs" and one["spec"]["taint"]["effect"] != "None"
            ]
            there = [d for d in self.world.devices if d["attributes"]["uuid"]["string"] == uuid]
            assert all(one["name"] in hit for one in there), "DRA still hands it out"
            assert self.world.cordoned
            assert not all(self.world.health.values())

    def teardown(self) -> None:
        """However it stands: once all is well, everything of ours is gone and theirs is there."""
        self.world.well()
        for _ in range(ENOUGH):
            self.look(cycle([True]))
        assert not self.look(cycle([True])).steps
        assert list(self.world.rules) == ["theirs"]
        assert self.world.cordoned == self.foreign
        assert SIGNATURE not in self.world.annotations
        assert SIGNATURE not in self.world.node["metadata"].get("labels", {})
        assert all(self.world.health.values())

    def _hardware(self) -> dict[str, str]:
        return {
            f"gpu:{each['attributes']['resource.kubernetes.io/pciBusID']['string']}": each[
                "attributes"
            ]["uuid"]["string"]
            for each in self.world.devices
        }

    def _raised(self) -> list[str]:
        return [
            name
            for name, each in sorted(self.world.rules.items())
            if name != "theirs" and each["spec"]["taint"]["effect"] == "NoSchedule"
        ]

    def _taken_off(self, back_end: str, uuid: str) -> None:
        """It counts for the incident that it was done for."""
        signed = (read(self.world.annotations) or {}).get(back_end, {}).get(uuid)
        if signed is not None:
            self.taken_off.add((signed.incident, back_end, uuid))


Quarantines.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
TestQuarantines = Quarantines.TestCase
