"""The NVSwitch fabric: whether each GPU is registered with it, and what the driver says of its routes."""

from collections.abc import Iterator, Sequence

import msgspec

from agent.catalogue import Catalogue
from agent.checks import Observation
from agent.checks.gpu_basics import see
from agent.snapshot import Gpu, PciDevice

NOT_STARTED, IN_PROGRESS, COMPLETED = 1, 2, 3
"""NVML_GPU_FABRIC_STATE; 0 is not supported."""

SUCCESS, NOT_SUPPORTED = 0, 3
"""NVML return codes."""

_TRUE = 1
_HEALTH = (
    (0, "bandwidth degraded"),
    (2, "route recovery under way"),
    (4, "route unhealthy"),
    (6, "access timeout recovery under way"),
)
"""Shift of each two-bit field of the health mask, and what it says when true."""
_CONFIGURATION_SHIFT = 8
_WRONG_CONFIGURATION = {
    2: "wrong system id",
    3: "wrong chassis serial number",
    4: "no partition",
    5: "too few NVLinks",
    6: "incompatible GPU firmware",
    7: "invalid location",
    8: "invalid GPU state",
}
"""NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_*"""


class Memory(msgspec.Struct, frozen=True):
    """What is remembered of the fabric."""

    completed: bool = False
    """Registration once succeeded on this node, so it can."""


def check(
    gpus: Sequence[Gpu], pci: Sequence[PciDevice], memory: Memory, catalogue: Catalogue
) -> tuple[list[Observation], Memory]:
    """What is wrong with the fabric now."""
    found: list[Observation] = []
    # One GPU alone needs no fabric, and says so in different ways.
    if sum(bool(gpu.fabric_state) for gpu in gpus) > 1:
        is_needed = memory.completed or any(device.is_nvswitch for device in pci)
        for gpu in gpus:
            found += _registration(gpu, catalogue, is_needed=is_needed)
            found += _health(gpu, catalogue)
    completed = any(gpu.fabric_state == COMPLETED and gpu.fabric_status == SUCCESS for gpu in gpus)
    return found, Memory(memory.completed or completed)


def _registration(gpu: Gpu, catalogue: Catalogue, *, is_needed: bool) -> Iterator[Observation]:
    state, status = gpu.fabric_state, gpu.fabric_status
    if state in (NOT_STARTED, IN_PROGRESS):
        words = "has not started" if state == NOT_STARTED else "is still in progress"
        why = "which this node needs" if is_needed else "which this node may not need"
        code = "gpu-fabric-not-ready" if is_needed else "gpu-fabric-pending"
        yield see(
            catalogue.codes[code],
            gpu,
            f"registration with the NVLink fabric, {why}, {words} (state {state})",
        )
    if state == COMPLETED and status not in (None, SUCCESS, NOT_SUPPORTED):
        yield see(
            catalogue.codes["gpu-fabric-failed"],
            gpu,
            f"registration with the NVLink fabric failed: NVML return code {status}",
        )


def _health(gpu: Gpu, catalogue: Catalogue) -> Iterator[Observation]:
    mask = gpu.fabric_health_mask
    if gpu.fabric_state != COMPLETED or not mask:
        return
    said = [words for shift, words in _HEALTH if mask >> shift & 0b11 == _TRUE]
    wrong = _WRONG_CONFIGURATION.get(mask >> _CONFIGURATION_SHIFT & 0b1111)
    if wrong is not None:
        said.append(f"configured wrongly ({wrong})")
    if said:
        yield see(
            catalogue.codes["gpu-fabric-degraded"],
            gpu,
            f"{', '.join(said)} (health mask {mask:#x})",
        )


def forget(memory: Memory, subject: str) -> Memory:
    """A person's word on the node: learn anew whether it has a fabric."""
    return Memory() if subject == "node" else memory
