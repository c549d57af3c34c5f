"""The words of a drain: what was read about a node, and the verdict on each of its pods. Values only."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

import msgspec

from aggregator.policy.drain.gangs import Gang
from aggregator.policy.drain.pods import DisruptionBudget, Pod


class Verdict(StrEnum):
    """What is to happen to one pod."""

    LEAVE = "leave"
    LEAVING = "leaving"
    """It is being deleted already; its end is waited for."""
    EVICT = "evict"
    WAIT = "wait"
    CHECKPOINT = "checkpoint"
    REFUSE = "refuse"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was read about one node, at one moment."""

    node: str
    pods: tuple[Pod, ...]
    """All that are bound to it."""
    members: Mapping[str, tuple[Pod, ...]] = msgspec.field(default_factory=dict)
    """By gang key: all its pods that are not finished, on any node."""
    queued: Mapping[str, str] = msgspec.field(default_factory=dict)
    """By gang key: the API path of the Kueue Workload that holds its quota."""
    budgets: tuple[DisruptionBudget, ...] = ()
    orphans: frozenset[str] = frozenset()
    """UIDs of DaemonSets that pods name as their owner and that are not there any more."""
    subjects: tuple[str, ...] = ()
    """Only pods that hold one of these devices; empty: all."""
    holders: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Device → ``namespace/name`` of who holds it; empty: the node did not tell."""


class PodPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One pod and what is to happen to it."""

    pod: Pod
    verdict: Verdict
    reason: str
    """One sentence."""
    job: str
    """As its user knows it."""
    gang: str = ""
    """The key of its gang."""
    deadline_seconds: float = 0.0
    """With ``wait`` and ``checkpoint``: how long at most, from the first look on."""
    then: Literal["evict", "leave"] = "evict"
    budgets: tuple[str, ...] = ()
    """Disruption budgets that cover it, ``namespace/name``."""

    @property
    def goes(self) -> bool:
        """Whether the drain is over only once it is gone."""
        return self.verdict is not Verdict.LEAVE


class GangPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A gang with pods that have to go."""

    gang: Gang
    verdict: Verdict
    reason: str
    members: tuple[Pod, ...]
    """All that are not finished, on any node."""
    elsewhere: tuple[Pod, ...]
    """Those of them on other nodes, who lose their job too."""
    deadline_seconds: float = 0.0
    then: Literal["evict", "leave"] = "evict"
    workload: str = ""
    """The API path of its Kueue Workload; empty: Kueue does not manage it."""


class DrainPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a drain would do."""

    node: str
    time_seconds: float
    """Unix time of the look that it was made from."""
    pods: tuple[PodPlan, ...]
    """Every pod on the node, once."""
    gangs: Mapping[str, GangPlan]
    """By key."""
    seconds_at_most: float
    """How long it takes at most, had disruption budgets nothing against it."""

    @property
    def going(self) -> tuple[PodPlan, ...]:
        """Those that the drain is about."""
        return tuple(each for each in self.pods if each.goes)

    @property
    def refused(self) -> tuple[PodPlan, ...]:
        """Those that may not be moved. A single one and nothing is."""
        return tuple(each for each in self.pods if each.verdict is Verdict.REFUSE)


def plan_shape(plan: DrainPlan) -> dict[str, object]:
    """The plan as JSON says it."""
    return {
        "node": plan.node,
        "time_seconds": plan.time_seconds,
        "executable": not plan.refused,
        "seconds_at_most": plan.seconds_at_most,
        "pods": [
            {
                "namespace": each.pod.namespace,
                "name": each.pod.name,
                "job": each.job,
                "gang": plan.gangs[each.gang].gang.title if each.gang in plan.gangs else "",
                "verdict": each.verdict.value,
                "reason": each.reason,
                "pdb": ", ".join(each.budgets),
            }
            for each in plan.pods
        ],
        "gangs": [
            {
                "gang": each.gang.title,
                "verdict": each.verdict.value,
                "reason": each.reason,
                "elsewhere": [
                    {"namespace": pod.namespace, "name": pod.name, "node": pod.node}
                    for pod in each.elsewhere
                ],
                "kueue": bool(each.workload),
            }
            for each in plan.gangs.values()
        ],
    }
