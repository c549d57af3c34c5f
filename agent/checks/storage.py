"""Mount checks: stuck, failing, read-only of a sudden, full."""

from collections.abc import Iterator

import msgspec

from agent.catalogue import Catalogue, Code
from agent.checks import Checked, Context, Observation, source_is_ok
from agent.snapshot import Mount, Snapshot

SOURCE = "mounts"


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the mounts."""

    writable: frozenset[str] = frozenset()
    """Mounts seen writable and still there: only those can have *become* read-only."""


def forget(memory: Memory, subject: str) -> Memory:
    """A person said that this is over: a mount made read-only on purpose is as it should be."""
    return msgspec.structs.replace(memory, writable=memory.writable - {subject})


def check(snapshot: Snapshot, memory: Memory, context: Context) -> Checked[Memory]:
    """Everything wrong with this node's network and FUSE mounts now."""
    if not source_is_ok(snapshot, SOURCE):
        return Checked(memory=memory)
    present = frozenset(mount.subject for mount in snapshot.mounts)
    now_writable = {mount.subject for mount in snapshot.mounts if mount.read_only is False}
    remembered = Memory(writable=(memory.writable & present) | now_writable)
    found = tuple(
        each
        for mount in snapshot.mounts
        for each in _found(mount, mount.subject in remembered.writable, context.catalogue)
    )
    return Checked(observations=found, memory=remembered)


def _found(mount: Mount, was_writable: bool, catalogue: Catalogue) -> Iterator[Observation]:
    def saw(code: Code, evidence: str) -> Observation:
        return Observation(
            code=code,
            subject=mount.subject,
            evidence=f"{mount.fs_type} of {mount.origin or 'unknown origin'}: {evidence}",
            source=SOURCE,
        )

    if mount.state != "ok":
        yield saw(catalogue.codes[f"mount-{mount.state}"], mount.reason)
    if mount.read_only and was_writable:
        yield saw(catalogue.codes["mount-read-only"], "it was writable and is read-only")
    for name, available, total, unit in (
        ("mount-full", mount.available_bytes, mount.total_bytes, "bytes"),
        ("mount-inodes-full", mount.available_inodes, mount.total_inodes, "inodes"),
    ):
        code = catalogue.codes[name]
        # File systems over object stores tell of sizes that are none: zero in all.
        if available is not None and total and available / total < code.limits["available_ratio"]:
            yield saw(
                code,
                f"{available} ({available / total:.1%}) of {total} {unit} available, "
                f"limit {code.limits['available_ratio']:.1%}",
            )
