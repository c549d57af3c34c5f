"""PCI checks: errors that the bus itself reports about accelerators and adapters (Advanced Error Reporting).

And settings of the bus that slow them, which are only shown.
"""

from collections import Counter
from collections.abc import Iterator

import msgspec

from agent.catalogue import Catalogue, Code
from agent.checks import Checked, Context, Observation, source_is_ok
from agent.checks.gpu_basics import span
from agent.checks.gpu_time import watched
from agent.checks.window import Window
from agent.snapshot import PciDevice, Snapshot

SOURCE = "pci"

KINDS = (
    ("pcie-aer-fatal", "fatal", "aer_fatal_total", "fatal"),
    ("pcie-aer-nonfatal", "nonfatal", "aer_nonfatal_total", "non-fatal"),
    ("pcie-aer-correctable", "correctable", "aer_correctable_total", "correctable"),
)
"""Code, window in ``Errors``, field of ``PciDevice``, word."""


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """What the bus reported about one device, over a while."""

    fatal: Window = Window()
    nonfatal: Window = Window()
    correctable: Window = Window()


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the PCI devices."""

    errors: dict[str, Errors] = {}
    """By subject."""


def check(snapshot: Snapshot, memory: Memory, context: Context) -> Checked[Memory]:
    """Devices whose PCIe link reports more errors than it may."""
    if not source_is_ok(snapshot, SOURCE):
        return Checked(memory=memory)
    codes = context.catalogue.codes
    errors: dict[str, Errors] = {}
    found = []
    for device in snapshot.pci_devices:
        before = memory.errors.get(device.subject, Errors())
        changes: dict[str, Window] = {}
        for name, window_name, field, word in KINDS:
            code = codes[name]
            window: Window = getattr(before, window_name)
            total = getattr(device, field)
            after = watched(
                window,
                snapshot.taken_seconds,
                total,
                span_seconds=code.limits["window_seconds"],
            )
            if after is not window:
                changes[window_name] = after
            if total is not None and after.rise >= code.limits["errors"]:
                found.append(_see(code, device, word, after.rise, total))
        errors[device.subject] = msgspec.structs.replace(before, **changes) if changes else before
    found += _settings(snapshot, context.catalogue)
    # A device that fell off the bus comes back with its counters; so long its window waits.
    kept = {**memory.errors, **errors}
    return Checked(observations=tuple(found), memory=Memory(errors=kept))


def forget(memory: Memory, subject: str) -> Memory:
    """Count anew."""
    return Memory(errors={each: past for each, past in memory.errors.items() if each != subject})


def _settings(snapshot: Snapshot, catalogue: Catalogue) -> Iterator[Observation]:
    redirected = catalogue.codes["pci-acs-enabled"]
    real = snapshot.host is not None and snapshot.host.virtual_machine is False
    for device in snapshot.pci_devices:
        if real and device.peer_traffic_redirected:
            yield Observation(
                code=redirected,
                subject=device.subject,
                evidence="the switch port above redirects traffic between its neighbours (ACS) on a bare-metal machine",
                source=SOURCE,
            )
    differs = catalogue.codes["pci-read-request-differs"]
    for kind in sorted({device.device for device in snapshot.pci_devices}):
        sizes = {
            device.subject: device.max_read_request_bytes
            for device in snapshot.pci_devices
            if device.device == kind and device.max_read_request_bytes is not None
        }
        votes = Counter(sizes.values())
        usual, count = max(votes.items(), key=lambda vote: (vote[1], vote[0]), default=(0, 0))
        for subject, size in sizes.items():
            if size < usual and count >= differs.limits["siblings"]:
                yield Observation(
                    code=differs,
                    subject=subject,
                    evidence=f"asks for at most {size} bytes at once, {count} of {len(sizes)} adapters of"
                    f" this model for {usual}",
                    source=SOURCE,
                )


def _see(code: Code, device: PciDevice, word: str, rise: float, total: int) -> Observation:
    limits = code.limits
    return Observation(
        code=code,
        subject=device.subject,
        evidence=f"{rise:.0f} {word} PCIe errors in the last {span(limits['window_seconds'])}"
        f" (limit {limits['errors']:.0f}), {total} since the device was found;"
        f" driver {device.driver or 'none'}",
        source=SOURCE,
    )
