"""Small sysfs files read again and again, cheaply: what is read each tick stays open."""

import errno
import os

MAX_OPEN = 256
"""Files kept open at most. Each holds a page of kernel memory."""

ABSENT_READS = 600
"""A file that was not there is not looked for again within this many rounds (ten minutes at one a second)."""

_TEXT_BYTES = 256
_GONE = (errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EACCES)


class SysfsFiles:
    """Reads text files by path.

    A read of an open file costs an eighth of opening, reading and closing it. An open sysfs file keeps nobody
    from removing its device: reading it then answers ENODEV, and it is opened anew.
    """

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._refused: set[str] = set()
        self._absent_until: dict[str, int] = {}
        self._round = 0

    def next_round(self) -> None:
        """One tick later."""
        self._round += 1

    def text(self, path: str, *, keep_open: bool = False) -> str | None:
        """What a file says now, stripped; ``None`` where it says nothing.

        A file whose first answer is EINVAL is never asked again: each try writes a line into the kernel log.

        Args:
            path: of the file.
            keep_open: it will be read again in the next round.
        """
        descriptor = self._open.get(path)
        if descriptor is not None:
            try:
                return os.pread(descriptor, _TEXT_BYTES, 0).decode("ascii", "replace").strip()
            except OSError as error:
                os.close(self._open.pop(path))
                if error.errno == errno.EINVAL:  # it did answer once, so it may again
                    self._absent_until[path] = self._round + ABSENT_READS
                else:
                    self.look_again()  # the device was removed, and perhaps made anew
        return self._anew(path, keep_open)

    def number(self, path: str, *, keep_open: bool = False) -> int | None:
        """A whole number that is not negative; ``None`` for anything else, such as ``N/A (no PMA)``."""
        text = self.text(path, keep_open=keep_open)
        return int(text) if text is not None and text.isdecimal() and text.isascii() else None

    def look_again(self) -> None:
        """What was absent may have come."""
        self._absent_until.clear()

    def forget(self, folder: str) -> None:
        """A device is gone: what comes under its name later is another one."""
        under = f"{folder}/"
        for path in [each for each in self._open if each.startswith(under)]:
            os.close(self._open.pop(path))
        self._refused = {each for each in self._refused if not each.startswith(under)}
        self._absent_until = {
            each: until for each, until in self._absent_until.items() if not each.startswith(under)
        }

    def close(self) -> None:
        """Close what is open; reading goes on from there if asked to."""
        for path in list(self._open):
            os.close(self._open.pop(path))

    def _anew(self, path: str, keep_open: bool) -> str | None:
        if path in self._refused or self._absent_until.get(path, 0) > self._round:
            return None
        descriptor = None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            text = os.read(descriptor, _TEXT_BYTES).decode("ascii", "replace").strip()
        except OSError as error:
            if error.errno == errno.EINVAL:
                self._refused.add(path)
            elif error.errno in _GONE and not keep_open:
                self._absent_until[path] = self._round + ABSENT_READS
            if descriptor is not None:
                os.close(descriptor)
            return None
        if keep_open and len(self._open) < MAX_OPEN:
            self._open[path] = descriptor
        else:
            os.close(descriptor)
        return text
