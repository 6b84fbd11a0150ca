"""A run of `python -m tiny.parallel` of which rank 1 ends badly, once its model has run a little.

    python dying.py HOW WHERE FILE [arguments of tiny.parallel]

FILE gets the time at which it happens.
"""

import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import tiny.ops  # noqa: E402
from tiny.parallel import __main__ as command  # noqa: E402
from tiny.parallel.launch import launch, own_rank  # noqa: E402
from tiny.tools.terminal import program  # noqa: E402

AFTER = 20  # calls until it happens


def die(how: str, file: str) -> None:
    """End this process."""
    Path(file).write_text(repr(time.time()))
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "vanish":
        os._exit(0)
    if how == "early":
        os._exit(1)
    if how == "exit":
        sys.exit(3)
    raise ValueError("this went wrong")


def plant(how: str, where: str, file: str) -> None:
    """Let the deed happen within a pass, where the other ranks wait in MPI, or between two passes."""
    module, name = (tiny.ops, "rms_norm") if where == "within" else (sys.modules["tiny.generate"], "sample")
    function, calls = getattr(module, name), []

    def planted(*args, **options):
        calls.append(name)
        if len(calls) == AFTER:
            die(how, file)
        return function(*args, **options)
    setattr(module, name, planted)


if __name__ == "__main__":
    how, where, file, *arguments = sys.argv[1:]
    if own_rank() is None:
        program(lambda: launch([sys.executable, *sys.argv], 2))
    if own_rank() == "1":
        if how == "early":  # before MPI began: nobody but the launcher can see it
            command.Ranks = lambda: die(how, file)  # type: ignore[misc, assignment]
        plant(how, where, file)
    program(lambda: command.main(arguments))
