"""The fuzzer's engine: a target makes inputs from seeds and judges them; a forked child runs them under limits.

The bytes of an input are a pure function of (target, seed, number), so these three name it on every machine. A fault
is anything but a right result or a refusal with cause and remedy: any other exception, a signal, more than SECONDS of
processor time, more than BYTES of memory for an input of less than a million bytes, or a wrong result, which the
target's oracle raises as Wrong.
"""

import faulthandler
import os
import random
import resource
import signal
import struct
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path

from tiny.config import TinyError

ROOT = Path(__file__).parents[2]
PLACES = tuple(f"{ROOT}/{name}/" for name in ("tiny", "kernels", "tutorial"))
SECONDS, PATIENCE = 10, 120  # of the processor for an input; by the clock, for an input that sleeps
BYTES = 10**9
SLOT = 512  # bytes of an outcome
BATCH = 1000  # inputs of one child: what leaks ends with it
LONGEST = 2000  # letters of a message


class Wrong(Exception):
    """An oracle's verdict: the result is not what it must be."""


class TooSlow(BaseException):
    """Raised by the alarm; not an Exception, so that no reader takes it for a damaged file."""


@dataclass(frozen=True)
class Target:
    """A reader under test: `make` gives the bytes of an input, `run` reads them in a folder of the child's own.

    `run` returns what became of the input in a word, as "read"; TinyError means refused. share: of the inputs of all.
    """

    name: str
    make: Callable[[random.Random], bytes]
    run: Callable[[bytes, Path], str]
    share: float = 1.0


@dataclass
class Tally:
    """What became of the inputs of a target, and the distinct faults: signature -> first input and how many."""

    inputs: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    faults: dict[str, dict] = field(default_factory=dict)

    def add(self, number: int, outcome: str) -> None:
        """Count one input."""
        self.inputs += 1
        if not outcome.startswith("fault: "):
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
            return
        found = self.faults.setdefault(outcome.removeprefix("fault: "), {"first": number, "count": 0})
        found["count"] += 1


def input_of(target: Target, seed: int, number: int) -> bytes:
    """The bytes that (target, seed, number) name."""
    return target.make(random.Random(f"{target.name} {seed} {number}"))


def judge(target: Target, data: bytes, folder: Path) -> str:
    """Run one input here, in this process, and say what became of it; "fault: ..." names a fault."""
    try:
        outcome = target.run(data, folder)
    except TinyError as error:
        said = well_said(error.cause) and well_said(error.remedy)
        return "refused" if said else f"fault: not one line of cause and one of remedy, {signature(error)}"
    except TooSlow:
        return f"fault: more than {SECONDS} seconds"
    except Exception as error:
        return f"fault: {signature(error)}"
    return outcome


def well_said(text: str) -> bool:
    """Whether part of an error is one line that can be read."""
    return bool(text.strip()) and "\n" not in text and len(text) <= LONGEST


def signature(error: BaseException) -> str:
    """An error by its kind and its place in this repository's code; of a Wrong its words too."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(PLACES)] or frames[-1:]
    place = f"{os.path.relpath(ours[-1].filename, ROOT)}:{ours[-1].name}"
    return f"Wrong: {error}"[:200] if isinstance(error, Wrong) else f"{type(error).__name__} in {place}"


def run(target: Target, seed: int, start: int, count: int, seconds: float = 1e9) -> Tally:
    """Run inputs start to start + count of a target, in one child after another, until the time is over."""
    tally, began = Tally(), time.monotonic()
    number = start
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # Files that live for a millisecond need no disk.
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target.name}-", dir=memory) as folder:
        while number < start + count and time.monotonic() - began < seconds:
            number = run_child(target, seed, number, min(number + BATCH, start + count), began + seconds, Path(folder),
                               tally)
    tally.seconds = time.monotonic() - began
    return tally


def run_child(target: Target, seed: int, start: int, end: int, until: float, folder: Path, tally: Tally) -> int:
    """Fork a child for inputs start to end, count what it reports, and return the number of the next input."""
    slots = mmap(-1, SLOT * (end - start + 1))  # an outcome for each input; before them, how many are finished
    child = os.fork()
    if child == 0:
        try:
            work(target, seed, range(start, end), until, folder, slots)
        finally:
            os._exit(0)
    before, since, status = -1, time.monotonic(), None
    while status is None:
        time.sleep(0.02)
        finished = struct.unpack("<q", slots[:8])[0]
        if finished != before:
            before, since = finished, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            os.kill(child, signal.SIGKILL)
        done, code = os.waitpid(child, os.WNOHANG)
        status = code if done else None
    finished = struct.unpack("<q", slots[:8])[0]
    for n in range(finished):
        tally.add(start + n, slots[SLOT * (n + 1) : SLOT * (n + 2)].rstrip(b"\0").decode("utf-8", "replace"))
    if os.WIFSIGNALED(status):
        sent = signal.Signals(os.WTERMSIG(status)).name
        slept = sent == "SIGKILL" and time.monotonic() - since > PATIENCE
        tally.add(start + finished, f"fault: sleeps for {PATIENCE} seconds" if slept else f"fault: {sent}")
        finished += 1
    return start + finished


def work(target: Target, seed: int, numbers: range, until: float, folder: Path, slots: mmap) -> None:
    """The child's part: run the inputs and note what became of each, until one takes too much memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    faulthandler.disable()  # which pytest has on: a planted crash would fill its screen
    signal.signal(signal.SIGPROF, too_slow)
    warnings.simplefilter("ignore")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for n, number in enumerate(numbers, 1):
        if time.monotonic() > until:
            break
        data = input_of(target, seed, number)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        outcome = judge(target, data, folder)
        signal.setitimer(signal.ITIMER_PROF, 0)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        large = grown > BYTES and len(data) < 10**6
        if large:
            outcome = f"fault: more than {BYTES / 1e9:g} GB, then {outcome.removeprefix('fault: ')}"
        text = outcome.encode("utf-8", "replace")[:SLOT]
        slots[SLOT * n : SLOT * n + len(text)] = text
        slots[:8] = struct.pack("<q", n)
        if large:
            break


def too_slow(number: int, frame: object) -> None:
    """The handler of the alarm."""
    raise TooSlow


def merge(first: Tally, second: Tally) -> Tally:
    """Two tallies of one target in one."""
    merged = Tally(first.inputs + second.inputs, first.seconds + second.seconds, dict(first.outcomes),
                   {name: dict(found) for name, found in first.faults.items()})
    for outcome, count in second.outcomes.items():
        merged.outcomes[outcome] = merged.outcomes.get(outcome, 0) + count
    for name, found in second.faults.items():
        old = merged.faults.setdefault(name, found | {"count": 0})
        old["count"] += found["count"]
    return merged
