"""Who goes first where the extender's process and the aggregator have one core between them. Linux.

The kernel lets in who woke if it is owed time and its turn would end before everyone else's (EEVDF). So that an answer neither waits nor is
interrupted, the aggregator steps behind in three ways:

* It is nicer, by ``BEHIND``.
* Its threads are batch work: one that wakes interrupts nobody. As ordinary ones, woken by 2,000 reports a second, they interrupted every
  third answer; the event loop's alone, every twentieth.
* Its turns are long, and so end late. With the usual 1 to 3 ms there was often a thread waiting whose turn was to end first; then the
  extender was not let in before the next tick, up to 4 ms later. With half as long ones as ``LONG_TURN_NANOSECONDS`` it begins again.

The price: on a core of its own, a thread of the aggregator that computes for long holds up the event loop for such a turn (two, where both are
Python), and an extender that is never idle leaves it a tenth of the core, in pieces. So nothing in the aggregator computes beside the loop;
its other threads read files and sockets. The extender's turns are longer than an answer.

In a container nice value and policy count between these processes alone; no turn is asked for that is shorter than usual. Kernels
before 6.12 take the length of a turn and do nothing with it; what the kernel forbids is left as it was.
"""

import contextlib
import ctypes
import os
import struct
from pathlib import Path

BEHIND = 10
"""Nice value of the aggregator beside that process: a tenth of the core is left to it while that one is never idle. The kernel gives nobody
priority back; the thread that starts the process stays in front, so that one which is started anew goes first as well (``Spawner``)."""

ANSWER_TURN_NANOSECONDS = 3_000_000
"""An answer about 5,000 nodes takes half of it."""

LONG_TURN_NANOSECONDS = 50_000_000

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call, by machine."""

_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
"""The kernel's: size, policy, flags, nice, priority, runtime, deadline, period (sched_setattr(2))."""


def go_first() -> None:
    """For the process that answers, before it has other threads."""
    with contextlib.suppress(OSError):
        _set(0, os.SCHED_OTHER, os.getpriority(os.PRIO_PROCESS, 0), ANSWER_TURN_NANOSECONDS)


def step_behind(but: int | None) -> None:
    """Let the extender's process go first, for good.

    All threads do but the one that starts it; threads that come later have what their maker has.
    """
    with contextlib.suppress(OSError):
        for thread in {int(each.name) for each in Path("/proc/self/task").iterdir()} - {but}:
            with contextlib.suppress(OSError):  # it ended meanwhile
                nice = max(BEHIND, os.getpriority(os.PRIO_PROCESS, thread))
                os.setpriority(os.PRIO_PROCESS, thread, nice)
                _set(thread, os.SCHED_BATCH, nice, LONG_TURN_NANOSECONDS)


def _set(thread: int, policy: int, nice: int, turn_nanoseconds: int) -> None:
    """Where somebody chose another policy for it, that one stays."""
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is None or os.sched_getscheduler(thread) not in (os.SCHED_OTHER, os.SCHED_BATCH):
        return
    asked = _SCHED_ATTR.pack(_SCHED_ATTR.size, policy, 0, nice, 0, turn_nanoseconds, 0, 0)
    ctypes.CDLL(None).syscall(number, thread, asked, 0)
