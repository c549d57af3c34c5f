"""What the host source reads seldom: limits, processes, the clock, memory errors. Blocking: run it in a thread."""

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Any

from agent.snapshot.host import BlockedProcess, MemoryController

MAX_PROCESSES = 20_000
"""Looked at in one scan; a machine with more of them has other findings."""

MAX_BLOCKED = 32

SWITCHES_PER_SECOND = 10.0
"""A process that is switched in more often than this is busy with many short waits, not blocked in one."""

_CLOCK_ERROR = 5
"""What adjtimex(2) answers when nothing keeps the clock in time (TIME_ERROR)."""
_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000


class Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2), as far as it is read, and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def limits(proc_root: str) -> dict[str, int]:
    """Files and threads there are and may be, swap, and processes killed for want of memory.

    Sources: proc_sys_fs(5) file-nr; proc_loadavg(5); proc_sys_kernel(5) pid_max, threads-max; proc_vmstat(5) oom_kill;
    proc_meminfo(5). What cannot be read is not there.
    """
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        allocated, _, most = _text(f"{proc_root}/sys/fs/file-nr").split()
        found["open_files"], found["open_files_max"] = int(allocated), int(most)
    with contextlib.suppress(OSError, ValueError, IndexError):
        found["threads"] = int(_text(f"{proc_root}/loadavg").split()[3].partition("/")[2])
    with contextlib.suppress(OSError, ValueError):
        found["threads_max"] = min(
            int(_text(f"{proc_root}/sys/kernel/pid_max")),
            int(_text(f"{proc_root}/sys/kernel/threads-max")),
        )
    with contextlib.suppress(OSError, ValueError):
        found |= _fields(f"{proc_root}/vmstat", {"oom_kill": "oom_kills_total"}, 1)
    with contextlib.suppress(OSError, ValueError):
        swap = {"SwapTotal:": "swap_total_bytes", "SwapFree:": "swap_free_bytes"}
        found |= _fields(f"{proc_root}/meminfo", swap, 1024)
    return found


def clock() -> dict[str, Any]:
    """How well the clock is kept, as the kernel was told; nothing where it cannot be asked.

    Source: adjtimex(2). Asking changes nothing and needs no privilege.
    """
    answer = Timex()
    library = ctypes.CDLL(None)
    if not hasattr(library, "adjtimex"):
        return {}
    state = library.adjtimex(ctypes.byref(answer))
    return {} if state < 0 else clock_fields(state, answer)


def clock_fields(state: int, answer: Timex) -> dict[str, Any]:
    """The kernel's answer in our units."""
    synchronised = state != _CLOCK_ERROR and not answer.status & _STA_UNSYNC
    return {
        "clock_synchronised": synchronised,
        "clock_offset_seconds": answer.offset / (1e9 if answer.status & _STA_NANO else 1e6),
        # Where nothing keeps the clock, the kernel has no estimate but a constant.
        "clock_estimated_error_seconds": answer.esterror / 1e6 if synchronised else None,
    }


def memory_controllers(sysfs_root: str) -> tuple[MemoryController, ...]:
    """The error counts of each memory controller. Source: Linux kernel ABI, sysfs-devices-edac."""
    folder = f"{sysfs_root}/devices/system/edac/mc"
    try:
        names = sorted(name for name in os.listdir(folder) if name[2:].isdigit())  # noqa: PTH208
    except OSError:
        return ()
    return tuple(
        MemoryController(
            name=name,
            corrected_errors_total=_number(f"{folder}/{name}/ce_count"),
            uncorrected_errors_total=_number(f"{folder}/{name}/ue_count"),
        )
        for name in names
    )


class Processes:
    """Counts processes, and follows those that cannot be interrupted from one scan to the next."""

    def __init__(self, proc_root: str) -> None:
        self._root = proc_root
        self._blocked: dict[tuple[int, str], tuple[float, float, int | None]] = {}
        """(pid, start time) → (first and last seen blocked, times it was switched in)."""

    def scan(self, now: float) -> dict[str, Any]:
        """One look at every process, at this monotonic time."""
        processes = zombies = 0
        still: dict[tuple[int, str], tuple[float, float, int | None]] = {}
        found: list[BlockedProcess] = []
        try:
            pids = [name for name in os.listdir(self._root) if name.isdigit()]  # noqa: PTH208
        except OSError:
            return {}
        for pid in pids[:MAX_PROCESSES]:
            try:
                stat = _text(f"{self._root}/{pid}/stat")
            except OSError:
                continue  # it ended between the two looks
            name, state, started = parse_stat(stat)
            processes += 1
            zombies += state == "Z"
            if state == "D":
                key = (int(pid), started)
                still[key] = self._follow(key, now)
                seconds = now - still[key][0]
                if seconds > 0:
                    found.append(BlockedProcess(pid=int(pid), name=name, seconds=seconds))
        self._blocked = still
        found.sort(key=lambda each: (-each.seconds, each.pid))
        return {
            "processes": processes,
            "zombie_processes": zombies,
            "blocked_processes": tuple(found[:MAX_BLOCKED]),
        }

    def _follow(self, key: tuple[int, str], now: float) -> tuple[float, float, int | None]:
        switches = self._switches(key[0])
        known = self._blocked.get(key)
        if known is None:
            return (now, now, switches)
        since, last, before = known
        if switches is not None and before is not None:
            busy = switches - before > SWITCHES_PER_SECOND * (now - last)
            since = now if busy else since
        return (since, now, switches)

    def _switches(self, pid: int) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            wanted = {"voluntary_ctxt_switches:": "n"}
            return _fields(f"{self._root}/{pid}/status", wanted, 1).get("n")
        return None


def parse_stat(text: str) -> tuple[str, str, str]:
    """Name, state and start time in one line of ``/proc/<pid>/stat``.

    A name may hold spaces and brackets, so what follows it is counted from the last bracket.

    >>> parse_stat("12 (a) R (b)) D 1 12 12 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 8812 0")
    ('a) R (b)', 'D', '8812')
    """
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    name = head.partition("(")[2]
    return name, fields[0] if fields else "", fields[19] if len(fields) > 19 else ""


def _fields(path: str, wanted: dict[str, str], unit: int) -> dict[str, int]:
    """The wanted ``name value`` lines of a file, under our names and in our unit."""
    lines = (line.split(None, 2) for line in _text(path, 65_536).splitlines())
    return {
        wanted[words[0]]: int(words[1]) * unit
        for words in lines
        if len(words) > 1 and words[0] in wanted
    }


def _number(path: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(_text(path))
    return None


def _text(path: str, most: int = 4096) -> str:
    with Path(path).open("rb", buffering=0) as file:
        return file.read(most).decode("utf-8", "replace")
