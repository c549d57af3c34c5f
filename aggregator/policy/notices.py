"""What people are told by a Kubernetes Event although no decision follows from it."""

from collections.abc import Iterable, Iterator, Mapping

from aggregator.policy.model import ClusterView, RecordEvent
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


def device_notices(
    before: Mapping[str, frozenset[str]] | None, view: ClusterView
) -> Iterator[RecordEvent]:
    """One Event for each device whose quarantine begins to hold, is lost, or is over.

    Args:
        before: by node, the devices that were seen to be kept from new pods by themselves; ``None``: nobody looked.
            Then nothing is news, as after a restart.
        view: as of now.
    """
    after = view.device_quarantines
    if before is None or after is None:
        return
    nobody: frozenset[str] = frozenset()
    for node in sorted(before.keys() | after.keys()):
        words = view.device_words.get(node, {})
        was, now = before.get(node, nobody), after.get(node, nobody)
        for device in sorted(now - was):
            yield RecordEvent(
                node=node,
                type="Normal",
                event_reason="DeviceQuarantined",
                reason=f"{device} is kept from new pods by itself: {words.get(device, 'it is seen to hold')}",
            )
        for device in sorted(was - now):
            wanted = device in words
            yield RecordEvent(
                node=node,
                type="Warning" if wanted else "Normal",
                event_reason="DeviceQuarantineLost" if wanted else "DeviceReleased",
                reason=f"{device} is not seen to be kept from new pods by itself any more: {words[device]}"
                if wanted
                else f"{device} is given back: its quarantine is over",
            )
