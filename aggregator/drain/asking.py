"""Waits for pods that may end by themselves, and asks for checkpoints. What was asked stands on the pods.

So a new process goes on where the old one was: a request counts while the drain that made it goes on, and
the answer that an earlier drain got is wiped by the next request.
"""

from collections.abc import Sequence
from typing import NamedTuple

from aggregator.cluster.times import exact, to_seconds, whole
from aggregator.cluster.workloads import WorkloadError
from aggregator.drain.desk import Desk
from aggregator.policy.drain.plan_model import Verdict
from aggregator.policy.drain.pods import Pod

ATTEMPT = "fleetmedic.io/drain-attempt"
"""Under which drain a pod was asked or waited for."""
WAITED_FOR_SINCE = "fleetmedic.io/drain-waits-since"
CLOCKS_DIFFER_SECONDS = 60.0
"""So much may the clock of the leader before us have been ahead."""


class Unit(NamedTuple):
    """Pods that are decided together: a gang, or one pod."""

    title: str
    verdict: Verdict
    deadline_seconds: float
    leaves: bool
    """At the deadline they are left where they are."""
    members: tuple[Pod, ...]
    """Not finished, on any node."""


class Readiness(NamedTuple):
    """Whether a unit may be evicted now, and in words why not."""

    ready: bool
    text: str = ""
    left: bool = False
    """It will not be: its rule says to leave it."""


async def readiness(desk: Desk, unit: Unit, attempt: str) -> Readiness:
    """Ask what has to be asked, and tell how it stands."""
    match unit.verdict:
        case Verdict.WAIT:
            return await _waiting(desk, unit, attempt)
        case Verdict.CHECKPOINT:
            return await _checkpointing(desk, unit, attempt)
        case _:
            return Readiness(ready=True)


async def _waiting(desk: Desk, unit: Unit, attempt: str) -> Readiness:
    since, trouble = await _asked_since(desk, unit.members, WAITED_FOR_SINCE, attempt)
    over, until = _over(desk, since, unit)
    if not over:
        return Readiness(ready=False, text=f"{unit.title} is waited for{until}{trouble}")
    if unit.leaves:
        return Readiness(
            ready=False, left=True, text=f"{unit.title} did not end in time; its rule leaves it"
        )
    return Readiness(ready=True)


async def _checkpointing(desk: Desk, unit: Unit, attempt: str) -> Readiness:
    rules = desk.rules
    since, trouble = await _asked_since(desk, unit.members, rules.checkpoint_annotation, attempt)
    answered = sum(
        1
        for pod in unit.members
        if pod.annotations.get(ATTEMPT) in desk.attempts
        and pod.annotations.get(rules.checkpoint_annotation)
        and pod.annotations.get(rules.checkpointed_annotation)
    )
    over, until = _over(desk, since, unit)
    if over or answered == len(unit.members):
        return Readiness(ready=True)
    return Readiness(
        ready=False,
        text=f"{unit.title}: {answered} of {len(unit.members)} answered the request for a "
        f"checkpoint{until}{trouble}",
    )


async def _asked_since(
    desk: Desk, pods: Sequence[Pod], key: str, attempt: str
) -> tuple[float | None, str]:
    """Since when the last of them knows (Unix time; ``None``: one does not), asking those who do not yet."""
    known: list[float] = []
    trouble = ""
    for pod in pods:
        asked = _asked(desk, pod, key)
        if asked is None:
            try:
                asked = await _ask(desk, pod, key, attempt)
            except WorkloadError as error:
                trouble = f"; {pod.path} could not be told: {error}"
                continue
        known.append(asked)
    # Latecomers are told too, but do not put off the deadline of the others.
    return (min(known) if known and not trouble else None), trouble


def _asked(desk: Desk, pod: Pod, key: str) -> float | None:
    if (remembered := desk.asked.get(pod.uid)) is not None:
        return remembered[1]
    if pod.annotations.get(ATTEMPT) not in desk.attempts:
        return None
    try:
        since = to_seconds(pod.annotations.get(key, ""))
    except ValueError:
        return None
    # Whoever owns the pod may write there, too: a time to come would put the deadline off for ever.
    return since if since <= desk.wall() + CLOCKS_DIFFER_SECONDS else None


async def _ask(desk: Desk, pod: Pod, key: str, attempt: str) -> float:
    """Remembered before it is done, so that two nodes of one gang do not both ask."""
    now = desk.wall()
    desk.asked[pod.uid] = (attempt, now)
    annotations = {key: exact(now), ATTEMPT: attempt}
    if key == desk.rules.checkpoint_annotation:
        annotations[desk.rules.checkpointed_annotation] = ""
    try:
        async with desk.slots:
            await desk.workloads.annotate(pod, annotations)
    except BaseException:
        desk.asked.pop(pod.uid, None)
        raise
    return now


def _over(desk: Desk, since: float | None, unit: Unit) -> tuple[bool, str]:
    if since is None:
        return False, ""
    until = since + unit.deadline_seconds
    return desk.wall() >= until, f" until {whole(until)}"
