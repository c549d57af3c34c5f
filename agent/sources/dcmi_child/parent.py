"""What the parent gets from this process: frames in its pipe, and the dial in a page that both see."""

from __future__ import annotations

import json
import mmap
import os
import threading
from typing import Any

DIAL_BYTES = 64
"""Byte 0: card + 1, or 0; byte 1: chip; the rest: the name of the function, blank when none runs."""


class Dial:
    """Where the sampler says which call it is making."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, DIAL_BYTES)
        self._names: dict[str, bytes] = {}

    def turn(self, function: str, card: int = -1, chip: int = 0) -> None:
        """Say that this function is about to be called; an empty name says that none is."""
        name = self._names.get(function)
        if name is None:
            padded = function.encode().ljust(DIAL_BYTES - 2)
            name = self._names[function] = padded[: DIAL_BYTES - 2]
        self._page[0] = min(card + 1, 255)
        self._page[1] = chip
        self._page[2:DIAL_BYTES] = name


class Outlet:
    """Frames to the parent, whole, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, **frame: Any) -> None:
        """Write one line."""
        line = memoryview(json.dumps(frame, separators=(",", ":")).encode() + b"\n")
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]
