"""What this agent itself cannot see or use: shown, never acted on."""

from collections.abc import Iterator

import msgspec

from agent.catalogue import Catalogue
from agent.checks import Checked, Context, Observation
from agent.snapshot import Snapshot
from contract.vocabulary import SourceState

CODES = {
    "kmsg": "kernel-log-unread",
    "overrides": "overrides-refused",
    "pods": "pods-unread",
    "mounts": "mounts-unread",
    "pci": "pci-unread",
    "rdma": "rdma-unread",
    "host": "host-unread",
    "ascend": "ascend-unread",
}
"""Source → the code that says that it cannot be read. Of the NVIDIA driver ``gpu_driver.py`` says more."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is remembered."""


def check(snapshot: Snapshot, memory: Memory, context: Context) -> Checked[Memory]:
    """Every source that is here and cannot be read."""
    return Checked(observations=tuple(_unread(snapshot, context.catalogue)), memory=memory)


def _unread(snapshot: Snapshot, catalogue: Catalogue) -> Iterator[Observation]:
    for status in snapshot.sources:
        code = CODES.get(status.name)
        if code is None or status.state not in (SourceState.FAILING, SourceState.STUCK):
            continue
        yield Observation(
            code=catalogue.find(code),
            subject=status.name,
            evidence=f"{status.name} is {status.state.label}: {status.reason}",
            source="",
        )
