"""Kernels of the coursework in forks of a process that has imported the emulator: a start takes longer than most runs.

`forked` stands in for `launched` of tutorial/grader/emulated.py. There is no wall around it and no limit on the
compiler's time, so this is for kernels that the tests know. test_kernel_exercises.py runs some the other way, and
test_coursework.py compares the verdicts of both.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from kernels.emulator import __main__ as program
from tutorial.source import ROOT


def forked(options: list[str], file: Path, scratch: Path, cache: Path | None) -> subprocess.CompletedProcess:
    """The program of the emulator, in a fork of this process; what it printed, and its exit status."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if pid == 0:
            status = 2
            try:
                os.chdir(ROOT)
                if cache:
                    os.environ["XDG_CACHE_HOME"] = str(cache)
                for number, stream in ((1, out), (2, err)):
                    os.dup2(stream.fileno(), number)
                sys.stdout, sys.stderr = out, err
                status = program.main(options)
                out.flush()
                err.flush()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(options, status, out.read(), err.read())
