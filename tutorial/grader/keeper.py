"""Where there is no wall: starts a submission's process, and at its end, or when told to, ends all that it started.

    python keeper.py COMMAND...

A process that starts a session or loses its parent leaves its group, but not this one: Linux hands it over here. The
exit status is that of the command, 128 and more for a signal, as a shell and bubblewrap give it.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>


def main() -> None:
    """Start the command, wait for its end or for SIGTERM, and leave nothing behind."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(end_children()))
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    worker = os.fork()
    if worker == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.execv(sys.argv[1], sys.argv[1:])
    for n in (0, 1):
        os.close(n)  # They are the worker's.
    _, status = os.waitpid(worker, 0)
    end_children()
    code = os.waitstatus_to_exitcode(status)
    os._exit(128 - code if code < 0 else code)


def prctl(option: int, value: int) -> None:
    """Ask the kernel; systems without prctl have nothing like it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def end_children() -> int:
    """End every child until there is none: the children of those that end come here."""
    while True:
        for child in children():
            os.kill(child, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return 128 + signal.SIGKILL


def children() -> list[int]:
    """The processes whose parent this one is; on systems without /proc, the group is ended instead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text(errors="replace").partition(" ")
        except OSError:
            continue  # It has ended since.
        if int(rest.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(int(pid))
    return found


if __name__ == "__main__":
    main()
