"""Which addresses a RoCE port has, from its GID table. Read seldom."""

import os

from agent.snapshot.rdma import RoceAddress

MAX_ENTRIES = 64
"""Of a table that has up to 256; the kernel fills it from the front."""

_LINK_LOCAL = "fe80:"
_ROCE_V2 = "RoCE v2"


def roce_v2_address(port_folder: str) -> RoceAddress | None:
    """The best RoCE v2 address in the table of a port, ``none``, ``link-local`` or ``routable``; ``None`` where there is no table.

    An entry without an address reads as zeros, and its type with EINVAL: so the type is asked only where there is
    an address. Source: Linux kernel ABI, sysfs-class-infiniband: ``gids``, ``gid_attrs/types``.

    Args:
        port_folder: ``…/class/infiniband/mlx5_0/ports/1``.
    """
    found: RoceAddress = "none"
    for place in range(MAX_ENTRIES):
        address = _text(f"{port_folder}/gids/{place}")
        if address is None:
            return None if place == 0 else found
        if not address.strip("0:"):
            continue
        if _text(f"{port_folder}/gid_attrs/types/{place}") == _ROCE_V2:
            if not address.startswith(_LINK_LOCAL):
                return "routable"
            found = "link-local"
    return found


def _text(path: str) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 256).decode("ascii", "replace").strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)
