"""Check the installation, in seconds: `make doctor`. What is wrong is said in two lines, the fault and the remedy.

What only some exercises need is a note and no fault: a compiler for those about kernels, the student's folder.
"""

import importlib
import importlib.metadata
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)
INSTALL = "Run `make doctor` again after removing .venv, or: .venv/bin/python -m pip install -r requirements.txt"
MODULES = {"pillow": "PIL", "pytest-xdist": "xdist"}  # packages that are imported by another name
NUMBERS = [1, 5, 9]  # ids that the small model is tried on

Fault = tuple[str, str]  # what is wrong, what to do


def python() -> Iterator[Fault]:
    """The interpreter is new enough."""
    if sys.version_info < OLDEST:
        yield (f"This is Python {sys.version_info.major}.{sys.version_info.minor}; 3.11 or newer is needed.",
               "Install a newer one, and run: make PYTHON=python3.12 doctor")


def packages(file: Path = ROOT / "requirements.txt") -> Iterator[Fault]:
    """Each package that is required can be imported, in a version that is allowed."""
    for line in file.read_text(encoding="utf-8").splitlines():
        wanted = line.partition("#")[0].strip()
        name = re.split(r"[^\w-]", wanted)[0]
        if not wanted:
            continue
        try:
            importlib.import_module(MODULES.get(name, name.replace("-", "_")))
            found = importlib.metadata.version(name)
        except Exception as error:  # A broken package may raise anything.
            yield f"The package {name} cannot be imported: {type(error).__name__}: {error}", INSTALL
            continue
        if not allowed(wanted, found):
            yield f"The package {name} is {found}; {wanted} is needed.", INSTALL


def allowed(wanted: str, found: str) -> bool:
    """Whether a version is one that a line of requirements.txt allows. Without `packaging` nothing is known."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(wanted).specifier.contains(found, prereleases=True)


def models() -> Iterator[Fault]:
    """The two small models can be read and give numbers."""
    for name in ("tiny-mixtral", "tiny-pixtral"):
        try:
            import numpy as np

            import tiny

            logits = tiny.load(name)(NUMBERS)
            if logits.shape[0] != len(NUMBERS) or not np.isfinite(logits).all():
                yield (f"{name} gives NaN, infinity, or not one row for each token.",
                       "Its files are damaged: unpack or clone the course again.")
        except Exception as error:  # Whatever happens in there is a fault of the installation.
            words = " ".join(str(error).split())[:200]
            yield (f"{name} does not run: {type(error).__name__}: {words}",
                   "If a package is at fault, mend that first; else unpack or clone the course again.")


def writing() -> Iterator[Fault]:
    """The folder of the course can be written to."""
    try:
        tempfile.TemporaryFile(dir=ROOT).close()
    except OSError as error:
        yield f"The folder {ROOT} cannot be written to: {error.strerror}.", "Copy it to a folder of your own."


def student() -> Iterator[Fault]:
    """Files that were begun can be read by Python."""
    for path in sorted((ROOT / "student").glob("*.py")):
        try:
            compile(path.read_bytes(), path.name, "exec")
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            yield (f"student/{path.name}{line} is no Python: {getattr(error, 'msg', error)}.",
                   "Mend that line. To begin this one file again, move it away and run `make student`.")


def kernels() -> Iterator[Fault]:
    """Kernels that were written compile, if there is a compiler."""
    folder = ROOT / "student"
    if shutil.which("g++") is None or not any(folder.glob("*.cu")):
        return
    try:
        from tutorial.attempt import run_of
        from tutorial.make_coursework import is_written, load_exercises
    except Exception:  # What is missing is said above.
        return
    for exercise in load_exercises():
        if exercise.is_kernel and is_written(exercise, folder):
            with tempfile.TemporaryDirectory() as scratch:
                found = run_of(exercise, folder, Path(scratch))
            if isinstance(found, str) and "does not compile" in found:
                yield f"student/{found}", f"Mend that line. `make try EX={exercise.id}` compiles it again."


CHECKS: tuple[Callable[[], Iterator[Fault]], ...] = (python, packages, models, writing, student, kernels)


def notes() -> Iterator[str]:
    """What is missing and only sometimes needed."""
    if shutil.which("g++") is None:
        yield "There is no g++: exercises about kernels, and the emulator, need one. All else works."
    if not (ROOT / "student").is_dir():
        yield "There is no folder student/ yet: `make student` writes it."


def main(argv: list[str]) -> int:
    """Run all checks; return 1 if there is a fault. It uses nothing but Python itself, as all else may be missing."""
    faults = 0
    if argv:
        print(f"error: got {argv[0]!r}, and this takes no argument.\nremedy: Run `make doctor`.", file=sys.stderr)
        return 2
    for check in CHECKS:
        found = list(check())
        faults += len(found)
        print(f"{'FAULT' if found else 'ok':6}{(check.__doc__ or '').strip()}")
        for fault, remedy in found:
            print(f"error: {fault}\nremedy: {remedy}")
    for note in notes():
        print(f"note  {note}")
    print("Something is wrong; see above." if faults else "All is well.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
