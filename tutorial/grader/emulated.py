"""Kernels of a submission, run by the emulator in a process of their own, checked access by access.

The tests of an exercise about a kernel call `run`, which runs a kernel of a file of `kernels/`, or of the submission's
in its place. What the emulator reports, with its line, is what the student is told. Compiled code minds no guard: so
the grader runs it behind the wall of the operating system or not at all; a student's own command does without.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kernels.emulator import build
from tiny.config import TinyError
from tutorial.grader import wall
from tutorial.make_coursework import Exercise
from tutorial.pack.kept import unpacked
from tutorial.source import ROOT

SECONDS = 20  # of one run of a kernel
FILES: dict[str, tuple[Path, Path]] = {}  # by the path of a file of kernels/: the submission's, and where it compiles
SHARED = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives")


class Reported(AssertionError):
    """What the emulator, or the compiler, says of a kernel."""


class Emulated:
    """The kernels of one exercise of a submission, with what a verdict asks of a function in a separate process."""

    dead = said = ""
    printed = b""

    def __init__(self, exercise: Exercise, folder: Path):
        self.path = exercise.path
        self.cache = tempfile.TemporaryDirectory(prefix="compiled-")  # its own, so that it spoils nobody else's
        with contextlib.suppress(TinyError):  # Without a compiler each run says so.
            kept = Path(self.cache.name) / "tiny-mixtral/emulator"
            kept.mkdir(parents=True)
            for made in build.parts(strict=True):
                shutil.copy(made, kept)
        FILES[self.path] = folder / exercise.file, Path(self.cache.name).resolve()

    def stop(self) -> None:
        """Back to the book's file."""
        FILES.pop(self.path, None)
        self.cache.cleanup()


def run(path: str, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[np.ndarray | np.generic],
        defines: Sequence[str] = (), order: str = "checked") -> list[np.ndarray]:
    """Run a kernel on copies of its arguments; return the arrays as they are afterwards, scalars left out.

    Every access is checked; with an `order` of the emulator's (forward, reverse, random:1) it is not, but the threads
    run in that order.

    Raises:  Reported with the emulator's words
    """
    mode = ["--check"] if order == "checked" else ["--order", order]
    return started(path, kernel, grid, block, arguments, defines, mode)[0]


def counts(path: str, kernel: str, grid: Sequence[int], block: Sequence[int],
           arguments: Sequence[np.ndarray | np.generic], defines: Sequence[str] = ()) -> dict[str, int]:
    """What the accesses of a run cost, by their kind: "global load", in sectors of 32 bytes, "shared store", in cycles.

    Raises:  Reported with the emulator's words
    """
    found: dict[str, int] = {}
    table = started(path, kernel, grid, block, arguments, defines, ["--profile"])[1].partition("\n\n")[0]
    for kind, work in re.findall(r"^ *\S+  ((?:global|shared) \w+) +\d+ +[\d,]+ +([\d,]+) ", table, re.M):
        found[kind] = found.get(kind, 0) + int(work.replace(",", ""))
    return found


def started(path: str, kernel: str, grid: Sequence[int], block: Sequence[int],
            arguments: Sequence[np.ndarray | np.generic], defines: Sequence[str],
            mode: list[str]) -> tuple[list[np.ndarray], str]:
    """The arrays after a run in some mode of the emulator, and what it printed."""
    file, cache = FILES.get(path, (unpacked(path), None))
    with tempfile.TemporaryDirectory(prefix="kernel-") as name:
        scratch = Path(name).resolve()
        texts = []
        for n, value in enumerate(arguments):
            if isinstance(value, np.ndarray):
                np.save(scratch / f"{n}.npy", value)
                texts.append(str(scratch / f"{n}.npy"))
            else:
                texts.append(f"{value.dtype.name}:{value}")
        sizes = ["--grid", ",".join(map(str, grid)), "--block", ",".join(map(str, block))]
        options = [str(file), "--kernel", kernel, *sizes, *mode, *(f"--arg={text}" for text in texts),
                   *(f"-D{define}" for define in defines),
                   "--strict", "--save", str(scratch / "out.npz"), "--time-limit", str(SECONDS)]
        ran = launched(options, file, scratch, cache)
        if ran.returncode:
            raise Reported(words(ran.stdout if ran.returncode == 1 and ran.stdout else ran.stderr, file))
        with np.load(scratch / "out.npz", allow_pickle=False) as saved:
            return [saved[f"arg{n}"] for n, value in enumerate(arguments) if isinstance(value, np.ndarray)], ran.stdout


def launched(options: list[str], file: Path, scratch: Path, cache: Path | None) -> subprocess.CompletedProcess:
    """The program of the emulator on a file, which is a submission's if it has a cache of its own: behind the wall."""
    paths = os.pathsep.join((str(ROOT), *wall.packages()))
    try:
        before = behind(file, scratch, cache) if cache else []
        return subprocess.run([*before, wall.interpreter(), "-m", "kernels.emulator", *options], cwd=ROOT,
                              capture_output=True, text=True, timeout=SECONDS + 120, stdin=subprocess.DEVNULL,
                              env=os.environ | {"PYTHONPATH": paths})
    except subprocess.TimeoutExpired:
        raise Reported(f"{file.name} was not compiled and run within {SECONDS + 120} seconds") from None


def words(text: str, file: Path) -> str:
    """What the emulator said, in one line, with the name of the file and not its folder."""
    said = " ".join(text.replace(f"{file}", file.name).split()).removeprefix("error: ").partition(" remedy:")[0]
    return said[:300] or "the kernel did not end"


def behind(file: Path, scratch: Path, cache: Path) -> list[str]:
    """What goes before the command: the wall, if there is one. Only the two folders can be written."""
    program = wall.find_wall().program
    if program is None:
        return []
    wanted = *SHARED, *wall.readable(), str(ROOT), *map(os.path.realpath, wall.packages()), str(file.parent)
    shared = [path for path in dict.fromkeys(wanted) if os.path.exists(path)]
    bound = [part for path in shared for part in (
        ["--symlink", os.readlink(path), path] if os.path.islink(path) and path.count("/") == 1
        else ["--ro-bind", path, path])]
    folders = [part for folder in (scratch, cache) for part in ("--bind", str(folder), str(folder))]
    return [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--tmpfs", "/tmp",
            *bound, "--dev", "/dev", "--proc", "/proc", *folders, "--setenv", "XDG_CACHE_HOME", str(cache),
            "--setenv", "TMPDIR", str(scratch), "--chdir", str(ROOT)]
