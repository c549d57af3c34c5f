"""The NVIDIA driver itself: stuck, refusing, of two versions, or not there although the GPUs are."""

from collections.abc import Iterator

from agent.catalogue import Catalogue
from agent.checks import Observation, source_is_ok
from agent.checks.gpu_basics import SOURCE
from agent.snapshot import Snapshot
from contract.vocabulary import SourceState

SUBJECT = "nvidia"
MISMATCH = "LIB_RM_VERSION_MISMATCH"
"""How the source's reason begins where NVML's library and the kernel module are of different versions."""

LET_GO = "let go of while"
"""How it begins while the agent itself holds no GPU open, so that one can be reset: nothing is wrong with the driver."""


def check(snapshot: Snapshot, catalogue: Catalogue) -> Iterator[Observation]:
    """What is wrong with the driver, while it says nothing of its GPUs."""
    status = snapshot.source(SOURCE)
    if status is None or status.reason.startswith(LET_GO):
        return
    if status.state is SourceState.STUCK:
        yield _see(catalogue, "nvidia-stuck", status.reason)
    elif status.state is SourceState.FAILING:
        is_mismatch = status.reason.startswith(MISMATCH)
        code = "nvidia-library-mismatch" if is_mismatch else "nvidia-failing"
        yield _see(catalogue, code, status.reason)
    elif status.state is SourceState.ABSENT and source_is_ok(snapshot, "pci"):
        yield from _absent(snapshot, status.reason, catalogue)


def _absent(snapshot: Snapshot, reason: str, catalogue: Catalogue) -> Iterator[Observation]:
    gpus = [device for device in snapshot.pci_devices if device.is_gpu]
    driven = [device.address for device in gpus if device.driver == "nvidia"]
    idle = [device.address for device in gpus if not device.driver]
    if driven:
        yield _see(
            catalogue,
            "nvidia-library-missing",
            f"the nvidia kernel driver has {len(driven)} GPUs ({', '.join(driven)}), but {reason}",
        )
    elif idle:
        yield _see(
            catalogue,
            "nvidia-driver-missing",
            f"{len(idle)} NVIDIA GPUs on the PCI bus ({', '.join(idle)}) have no driver: {reason}",
        )


def _see(catalogue: Catalogue, code: str, evidence: str) -> Observation:
    # No source keeps these from clearing: what they are about is the source's own silence.
    return Observation(code=catalogue.codes[code], subject=SUBJECT, evidence=evidence, source="")
