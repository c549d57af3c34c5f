"""What the DCMI process says, and what it means: frames, units, identities, reasons. Pure.

DCMI's own units come in (tenths of a watt, hundredths of a volt, MiB, percent), ours go out.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from agent.snapshot.npu import Npu, NpuFault
from agent.sources import SourceAbsentError, SourceError, SourceFailingError

Place = tuple[int, int]
"""Card and chip on it: the names that do not change while the machine runs."""

MEBIBYTE = 1 << 20

NOT_EXIST, INVALID_DEVICE, NOT_READY = -8008, -8007, -8012


class RawFault(msgspec.Struct):
    """One fault as the child read it."""

    code: int
    text: str = ""
    severity: int | None = None


class RawNpu(msgspec.Struct, kw_only=True):
    """One chip as the child read it; ``None`` is not measured."""

    card: int
    chip: int
    index: int | None = None
    physical_id: int | None = None
    model: str = ""
    bus: str = ""
    health: int | None = None
    health_error: int | None = None
    """DCMI's code where the question for its health failed."""
    faults: list[RawFault] | None = None
    temperature_celsius: float | None = None
    power_deciwatts: float | None = None
    utilization_percent: float | None = None
    memory_size_mebibytes: int | None = None
    memory_used_mebibytes: int | None = None
    memory_temperature_celsius: float | None = None
    voltage_centivolts: float | None = None
    clock_megahertz: float | None = None
    ecc_single_bit: int | None = None
    ecc_double_bit: int | None = None
    ecc_single_bit_life: int | None = None
    ecc_double_bit_life: int | None = None
    isolated_pages_single_bit: int | None = None
    isolated_pages_double_bit: int | None = None
    network_health: int | None = None


class Ready(msgspec.Struct, tag="ready", tag_field="kind"):
    """DCMI is initialised."""


class Sample(msgspec.Struct, tag="sample", tag_field="kind", kw_only=True):
    """The answer to one request."""

    request: int
    driver: str
    chips: list[RawNpu]


class Happened(msgspec.Struct, tag="event", tag_field="kind", kw_only=True):
    """A fault event."""

    code: int
    index: int
    """The chip's logical id."""
    severity: int
    assertion: int
    serial: int
    text: str = ""


class Unavailable(msgspec.Struct, tag="unavailable", tag_field="kind"):
    """DCMI cannot be used; the child ends."""

    code: int
    """DCMI's; 0: the library cannot be loaded."""
    what: str
    """The call, or the loader's words."""


Frame = Ready | Sample | Happened | Unavailable

_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


def decode(line: bytes) -> Frame:
    """One line of the child's output.

    Raises:
        msgspec.DecodeError: it is no frame of ours.
    """
    return _decoder.decode(line)


CODES: Mapping[int, str] = {
    -8001: "invalid parameter",
    -8002: "not permitted: the agent must be privileged, or the device files be mounted",
    -8003: "a memory operation failed",
    -8004: "a function of the C library failed",
    -8005: "internal error of the driver",
    -8006: "timeout",
    INVALID_DEVICE: "invalid device",
    NOT_EXIST: "no such device",
    -8009: "the kernel driver refused",
    -8010: "sending to the device failed",
    -8011: "receiving from the device failed",
    NOT_READY: "not ready, as during a reset",
    -8013: "not supported in containers",
    -8014: "a file operation failed",
    -8015: "the reset failed",
    -8016: "the reset was called off",
    -8017: "firmware is being upgraded",
    -8020: "the device is taken by somebody else",
    -8255: "not supported",
}
"""Return codes in words. Source: DCMI API reference, return codes."""


def in_words(code: int) -> str:
    """A return code as people read it."""
    return f"{code} ({CODES[code]})" if code in CODES else str(code)


def npu(raw: RawNpu) -> Npu:
    """A chip as it answered, in our units."""
    state, reason = _state(raw)
    return Npu(
        card=raw.card,
        chip=raw.chip,
        index=raw.card if raw.index is None else raw.index,
        physical_id=raw.physical_id,
        model=raw.model,
        pci_bus_id=raw.bus,
        state=state,
        state_reason=reason,
        health=raw.health,
        faults=None
        if raw.faults is None
        else tuple(
            NpuFault(code=each.code, text=each.text, severity=each.severity) for each in raw.faults
        ),
        temperature_celsius=_at_least(raw.temperature_celsius, -273),
        memory_temperature_celsius=_at_least(raw.memory_temperature_celsius, 1),
        power_watts=_scaled(_at_least(raw.power_deciwatts, 0), 0.1),
        utilization_ratio=_scaled(_percent(raw.utilization_percent), 0.01),
        memory_total_bytes=_bytes(raw.memory_size_mebibytes),
        memory_used_bytes=_bytes(raw.memory_used_mebibytes),
        voltage_volts=_scaled(_at_least(raw.voltage_centivolts, 0), 0.01),
        clock_hertz=_scaled(_at_least(raw.clock_megahertz, 0), 1e6),
        ecc_single_bit_total=raw.ecc_single_bit,
        ecc_double_bit_total=raw.ecc_double_bit,
        ecc_single_bit_life_total=raw.ecc_single_bit_life,
        ecc_double_bit_life_total=raw.ecc_double_bit_life,
        isolated_pages_single_bit_total=raw.isolated_pages_single_bit,
        isolated_pages_double_bit_total=raw.isolated_pages_double_bit,
        network_health=raw.network_health,
    )


def _state(
    raw: RawNpu,
) -> tuple[Literal["ok", "unreadable", "not-ready", "lost", "unresponsive"], str]:
    code = raw.health_error
    if code is None:
        return "ok", ""
    reason = f"dcmi_get_device_health answers {in_words(code)}"
    if code in (NOT_EXIST, INVALID_DEVICE):
        return "lost", reason
    if code == NOT_READY:
        return "not-ready", reason
    measured = (raw.temperature_celsius, raw.utilization_percent, raw.memory_size_mebibytes)
    if raw.faults is None and all(value is None for value in measured):
        return "unreadable", reason
    return "ok", reason


def _at_least(value: float | None, least: float) -> float | None:
    """DCMI's stand-ins for "failed" are negative."""
    return None if value is None or value < least else value


def _percent(value: float | None) -> float | None:
    return value if value is not None and 0 <= value <= 100 else None


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else round(value * by, 9)


def _bytes(mebibytes: int | None) -> int | None:
    return None if mebibytes is None else mebibytes * MEBIBYTE


class Roll:
    """Every chip that was met since the start, so that one that is gone is missed."""

    def __init__(self) -> None:
        self._known: dict[Place, Npu] = {}

    def __len__(self) -> int:
        return len(self._known)

    def call(self, raws: Iterable[RawNpu], avoided: Mapping[Place, str]) -> tuple[Npu, ...]:
        """Those that were asked, and those that were not or did not answer, by index.

        Args:
            raws: what the child read.
            avoided: chips that are left alone because a call about them did not return, and which call.
        """
        seen = {(raw.card, raw.chip): npu(raw) for raw in raws}
        for place, each in seen.items():
            if place in avoided:
                continue
            self._known[place] = self._meet(place, each)
        everybody: list[Npu] = []
        for place in self._known.keys() | avoided.keys() | seen.keys():
            if place in avoided:
                everybody.append(self._without(place, "unresponsive", avoided[place]))
            elif place in seen:
                everybody.append(self._named(place, seen[place]))
            else:
                everybody.append(self._without(place, "lost", "the driver no longer lists it"))
        return tuple(sorted(everybody, key=lambda each: (each.index, each.card, each.chip)))

    def index_of(self, place: Place) -> int:
        """The number by which people know a chip; its card's while it was never met."""
        known = self._known.get(place)
        return known.index if known else place[0]

    def _meet(self, place: Place, seen: Npu) -> Npu:
        return self._named(place, _identity(seen))

    def _named(self, place: Place, seen: Npu) -> Npu:
        """Who it is, filled up from when it could say so."""
        known = self._known.get(place)
        if known is None or (seen.pci_bus_id and seen.physical_id is not None):
            return seen
        return msgspec.structs.replace(
            seen,
            index=known.index,
            model=seen.model or known.model,
            pci_bus_id=seen.pci_bus_id or known.pci_bus_id,
            physical_id=known.physical_id if seen.physical_id is None else seen.physical_id,
        )

    def _without(self, place: Place, state: Literal["lost", "unresponsive"], reason: str) -> Npu:
        known = self._known.get(place) or Npu(card=place[0], chip=place[1], index=place[0])
        return msgspec.structs.replace(known, state=state, state_reason=reason)


def _identity(seen: Npu) -> Npu:
    return Npu(
        card=seen.card,
        chip=seen.chip,
        index=seen.index,
        physical_id=seen.physical_id,
        model=seen.model,
        pci_bus_id=seen.pci_bus_id,
    )


def reason(unavailable: Unavailable, *, has_npus: bool) -> SourceError:
    """Why there is no reading; where this node has chips, their driver's refusal is a fault."""
    if not unavailable.code:
        return SourceFailingError(f"libdcmi.so cannot be loaded: {unavailable.what}")
    text = f"{unavailable.what} answers {in_words(unavailable.code)}"
    if not has_npus:
        return SourceAbsentError(f"the Ascend driver finds no NPU: {text}")
    return SourceFailingError(text)


def dialled(dial: bytes) -> tuple[str, Place | None]:
    """The call that the child is in, empty when it is in none, and the chip that it is about."""
    function = dial[2:].rstrip(b" \0").decode(errors="replace")
    return function, (dial[0] - 1, dial[1]) if function and dial[0] else None
