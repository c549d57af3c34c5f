"""The kernel's ring buffer as a file: numbered records, the oldest overwritten by the newest."""

import os
import re
from collections import deque
from pathlib import Path

_RECORD = re.compile(r"\d+,\d+,\d+,[^;]*;")


class KernelRing:
    """What /dev/kmsg gives, in a file that a ``KmsgSource`` reads."""

    def __init__(self, path: Path, *, keeps: int) -> None:
        self.path = path
        self._records: deque[bytes] = deque(maxlen=keeps)
        self._next = 0
        self.rewind()
        self._end = os.open(path, os.O_WRONLY | os.O_APPEND)

    def write(self, texts: list[str], *, up_seconds: float) -> None:
        """Records as the kernel writes them; a text that already is a record stays as it is."""
        lines = []
        for text in texts:
            if _RECORD.match(text):
                lines.append(f"{text}\n".encode())
            else:
                lines.append(f"6,{self._next},{int(up_seconds * 1e6)},-;{text}\n".encode())
                self._next += 1
        self._records.extend(lines)
        os.write(self._end, b"".join(lines))

    def lose(self, number: int) -> None:
        """So many records come and are overwritten before anybody reads them."""
        self._next += number

    def rewind(self) -> None:
        """A reader that opens it now finds what the ring still holds."""
        self.path.write_bytes(b"".join(self._records))

    def close(self) -> None:
        """Nothing will be written any more."""
        os.close(self._end)

    def boot(self) -> None:
        """A new kernel numbers from zero."""
        self._records.clear()
        self._next = 0
        self.rewind()
