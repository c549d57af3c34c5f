"""The whole ladder over time, with a machine that tries to make it do harm.

Faults, recoveries, silent and blind agents, people's edits, lost writes, crashes and changes of leader come in any
order. What must hold is checked at each write and each order.
"""

import itertools
from collections import Counter

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aggregator.ladder_file import shipped
from aggregator.policy.config import PolicyConfig, budget, drain_budget, reboot_budget
from aggregator.policy.decide import Decision, decide
from aggregator.policy.health import NodeHealth
from aggregator.policy.ladder import REPAIRS as REPAIR_RUNGS
from aggregator.policy.ladder import Ladder, Rung
from aggregator.policy.model import (
    AttemptOutcome,
    Cordon,
    DirectiveOrder,
    DrainOrder,
    DrainProgress,
    DrainState,
    ForgetIncident,
    Incident,
    Intent,
    RemoveTaint,
    SetCondition,
    SetTaint,
    Uncordon,
)
from contract.vocabulary import Action, DirectiveOutcome, OutcomeState, Phase, Severity
from tests.policy_builders import HARD, Agents, World, finding, nodes

STEP_SECONDS = 5.0
WINDOW_SECONDS = 4_000.0
POOLS = (("a", 6), ("b", 2))
CLUSTER = [node for pool, count in POOLS for node in nodes(count, pool)]
LADDER = msgspec.structs.replace(
    shipped(),
    bounds={
        rung: msgspec.structs.replace(
            bounds,
            window_seconds=WINDOW_SECONDS,
            cool_down_seconds=min(bounds.cool_down_seconds, 20.0),
            time_limit_seconds=60.0,
        )
        for rung, bounds in shipped().bounds.items()
    },
)
assert isinstance(LADDER, Ladder)
CONFIG = PolicyConfig(
    degraded_hold_seconds=10,
    release_after_seconds=20,
    flap_window_seconds=600,
    flap_most_seconds=40,
    silent_after_seconds=12,
    budget_percent=34,
    budget_count=5,
    act=frozenset(Rung),
    needs_approval=frozenset({Rung.REBOOT_NODE}),
    ladder=LADDER,
    drain_budget_percent=34,
    reboot_budget_percent=17,
    breaker_nodes=3,
    breaker_window_seconds=60,
    breaker_probe_seconds=30,
    mute_seconds=100,
    diagnose=True,
    diagnose_limit_seconds=30,
    verify_limit_seconds=60,
    soak_seconds=30,
    keep_closed_seconds=WINDOW_SECONDS,
    webhook=True,
)
NAMES = st.sampled_from([*["a000", "b000"] * 4, *(node.name for node in CLUSTER)])
ACTIONS = st.sampled_from([Action.RESET_DEVICE, Action.REBOOT_NODE, Action.REPLACE_HARDWARE])
REPAIRS = frozenset({"reset-device", "restart-service", "reboot-node", "diagnose"})


class Treatment(RuleBasedStateMachine):
    """Agents report to a real Fleet and carry out directives once; drains go as the machine says."""

    @initialize()
    def begin(self) -> None:
        self.world = World(CLUSTER, CONFIG)
        self.agents = Agents(self.world)
        self.boots = dict.fromkeys(self.world.nodes, "boot-0")
        self.outcomes: dict[str, dict[str, DirectiveOutcome]] = {n: {} for n in self.world.nodes}
        self.carried: Counter[str] = Counter()
        self.drain_ends = DrainState.DONE
        self.directive_ends: OutcomeState | None = OutcomeState.DONE
        self.foreign: set[str] = set()
        """Nodes that a person cordoned."""
        self.tried: list[tuple[float, str, str]] = []
        """(when, node, rung) of every drain and repair that was really begun."""
        self.begun: set[str] = set()

    # -- what happens to the fleet

    @rule(node=NAMES, subject=st.sampled_from(["gpu:0", "gpu:1"]), action=ACTIONS)
    def a_fault(self, node: str, subject: str, action: Action) -> None:
        hard = finding(f"c{action}", Severity.FATAL, subject=subject, since=self.world.now)
        self.agents.faults[node][subject] = msgspec.structs.replace(hard, action=action)
        self.time_passes(1)

    @rule(pool=st.sampled_from("ab"))
    def all_of_a_pool_at_once(self, pool: str) -> None:
        for name in self.world.nodes:
            if name.startswith(pool):
                fault = finding("mass", Severity.CRITICAL, subject="gpu:0", since=self.world.now)
                self.agents.faults[name]["gpu:0"] = fault
        self.time_passes(1)

    @rule(node=NAMES, steps=st.sampled_from([0, 3, 12]))
    def it_recovers(self, node: str, steps: int) -> None:
        self.agents.silent.discard(node)
        self.agents.blind.discard(node)
        self.agents.faults[node].clear()
        self.time_passes(steps)

    @rule(node=NAMES, silent=st.booleans())
    def its_agent_falls_silent_or_blind(self, node: str, silent: bool) -> None:
        (self.agents.silent if silent else self.agents.blind).add(node)
        self.time_passes(4)

    @rule(state=st.sampled_from(DrainState))
    def from_now_on_drains_go(self, state: DrainState) -> None:
        self.drain_ends = state

    @rule(state=st.sampled_from([None, *OutcomeState]))
    def from_now_on_directives_go(self, state: OutcomeState | None) -> None:
        self.directive_ends = state

    @rule(node=NAMES, action=ACTIONS, steps=st.sampled_from([2, 4, 6, 9]))
    def a_fault_is_treated_for_a_while(self, node: str, action: Action, steps: int) -> None:
        """Far into the ladder, from where everything else may go wrong."""
        self.drain_ends, self.directive_ends = DrainState.DONE, OutcomeState.DONE
        self.agents.silent.discard(node)
        self.a_fault(node, "gpu:0", action)
        for each in self.world.open_incidents(node):
            if not each.unreadable:
                self.world.person_edits(node, hold=False, approve=("reboot-node",))
        self.time_passes(steps)

    @rule()
    def the_leader_changes(self) -> None:
        self.agents.restart_aggregator()
        self.world.drains.clear()

    @rule(steps=st.sampled_from([1, 4, 10]))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.world.now += STEP_SECONDS
            self.agents.report_all()
            for _ in range(3):
                self.apply(self.checked())

    @rule(keep=st.lists(st.booleans(), max_size=8))
    def only_some_writes_succeed(self, keep: list[bool]) -> None:
        self.world.now += 1.0
        self.agents.report_all()
        kept = itertools.cycle(keep or [False])
        decision = self.checked()
        self.apply(
            msgspec.structs.replace(
                decision, intents=tuple(each for each in decision.intents if next(kept))
            )
        )

    # -- what people do

    @rule(
        place=st.integers(0, 2),
        spec=st.sampled_from(
            [
                {"hold": True},
                {"hold": False},
                {"cancel": True},
                {"release": True},
                {"release": False},
                {"approve": ("reboot-node",)},
            ]
        ),
    )
    def a_person_edits_an_incident(self, place: int, spec: dict[str, object]) -> None:
        opened = [each.node for each in self.world.incidents.values() if each.open]
        for node in opened[place : place + 1]:
            self.world.person_edits(node, **spec)

    @rule(node=NAMES, act=st.sampled_from(["taint off", "uncordon", "cordon", "opt out", "opt in"]))
    def a_person_changes_a_node(self, node: str, act: str) -> None:
        there = self.world.nodes[node]
        if act == "taint off":
            self.world.change_node(node, taint=None)
        elif act == "uncordon":
            self.world.change_node(node, unschedulable=False)
            self.foreign.discard(node)
        elif act == "cordon" and not there.unschedulable:
            self.world.change_node(node, unschedulable=True)
            self.foreign.add(node)
        elif act in ("opt out", "opt in"):
            self.world.change_node(node, managed=act == "opt in")

    @rule(node=NAMES)
    def an_incident_is_deleted_or_corrupted(self, node: str) -> None:
        for each in self.world.open_incidents(node):
            broken = msgspec.structs.replace(
                each, phase=Phase.NEEDS_HUMAN, attempts=(), unreadable=True
            )
            self.world.incidents[each.name] = broken

    @rule(stopped=st.sampled_from(["", "a person says stop"]))
    def the_kill_switch(self, stopped: str) -> None:
        self.world.stopped = stopped

    # -- what must hold

    @invariant()
    def at_most_one_open_incident_per_node(self) -> None:
        for name in self.world.nodes:
            assert len(self.world.open_incidents(name)) <= 1

    @invariant()
    def a_foreign_cordon_stays(self) -> None:
        for name in self.foreign:
            assert self.world.nodes[name].unschedulable
            assert not self.world.nodes[name].cordoned_by

    @invariant()
    def no_rung_is_begun_more_often_than_its_cap(self) -> None:
        counts = Counter(
            (node, rung)
            for when, node, rung in self.tried
            if self.world.now - when < WINDOW_SECONDS
        )
        for (_, rung), count in counts.items():
            subjects = 2 if rung in (Rung.DRAIN_DEVICE, Rung.RESET_DEVICE) else 1
            if rung in REPAIR_RUNGS:
                assert count <= LADDER.bounds[Rung(rung)].most_attempts * subjects, rung

    def checked(self) -> Decision:
        """One decision, and everything that must be true of any."""
        known = self.health()
        view = self.world.view
        decision = decide(known.values(), view, CONFIG, self.world.now)
        assert decision == decide(known.values(), view, CONFIG, self.world.now), "not a function"
        if self.world.stopped:
            assert decision == Decision(), "acts although a person stopped everything"
        for intent in decision.intents:
            assert intent.reason.strip()
            self.check_intent(intent)
        for order in decision.drains:
            self.check_order(order, order.attempt)
        for each in decision.directives:
            self.check_order(each, each.id)
        return decision

    def check_intent(self, intent: Intent) -> None:
        if isinstance(intent, SetCondition | ForgetIncident):
            return
        there = self.world.open_incidents(intent.node)
        assert not any(each.hold for each in there), "decided against a person's hold"
        assert not any(each.unreadable for each in there)
        node = self.world.nodes[intent.node]
        if isinstance(intent, SetTaint | Cordon):
            assert node.managed, "put on a node that opted out"
        if isinstance(intent, Uncordon):
            assert node.cordoned_by, "takes back a cordon that is not ours"
        if isinstance(intent, RemoveTaint):
            assert node.taint is not None or node.quarantined_by

    def check_order(self, order: DrainOrder | DirectiveOrder, attempt_id: str) -> None:
        health = self.health()[order.node]
        node = self.world.nodes[order.node]
        (incident,) = self.world.open_incidents(order.node)
        (attempt,) = [each for each in incident.attempts if each.id == attempt_id]
        assert attempt.open, "ordered after it was over"
        assert health.age_seconds <= CONFIG.silent_after_seconds, "unknown never drains"
        assert node.managed
        assert not incident.hold
        assert node.taint is not None or isinstance(order, DirectiveOrder)
        if isinstance(order, DrainOrder):
            assert health.at_least(Severity.CRITICAL), "drains a node that shows nothing"
        if attempt.rung == Rung.REBOOT_NODE:
            assert node.unschedulable
            assert self.moved(incident, (Rung.DRAIN,)), "reboots under running pods"
            assert "reboot-node" in incident.approve
        if attempt.rung == Rung.RESET_DEVICE:
            assert self.moved(incident, (Rung.DRAIN, Rung.DRAIN_DEVICE))

    @staticmethod
    def moved(incident: Incident, rungs: tuple[Rung, ...]) -> bool:
        return any(
            each.rung in rungs and each.outcome is AttemptOutcome.DONE for each in incident.attempts
        )

    def apply(self, decision: Decision) -> None:
        """Writes first, then what the orders make happen; no bound may be passed by our doing."""
        before = self.counted()
        self.world.apply(decision.intents)
        after = self.counted()
        for (pool, size), kind in itertools.product(POOLS, ("hard", "work", "reboot")):
            allowed = {"hard": budget, "work": drain_budget, "reboot": reboot_budget}[kind]
            most = max(allowed(size, CONFIG), before[pool, kind])
            assert after[pool, kind] <= most, f"{kind}: {after[pool, kind]} of at most {most}"
        for order in decision.drains:
            self.drain(order)
        for each in decision.directives:
            self.direct(each)

    def counted(self) -> Counter[tuple[str, str]]:
        counts: Counter[tuple[str, str]] = Counter()
        for node in self.world.nodes.values():
            opened = self.world.open_incidents(node.name)
            quarantined = any(each.quarantined_seconds is not None for each in opened)
            hard = node.taint is not None and node.taint.effect in HARD
            counts[node.pool, "hard"] += hard or quarantined
            counts[node.pool, "work"] += any(
                each.phase in (Phase.DRAINING, Phase.REPAIRING) for each in opened
            )
            counts[node.pool, "reboot"] += any(
                one.open and one.rung == "reboot-node" for each in opened for one in each.attempts
            )
        return counts

    def health(self) -> dict[str, NodeHealth]:
        return {
            name: msgspec.structs.replace(
                each,
                boot_id=self.boots[name],
                repairs=REPAIRS,
                outcomes=tuple(self.outcomes[name].values()),
            )
            for name, each in self.agents.health().items()
        }

    def note(self, node: str, id_: str, rung: str) -> None:
        if id_ not in self.begun:
            self.begun.add(id_)
            self.tried.append((self.world.now, node, rung))

    def drain(self, order: DrainOrder) -> None:
        incident = self.world.only_incident(order.node)
        (attempt,) = [each for each in incident.attempts if each.id == order.attempt]
        self.note(order.node, order.attempt, attempt.rung)
        self.world.drains[order.node] = DrainProgress(
            attempt=order.attempt, state=self.drain_ends, pods_total=3, text="3 pods"
        )

    def direct(self, order: DirectiveOrder) -> None:
        """As an agent does: an id that it knows is not carried out again."""
        if self.directive_ends is None or order.id in self.outcomes[order.node]:
            return
        self.carried[order.id] += 1
        assert self.carried[order.id] == 1
        self.note(order.node, order.id, order.kind)
        if order.kind == "reboot-node" and self.directive_ends is OutcomeState.DONE:
            self.boots[order.node] += "+"
        self.outcomes[order.node][order.id] = DirectiveOutcome(
            id=order.id, kind=order.kind, state=self.directive_ends, evidence="as the machine says"
        )

    def teardown(self) -> None:
        """However it stands: once all is well and people let go, everything of ours is off, and stays off."""
        if not hasattr(self, "world"):
            return
        self.world.stopped = ""
        self.agents.silent.clear()
        self.agents.blind.clear()
        self.directive_ends = OutcomeState.DONE
        for name, faults in self.agents.faults.items():
            faults.clear()
            self.world.change_node(name, managed=True)
            for each in self.world.open_incidents(name):
                if each.unreadable or _failed_diagnostic(each):  # a person has to look at these
                    del self.world.incidents[each.name]
                else:
                    self.world.person_edits(name, hold=False)
        self.time_passes(60)
        assert not [each for each in self.world.incidents.values() if each.open]
        for node in self.world.nodes.values():
            assert node.taint is None
            assert not node.cordoned_by
            assert node.unschedulable == (node.name in self.foreign)
        for _ in range(3):
            self.world.now += STEP_SECONDS
            self.agents.report_all()
            assert self.checked() == Decision()


def _failed_diagnostic(incident: Incident) -> bool:
    return any(
        each.rung == "diagnose" and each.outcome is not AttemptOutcome.DONE
        for each in incident.attempts
    )


Treatment.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTreatment = Treatment.TestCase
