"""NPU checks: the driver's fault codes, health, chips that are gone, memory, heat. The RoCE side is in ``npu_network.py``."""

from collections.abc import Iterator, Mapping

import msgspec

from agent.catalogue import Catalogue, Code
from agent.catalogue.ascend import npu_codes
from agent.checks import Checked, Context, Observation, source_is_ok
from agent.checks import npu_network as network
from agent.checks.window import Window
from agent.snapshot import Snapshot
from agent.snapshot.npu import Npu, NpuFault
from agent.snapshot.pci import HUAWEI, PROCESSING_ACCELERATOR, PciDevice
from contract.vocabulary import SourceState

SOURCE = "ascend"

HEALTH = {1: "minor", 2: "major", 3: "critical"}
STATES = {
    "lost": "npu-lost",
    "not-ready": "npu-not-ready",
    "unresponsive": "npu-unresponsive",
    "unreadable": "npu-unreadable",
}


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the NPUs."""

    known: dict[str, str] = {}
    """PCI address → subject, of every NPU ever seen: numbers move when one is gone, addresses do not."""
    fault_since: dict[str, float] = {}
    """``npu:0 81078603`` → Unix time since which that fault is present."""
    windows: dict[str, Window] = {}
    """``npu:0 double`` → how a counter of its memory rose."""
    ports: network.Memory = network.Memory()


def forget(memory: Memory, subject: str) -> Memory:
    """A person said that this is over: an NPU, or a cable, that was taken out on purpose is not missing."""
    known = {bus: who for bus, who in memory.known.items() if subject not in (who, f"npu:{bus}")}
    return msgspec.structs.replace(memory, known=known, ports=network.forget(memory.ports, subject))


def check(snapshot: Snapshot, memory: Memory, context: Context) -> Checked[Memory]:
    """Everything wrong with this node's NPUs now."""
    catalogue = context.catalogue
    status = snapshot.source(SOURCE)
    if status is None:
        return Checked(memory=memory)
    if not source_is_ok(snapshot, SOURCE):
        return Checked(observations=tuple(_silent(snapshot, catalogue)), memory=memory)
    now = snapshot.taken_seconds
    answering = tuple(each for each in snapshot.npus if each.state == "ok")
    remembered = _remember(memory, snapshot, answering)
    over_network, port_memory, unseen = network.check(answering, memory.ports, catalogue, now)
    found = [
        *_states(snapshot.npus, catalogue),
        *(each for npu in answering for each in _faults(npu, remembered, catalogue, now)),
        *(each for npu in answering for each in _health(npu, catalogue)),
        *(each for npu in answering for each in _hot(npu, catalogue)),
        *(each for npu in answering for each in _memory_errors(npu, remembered, catalogue)),
        *_missing(snapshot, memory, catalogue),
        *over_network,
    ]
    dark = {each.subject for each in snapshot.npus if each.state != "ok"}
    return Checked(
        observations=tuple(found),
        memory=msgspec.structs.replace(remembered, ports=port_memory),
        blind=frozenset(dark | unseen),
    )


def _seen(code: Code, subject: str, evidence: str, source: str = SOURCE) -> Observation:
    return Observation(code=code, subject=subject, evidence=evidence, source=source)


def _silent(snapshot: Snapshot, catalogue: Catalogue) -> Iterator[Observation]:
    """There is no driver, and yet there are chips."""
    status = snapshot.source(SOURCE)
    if status is None:
        return
    on_bus = _on_bus(snapshot)
    if status.state is SourceState.ABSENT and on_bus:
        first = on_bus[0].address
        yield _seen(
            catalogue.codes["npu-no-driver"],
            "ascend",
            f"{len(on_bus)} Ascend devices on the PCI bus, the first at {first}; {status.reason}",
            "pci",
        )


def _states(npus: tuple[Npu, ...], catalogue: Catalogue) -> Iterator[Observation]:
    for npu in npus:
        if npu.state != "ok":
            code = catalogue.codes[STATES[npu.state]]
            yield _seen(code, npu.subject, f"{npu.model or 'NPU'}: {npu.state_reason}")


def _faults(npu: Npu, memory: Memory, catalogue: Catalogue, now: float) -> Iterator[Observation]:
    for fault in npu.faults or ():
        since = memory.fault_since.get(_key(npu, fault), now)
        code, after = _judged(fault, npu, catalogue, now - since)
        said = f": {fault.text}" if fault.text else ""
        evidence = f"DCMI fault {fault.code:08x}{said} (health {npu.health}){after}"
        yield _seen(code, npu.subject, evidence)


def _judged(fault: NpuFault, npu: Npu, catalogue: Catalogue, seconds: float) -> tuple[Code, str]:
    """The row of a fault, and what its lasting adds. A row of the catalogue itself outranks the table."""
    own = catalogue.codes.get(fault.name)
    if own is not None:
        return own, ""
    severity = npu.health if fault.severity is None else fault.severity
    code = catalogue.over(npu_codes().find(fault.code, severity=severity))
    lasting = npu_codes().lasting(fault.code)
    if lasting is None or seconds < lasting.seconds:
        return code, ""
    worse = msgspec.structs.replace(code, severity=lasting.severity, action=lasting.action)
    return catalogue.over(worse), f", for more than {lasting.seconds:g} s"


def _health(npu: Npu, catalogue: Catalogue) -> Iterator[Observation]:
    """Only where no fault code explains it."""
    grade = HEALTH.get(npu.health or 0)
    if grade is not None and not npu.faults:
        named = "which it names none of" if npu.faults == () else "whose code cannot be read"
        yield _seen(
            catalogue.codes[f"npu-health-{grade}"],
            npu.subject,
            f"DCMI health {npu.health} ({grade}): a fault {named}",
        )


def _hot(npu: Npu, catalogue: Catalogue) -> Iterator[Observation]:
    code = catalogue.codes["npu-too-hot"]
    for what, celsius, limit in (
        ("chip", npu.temperature_celsius, code.limits["chip_celsius"]),
        ("memory", npu.memory_temperature_celsius, code.limits["memory_celsius"]),
    ):
        if celsius is not None and celsius >= limit:
            yield _seen(code, npu.subject, f"{what} at {celsius:.0f} C, limit {limit:.0f} C")
            return


def _memory_errors(npu: Npu, memory: Memory, catalogue: Catalogue) -> Iterator[Observation]:
    for bits, name in (("double", "npu-ecc-double-bit"), ("single", "npu-ecc-single-bit")):
        code = catalogue.codes[name]
        window = memory.windows.get(f"{npu.subject} {bits}")
        if window is not None and window.rise >= code.limits["errors"]:
            yield _seen(
                code,
                npu.subject,
                f"{bits}-bit errors of the memory rose by {window.rise:.0f} within"
                f" {code.limits['window_seconds'] / 60:.0f} min, limit {code.limits['errors']:.0f}",
            )
    code = catalogue.codes["npu-isolated-pages"]
    pages = npu.isolated_pages_double_bit_total
    if pages is not None and pages >= code.limits["pages"]:
        evidence = f"{pages} pages isolated after errors of several bits"
        yield _seen(code, npu.subject, f"{evidence}, limit {code.limits['pages']:.0f}")


def _missing(snapshot: Snapshot, memory: Memory, catalogue: Catalogue) -> Iterator[Observation]:
    listed = {npu.pci_bus_id for npu in snapshot.npus if npu.pci_bus_id}
    on_bus = {device.address for device in _on_bus(snapshot)}
    for bus in sorted(memory.known.keys() - listed):
        place = "still on the PCI bus" if bus in on_bus else "not seen on the PCI bus either"
        yield _seen(
            catalogue.codes["npu-missing"],
            f"npu:{bus}",
            f"{memory.known[bus]} at {bus} was here and is not listed; "
            f"{place if source_is_ok(snapshot, 'pci') else 'the PCI bus is not read'}",
        )
    # Where one chip's address is unknown, or none of them is one that sysfs knows, nothing can be compared.
    if not listed & on_bus or any(not npu.pci_bus_id for npu in snapshot.npus):
        return
    for bus in sorted(on_bus - listed - memory.known.keys()):
        yield _seen(
            catalogue.codes["npu-not-in-driver"],
            f"npu:{bus}",
            f"{bus} is an Ascend device; the driver lists {len(listed)} others",
        )


def _on_bus(snapshot: Snapshot) -> list[PciDevice]:
    if not source_is_ok(snapshot, "pci"):
        return []
    return [
        device
        for device in snapshot.pci_devices
        if device.vendor == HUAWEI
        and device.class_code >> 16 == PROCESSING_ACCELERATOR
        and not device.is_virtual_function
    ]


def _remember(memory: Memory, snapshot: Snapshot, answering: tuple[Npu, ...]) -> Memory:
    if not snapshot.npus:
        return memory
    now = snapshot.taken_seconds
    known: Mapping[str, str] = {
        npu.pci_bus_id: npu.subject for npu in snapshot.npus if npu.pci_bus_id
    }
    unsaid = {each.subject for each in snapshot.npus if each.state != "ok" or each.faults is None}
    since = {
        key: at for key, at in memory.fault_since.items() if key.partition(" ")[0] in unsaid
    } | {
        key: memory.fault_since.get(key, now)
        for npu in answering
        for key in (_key(npu, fault) for fault in npu.faults or ())
    }
    return msgspec.structs.replace(
        memory,
        known={**memory.known, **known},
        fault_since=since,
        windows=_windows(memory.windows, answering, now),
    )


def _windows(
    windows: Mapping[str, Window], answering: tuple[Npu, ...], now: float
) -> dict[str, Window]:
    after = dict(windows)
    for npu in answering:
        for name, total in (
            ("double", npu.ecc_double_bit_total),
            ("single", npu.ecc_single_bit_total),
        ):
            if total is not None:
                key = f"{npu.subject} {name}"
                after[key] = network.risen(after.get(key), now, total, span_seconds=3600.0)
    return after


def _key(npu: Npu, fault: NpuFault) -> str:
    return f"{npu.subject} {fault.code:08x}"
