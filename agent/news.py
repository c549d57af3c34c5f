"""What changed between two judgements of a node, and whom it concerns."""

from collections.abc import Iterable

import structlog

from contract.vocabulary import Finding, Severity

log = structlog.get_logger("agent")


def judgements(found: Iterable[Finding]) -> set[tuple[object, ...]]:
    """What is judged, without what drifts from tick to tick (evidence, counts, times)."""
    return {(*each.key, each.severity, each.action) for each in found}


def is_urgent(before: tuple[Finding, ...], after: tuple[Finding, ...]) -> bool:
    """Something that others act on is new, or is gone; only what is shown to people can wait."""

    def weighty(found: tuple[Finding, ...]) -> set[tuple[object, ...]]:
        return judgements(each for each in found if each.severity >= Severity.DEGRADED)

    return weighty(before) != weighty(after)


def tell(before: tuple[Finding, ...], after: tuple[Finding, ...]) -> None:
    """Log each finding that is new, judged otherwise, or over."""
    old = {each.key: each for each in before}
    new = {each.key: each for each in after}
    for key, finding in new.items():
        if key not in old or old[key].severity != finding.severity:
            log.warning(
                "finding judged anew" if key in old else "finding raised",
                code=finding.code,
                subject=finding.subject,
                severity=finding.severity.label,
                evidence=finding.evidence,
            )
    for key, finding in old.items():
        if key not in new:
            log.info("finding cleared", code=finding.code, subject=finding.subject)
