"""What people are told by a Kubernetes Event although no decision follows from it."""

from collections.abc import Iterable, Iterator

from aggregator.policy.model import RecordEvent
from contract.vocabulary import Finding

NOTICES = {"overrides-refused": "OverridesRefused", "kernel-log-unread": "KernelLogUnread"}
"""Finding code → reason of the Event."""


def notices(
    node: str, before: Iterable[Finding] | None, after: Iterable[Finding]
) -> Iterator[RecordEvent]:
    """One Event for each such finding that is new on its node.

    Args:
        node: whose findings they are.
        before: those of the report before this one; ``None``: there was none. Then nothing is news: a starting
            aggregator would tell of every node again what was told before.
        after: those of this report.
    """
    if before is None:
        return
    known = {each.key for each in before}
    for finding in after:
        if finding.code in NOTICES and finding.key not in known:
            yield RecordEvent(
                node=node,
                type="Warning",
                event_reason=NOTICES[finding.code],
                reason=finding.evidence,
            )
