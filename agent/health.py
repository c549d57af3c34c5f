"""How each device of this node is, in one of four words. Pure.

``unknown`` is a word of its own: a device whose source cannot be read is neither well nor a reason to act.
"""

from collections.abc import Iterable, Iterator

from agent.snapshot import Snapshot
from contract.vocabulary import Finding, Health, Severity, SourceState

KERNEL_LOG = "kmsg"

OF_DEVICES = frozenset({"nvidia", "ascend", "rdma", "host", "mounts", KERNEL_LOG})
"""Sources whose silence hides devices: they are then shown in their place."""


def health_of(
    snapshot: Snapshot, findings: Iterable[Finding], blind: Iterable[str] = ()
) -> dict[str, Health]:
    """Each device that was read, and each that a finding names.

    Args:
        snapshot: the newest one.
        findings: all that are raised now.
        blind: subjects that no check can judge although their source answers.
    """
    unseeing = {
        status.name
        for status in snapshot.sources
        if status.state in (SourceState.FAILING, SourceState.STUCK)
    }
    hidden = frozenset(blind)
    health = {
        subject: Health.UNKNOWN
        if {source, KERNEL_LOG} & unseeing or subject in hidden
        else Health.OK
        for subject, source in devices(snapshot)
    }
    health |= {name: Health.UNKNOWN for name in unseeing & OF_DEVICES if name not in health}
    for finding in findings:
        if finding.severity >= Severity.CRITICAL:
            health[finding.subject] = Health.FAILED
        elif (
            finding.severity >= Severity.DEGRADED
            and health.get(finding.subject) is not Health.FAILED
        ):
            health[finding.subject] = Health.DEGRADED
    return health


def devices(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """(subject, source) of everything that was read."""
    for gpu in snapshot.gpus:
        yield gpu.subject, "nvidia"
        for instance in gpu.mig_instances:
            yield instance.subject(gpu), "nvidia"
    for npu in snapshot.npus:
        yield npu.subject, "ascend"
    for port in snapshot.rdma_ports:
        yield port.subject, "rdma"
    if snapshot.host is not None:
        yield "host", "host"
        for disk in snapshot.host.disks:
            yield f"mount:{disk.mount_point}", "host"
    for mount in snapshot.mounts:
        yield mount.subject, "mounts"
