"""Why a pod may not be moved: what kubectl refuses, what users forbid, what the API server cannot do. Pure."""

from collections.abc import Mapping, Sequence

from aggregator.policy.drain.pods import DisruptionBudget, Pod
from aggregator.policy.drain.rules import DrainRules, Mode


def refusal(
    pod: Pod,
    rules: DrainRules,
    budgets: Sequence[DisruptionBudget],
    orphans: frozenset[str],
    *,
    queued: bool = False,
) -> str:
    """One sentence that names the remedy; empty: it may go.

    Args:
        pod: one that has to go.
        rules: what users say.
        budgets: all disruption budgets that may cover it.
        orphans: UIDs of DaemonSets that are gone while their pods are not.
        queued: Kueue takes it back; no Eviction call is made for it.
    """
    rule = rules.rule_for(pod)
    if pod.empty_dir and rule.empty_dir == "refuse":
        return f"{pod.path} keeps data in an emptyDir; a rule with empty_dir: evict lets it go"
    if rule.unmanaged == "refuse":
        if pod.owner is None:
            return (
                f"{pod.path} has no controller, nobody starts it again; "
                "a rule with unmanaged: evict lets it go"
            )
        if pod.owner.uid in orphans:
            return (
                f"{pod.path} is left over from DaemonSet {pod.owner.name}, which is gone; "
                "a rule with unmanaged: evict lets it go"
            )
    if rules.protects(pod.namespace):
        return f"{pod.path} is in a protected namespace; move it by hand, or change protected_namespaces"
    if rule.mode is Mode.NEVER:
        return f"{pod.path} is never moved by rule{f' ({rule.reason})' if rule.reason else ''}"
    cover = covering(pod, budgets)
    if len(cover) > 1 and pod.phase != "Pending" and not queued:
        names = ", ".join(each.name for each in cover)
        return f"{pod.path} is covered by several disruption budgets ({names}); the API server evicts no such pod"
    return ""


def covering(pod: Pod, budgets: Sequence[DisruptionBudget]) -> tuple[DisruptionBudget, ...]:
    """The disruption budgets whose selector takes in this pod."""
    return tuple(
        each for each in budgets if each.namespace == pod.namespace and _selects(each, pod.labels)
    )


def in_words(budget: DisruptionBudget) -> str:
    """``PDB serving/llm: needs 3 healthy, has 3``."""
    return (
        f"PDB {budget.namespace}/{budget.name}: needs {budget.desired_healthy} healthy, "
        f"has {budget.current_healthy}"
    )


def _selects(budget: DisruptionBudget, labels: Mapping[str, str]) -> bool:
    """As Kubernetes does; a selector that says nothing takes in the whole namespace (policy/v1)."""
    if any(labels.get(key) != value for key, value in budget.match_labels.items()):
        return False
    return all(_meets(each, labels) for each in budget.match_expressions)


def _meets(expression: Mapping[str, object], labels: Mapping[str, str]) -> bool:
    key = str(expression.get("key", ""))
    named = expression.get("values")
    values = named if isinstance(named, list | tuple) else ()
    match expression.get("operator"):
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:
            return False
