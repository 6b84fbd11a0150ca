"""Calls of a submission's function in a separate process, under limits of time and memory.

The tests run here, the submission there. Only arguments go over and only results come back, so that nothing a
submission prints, returns early or changes can stand for a right answer: it is compared with the tests' numbers in
this process. What it did wrong beside that (ended its process, ran too long, tried to delete files) is the reason
given for every later call of that exercise.
"""

import builtins
import inspect
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutorial.grader.worker import Reader, pack, state
from tutorial.make_coursework import Exercise

WORKER = Path(__file__).with_name("worker.py")
RAISED = {"ValueError", "TypeError", "IndexError", "KeyError", "NotImplementedError", "AttributeError", "NameError",
          "ZeroDivisionError", "AssertionError", "UnboundLocalError", "RuntimeError", "SyntaxError"}


class Refused(AssertionError):
    """The submission did something that no answer can make good."""


@dataclass(frozen=True)
class Limits:
    """What one exercise of one submission may use."""

    seconds: float = 20.0
    megabytes: int = 1024


class Isolated:
    """One function of one submission, in its own process, started at the first call."""

    def __init__(self, exercise: Exercise, reference: Callable, folder: Path, tree: Path, limits: Limits):
        self.exercise, self.folder, self.tree, self.limits = exercise, folder, tree, limits
        self.signature, self.is_method = inspect.signature(reference), "." in exercise.name
        self.process: subprocess.Popen | None = None
        self.left, self.dead = limits.seconds, ""

    def call(self, *args, **kwargs):
        """What the submission's function gives for these arguments, or an exception that says what it did instead."""
        if self.dead:
            raise Refused(self.dead)
        try:
            return self.converse(*args, **kwargs)
        except Refused as reason:
            self.dead = str(reason)
            self.stop()
            raise

    def converse(self, *args, **kwargs):
        """Send one call, answer what the worker asks, check and return what it gives."""
        if self.process is None:
            self.start()
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        names, values = list(bound.arguments), list(bound.arguments.values())
        owner = values.pop(0) if self.is_method else None
        names = names[1:] if self.is_method else names
        away = {name: value for name, value in zip(names, values) if is_remote(value)}
        sent = [{"remote": (name, len(value))} if name in away else value for name, value in zip(names, values)]
        trouble: list[BaseException] = []
        message = self.exchange({"args": sent, "owner": state(owner) if self.is_method else None})
        while "get" in message:
            message = self.exchange(look_up(away, message, trouble))
        if trouble:
            raise trouble[0]
        self.check(message)
        changed = [names[n] for n in message.get("changed", []) if names[n] != "scores"]
        if changed:
            raise AssertionError(f"{self.exercise.name} changed its argument {', '.join(changed)}")
        if "result" not in message:
            raise Refused("It wrote on the grader's own channel")
        if self.is_method:
            restore(owner, message["owner"])
        return message["result"]

    def start(self) -> None:
        """Start the worker, and wait until it has loaded the submission."""
        command = [sys.executable, "-IB", WORKER, self.tree, self.folder, self.exercise.file, self.exercise.name,
                   self.limits.megabytes, int(self.limits.seconds) + 1]
        environment = {"PATH": os.defpath, "HOME": str(self.folder), "OPENBLAS_NUM_THREADS": "1"}
        self.printed = tempfile.TemporaryFile()
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.printed, cwd=self.folder, env=environment, start_new_session=True)
        os.set_blocking(self.process.stdin.fileno(), False)
        message = self.receive()
        if "ready" not in message:
            self.check(message, loading=True)

    def stop(self) -> None:
        """End the worker and whatever it started."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate()
        self.printed.close()
        self.process = None

    def exchange(self, message: dict) -> dict:
        """Send a message and wait for the answer."""
        data = memoryview(pack(message))
        out = self.process.stdin.fileno()
        try:
            while data:
                self.wait([], [out])
                data = data[os.write(out, data[:65536]) :]
        except BrokenPipeError:
            pass  # The answer, or its absence, says why.
        return self.receive()

    def receive(self) -> dict:
        """The next message of the worker; whatever is not one is the submission's doing."""
        try:
            message = Reader(self.read).message()
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise Refused(f"It wrote on the grader's own channel: {error}") from None
        if "forbidden" in message:
            raise Refused(f"It tried what a submission may not do: {message['forbidden']}")
        return message

    def read(self, n: int) -> bytes:
        """The next n bytes of the worker."""
        parts, source = [], self.process.stdout.fileno()
        while n:
            self.wait([source], [])
            part = os.read(source, min(n, 1 << 20))
            if not part:
                raise Refused(f"Its process ended before it answered ({self.ending()})")
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def wait(self, readable: list[int], writable: list[int]) -> None:
        """Until the worker is ready, within the time that this exercise has left."""
        began = time.monotonic()
        ready = select.select(readable, writable, [], max(self.left, 0))
        self.left -= time.monotonic() - began
        if not any(ready):
            raise Refused(f"It took more than {self.limits.seconds:g} seconds: does a loop never end?")

    def ending(self) -> str:
        """How the worker ended."""
        code = self.process.wait(10)
        if code == -signal.SIGXCPU or code == -signal.SIGKILL:
            return "out of time or memory"
        return f"exit status {code}" if code >= 0 else f"signal {-code}, {signal.strsignal(-code)}"

    def check(self, message: dict, loading: bool = False) -> None:
        """Raise what the submission raised; kinds that no answer may have are refused."""
        if "raised" not in message:
            return
        kind, place = message["raised"], f"{self.exercise.file}:{message['line']}: " if message["line"] else ""
        if loading:
            raise Refused(f"{self.exercise.file} does not load: {place}{kind}: {message['text']}")
        if kind == "Unsendable":
            raise TypeError(f"{self.exercise.name} should not return {message['text']}")
        if kind not in RAISED:
            raise Refused(f"It raised {place}{kind}: {message['text']}")
        raise getattr(builtins, kind)(f"{place}{message['text']}" if kind != "ValueError" else message["text"])


def is_remote(value: object) -> bool:
    """Whether a sequence stays here and is asked for its elements: anything but plain lists and tuples."""
    return isinstance(value, Sequence) and not isinstance(value, list | tuple | str)


def look_up(away: dict, message: dict, trouble: list[BaseException]) -> dict:
    """The element of a sequence that the worker asked for; an error is kept for the test that called."""
    try:
        return {"value": away[message["get"]][int(message["index"])]}
    except Exception as error:
        trouble.append(error)
        return {"error": str(error)}


def restore(cache, owner: dict) -> None:
    """Take over the rows and lengths of a cache from what the worker made of them. Shapes:  (L, S, G, d)."""
    for name in ("keys", "values"):
        mine, theirs = getattr(cache, name), owner[name]
        if not isinstance(theirs, np.ndarray) or theirs.shape != mine.shape or theirs.dtype != mine.dtype:
            raise AssertionError(f"append replaced self.{name} by something else")
        mine[...] = theirs
    for slot, values in zip(cache.slots, owner["slots"], strict=True):
        slot.start, slot.capacity, slot.length = values
