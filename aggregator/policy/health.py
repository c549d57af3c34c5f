"""What the policy knows of one node's health, and the conditions that follow from it."""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import msgspec

from aggregator.policy.model import ClusterNode, Condition, SetCondition
from contract.vocabulary import (
    CONDITIONS,
    DirectiveOutcome,
    Domain,
    Finding,
    Severity,
    SourceState,
    SourceStatus,
)


class NodeHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One node as last reported."""

    name: str
    pool: str
    findings: tuple[Finding, ...] = ()
    """Worst first."""
    sources: tuple[SourceStatus, ...] = ()
    age_seconds: float = 0.0
    """Since the newest report came in."""
    clear_seconds: float = math.inf
    """How long this process has seen it report without a break and without critical trouble."""
    boot_id: str = ""
    """As its agent says."""
    outcomes: tuple[DirectiveOutcome, ...] = ()
    """Of every directive that its agent remembers."""
    repairs: frozenset[str] = frozenset()
    """Kinds of directive that its agent's own settings allow."""
    holders: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Subject → ``namespace/name`` of the pods that hold that device, where the kubelet tells."""

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Findings of this strength or worse."""
        if not self.findings:
            return ()
        return tuple(each for each in self.findings if each.severity >= severity)


SOURCE_OF_DOMAIN = {
    Domain.GPU: "nvidia",
    Domain.NPU: "ascend",
    Domain.RDMA: "rdma",
    Domain.HOST: "host",
    Domain.STORAGE: "host",
}
"""The source without which a domain cannot be judged."""


ONLY_THE_LOG = ("kmsg",)
BESIDE = {Domain.STORAGE: ("kmsg", "mounts")}
"""What else tells of a domain; the kernel log tells of every one."""


def conditions(
    health: NodeHealth, node: ClusterNode, *, silent_after_seconds: float
) -> Iterator[SetCondition]:
    """The conditions that should change now.

    A condition that the node never had is stated only where its hardware exists. The message alone is no
    reason to write: measured values change every second.
    """
    silent = health.age_seconds > silent_after_seconds
    if health.findings:
        seen = _conditions(health.findings, health.sources)
    else:
        seen = _conditions_without_findings(health.sources)
    for type_, condition in seen:
        known = node.conditions.get(type_)
        wanted = _SILENT if silent else condition
        if known is None and (wanted is None or silent):
            continue
        wanted = wanted or _NOT_SEEN
        if known is None or (known.status, known.reason) != (wanted.status, wanted.reason):
            yield SetCondition(
                node=node.name,
                type=type_,
                condition=wanted,
                reason=f"{type_} is {wanted.status}: {wanted.message}",
            )


def unseen(domains: Iterable[Domain], sources: Iterable[SourceStatus]) -> str:
    """Which source hides whether these parts are well, in words; empty where all of them are seen.

    A source that the agent was never given hides nothing: it is then not what its findings rest on. One that tells of
    a part beside others, such as the kernel log, hides something only where it is here and cannot be read.
    """
    states = {each.name: each.state for each in sources}
    asked = set(domains)
    for name in sorted({SOURCE_OF_DOMAIN[domain] for domain in asked}):
        if (state := states.get(name, SourceState.OK)) is not SourceState.OK:
            return f"{name} is {state.label}"
    for name in sorted({name for domain in asked for name in BESIDE.get(domain, ONLY_THE_LOG)}):
        if (state := states.get(name, SourceState.OK)) >= SourceState.FAILING:
            return f"{name} is {state.label}"
    return ""


_SILENT = Condition("Unknown", "AgentSilent", "the agent of this node does not report")
_WELL = Condition("True", "AllChecksPass", "all checks pass")
_NOT_SEEN = Condition("Unknown", "SourceAbsent", "the agent no longer sees anything of this kind")


_Wanted = tuple[tuple[str, Condition | None], ...]
"""By condition type; ``None``: there is nothing of the kind."""


def _conditions(findings: tuple[Finding, ...], sources: tuple[SourceStatus, ...]) -> _Wanted:
    by_name = {each.name: each for each in sources}
    return tuple(
        (type_, _condition(findings, by_name, domain)) for domain, type_ in CONDITIONS.items()
    )


@lru_cache(maxsize=16_384)  # nodes; with it a round over 5,000 healthy ones takes half the time
def _conditions_without_findings(sources: tuple[SourceStatus, ...]) -> _Wanted:
    return _conditions((), sources)


def _condition(
    all_findings: tuple[Finding, ...], sources: Mapping[str, SourceStatus], domain: Domain
) -> Condition | None:
    findings = [each for each in all_findings if each.domain is domain]
    worst = findings[0] if findings else None
    if worst is not None and worst.severity >= Severity.CRITICAL:
        more = f" (+{len(findings) - 1} more)" if len(findings) > 1 else ""
        return Condition(
            "False", camel_case(worst.code), f"{worst.subject}: {worst.evidence}{more}"
        )
    source = sources.get(SOURCE_OF_DOMAIN[domain])
    if source is None or source.state is SourceState.ABSENT:
        return None
    if source.state is not SourceState.OK:
        return Condition("Unknown", f"Source{camel_case(source.state.label)}", source.reason)
    for name in BESIDE.get(domain, ONLY_THE_LOG):
        # Here and not to be read: what it would say is not known.
        beside = sources.get(name)
        if beside is not None and beside.state in (SourceState.FAILING, SourceState.STUCK):
            return Condition("Unknown", f"Source{camel_case(beside.state.label)}", beside.reason)
    if worst is not None and worst.severity >= Severity.DEGRADED:
        return Condition("True", "Degraded", f"{worst.subject}: {worst.evidence}")
    return _WELL


def camel_case(code: str) -> str:
    """``gpu-too-hot`` → ``GpuTooHot``, the form Kubernetes wants of a reason."""
    return "".join(word[:1].upper() + word[1:] for word in code.replace("_", "-").split("-"))
