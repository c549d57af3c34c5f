"""What sysfs does not spell out of a PCI device: a few words of its configuration space. Read rarely, as root.

Each word is asked of the device itself, a microsecond or two; a device that no longer answers reads as ones.
"""

import os

PCI_EXPRESS = 0x10
"""Capability id. Sources of all numbers here: PCI Express Base Specification, as Linux's pci_regs.h names them."""
ACS = 0x000D
"""Extended capability id of Access Control Services."""
DOWNSTREAM_PORT = 6
"""Port type: of a switch, towards the devices below it."""
REDIRECTS = 0x0C
"""ACS control: P2P Request Redirect and P2P Completion Redirect."""

_FIRST, _FIRST_EXTENDED, _END = 0x34, 0x100, 0x1000
_MOST_CAPABILITIES = 48


def redirects_peers(config: str) -> bool | None:
    """Whether this port of a switch sends traffic between devices below that switch up to the processor first.

    ``None``: it is no downstream port of a switch, has no ACS, or cannot be read.

    Args:
        config: path of the port's ``config`` in sysfs.
    """
    descriptor = _opened(config)
    if descriptor is None:
        return None
    try:
        express = _capability(descriptor)
        if (
            express is None
            or (_number(descriptor, express + 2, 2) or 0) >> 4 & 0xF != DOWNSTREAM_PORT
        ):
            return None
        services = _extended(descriptor, ACS)
        control = None if services is None else _number(descriptor, services + 6, 2)
        return None if control is None else bool(control & REDIRECTS)
    finally:
        os.close(descriptor)


def max_read_request_bytes(config: str) -> int | None:
    """The most that a device asks of memory at once; ``None`` where it cannot be read."""
    descriptor = _opened(config)
    if descriptor is None:
        return None
    try:
        express = _capability(descriptor)
        control = None if express is None else _number(descriptor, express + 8, 2)
        size = 6 if control is None else control >> 12 & 0x7
        return 128 << size if size <= 5 else None
    finally:
        os.close(descriptor)


def _capability(descriptor: int) -> int | None:
    """Where the PCI Express capability begins."""
    at = _number(descriptor, _FIRST, 1)
    for _ in range(_MOST_CAPABILITIES):
        if not at or at < 0x40 or at == 0xFF:
            return None
        header = _number(descriptor, at, 2)
        if header is None:
            return None
        if header & 0xFF == PCI_EXPRESS:
            return at
        at = header >> 8 & 0xFC
    return None


def _extended(descriptor: int, wanted: int) -> int | None:
    """Where an extended capability begins."""
    at = _FIRST_EXTENDED
    for _ in range(_MOST_CAPABILITIES):
        header = _number(descriptor, at, 4)
        if header in (None, 0, 0xFFFFFFFF):
            return None
        if header & 0xFFFF == wanted:
            return at
        at = header >> 20 & 0xFFC
        if not _FIRST_EXTENDED <= at < _END:
            return None
    return None


def _number(descriptor: int, at: int, size: int) -> int | None:
    """``None``: the file ends before it (without privilege after 64 bytes), or the read fails."""
    try:
        read = os.pread(descriptor, size, at)
    except OSError:
        return None
    return int.from_bytes(read, "little") if len(read) == size else None


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
