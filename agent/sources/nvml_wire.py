"""What the NVML process says, and what it means: frames, units, identities, reasons. Pure.

NVML's own units come in (milliwatts, megahertz, percent), ours go out.
"""

from collections.abc import Iterable

import msgspec

from agent.snapshot import Gpu
from agent.sources import SourceAbsentError, SourceError, SourceFailingError
from contract.vocabulary import Event

NO_INSTANCE = 0xFFFFFFFF
"""NVML's word for "the whole GPU"."""


class RawGpu(msgspec.Struct, kw_only=True):
    """One place of NVML's enumeration as the child read it; ``None`` is not measured."""

    index: int
    lost: bool | None = None
    """``None``: it answers. ``True``: it is lost. ``False``: it cannot be read for another reason."""
    uuid: str = ""
    bus: str = ""
    """As NVML writes it: ``00000000:3B:00.0``."""
    model: str = ""
    serial: str = ""
    shutdown_temperature_celsius: float | None = None
    slowdown_temperature_celsius: float | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    power_milliwatts: float | None = None
    power_limit_milliwatts: float | None = None
    energy_millijoules: float | None = None
    utilization_percent: float | None = None
    memory_utilization_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    sm_clock_megahertz: float | None = None
    process_count: int | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    recovery_action: int | None = None
    clocks_event_reasons: int | None = None


class Ready(msgspec.Struct, tag="ready", tag_field="kind"):
    """NVML is initialised and every GPU was read once."""


class Sample(msgspec.Struct, tag="sample", tag_field="kind", kw_only=True):
    """The answer to one request."""

    request: int
    driver: str
    gpus: list[RawGpu]


class Happened(msgspec.Struct, tag="event", tag_field="kind", kw_only=True):
    """An NVML event."""

    event: str
    """``xid`` or ``double-bit-ecc``: also the kind of our event."""
    bus: str
    data: int
    """For an XID its number."""
    gpu_instance: int = NO_INSTANCE
    """MIG instance."""


class Unavailable(msgspec.Struct, tag="unavailable", tag_field="kind"):
    """NVML cannot be used; the child ends."""

    code: str
    """NVML's name without ``NVML_ERROR_``."""


Frame = Ready | Sample | Happened | Unavailable

_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


def decode(line: bytes) -> Frame:
    """One line of the child's output.

    Raises:
        msgspec.DecodeError: it is no frame of ours.
    """
    return _decoder.decode(line)


def bus_id(text: str) -> str:
    """NVML's ``00000000:3B:00.0`` as the kernel writes it: ``0000:3b:00.0``; other forms only in lower case."""
    domain, separator, rest = text.lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}" if separator else domain
    except ValueError:
        return text.lower()


def gpu(raw: RawGpu) -> Gpu:
    """A GPU that answers, in our units."""
    return Gpu(
        uuid=raw.uuid,
        pci_bus_id=bus_id(raw.bus) or f"index-{raw.index}",
        index=raw.index,
        model=raw.model,
        serial=raw.serial,
        temperature_celsius=raw.temperature_celsius,
        memory_temperature_celsius=raw.memory_temperature_celsius,
        slowdown_temperature_celsius=raw.slowdown_temperature_celsius,
        shutdown_temperature_celsius=raw.shutdown_temperature_celsius,
        power_watts=_divided(raw.power_milliwatts, 1000),
        power_limit_watts=_divided(raw.power_limit_milliwatts, 1000),
        energy_joules_total=_divided(raw.energy_millijoules, 1000),
        utilization_ratio=_divided(raw.utilization_percent, 100),
        memory_utilization_ratio=_divided(raw.memory_utilization_percent, 100),
        memory_used_bytes=raw.memory_used_bytes,
        memory_total_bytes=raw.memory_total_bytes,
        sm_clock_hertz=None if raw.sm_clock_megahertz is None else raw.sm_clock_megahertz * 1e6,
        process_count=raw.process_count,
        ecc_corrected_total=raw.ecc_corrected,
        ecc_uncorrected_total=raw.ecc_uncorrected,
        recovery_action=raw.recovery_action,
        clocks_event_reasons=raw.clocks_event_reasons,
    )


def _divided(value: float | None, by: int) -> float | None:
    return None if value is None else value / by


def _identity(known: Gpu, *, lost: bool = False) -> Gpu:
    """Who it is, nothing measured."""
    return Gpu(
        uuid=known.uuid,
        pci_bus_id=known.pci_bus_id,
        index=known.index,
        model=known.model,
        serial=known.serial,
        lost=lost,
    )


class Roll:
    """Every GPU that this node is known to have, so that one that is gone is missed.

    A GPU is its place on the PCI bus: another card in the same place replaces the one before.
    """

    def __init__(self, expected: Iterable[Gpu] = ()) -> None:
        self._known = {each.pci_bus_id or each.uuid: _identity(each) for each in expected}

    def __len__(self) -> int:
        return len(self._known)

    def call(self, raws: Iterable[RawGpu]) -> tuple[Gpu, ...]:
        """Those that answer and, as lost, those that do not; in the order of their indexes."""
        pairs = [(raw, gpu(raw)) for raw in raws]
        for raw, seen in pairs:
            if raw.bus:
                self._meet(seen)
        here = [seen for raw, seen in pairs if raw.lost is None]
        answering = {each.pci_bus_id for each in here}
        gone = [
            _identity(known, lost=True)
            for bus, known in self._known.items()
            if bus not in answering
        ]
        named = {seen.pci_bus_id for raw, seen in pairs if raw.lost and raw.bus}
        nameless = [seen for raw, seen in pairs if raw.lost and not raw.bus]
        explained = sum(1 for each in gone if each.pci_bus_id not in named)
        gone += [_identity(seen, lost=True) for seen in nameless[explained:]]
        return tuple(sorted((*here, *gone), key=lambda each: (each.index, each.pci_bus_id)))

    def _meet(self, seen: Gpu) -> None:
        known = self._known.get(seen.pci_bus_id)
        if known is not None and seen.uuid in {"", known.uuid} and seen.index == known.index:
            return
        for bus, other in list(self._known.items()):
            if seen.uuid and other.uuid == seen.uuid:
                del self._known[bus]
        self._known[seen.pci_bus_id] = _identity(seen)


def event(happened: Happened, *, sequence: int, now: float) -> Event:
    """Our event for NVML's; ``sequence`` is unique per boot, ``now`` is Unix time."""
    place = bus_id(happened.bus) or "unknown"
    instance = happened.gpu_instance
    where = "" if instance == NO_INSTANCE else f" in MIG instance {instance}"
    xid = happened.event == "xid"
    what = f"XID {happened.data}" if xid else happened.event.replace("-", " ")
    return Event(
        id=f"nvml:{sequence}",
        time_seconds=now,
        kind=happened.event,
        subject=f"gpu:{place}",
        message=f"NVML reports {what}{where}",
        code=happened.data if xid else None,
    )


ABSENT = {
    "LIBRARY_NOT_FOUND": "libnvidia-ml.so.1 is not found: no NVIDIA driver is installed here",
    "DRIVER_NOT_LOADED": "the NVIDIA kernel driver is not loaded",
    "GPU_NOT_FOUND": "the NVIDIA driver finds no GPU",
}
"""Codes that say that there is nothing to watch, in words."""

REMEDIES = {
    "LIB_RM_VERSION_MISMATCH": "the driver's library and the loaded kernel module are of different versions, "
    "as after an upgrade under a running node; reload the NVIDIA kernel modules or reboot the node",
    "NO_PERMISSION": "the agent may not open the NVIDIA device files; run it privileged or mount them",
    "IRQ_ISSUE": "the kernel finds an interrupt problem with a GPU; see the kernel log, then reboot the node",
    "GPU_IS_LOST": "a GPU has fallen off the bus; reboot the node, replace the GPU if it comes back",
    "RESET_REQUIRED": "a GPU must be reset before it can be used again; reset it or reboot the node",
    "OPERATING_SYSTEM": "the kernel refuses access to the driver; see device cgroup and security modules",
    "INSUFFICIENT_POWER": "a GPU's external power cables are not attached properly; check them",
    "MEMORY": "the node has no memory left",
    "UNKNOWN": "an internal driver error; see the kernel log (NVRM lines)",
}


def reason(code: str, known_gpus: int) -> SourceError:
    """Why there is no reading, and what helps.

    Args:
        code: NVML's name for it, without ``NVML_ERROR_``.
        known_gpus: how many GPUs this node is known to have; where it has some, their driver's absence is a fault.
    """
    if code in ABSENT and known_gpus:
        return SourceFailingError(
            f"{ABSENT[code]}, but this node has {known_gpus} known GPUs ({code})"
        )
    if code in ABSENT:
        return SourceAbsentError(ABSENT[code])
    return SourceFailingError(f"{code}: {REMEDIES.get(code, 'NVML cannot be used')}")


def dialled(dial: bytes) -> str:
    """The call that the child is in, as people read it; empty when it is in none."""
    function = dial[1:].rstrip(b" \0").decode(errors="replace")
    return f"{function} on GPU {dial[0] - 1}" if function and dial[0] else function
