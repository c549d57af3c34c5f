"""All checks over one snapshot."""

from agent.catalogue import Catalogue
from agent.checks import Checked, Limits, Memory, gpu, host, rdma
from agent.snapshot import Snapshot


def run(snapshot: Snapshot, memory: Memory, catalogue: Catalogue, limits: Limits) -> Checked:
    """What is bad now, and what to remember for the next snapshot."""
    ports, remembered = rdma.check(snapshot, memory, catalogue)
    return Checked(
        observations=(
            *gpu.check(snapshot, catalogue, limits),
            *ports,
            *host.check(snapshot, catalogue, limits),
        ),
        memory=remembered,
    )
