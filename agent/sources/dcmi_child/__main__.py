"""Become the DCMI process: tied to its parent, lean, with stdout kept for frames; then read requests."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import threading
from queue import SimpleQueue
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def _end_on_error(caught: threading.ExceptHookArgs) -> None:
    threading.__excepthook__(caught)
    sys.stderr.flush()
    os._exit(70)


def main(parent: int, dial: int, library: str) -> NoReturn:
    """Start the sampler and read requests until there is nobody left to answer."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to the parent too: it decides
    if os.getppid() != parent:
        os._exit(0)
    frames = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not break a frame
    # Python puts the folder that it runs first, also with -I; but its files are a package's, not top-level modules.
    sources, _, package = sys.path.pop(0).rpartition("/")
    sys.path.append(sources)
    session = importlib.import_module(f"{package}.session").Session(frames, dial, library)
    threading.excepthook = _end_on_error
    asked: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=session.serve, args=(asked,), daemon=True).start()
    unread = b""
    while requests := os.read(0, 4096):
        *lines, unread = (unread + requests).split(b"\n")
        for line in lines:
            asked.put(line)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
