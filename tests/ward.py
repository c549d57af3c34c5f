"""A world in which orders are carried out: drains end as told, agents do what they are told, once."""

from collections.abc import Callable

import msgspec

from aggregator.ladder_file import shipped
from aggregator.policy.config import PolicyConfig
from aggregator.policy.decide import Decision
from aggregator.policy.ladder import Rung
from aggregator.policy.model import DirectiveOrder, DrainOrder, DrainProgress, DrainState, Incident
from contract.vocabulary import Action, DirectiveOutcome, Finding, OutcomeState
from tests.policy_builders import NODE, World, finding, nodes

STEP_SECONDS = 5.0
ALL = frozenset(Rung)
EVERY_REPAIR = frozenset({"reset-device", "restart-service", "reboot-node", "diagnose"})


def config(**changes: object) -> PolicyConfig:
    """Every rung on, the shipped ladder, the defaults, and no soak longer than a minute."""
    plain = PolicyConfig(act=ALL, ladder=shipped(), soak_seconds=60.0, webhook=True)
    return msgspec.structs.replace(plain, **changes)


class Ward(World):
    """One pool of nodes, a clock that only the test moves, and whoever carries orders out."""

    def __init__(self, count: int = 40, settings: PolicyConfig | None = None) -> None:
        super().__init__(nodes(count), settings or config())
        self.drain_ends = DrainState.DONE
        self.drain_text = "3 of 3 pods gone"
        self.agent_ends: OutcomeState | None = OutcomeState.DONE
        """How every directive ends; ``None``: its agent never says anything."""
        self.mends: Callable[[DirectiveOrder, Finding], bool] = _the_same_device
        """Whether a directive that is done takes this finding away."""
        self.carried: list[DirectiveOrder] = []
        self.drained: list[DrainOrder] = []
        for name in self.nodes:
            self.report(name, boot_id="boot-0", repairs=EVERY_REPAIR)

    def play(self, seconds: float) -> None:
        """Time passes; every few seconds a decision is made and carried out."""
        for _ in range(int(seconds / STEP_SECONDS)):
            self.now += STEP_SECONDS
            for _ in range(3):
                self.carry_out(self.decide())

    def until(self, phase: str, *, within_seconds: float = 7_200.0, node: str = NODE) -> Incident:
        """The node's newest incident, once it is in this phase."""
        passed = 0.0
        while (found := self.newest(node)) is None or found.phase != phase:
            assert passed < within_seconds, f"never {phase}: {found and found.next_step}"
            self.play(STEP_SECONDS)
            passed += STEP_SECONDS
        return found

    def newest(self, node: str = NODE) -> Incident | None:
        """The incident of this node that was opened last."""
        mine = [each for each in self.incidents.values() if each.node == node]
        return max(mine, key=lambda each: each.opened_seconds, default=None)

    def carry_out(self, decision: Decision) -> None:
        """Writes first, then orders."""
        self.apply(decision.intents)
        for order in decision.drains:
            self.drained += [order] if order not in self.drained else []
            self.drains[order.node] = DrainProgress(
                attempt=order.attempt, state=self.drain_ends, text=self.drain_text
            )
        for each in decision.directives:
            self._direct(each)

    def _direct(self, order: DirectiveOrder) -> None:
        known = self.health[order.node]
        if self.agent_ends is None or any(each.id == order.id for each in known.outcomes):
            return
        self.carried.append(order)
        outcome = DirectiveOutcome(
            id=order.id, kind=order.kind, state=self.agent_ends, evidence="as told"
        )
        done = self.agent_ends is OutcomeState.DONE
        boot = f"{known.boot_id}+" if done and order.kind == "reboot-node" else known.boot_id
        left = [each for each in known.findings if not (done and self.mends(order, each))]
        self.report(order.node, *left, outcomes=(*known.outcomes, outcome), boot_id=boot)

    def new_leader(self) -> None:
        """Another process takes over: it knows what the cluster and the agents say, and nothing else."""
        self.drains.clear()

    def kinds(self) -> list[str]:
        """What agents were told to do, in order."""
        return [each.kind for each in self.carried]

    def rungs(self, node: str = NODE) -> list[tuple[str, str]]:
        """(rung, outcome) of every attempt on this node, in order."""
        mine = [each for each in self.incidents.values() if each.node == node]
        mine.sort(key=lambda each: each.opened_seconds)
        return [(one.rung, one.outcome.value) for each in mine for one in each.attempts]


def _the_same_device(order: DirectiveOrder, each: Finding) -> bool:
    return order.kind != "diagnose" and order.subject in ("", each.subject)


def ward_with(*findings: Finding, settings: PolicyConfig | None = None, count: int = 10) -> Ward:
    """A ward whose first node has these findings."""
    ward = Ward(count, settings)
    ward.settle()
    ward.report(NODE, *findings)
    return ward


def dead_gpu(action: str, **changes: object) -> Finding:
    """A fatal finding that asks for this action."""
    plain = finding(**changes)  # type: ignore[arg-type]
    return msgspec.structs.replace(plain, action=Action.from_label(action))
