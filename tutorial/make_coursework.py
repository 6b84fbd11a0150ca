"""Carve the coursework: copies of the modules that hold an exercise, each with a hole to fill.

    python -m tutorial.make_coursework            write student/
    python -m tutorial.make_coursework --force    write also the files that were worked on; what they held is kept

There is no second tree to keep in step: `exercises.toml` names a function and its steps, and the hole is cut into the
file of today's book. Signature, docstring and the other steps stay; the docstring is the assignment.
"""

import ast
import functools
import importlib
import itertools
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny.system.whole import write_whole
from tiny.tools.terminal import Parser, program
from tutorial.source import ROOT, Kernel, definition, read, source_of, step_lines

LIST = Path(__file__).with_name("exercises.toml")
STUDENT = ROOT / "student"


@dataclass(frozen=True)
class Idea:
    """One property of an exercise, which the test `test_<name>` checks, and what to tell whoever misses it."""

    name: str
    property: str
    hints: list[str]
    reports: dict[str, list[str]] = field(default_factory=dict)

    def hints_for(self, found: str) -> list[str]:
        """The hints that fit what was found: the emulator's reports have hints of their own, by a word of theirs."""
        return next((hints for word, hints in self.reports.items() if word in found), self.hints)


@dataclass(frozen=True)
class Exercise:
    """One entry of exercises.toml."""

    id: str
    title: str
    chapter: str
    function: str
    steps: list[int]
    points: int
    tests: list[str]
    hints: list[str]
    ideas: list[Idea] = field(default_factory=list)
    one_way: bool = False
    written: list[str] = field(default_factory=list)
    runs_others: bool = False

    @property
    def is_kernel(self) -> bool:
        """Whether it is a function of a .cu file, `kernels/rms_norm.cu:block_sum`, which the emulator judges."""
        return ".cu:" in self.function

    @property
    def module(self) -> str:
        """The module of the function: `tiny.rope`, `tiny.tools.looking`. The name of a class begins with a capital."""
        assert not self.is_kernel
        owner, _, last = self.function.rpartition(".")[0].rpartition(".")
        return owner if last[0].isupper() else f"{owner}.{last}"

    @property
    def name(self) -> str:
        """The function's name within its module: `rope`, `KVCache.append`."""
        if self.is_kernel:
            return self.function.partition(":")[2]
        return self.function.removeprefix(self.module + ".")

    @property
    def path(self) -> str:
        """The file of the book that holds the function, from the root of the repository."""
        return self.function.partition(":")[0] if self.is_kernel else self.module.replace(".", "/") + ".py"

    @property
    def file(self) -> str:
        """The name of the carved copy."""
        return Path(self.path).name

    @property
    def message(self) -> str:
        """What the hole says when it is called."""
        return f"Exercise {self.id}: {self.title} ({self.name} in {self.file})."

    @property
    def hole(self) -> str:
        """The line that stands in the place of what is to be written."""
        return f'#error "{self.message}"' if self.is_kernel else f'raise NotImplementedError("{self.message}")'


def load_exercises(path: Path = LIST) -> list[Exercise]:
    """All exercises, in order."""
    def read_entry(entry: dict[str, Any]) -> Exercise:
        return Exercise(**{**entry, "ideas": [Idea(**idea) for idea in entry["ideas"]]})

    return [read_entry(entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["exercise"]]


def reference(exercise: Exercise) -> Callable:
    """The book's own function."""
    found: Any = functools.reduce(getattr, exercise.name.split("."), importlib.import_module(exercise.module))
    return found


def named_steps(exercise: Exercise) -> str:
    """The steps of an exercise in words: `step (2)`, `steps (3) to (6)`."""
    first, last = exercise.steps[0], exercise.steps[-1]
    named = {0: f"step ({first})", 1: f"steps ({first}) and ({last})"}
    return named.get(last - first, f"steps ({first}) to ({last})")


def fill(exercise: Exercise, answer: str | None, lines: list[str], root: Path = ROOT) -> list[str]:
    """The lines of a module with the exercise's steps replaced: by an answer, or by a hole that says which it is."""
    first, last = step_lines(f"{exercise.path}:{exercise.name}", exercise.steps[0], exercise.steps[-1], root)
    old = lines[first - 1 : last]
    if answer is None:
        new = [line.strip() for line in old if line.lstrip().startswith(("# (", "// ("))]
        new.append(exercise.hole)
    else:
        new = answer.strip("\n").splitlines()
    indent = old[0][: len(old[0]) - len(old[0].lstrip())]
    return [*lines[: first - 1], *textwrap.indent("\n".join(new), indent).splitlines(), *lines[last:]]


def carve(exercises: list[Exercise], answers: dict[str, str] | None = None, root: Path = ROOT) -> dict[str, str]:
    """The carved files by name: a hole for each exercise, or what `answers` has for its id."""
    files: dict[str, list[Exercise]] = {}
    for exercise in exercises:
        files.setdefault(exercise.path, []).append(exercise)
    carved = {}
    for path, holes in files.items():
        lines = read(path, root)
        # The last hole first, so that the line numbers of the others stay true.
        for _, exercise in sorted(((step_lines(f"{path}:{e.name}", e.steps[0], root=root), e) for e in holes),
                                  key=lambda pair: pair[0], reverse=True):
            lines = fill(exercise, (answers or {}).get(exercise.id), lines, root)
        carved[Path(path).name] = "\n".join(lines) + "\n"
    return carved


def is_finished(exercise: Exercise, source: bytes | str) -> bool:
    """Whether the hole is gone from a student's function: no line that is reached raises its NotImplementedError.

    Raises:  SyntaxError or ValueError if this is no Python
    """
    if exercise.is_kernel:
        text = source.decode("utf-8", "replace") if isinstance(source, bytes) else source
        return not re.search(rf'^\s*#\s*error\s+"Exercise {re.escape(exercise.id)}:', text, re.M)
    node: ast.AST | None = ast.parse(source)
    for part in exercise.name.split("."):
        named = [child for child in getattr(node, "body", ()) if getattr(child, "name", "") == part]
        node = named[-1] if named else None
    raised = [leaf.value for line in reached(getattr(node, "body", ())) if isinstance(line, ast.Raise) and line.exc
              for leaf in ast.walk(line.exc) if isinstance(leaf, ast.Constant)]
    return not any(str(words).startswith(f"Exercise {exercise.id}:") for words in raised)


def is_written(exercise: Exercise, folder: Path) -> bool:
    """Whether a folder has a file that can be read, in which the hole is gone."""
    file = folder / exercise.file
    try:
        return file.is_file() and is_finished(exercise, file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def reached(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block and of the blocks inside it, but for those below a `return` or `raise`."""
    for line in body:
        yield line
        for inner in ("body", "orelse", "finalbody"):
            yield from reached(getattr(line, inner, ()))
        if isinstance(line, ast.Return | ast.Raise | ast.Continue | ast.Break):
            return


def same_as_book(exercise: Exercise, folder: Path) -> bool:
    """Whether a student's function is the book's; comments, docstring and the names of variables do not count.

    Never of an exercise whose text leaves one way to write it.
    """
    if exercise.one_way:
        return False
    if exercise.is_kernel:
        return same_kernel(exercise, folder)
    try:
        ours, theirs = definition(exercise.path, exercise.name, ROOT), definition(exercise.file, exercise.name, folder)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    return shape_of(ours) == shape_of(theirs)


def same_kernel(exercise: Exercise, folder: Path) -> bool:
    """Whether a function of a .cu file is the book's, but for comments and spaces."""
    def text(path: str, root: Path) -> str:
        lines = source_of(f"{path}:{exercise.name}", root).text.splitlines()
        return "".join("".join(line.partition("//")[0].split()) for line in lines)

    try:
        return text(exercise.path, ROOT) == text(exercise.file, folder)
    except (ValueError, UnicodeDecodeError):
        return False


def shape_of(function: ast.FunctionDef | ast.ClassDef | Kernel) -> list[str]:
    """A function without its docstring, with its variables numbered in the order in which they come."""
    assert not isinstance(function, Kernel)  # whose text is compared by `same_kernel`
    stored = {leaf.id for leaf in ast.walk(function) if isinstance(leaf, ast.Name) and isinstance(leaf.ctx, ast.Store)}
    numbers: dict[str, str] = {}
    for leaf in ast.walk(function):
        if isinstance(leaf, ast.Name) and leaf.id in stored:
            leaf.id = numbers.setdefault(leaf.id, f"v{len(numbers)}")
    return [ast.dump(node) for node in function.body[1:]]


def write(files: dict[str, str], folder: Path, force: bool) -> list[str]:
    """Write the files that are missing, or all with force; return the names of those that were left as they are.

    Work is never lost: before a file is written afresh, what it held goes to `rope.py.1`, or the next free number.
    """
    folder.mkdir(exist_ok=True)
    kept = []
    for name, text in files.items():
        path = folder / name
        differs = path.is_file() and path.read_bytes() != text.encode()
        if differs and not force:
            kept.append(name)
            continue
        if differs:
            write_whole(free_name(path), path.read_bytes())
        write_whole(path, text)
    return kept


def free_name(path: Path) -> Path:
    """The first of `rope.py.1`, `rope.py.2`, ... that is not there."""
    names = (path.with_name(f"{path.name}.{n}") for n in itertools.count(1))
    return next(name for name in names if not name.exists())


def write_cases(folder: Path, force: bool = False) -> None:
    """Write the runs and the kernel that detectives.py asks about; those that are there only by force."""
    from tutorial import planting  # It runs the embedded models.

    for part, name in (("A", "case_a.npz"), ("B", "case_b.npz"), ("C", "case_c.cu")):
        path = folder / name
        if force or not path.exists():
            planting.write_case(part, path)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = Parser(prog="python -m tutorial.make_coursework", description="Write the exercises.")
    parser.add_argument("--folder", type=Path, default=STUDENT, help="where to write (default: student/)")
    parser.add_argument("--force", action="store_true", help="write also files that were worked on; they are kept")
    args = parser.parse_args(argv)
    exercises = load_exercises()
    kept = write(carve(exercises), args.folder, args.force)
    write_cases(args.folder, args.force)
    width = max(len(exercise.file) for exercise in exercises)
    for exercise in exercises:
        print(f"Exercise {exercise.id:4}  {args.folder.name}/{exercise.file:{width}} {exercise.title} "
              f"(tutorial/{exercise.chapter})")
    if kept:
        print(f"Left as they are, for they differ from fresh ones: {', '.join(kept)}. To begin one again, move it "
              f"away and run this once more.")
    first = exercises[0]
    command = f"make try EX={first.id}" if args.folder == STUDENT else (
        f"python -m tutorial.attempt {first.id} --impl {args.folder}")
    print(f"Begin with: tutorial/{first.chapter}\nTry an exercise with: {command}")
    return 0


if __name__ == "__main__":
    program(main)
