"""Calls of a submission's function in a separate process, under limits of time and memory and behind a wall.

The tests run here, the submission there. Only arguments go over and only results come back, so that nothing a
submission prints, returns early or changes can stand for a right answer: it is compared with the tests' numbers in
this process. What it did wrong beside that (ended its process, ran too long, tried to delete files) is the reason
given for every later call of that exercise.
"""

import builtins
import inspect
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tiny.kv_cache import KVCache
from tutorial.grader import doors, guard, wall
from tutorial.grader.messages import Reader, pack
from tutorial.grader.results import OtherForm, accept, whole
from tutorial.grader.tree import tree_of
from tutorial.grader.worker import Job, state
from tutorial.make_coursework import Exercise, load_exercises

# What the interpreter does first, before the worker and with it NumPy are imported.
BOOT = ("import sys; sys.path[:0], sys.path[len(sys.path):] = [{tree!r}], {packages!r}\n"
        "from tutorial.grader import doors; doors.take_modules()\nfrom tutorial.grader.worker import main; main()")
PRINTED = 1 << 16  # bytes of what a submission prints that are kept
# Not to be made good by the answers to other calls.
FINAL = ("MemoryError", "RecursionError", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException")
CHANNEL = "It wrote on the grader's own channel"
MOST_QUEUED, SHORTEST_QUEUED = 10, 0.05  # times the limit at most, and seconds at least, that are given back
REPLACED = "append replaced self.keys, self.values or self.slots by something else"
WORDS = guard.words((*doors.MODULES, doors.STARTER))


class Refused(AssertionError):
    """The submission did something that no answer can make good."""


class Changed(AssertionError):
    """The function changed an argument."""


@dataclass(frozen=True)
class Limits:
    """What one exercise of one submission may use."""

    seconds: float = 20.0
    megabytes: int = 1024
    each: float = float("inf")  # seconds of one call


@dataclass(frozen=True)
class Stop:
    """An exception of the submission's own: where, of which kind, and its words, which are for its author only."""

    file: str
    line: int
    kind: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''} stops with {self.kind}"


class Isolated:
    """One function of one submission, in a separate process, started at the first call."""

    def __init__(self, exercise: Exercise, reference: Callable, folder: Path, tree: Path, limits: Limits,
                 behind: wall.Wall, beside: Sequence[str] = ()):
        """`beside` names functions of the same file that stay the submission's; the others become the book's."""
        self.exercise, self.folder, self.limits, self.wall = exercise, folder, limits, behind
        self.beside = beside
        self.tree = self.grow(tree)
        self.signature, self.is_method = inspect.signature(reference), "." in exercise.name
        self.process: subprocess.Popen | None = None
        self.left, self.dead, self.printed = limits.seconds, "", b""
        self.until = float("inf")  # when the call that runs must have ended
        self.queued = 0.0  # seconds of waiting for a processor that were given back
        self.said = ""  # of an exception that ended it, for the submission's author only

    def grow(self, folder: Path) -> Path:
        """The book with this hole, in a folder below this one."""
        return tree_of(self.exercise, folder)

    def call(self, *args, **kwargs):
        """What the submission's function gives for these arguments, or an exception that says what it did instead."""
        if self.dead:
            raise Refused(self.dead)
        self.until = time.monotonic() + self.limits.each
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
        sent = [None if name in away else value for name, value in zip(names, values)]
        lengths = {name: len(value) for name, value in away.items()}
        trouble: list[Exception] = []
        cache = isinstance(owner, KVCache)
        message = self.exchange({"names": names, "args": sent, "away": lengths, "written": self.exercise.written,
                                 "owner": state(owner) if cache else owner})
        while "get" in message:
            if message["get"] not in list(away) or type(message.get("index")) is not int:
                raise Refused(CHANNEL)
            message = self.exchange(look_up(away[message["get"]], message["index"], trouble))
        if trouble:
            raise trouble[0]
        self.check(message)
        match message:
            case {"result": result, "changed": list(numbers), "written": dict(written),
                  "owner": dict() | None as theirs}:
                changed = [name for n, name in enumerate(names) if n in numbers and name not in self.exercise.written]
            case _:
                raise Refused(CHANNEL)
        if changed:
            raise Changed(f"{self.exercise.name} changed its argument {', '.join(changed)}")
        for name in self.exercise.written:
            take_over(name, bound.arguments[name], written.get(name))
        if cache:
            restore(owner, theirs)
        return accept(self.exercise.name, self.signature.return_annotation, result)

    def start(self) -> None:
        """Start the worker, and wait until it has loaded the submission."""
        walled = self.wall.program is not None
        self.home = tempfile.TemporaryDirectory(prefix="home-")
        home = wall.HOME if walled else os.path.realpath(self.home.name)
        tree, source = (wall.TREE, wall.SOURCE) if walled else (str(self.tree), str(self.folder))
        job = Job(source, home, self.exercise.file, self.exercise.module, self.exercise.name,
                  int(self.limits.seconds) + 1, self.limits.megabytes, [tree, *wall.readable()], wall.hidden(),
                  [other.name for other in load_exercises() if other.path == self.exercise.path
                   and other.id != self.exercise.id and other.name not in self.beside])
        environment = dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR"), home)
        self.process = self.open(job, environment | {"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"})
        os.set_blocking(self.process.stdin.fileno(), False)
        self.listener = threading.Thread(target=self.listen, args=(self.process.stderr,), daemon=True)
        self.listener.start()
        message = self.receive()
        if "ready" not in message:
            self.check(message, loading=True)
            raise Refused(CHANNEL)

    def open(self, job: Job, environment: dict[str, str]) -> subprocess.Popen:
        """The process of the worker. Its first folder to import from is the book with holes, wherever it sees that."""
        walled = self.wall.program is not None
        boot = BOOT.format(tree=wall.TREE if walled else str(self.tree), packages=wall.packages())
        return subprocess.Popen(
            [*self.wall.command(self.tree, self.folder), wall.interpreter(), "-IBSuc", boot, json.dumps(asdict(job))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
            cwd=None if walled else job.home, start_new_session=True)

    def listen(self, prints) -> None:
        """Keep the beginning of what the submission prints and drop the rest, so that it never waits or runs full."""
        while part := prints.read1(1 << 16):
            self.printed += part[: PRINTED - len(self.printed)]
        prints.close()

    def stop(self) -> None:
        """End the worker and whatever it started."""
        if self.process is None:
            return
        self.queued = 0.0
        process, self.process = self.process, None
        process.terminate()  # bubblewrap takes all inside with it, and so does the keeper.
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            pipe.close()
        self.listener.join(10)
        self.home.cleanup()

    def exchange(self, message: dict) -> dict:
        """Send a message and wait for the answer."""
        data = memoryview(pack(message, call=True))
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
        except ValueError:
            raise Refused(CHANNEL) from None
        if "forbidden" in message:
            what = message["forbidden"]
            if not isinstance(what, str) or what not in WORDS:
                raise Refused(CHANNEL)
            place = f" ({self.exercise.file}:{self.line(message)})" if self.line(message) else ""
            raise Refused(f"It tried what a submission may not do: {what}{place}")
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
        while True:
            began = time.monotonic()
            ready = select.select(readable, writable, [], max(min(self.left, self.until - began), 0))
            self.left -= time.monotonic() - began
            if any(ready):
                return
            if not self.more():
                seconds = min(self.limits.seconds, self.limits.each)
                raise Refused(f"It took more than {seconds:g} seconds: does a loop never end?")

    def more(self) -> bool:
        """Give back the time in which others had the processor: a busy machine fails nobody. False if there is none."""
        queued = min(in_queue(self.process.pid), MOST_QUEUED * self.limits.seconds) - self.queued
        if queued < SHORTEST_QUEUED:
            return False
        self.queued += queued
        self.left = max(self.left, 0) + queued
        self.until = max(self.until, time.monotonic()) + queued
        return True

    def ending(self) -> str:
        """How the worker ended."""
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        number = code - 128 if code > 128 else -code
        if number in (signal.SIGXCPU, signal.SIGKILL):
            return "out of time or memory"
        return f"exit status {code}" if number <= 0 else f"signal {number}, {signal.strsignal(number)}"

    def line(self, message: dict) -> int:
        """The line that a message names, if the file has one of that number."""
        line = message.get("line")
        last = (self.folder / self.exercise.file).read_bytes().count(b"\n") + 1
        return line if type(line) is int and 0 < line <= last else 0

    def check(self, message: dict, loading: bool = False) -> None:
        """Raise what the submission raised; kinds that no answer may have are refused."""
        if "raised" not in message:
            return
        match message:
            case {"raised": str(kind), "text": str(text)}:
                line = self.line(message)
            case _:
                raise Refused(CHANNEL)
        if kind == "Unsendable":
            raise stopped(TypeError(text), Stop(self.exercise.file, line, "a result that holds no plain numbers", text))
        raised = getattr(builtins, kind, None)
        if not isinstance(raised, type) or not issubclass(raised, BaseException):
            raise Refused(CHANNEL)
        stop = Stop(self.exercise.file, line, kind, text)
        if loading:
            error = Refused(f"{self.exercise.file}{f':{line}' * bool(line)} does not load: {kind}")
        elif kind in FINAL:
            error = Refused(str(stop))
        else:
            try:
                error = raised(text)
            except TypeError:  # UnicodeDecodeError and others want more than words.
                error = RuntimeError(text)
        self.said = text
        raise stopped(error, stop)


def in_queue(pid: int) -> float:
    """Seconds that a process and those it started could have run and had to wait for a processor; 0 where the system
    does not count them. The one that waited longest counts, or many at once would earn more time than there is.
    """
    try:
        folders = list(Path(f"/proc/{pid}/task").iterdir())
        below = [int(child) for folder in folders for child in (folder / "children").read_text().split()]
        own = [int((folder / "schedstat").read_text().split()[1]) / 1e9 for folder in folders]
    except (OSError, ValueError, IndexError):
        return 0.0
    return max([*own, *map(in_queue, below)], default=0.0)


def stopped(error: BaseException, stop: Stop) -> BaseException:
    """The exception, with what stopped the submission attached to it."""
    error.stop = stop  # type: ignore[attr-defined]
    return error


def is_remote(value: object) -> bool:
    """Whether a sequence stays here and is asked for its elements: anything but plain lists and tuples."""
    return isinstance(value, Sequence) and not isinstance(value, list | tuple | str | bytes)


def look_up(sequence: Sequence, index: int, trouble: list[Exception]) -> dict:
    """The element of a sequence that the worker asked for; an error is kept for the test that called."""
    try:
        return {"value": sequence[index]}
    except Exception as error:
        trouble.append(error)
        return {"error": str(error)}


def take_over(name: str, mine: np.ndarray, theirs: object) -> None:
    """Copy what the worker wrote into an argument. Shapes:  mine (...), theirs the same."""
    if not isinstance(theirs, np.ndarray) or theirs.shape != mine.shape or theirs.dtype != mine.dtype:
        raise OtherForm(f"the function made something else of its argument {name}: write into it, {name}[...] = ...")
    mine[...] = theirs


def restore(cache, owner: dict | None) -> None:
    """Take over the rows and lengths of a cache from what the worker made of them. Shapes:  (L, S, G, d)."""
    arrays = [(getattr(cache, name), (owner or {}).get(name)) for name in ("keys", "values")]
    for mine, theirs in arrays:
        if not isinstance(theirs, np.ndarray) or theirs.shape != mine.shape or theirs.dtype != mine.dtype:
            raise OtherForm(REPLACED)
    slots = owner["slots"] if isinstance(owner.get("slots"), list) else []
    if len(slots) != len(cache.slots) or not all(
            isinstance(slot, tuple) and len(slot) == 3 and all(whole(n) for n in slot) for slot in slots):
        raise OtherForm(REPLACED)
    for mine, theirs in arrays:
        mine[...] = theirs
    for slot, values in zip(cache.slots, slots, strict=True):
        slot.start, slot.capacity, slot.length = map(int, values)
