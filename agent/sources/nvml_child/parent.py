"""What the parent gets from this process: frames in its pipe, and the dial in a page that both see."""

from __future__ import annotations

import json
import mmap
import os
import threading
from typing import Any, NoReturn

import pynvml as nvml

DIAL_BYTES = 64
"""Byte 0: GPU index + 1, or 0; the rest: the name of the function, blank when none runs."""


class Dial:
    """Where the sampler says which call it is making."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, DIAL_BYTES)
        self._names: dict[str, bytes] = {}

    def turn(self, function: str, gpu: int = -1) -> None:
        """Say that this function is about to be called; an empty name says that none is."""
        name = self._names.get(function)
        if name is None:
            padded = function.encode().ljust(DIAL_BYTES - 1)
            name = self._names[function] = padded[: DIAL_BYTES - 1]
        self._page[0] = gpu + 1
        self._page[1:DIAL_BYTES] = name


class Outlet:
    """Frames to the parent, whole, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, **frame: Any) -> None:
        """Write one frame."""
        self.write(json.dumps(frame, separators=(",", ":")))

    def write(self, text: str) -> None:
        """Write one line."""
        line = memoryview(text.encode() + b"\n")
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]

    def give_up(self, code: int) -> NoReturn:
        """Say why NVML cannot be used, and end: a process that cannot read costs memory for nothing."""
        prefix = "NVML_ERROR_"
        names = (name for name in dir(nvml) if name.startswith(prefix))
        name = next((name for name in names if getattr(nvml, name) == code), f"{prefix}{code}")
        self.send(kind="unavailable", code=name.removeprefix(prefix))
        os._exit(0)
