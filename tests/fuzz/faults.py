"""Fault injection: each writing command, with its n-th write, rename, mkdir or removal failing, n = 1, 2, ...

    python -m tests.fuzz.faults             all commands, until each gets through
    python -m tests.fuzz.faults convert     some of them

A step fails with "no space left" or an input/output error, or the process gets SIGTERM or SIGKILL there. Afterwards
each file is absent, old and whole, or new and whole; after anything but SIGKILL nothing unfinished is left.
"""

import builtins
import errno
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/helpers"))

import numpy as np  # noqa: E402  needs the path above

from tests.fuzz.engine import Wrong  # noqa: E402
from tiny.__main__ import main as command  # noqa: E402
from tiny.tools.terminal import program  # noqa: E402
from tiny.training.run_state import save_state  # noqa: E402

KINDS: dict[str, int] = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}
STEPS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")  # events of Python's audit; writes are counted besides
MOST = 400  # steps of one command


def convert(out: Path) -> None:
    """A small checkpoint in the other layout."""
    command(["convert", str(ROOT / "tests/golden/mixtral-b/mistral"), str(out / "copy")])


def patches(out: Path) -> None:
    """A picture of what a model sees."""
    picture = str(ROOT / "tests/golden/verify/left.png")
    command(["describe", picture, "--max-tokens", "1", "--patches", str(out / "a.png")])


def plot(out: Path) -> None:
    """The figure of a comparison."""
    file = str(ROOT / "tests/golden/verify/tiny-mixtral.npz")
    command(["verify", "check", file, file, "--plot", str(out / "a.png")])


def state(out: Path) -> None:
    """The state of a training run."""
    save_state(out / "state.npz", step=np.array(7), parameters=np.arange(20_000.0))


COMMANDS: dict[str, Callable[[Path], None]] = {"state": state, "convert": convert, "plot": plot, "patches": patches}


class Injector:
    """Counts the steps of a process that change files, and lets one of them fail."""

    def __init__(self, at: int, kind: str):
        self.at, self.kind, self.count, self.on = at, kind, 0, True

    def step(self) -> None:
        """One step more; the one that was chosen fails, once."""
        self.count += 1
        if self.on and self.count == self.at:
            if self.kind.startswith("SIG"):
                os.kill(os.getpid(), KINDS[self.kind])
            else:
                raise OSError(KINDS[self.kind], os.strerror(KINDS[self.kind]))

    def install(self) -> None:
        """Watch renames, mkdir and removals by Python's audit, and writes by files that count."""
        injector, real = self, io.open

        class Counting(io.FileIO):
            def write(self, data: Any) -> int:
                injector.step()
                return super().write(data)

        def counting(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wxa") or isinstance(file, int):
                return real(file, mode, buffering, *rest, **more)
            raw = Counting(file, mode.replace("b", ""))
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        builtins.open = io.open = counting  # type: ignore[assignment]
        sys.addaudithook(lambda event, arguments: injector.step() if event in STEPS else None)


def attempt(name: str, out: Path, at: int, kind: str) -> tuple[int, bool]:
    """Run a command in a child with the step `at` failing: its status, negative for a signal; if it had fewer steps."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        injector = Injector(at, kind)
        injector.install()
        try:
            program(lambda: COMMANDS[name](out))
        except SystemExit as stop:
            injector.on = False
            os.write(writer, b"x" * (injector.count < at))
            os._exit(int(stop.code or 0))
        finally:
            os._exit(99)
    os.close(writer)
    through = os.read(reader, 1) == b"x"
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), through


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def inject(name: str, kind: str, old: bool, most: int = MOST) -> int:
    """Let each step of a command fail once; return how many there were. Raises Wrong if a file is neither old nor new.

    old: whether its files are there before
    """
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        COMMANDS[name](whole)
        new = contents(whole)
        before = {file: b"old" for file in new} if old and name != "convert" else {}  # convert writes to no full folder
        for at in range(1, most + 1):
            out = Path(scratch) / f"out{at}"
            out.mkdir()
            for file, data in before.items():
                (out / file).write_bytes(data)
            status, through = attempt(name, out, at, kind)
            check(name, kind, at, before, new, contents(out), status, through)
            if through:
                return at - 1
    raise Wrong(f"{name} has more than {most} steps")


def check(name: str, kind: str, at: int, before: dict[str, bytes], new: dict[str, bytes], after: dict[str, bytes],
          status: int, through: bool) -> None:
    """Hold what is there after a failed step against what may be."""
    where = f"{name}: {kind} at step {at}"
    parts = [file for file in after if ".part" in file]
    if parts and kind != "SIGKILL":
        raise Wrong(f"{where} leaves {parts[0]}")
    for file in (set(after) | set(before)) - set(parts):
        if after.get(file) not in (before.get(file), new.get(file)):
            raise Wrong(f"{where} leaves {file} neither old nor new")
    if name == "convert" and 0 < len(set(after) - set(parts)) < len(new):
        raise Wrong(f"{where} leaves a part of the folder")
    if through and (status != 0 or any(after.get(file) != data for file, data in new.items())):
        raise Wrong(f"{where} was not reached, and the result is another one")
    if status == 99:
        raise Wrong(f"{where} ends in an exception")


def main() -> int:
    """Inject faults into the commands that are named, or into all."""
    for name in sys.argv[1:] or COMMANDS:
        for kind in KINDS:
            for old in (False, True):
                steps, over = inject(name, kind, old), "over old files" if old else "new"
                print(f"{name}, {kind}, {over}: {steps} steps", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
