"""GPU checks: lost, fewer than there should be, too hot, the driver asking for recovery, the driver stuck."""

from collections.abc import Iterator

import msgspec

from agent.catalogue import DRIVER_VERDICTS, Catalogue
from agent.checks import Limits, Observation, source_is_ok
from agent.snapshot import Gpu, Snapshot
from contract.vocabulary import SourceState

SOURCE = "nvidia"

RECOVERY_ACTIONS = {1: "GPU reset", 2: "node reboot", 3: "drain P2P", 4: "drain and reset"}
"""NVML field 230; 0 is none, any other value is unknown to us and only shown."""


def check(snapshot: Snapshot, catalogue: Catalogue, limits: Limits) -> Iterator[Observation]:
    """Everything wrong with this node's GPUs now."""
    status = snapshot.source(SOURCE)
    if status is not None and status.state is SourceState.STUCK:
        yield Observation(
            code=catalogue.codes["nvidia-stuck"],
            subject="nvidia",
            evidence=status.reason,
            source="",
        )
    if not source_is_ok(snapshot, SOURCE):
        return
    for gpu in snapshot.gpus:
        if gpu.lost:
            yield Observation(
                code=catalogue.codes["gpu-lost"],
                subject=gpu.subject,
                evidence=f"{gpu.model or 'GPU'} {gpu.uuid} does not answer the driver",
                source=SOURCE,
            )
            continue
        yield from _too_hot(gpu, catalogue, limits)
        yield from _recovery(gpu, catalogue)
    yield from _count(snapshot, catalogue, limits)


def _too_hot(gpu: Gpu, catalogue: Catalogue, limits: Limits) -> Iterator[Observation]:
    limit = gpu.slowdown_temperature_celsius or limits.gpu_too_hot_celsius
    if gpu.temperature_celsius is not None and gpu.temperature_celsius >= limit:
        yield Observation(
            code=catalogue.codes["gpu-too-hot"],
            subject=gpu.subject,
            evidence=f"core at {gpu.temperature_celsius:.0f} C, slows down at {limit:.0f} C",
            source=SOURCE,
        )


def _recovery(gpu: Gpu, catalogue: Catalogue) -> Iterator[Observation]:
    name = RECOVERY_ACTIONS.get(gpu.recovery_action or 0)
    if name is not None and gpu.recovery_action is not None:
        _, action = DRIVER_VERDICTS[gpu.recovery_action]
        yield Observation(
            code=msgspec.structs.replace(catalogue.codes["gpu-recovery-action"], action=action),
            subject=gpu.subject,
            evidence=f"the driver asks for: {name} (recovery action {gpu.recovery_action})",
            source=SOURCE,
        )


def _count(snapshot: Snapshot, catalogue: Catalogue, limits: Limits) -> Iterator[Observation]:
    answering = sum(not gpu.lost for gpu in snapshot.gpus)
    if limits.expected_gpus is not None and len(snapshot.gpus) < limits.expected_gpus:
        yield Observation(
            code=catalogue.codes["gpu-count"],
            subject="node",
            evidence=f"{answering} GPUs answer, {limits.expected_gpus} expected",
            source=SOURCE,
        )
