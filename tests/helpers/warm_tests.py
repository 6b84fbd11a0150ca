"""Tests of the coursework in forks of one process that has imported everything, which saves two starts per answer.

    python warm_tests.py        with the repository in PYTHONPATH

Reads lines with the arguments of pytest, as JSON, and answers each by a line with the exit status and what was printed.
What judges a student's function is the same as in a process of its own, and so is the worker that runs it, with its
guard. But that worker is a fork too (warm_worker.py), as is what runs a kernel (warm_emulator.py), and there is no wall
around them. So this is for answers that the tests know, not for hostile ones. test_coursework.py compares the verdicts
of both ways.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import impl
import pytest
import warm_emulator

from tutorial.grader import emulated, isolated, wall
from tutorial.grader.tree import tree_of
from tutorial.grader.worker import Job
from tutorial.make_coursework import carve


def start_worker(tree: Path) -> tuple[subprocess.Popen, socket.socket]:
    """A warm worker with the whole book, and how to ask it. It ends when nobody can ask it any more."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    script = str(Path(__file__).with_name("warm_worker.py"))
    process = subprocess.Popen(
        [wall.interpreter(), "-IBSu", script, str(tree), json.dumps(wall.packages()), str(theirs.fileno())],
        pass_fds=[theirs.fileno()], env={"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL)
    theirs.close()
    return process, ours


class Forked:
    """A process of a warm worker, with what `Isolated` uses of a subprocess.Popen."""

    def __init__(self, worker: socket.socket, job: Job, environment: dict[str, str], hole: str):
        self.worker, self.status = worker, None
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        request = json.dumps({"job": asdict(job), "environment": environment, "hole": hole}).encode()
        socket.send_fds(worker, [request], theirs)
        self.pid = json.loads(worker.recv(1 << 10))
        for pipe in theirs:
            os.close(pipe)
        self.stdin = open(pipes[0][1], "wb", buffering=0)
        self.stdout, self.stderr = open(pipes[1][0], "rb", buffering=0), open(pipes[2][0], "rb")

    def terminate(self) -> None:
        """End it at once. Its number is its own until the worker has been asked how it ended."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Its exit status, when it has ended."""
        until = time.monotonic() + timeout
        while self.status is None:
            self.worker.send(json.dumps({"ended": self.pid}).encode())
            self.status = json.loads(self.worker.recv(1 << 10))
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a process of the warm worker", timeout)
            time.sleep(0.002)
        return self.status


class Warm(isolated.Isolated):
    """One function of one submission, in a fork of the warm worker."""

    place: tuple[Path, socket.socket]  # the book of the warm worker, and how to ask that

    def __init__(self, exercise, reference, folder, tree, limits, behind):
        super().__init__(exercise, reference, folder, tree, limits, wall.Wall(None, "not wanted"))

    def grow(self, folder: Path) -> Path:
        return self.place[0]

    def open(self, job: Job, environment: dict[str, str]) -> Forked:
        return Forked(self.place[1], job, environment, carve([self.exercise])[self.exercise.file])


def run(arguments: list[str]) -> tuple[int, str]:
    """The exit status of pytest, in a fork, and what it printed."""
    with tempfile.TemporaryFile() as printed:
        pid = os.fork()
        if pid == 0:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            status = pytest.main(arguments)
            sys.stdout.flush()
            os._exit(int(status))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        printed.seek(0)
        return status, printed.read().decode("utf-8", "replace")


def main() -> None:
    """Answer until the input ends."""
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        tree = tree_of(None, Path(folder).resolve())
        worker, requests = start_worker(tree)
        impl.Isolated, Warm.place = Warm, (tree, requests)
        emulated.launched = warm_emulator.forked
        for line in sys.stdin:
            print(json.dumps(run(json.loads(line))), flush=True)
        requests.close()
        worker.wait(20)


if __name__ == "__main__":
    main()
