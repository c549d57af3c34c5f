"""What a drain of one node would do: a verdict with its reason for every pod, before anything is evicted. Pure.

One pod that may not go refuses the drain as a whole, as with kubectl; the members of a gang share one verdict.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from aggregator.policy.drain.gangs import gang_of, job_of
from aggregator.policy.drain.plan_model import DrainPlan, Facts, GangPlan, PodPlan, Verdict
from aggregator.policy.drain.pods import Pod
from aggregator.policy.drain.refusals import covering, refusal
from aggregator.policy.drain.rules import DrainRule, DrainRules, Mode


def drain_plan(
    facts: Facts, rules: DrainRules, *, now: float, evictions_per_second: float
) -> DrainPlan:
    """The plan.

    Args:
        facts: what was read.
        rules: what users say.
        now: Unix time.
        evictions_per_second: as the runner keeps to, for the estimate.
    """
    stays = {pod.uid: reason for pod in facts.pods if (reason := _why_it_stays(pod, facts))}
    moving = [pod for pod in facts.pods if pod.uid not in stays and not _leaving(pod)]
    gangs: dict[str, GangPlan] = {}
    local: dict[str, list[Pod]] = defaultdict(list)
    for pod in moving:
        if (gang := gang_of(pod)) is not None:
            local[gang.key].append(pod)
    for key, pods in local.items():
        gangs[key] = _gang_plan(key, pods, facts, rules)
    planned = tuple(
        _pod_plan(pod, stays.get(pod.uid, ""), gangs, facts, rules) for pod in facts.pods
    )
    going = [each for each in planned if each.goes]
    waits = max((each.deadline_seconds for each in going), default=0.0)
    grace = max((each.pod.grace_seconds for each in going), default=0.0)
    return DrainPlan(
        node=facts.node,
        time_seconds=now,
        pods=planned,
        gangs=gangs,
        seconds_at_most=waits + grace + len(moving) / evictions_per_second,
    )


def _leaving(pod: Pod) -> bool:
    return pod.deleting_since_seconds is not None


def _why_it_stays(pod: Pod, facts: Facts) -> str:
    """Empty: it has to go. The selection first, then kubectl's filters in its order."""
    if facts.subjects:
        named = ", ".join(facts.subjects)
        held = {path for subject in facts.subjects for path in facts.holders.get(subject, ())}
        if facts.holders and pod.path not in held:
            return f"stays: it does not hold {named}"
        if not facts.holders and pod.devices == 0:
            return f"stays: it asks for no accelerator (the node does not tell who holds {named})"
    if of_daemon_set(pod) and (pod.owner is None or pod.owner.uid not in facts.orphans):
        return "stays: a DaemonSet would start it again right here"
    if pod.mirror:
        return "stays: the kubelet runs it from a file; the API cannot remove it"
    if pod.finished:
        return f"stays: it has ended ({pod.phase.lower()})"
    return ""


def of_daemon_set(pod: Pod) -> bool:
    """Whether Kubernetes' own DaemonSet controller keeps it on its node; others of that name are not known here."""
    owner = pod.owner
    return owner is not None and owner.kind == "DaemonSet" and owner.api_version.startswith("apps/")


def _gang_plan(key: str, local: Sequence[Pod], facts: Facts, rules: DrainRules) -> GangPlan:
    gang = gang_of(local[0])
    assert gang is not None  # noqa: S101 - the caller grouped by it
    read = {pod.uid: pod for pod in facts.members.get(key, ())}
    members = tuple({**read, **{pod.uid: pod for pod in local}}.values())
    workload = facts.queued.get(key, "")
    # Kueue takes back all of them; else only those on this node are evicted, and only their data is at stake.
    at_stake = members if workload else local
    refused = [
        why
        for pod in at_stake
        if (why := refusal(pod, rules, facts.budgets, facts.orphans, queued=bool(workload)))
    ]
    forbidden = [pod for pod in members if _mode(pod, rules) is Mode.NEVER]
    rule = _strictest([rules.rule_for(pod) for pod in members])
    if refused or forbidden:
        why = refused[0] if refused else refusal(forbidden[0], rules, (), frozenset())
        verdict, reason = Verdict.REFUSE, f"{gang.title} goes as a whole or not at all; {why}"
    else:
        verdict = _VERDICTS[rule.mode]
        if workload:
            reason = _in_words(rule, f"all of {gang.title}", through_kueue=True)
        else:
            reason = f"{_in_words(rule, gang.title)}: its pods on this node; its controller restarts the job"
        if not gang.labels:
            reason += "; its pods elsewhere are not known, only an annotation names it"
    return GangPlan(
        gang=gang,
        verdict=verdict,
        reason=reason,
        members=members,
        elsewhere=tuple(pod for pod in members if pod.node != facts.node),
        deadline_seconds=_deadline(rule, verdict),
        then=rule.then,
        workload=workload,
    )


def _pod_plan(
    pod: Pod, stays: str, gangs: Mapping[str, GangPlan], facts: Facts, rules: DrainRules
) -> PodPlan:
    gang = gang_of(pod)
    key = gang.key if gang else ""
    cover = tuple(f"{each.namespace}/{each.name}" for each in covering(pod, facts.budgets))
    about = PodPlan(
        pod=pod, verdict=Verdict.LEAVE, reason=stays, job=job_of(pod), gang=key, budgets=cover
    )
    if stays:
        return about
    if _leaving(pod):
        return _with(about, Verdict.LEAVING, "is being deleted already; its end is waited for")
    if key in gangs:
        whole = gangs[key]
        planned = _with(about, whole.verdict, whole.reason)
        return msgspec.structs.replace(
            planned, deadline_seconds=whole.deadline_seconds, then=whole.then
        )
    if why := refusal(pod, rules, facts.budgets, facts.orphans):
        return _with(about, Verdict.REFUSE, why)
    rule = rules.rule_for(pod)
    verdict = _VERDICTS[rule.mode]
    reason = _in_words(rule, "it" if pod.phase != "Pending" else "it, which has not started,")
    planned = _with(about, verdict, reason)
    return msgspec.structs.replace(
        planned, deadline_seconds=_deadline(rule, verdict), then=rule.then
    )


_VERDICTS = {
    Mode.EVICT: Verdict.EVICT,
    Mode.CHECKPOINT: Verdict.CHECKPOINT,
    Mode.WAIT: Verdict.WAIT,
    Mode.NEVER: Verdict.REFUSE,
}


def _with(plan: PodPlan, verdict: Verdict, reason: str) -> PodPlan:
    return msgspec.structs.replace(plan, verdict=verdict, reason=reason)


def _deadline(rule: DrainRule, verdict: Verdict) -> float:
    timed = verdict in (Verdict.WAIT, Verdict.CHECKPOINT)
    return (rule.deadline_seconds or 0.0) if timed else 0.0


def _mode(pod: Pod, rules: DrainRules) -> Mode:
    return Mode.NEVER if rules.protects(pod.namespace) else rules.rule_for(pod).mode


def _strictest(rules: Sequence[DrainRule]) -> DrainRule:
    """Of rules that ask for the same, the most patient one."""
    order = list(Mode)
    return max(
        rules,
        key=lambda rule: (order.index(rule.mode), rule.then == "leave", rule.deadline_seconds or 0),
    )


def _in_words(rule: DrainRule, what: str, *, through_kueue: bool = False) -> str:
    how = "is taken back by Kueue and queued anew" if through_kueue else "is evicted"
    most = f"at most {rule.deadline_seconds or 0:g} s"
    words = {
        Mode.EVICT: f"{what} {how}",
        Mode.CHECKPOINT: f"{what} is asked for a checkpoint, waited for {most}, then {how}",
        Mode.WAIT: f"{what} is waited for until it ends, {most}, then "
        + ("left where it is" if rule.then == "leave" else how),
        Mode.NEVER: f"{what} is never moved",
    }[rule.mode]
    return f"{words} ({rule.reason})" if rule.reason else words
