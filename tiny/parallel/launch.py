"""Start the ranks of a command, and say in two lines which one ended it if one did. Read `__main__.py` next.

Messages of the ranks come through here: notes and errors as they are, once; what MPI itself says about an end is left
out, because it comes last and names no rank. A rank that is killed can say nothing, so it is watched from here. Who
watches a terminal sees notes as they come. In a file or a pipe the first line says whether a rank failed, and which, so
notes come there when all is done.
"""

import importlib.util
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tiny.config import TinyError

INSTALL = "Install the extra: pip install -e '.[parallel]', or make .venv/parallel."
HELLO, DONE = re.compile(r"rank: (\d+) (\d+) (\S+)"), "ranks: done"  # lines that are for this program
LABELS = ("note:", "error:", "remedy:")
UNDER_MPI = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")  # what an mpiexec tells its processes
PATIENCE = 3.0  # seconds in which all ranks end after the first one did, before they are killed
SAID = 200  # characters of what MPI says that an error shows
BANNER = b"=" * 60  # how the words begin that the mpiexec of MPICH writes to standard output about a bad end


def say(line: str) -> None:
    """Write a line to standard error at once: MPI mixes what ranks write in pieces."""
    assert sys.__stderr__ is not None
    sys.__stderr__.write(f"{line}\n")
    sys.__stderr__.flush()


def own_rank() -> str | None:
    """The number that an mpiexec gave to this process; None if none started it. MPI itself need not have begun."""
    return next((os.environ[name] for name in UNDER_MPI if name in os.environ), None)


def hello() -> str:
    """The line by which a rank says which process it is."""
    return f"rank: {own_rank()} {os.getpid()} {socket.gethostname()}"


def find_mpiexec() -> str:
    """The mpiexec beside this Python, where the wheel of mpich puts it, or that of the PATH.

    Raises:  TinyError if there is none, or no mpi4py
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise TinyError("mpi4py is not installed, by which ranks talk to each other.", INSTALL)
    found = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    if found is None:
        raise TinyError("There is no mpiexec beside this Python and none on the PATH.", INSTALL)
    return found


def launch(program: Sequence[str], ranks: int, debug: bool = False, reads: bool = False) -> int:
    """Run a program as several ranks, and return its exit status.

    reads: whether rank 0 reads standard input

    Raises:  TinyError that names the rank, if one ended without a word
    """
    # Ranks on one machine share its cores; a BLAS that takes all of them for each rank is slower than one.
    threads = {"OPENBLAS_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks))}
    process = subprocess.Popen([find_mpiexec(), "-n", str(ranks), *program],
                               stdin=None if reads else subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=threads | os.environ, start_new_session=True)
    watch, whole = Watch(process, debug), False
    try:
        whole = watch.listen()
    finally:
        status = process.wait() if whole else watch.end()
    if watch.done:
        for note in watch.notes:
            say(note)
    if watch.done or watch.errors:
        return status or 2 * watch.errors
    raise watch.lost()


class Watch:
    """What the ranks say, and which of them ends first."""

    def __init__(self, process: subprocess.Popen, debug: bool) -> None:
        self.process, self.debug = process, debug
        self.done = self.errors = False
        self.ranks: dict[int, int] = {}  # by process
        self.first: int | None = None  # the rank that ended first, as far as this machine sees
        self.rest: list[str] = []  # what MPI said
        self.notes: list[str] = []  # that wait for a good end
        self.until: float | None = None  # when the ranks have had their time to end
        self.unread = b""  # of a line
        self.ragged = False  # whether standard output ends within a line
        self.quiet = False  # whether what comes to standard output is by MPI
        self.selector = selectors.DefaultSelector()

    def listen(self) -> bool:
        """Pass all on until the ranks have ended; False if one has and the others still wait for it."""
        assert self.process.stdout is not None and self.process.stderr is not None
        for stream, take in ((self.process.stdout, self.show), (self.process.stderr, self.hear)):
            self.selector.register(stream.fileno(), selectors.EVENT_READ, take)
        open_streams = 2
        while open_streams:
            ready = self.selector.select(None if self.until is None else max(0.0, self.until - time.monotonic()))
            if not ready:
                return False
            for key, _ in ready:
                if isinstance(key.data, int):  # a rank ended
                    self.selector.unregister(key.fd)
                    os.close(key.fd)
                    self.ended(key.data)
                elif piece := os.read(key.fd, 1 << 16):
                    key.data(piece)
                else:
                    self.selector.unregister(key.fd)
                    open_streams -= 1
        return True

    def ended(self, rank: int) -> None:
        """Note that a rank ended; the others have as much time as is left."""
        self.first = rank if self.first is None else self.first
        if not self.done:
            self.until = self.until or time.monotonic() + PATIENCE

    def show(self, piece: bytes) -> None:
        """A piece of standard output."""
        text, banner, _ = piece.partition(BANNER)
        if not self.quiet:
            self.write(text)
        self.quiet = self.quiet or bool(banner)
        if self.quiet:
            self.rest += piece.decode(errors="replace").splitlines()

    def write(self, text: bytes) -> None:
        """Pass on what belongs to standard output."""
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
        self.ragged = bool(text) and not text.endswith(b"\n")

    def hear(self, piece: bytes) -> None:
        """A piece of standard error, line by line."""
        *lines, self.unread = (self.unread + piece).split(b"\n")
        for line in lines:
            self.line(line.decode(errors="replace"))

    def end(self) -> int:
        """End all ranks that still run, those of this machine by force, and mpiexec; return its exit status."""
        for key in [key for key in self.selector.get_map().values() if isinstance(key.data, int)]:
            signal.pidfd_send_signal(key.fd, signal.SIGKILL)
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()

    def line(self, line: str) -> None:
        """One line of standard error."""
        if met := HELLO.fullmatch(line):
            rank, process = int(met[1]), int(met[2])
            self.ranks[process] = rank
            if met[3] == socket.gethostname() and hasattr(os, "pidfd_open"):
                try:
                    self.selector.register(os.pidfd_open(process), selectors.EVENT_READ, rank)
                except ProcessLookupError:
                    self.ended(rank)
        elif line == DONE:
            self.done, self.until = True, None
        elif line.startswith("note:") and not (self.debug or sys.stderr.isatty()):
            self.notes.append(line)
        elif self.debug or (line.startswith(LABELS) and not self.errors):
            self.write(b"\n" * (self.ragged and line.startswith("error:")))
            say(line)
        else:
            self.rest.append(line)
        self.errors = self.errors or line.startswith("remedy:")

    def lost(self) -> TinyError:
        """The error for ranks that ended without a word: which rank, and what MPI, or Python, said of it."""
        self.write(b"\n" * self.ragged)
        lines = [line for line in self.rest if any(map(str.isalnum, line))]
        said = " ".join(lines)
        process = re.search(r"PID (\d+)", said)
        how = re.search(r"EXIT STRING: (\w+(?: \w+)* \(.*?\))|on (signal \d+ \(.*?\))", said)
        rank = self.ranks.get(int(process[1]), self.first) if process else self.first
        who = "A rank" if rank is None else f"rank {rank}"
        if how:
            return TinyError(f"{who} was ended from outside: {how[1] or how[2]}.",
                             "If memory ran out: --weights mapped, or more ranks on other machines.")
        last = lines[-1] if "Traceback" in said else said[:SAID]
        return TinyError(f"{who} ended without a word{last and f'; standard error has: {last}'}",
                         "--debug shows all that was said.")
