"""Which GPUs there are: lost, waiting for a reset, fewer than there should be, on the bus but not with the driver."""

from collections.abc import Iterator, Sequence

import msgspec

from agent.catalogue import DRIVER_VERDICTS, Catalogue
from agent.checks import Limits, Observation
from agent.checks.gpu_basics import SOURCE, see
from agent.snapshot import Gpu, PciDevice, Snapshot

RECOVERY_ACTIONS = {
    1: "GPU reset",
    2: "node reboot",
    3: "drain P2P",
    4: "drain and reset",
    5: "recover the IMEX domain",
    6: "bus reset",
    7: "system reboot",
}
"""NVML field 230, as nvidia-ml-py names its values; 0 is none."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Which GPUs this node was seen with."""

    most: int = 0
    """The most that answered at once."""
    addresses: tuple[str, ...] = ()
    """Where they were, when so many last did."""


def of_one(gpu: Gpu, catalogue: Catalogue) -> Iterator[Observation]:
    """What a GPU that answers says about its own state."""
    codes = catalogue.codes
    if gpu.reset_required:
        yield see(codes["gpu-reset-required"], gpu, "the driver refuses calls until it is reset")
    if gpu.persistence_mode is False:
        yield see(codes["gpu-persistence-off"], gpu, "persistence mode is off")
    yield from _recovery(gpu, catalogue)


def _recovery(gpu: Gpu, catalogue: Catalogue) -> Iterator[Observation]:
    value = gpu.recovery_action
    if not value:
        return
    evidence = (
        f"the driver asks for: {RECOVERY_ACTIONS.get(value, 'unknown')} (recovery action {value})"
    )
    verdict = DRIVER_VERDICTS.get(value)
    if verdict is None:
        yield see(catalogue.codes["gpu-recovery-unknown"], gpu, evidence)
        return
    severity, action = verdict
    code = catalogue.codes["gpu-recovery-action"]
    yield see(msgspec.structs.replace(code, severity=severity, action=action), gpu, evidence)


def lost(gpu: Gpu, catalogue: Catalogue) -> Observation:
    """A GPU that the driver cannot reach."""
    return see(
        catalogue.codes["gpu-lost"],
        gpu,
        f"{gpu.model or 'GPU'} {gpu.uuid} does not answer the driver",
    )


def missing(
    snapshot: Snapshot, memory: Memory, catalogue: Catalogue, limits: Limits
) -> tuple[list[Observation], Memory]:
    """Fewer than the setting says or, without one, than were ever seen here; a lost GPU is told of as lost."""
    answering = [gpu for gpu in snapshot.gpus if not gpu.lost]
    listed = len(snapshot.gpus)
    found: list[Observation] = []
    should = memory.most if limits.expected_gpus is None else limits.expected_gpus
    if listed < should:
        evidence = f"{len(answering)} GPUs answer, {should} expected"
        if limits.expected_gpus is None:
            here = {gpu.pci_bus_id for gpu in snapshot.gpus}
            gone = [each for each in memory.addresses if each not in here]
            evidence = f"{len(answering)} GPUs answer, {should} were seen here before"
            evidence += f"; not listed: {', '.join(gone)}" if gone else ""
        found.append(
            Observation(
                code=catalogue.codes["gpu-count"], subject="node", evidence=evidence, source=SOURCE
            )
        )
    if len(answering) >= memory.most:
        addresses = tuple(gpu.pci_bus_id for gpu in answering)
        if (len(answering), addresses) != (memory.most, memory.addresses):
            memory = Memory(most=len(answering), addresses=addresses)
    return found, memory


def unlisted(
    gpus: Sequence[Gpu], pci: Sequence[PciDevice], catalogue: Catalogue
) -> Iterator[Observation]:
    """GPUs on the PCI bus that the driver should drive and does not list."""
    listed = {gpu.pci_bus_id for gpu in gpus}
    for device in pci:
        if device.is_gpu and device.driver in ("", "nvidia") and device.address not in listed:
            how = "bound to the nvidia driver" if device.driver else "without a driver"
            yield Observation(
                code=catalogue.codes["gpu-not-in-driver"],
                subject=device.subject,
                evidence=f"NVIDIA device {device.device:04x} is on the PCI bus, {how},"
                f" and NVML does not list it beside {len(gpus)} others",
                source=SOURCE,
            )


def forget(memory: Memory, subject: str) -> Memory:
    """A person's word: fewer GPUs are right from now on, or this one was taken out."""
    if subject == "node":
        return Memory()
    address = subject.removeprefix("gpu:")
    if address not in memory.addresses:
        return memory
    addresses = tuple(each for each in memory.addresses if each != address)
    return Memory(most=len(addresses), addresses=addresses)
