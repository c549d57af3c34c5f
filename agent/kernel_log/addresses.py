"""PCI addresses in every way in which the kernel and its drivers write them. Pure."""

PCI_ADDRESS = r"(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.[0-7])?"
"""A regular expression of one: with or without domain and function."""


def normalise_bus_id(text: str) -> str:
    """Any way of writing a PCI address → ``0000:3b:00.0``.

    >>> normalise_bus_id("00000000:3B:00.0"), normalise_bus_id("0000:3b:00"), normalise_bus_id("3B:00.0")
    ('0000:3b:00.0', '0000:3b:00.0', '0000:3b:00.0')
    """
    address, _, function = text.lower().partition(".")
    parts = address.split(":")
    domain = parts[-3] if len(parts) >= 3 else "0"
    device = parts[-1]
    bus = parts[-2] if len(parts) >= 2 else "00"
    return f"{int(domain or '0', 16):04x}:{bus}:{device}.{function or '0'}"
