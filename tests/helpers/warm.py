"""A plugin of pytest that saves the start of a process for each answer: `-p warm`, with this folder in PYTHONPATH.

What judges an answer stays the same, and so does the worker with its guard. But the worker is a fork of one that has
imported everything, and there is no wall around it. So it is for answers that the tests know, not for hostile ones.
test_coursework.py compares the verdicts of both ways.
"""

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import impl
import pytest

from tutorial.grader import isolated, wall
from tutorial.grader.tree import tree_of
from tutorial.grader.worker import Job

WORKER = Path(__file__).with_name("warm_worker.py")


@functools.cache
def warm_worker(tree: Path) -> socket.socket:
    """A warm worker for this book, and how to ask it. It ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [wall.interpreter(), "-IBSu", str(WORKER), str(tree), json.dumps(wall.packages()), str(theirs.fileno())],
        pass_fds=[theirs.fileno()], env={"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL)
    theirs.close()
    atexit.register(process.wait, 20)
    atexit.register(ours.close)
    return ours


class Forked:
    """A process of a warm worker, with what `Isolated` uses of a subprocess.Popen."""

    def __init__(self, worker: socket.socket, job: Job, environment: dict[str, str]):
        self.worker, self.status = worker, None
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        request = json.dumps({"job": asdict(job), "environment": environment}).encode()
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
    """One function of one submission, in a fork of a warm worker."""

    def __init__(self, exercise, reference, folder, tree, limits, behind):
        super().__init__(exercise, reference, folder, tree, limits, wall.Wall(None, "not wanted"))

    def grow(self, folder: Path) -> Path:
        """The whole book, once for all: there is nothing to hide from answers that are known."""
        return tree_of(None, folder)

    def open(self, job: Job, environment: dict[str, str]) -> Forked:
        return Forked(warm_worker(self.tree), job, environment)


@pytest.hookimpl(tryfirst=True)
def pytest_configure():
    """Before the plugin of the coursework is made."""
    impl.Isolated = Warm
