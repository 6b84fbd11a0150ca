"""A kernel with a wild pointer kills its process, and one that spins never ends: so it runs in a child process.

The child says when the kernel starts and ends, so that the time limit holds for the kernel and not for the compiler.
"""

import faulthandler
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import NamedTuple

SIGNALS = {signal.SIGSEGV: "segmentation fault: an address that is not its own",
           signal.SIGBUS: "bus error: an address that does not exist",
           signal.SIGFPE: "arithmetic error: a whole number was divided by zero",
           signal.SIGILL: "illegal instruction", signal.SIGABRT: "it was aborted",
           signal.SIGKILL: "it was killed, most likely because memory ran out"}
GRACE = 3.0  # seconds in which a kernel that is stopped can say where it was


class Outcome(NamedTuple):
    """How the child ended: an exit status, or what killed it, or that its time was up."""

    status: int
    crash: str = ""
    late: bool = False


def run_in_child(work: Callable[[Callable[[bool], None]], int], limit: float) -> Outcome:
    """Call work(running) in a child process and return how that ended. The kernel has `limit` seconds.

    `work` returns an exit status, and calls running(True) before the kernel and running(False) after it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # The threads that Python warns of are those of the BLAS, which nothing in the child calls.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reading)
        serve(work, writing)
    os.close(writing)
    try:
        late = not wait_for_end(reading, None, limit)
        if late:
            # The emulator answers this with a report of the line that was running. Whatever does not answer ends.
            os.kill(child, signal.SIGALRM)
            if not wait_for_end(reading, time.monotonic() + GRACE, limit):
                os.kill(child, signal.SIGKILL)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if late and code != 1:
        return Outcome(2, late=True)
    if code < 0:
        return Outcome(2, SIGNALS.get(signal.Signals(-code), f"signal {-code}"))
    return Outcome(code)


def serve(work: Callable, writing: int) -> None:
    """The child's whole life: it leaves by _exit, because the parent's clean-up is not the child's to do."""
    status = 2
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()  # what ends this process is told by the parent
    try:
        status = work(lambda running: os.write(writing, b"s" if running else b"e"))
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        status = 141
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def wait_for_end(reading: int, deadline: float | None, limit: float) -> bool:
    """Wait until the child closes its end of the pipe; False after the deadline, or when a kernel exceeds the limit."""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], left)[0]:
            return False
        said = os.read(reading, 1)
        if not said:
            return True
        deadline = time.monotonic() + limit if said == b"s" else None
