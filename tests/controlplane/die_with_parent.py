"""Become another program that the kernel kills when the process that started it is gone.

Used as `python -I -S die_with_parent.py PARENT_PID PROGRAM ARGUMENT...`. A test run that is
killed must leave no API server behind. A small program of its own rather than `preexec_fn`,
which is unsafe beside threads. Linux only; elsewhere the program simply runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for the signal, close the race with a parent already gone, then exec."""
    parent, *argv = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit("the parent is gone")
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
