"""What is built once for the tests: by one run at a time, and said aloud."""

from __future__ import annotations

import fcntl
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest


def say(who: str, line: str) -> None:
    """One line of progress."""
    print(f"{who}: {line}", file=sys.stderr, flush=True)


@contextmanager
def locked(path: Path, who: str) -> Iterator[None]:
    """Hold a file lock; the kernel drops it when its holder dies, so no stale lock can be left."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(who, f"another build is running ({path.stem}); waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def past_capture(config: pytest.Config) -> Iterator[None]:
    """What is written here is seen at once, although pytest keeps what tests write."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is None:
        yield
        return
    with capture.global_and_fixture_disabled():
        yield
