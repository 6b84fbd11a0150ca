"""Your own model: the embedded models, run with the functions that you have written.

    python -m tutorial.mine                 the functions in student/
    python -m tutorial.mine --impl DIR      those in another folder

What is not finished is the book's. The model writes a story and names what is in two pictures; then its numbers are
compared with those that transformers computed with the same weights (tests/golden/verify), array by array, and the
logits of the text once more through the cache, in which a second text lies.
Each of your functions runs in a process of its own, as when you try it, with your other functions of the same file
beside it; but one that calls others of the model, as a layer does, runs among them.
"""

import ast
import shutil
import signal
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
from PIL import Image

import tiny
from tiny.config import TinyError
from tiny.tools import demo
from tiny.tools.terminal import Parser, printable, program
from tutorial.attempt import run_of
from tutorial.binding import bind, instead, load
from tutorial.grader.isolated import Isolated, Limits, Refused
from tutorial.grader.wall import find_wall
from tutorial.make_coursework import STUDENT, Exercise, is_written, load_exercises, reference
from tutorial.own_numbers import first_difference, odd_words, within
from tutorial.source import ROOT

DUMPS = ROOT / "tests/golden/verify"
SECONDS, EACH = 300, 20  # for each function, and for one call of it
PARTS = {"A": "tiny-mixtral", "B": "tiny-pixtral"}
TOKENS = 60


@contextmanager
def with_functions(exercises: list[Exercise], folder: Path) -> Iterator[dict[str, int]]:
    """A student's functions in the place of the book's; gives how often each was called, by its exercise."""
    calls = {exercise.id: 0 for exercise in exercises}
    started: list[Isolated] = []
    old: list[tuple[Exercise, Callable]] = []

    def counted(exercise: Exercise, call: Callable) -> Callable:
        def function(*args, **kwargs):
            calls[exercise.id] += 1
            try:
                return call(*args, **kwargs)
            except Refused as error:
                raise AssertionError(f"{exercise.file}: {exercise.name}: {error}") from error
        return function

    with tempfile.TemporaryDirectory(prefix="mine-") as trees:
        try:
            for exercise in exercises:
                book = reference(exercise)
                if exercise.runs_others:
                    call = in_time(exercise, load(exercise, folder / exercise.file))
                else:
                    limits = Limits(SECONDS, each=EACH)
                    one = Isolated(exercise, book, folder, Path(trees).resolve(), limits, find_wall(),
                                   [other.name for other in exercises if other.path == exercise.path])
                    started.append(one)
                    call = one.call
                old.append((exercise, bind(exercise, instead(exercise, counted(exercise, call)))))
            yield calls
        finally:
            for exercise, function in old:
                bind(exercise, function)
            for one in started:
                one.stop()


def in_time(exercise: Exercise, call: Callable) -> Callable:
    """A function of this process whose calls are stopped by their processor time: a busy machine fails nobody."""
    def ring(number: int, frame: FrameType | None) -> None:
        while frame and Path(frame.f_code.co_filename).name != exercise.file:
            frame = frame.f_back
        raise AssertionError(f"{exercise.file}: {exercise.name} took more than {EACH} seconds: does a loop never end?"
                             + (f" It was at line {frame.f_lineno}." if frame else ""))

    def function(*args, **kwargs):
        before = signal.signal(signal.SIGPROF, ring)
        signal.setitimer(signal.ITIMER_PROF, EACH)
        try:
            return call(*args, **kwargs)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
    return function


def said(error: Exception) -> str:
    """What stopped a student's function, or the model, in one line."""
    stop = getattr(error, "stop", None)
    if isinstance(error, TinyError) and "hold NaN or infinity" in str(error):  # The weights are embedded, and whole.
        return f"{error.cause} Does one of your functions read what nobody wrote, or divide by zero?"
    return " ".join((f"{stop}: {stop.text}" if stop and stop.text else str(stop or error)).split())[:200]


def show(part: str, used: Callable[[], list[Exercise]]) -> bool | None:
    """Let the model of a part speak, and compare it; return whether its numbers are those of transformers, or None if
    it stops. `used` says which functions of the student it has called.
    """
    name, odd = PARTS[part], ""
    try:
        model = tiny.load(name)
        if part == "A":
            print(f"\n{name} continues a story:\n")
            ids = [model.tokenizer.bos_id, *model.tokenizer.encode(demo.STORY)]
            tokens = list(tiny.generate(model, ids, max_tokens=TOKENS))
            story = textwrap.fill(f"{demo.STORY} {printable(''.join(token.text for token in tokens))} ...", 100)
            print(f"{textwrap.indent(story, '  ')}\n")
            odd = odd_words(model, ids, [token.id for token in tokens])
        else:
            print(f"\n{name} looks at two pictures:\n")
            for file, questions in demo.PICTURES.items():
                with Image.open(demo.STORED / file) as picture:
                    question = next(iter(questions))
                    print(f"  {file}: {question} {demo.answer(model, picture.convert('RGB'), question)}")
            print()
        with np.load(DUMPS / f"{name}.npz", allow_pickle=False) as stored:
            array, far = first_difference(model, dict(stored))
    except Exception as error:  # A wrong function may stop the model anywhere; what stopped it is said.
        print(f"\nPart {part}: your model stops: {said(error)}")
        return None
    if array:
        print(f"Part {part}: your model differs from transformers' first in {array}, by {far:.2g}.")
    elif odd:
        print(f"Part {part}: {odd}.")
    elif not used():
        print(f"Part {part}: nothing in it is yours yet. The book's model equals transformers' within {within(far)}.")
    else:
        print(f"Part {part}: your model's logits equal transformers' within {within(far)} "
              f"(largest difference {far:.1e}). Functions of yours in it: {len(used())}.")
    return not array and not odd


def unreadable(file: Path) -> str:
    """Why Python cannot read a student's file; nothing if it can, or if there is none."""
    try:
        ast.parse(file.read_bytes() if file.is_file() else b"")
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__
    return ""


def faulty(kernels: list[Exercise], folder: Path) -> dict[str, str]:
    """What the compiler or the emulator says of a student's kernels that it cannot run, by their files."""
    if shutil.which("g++") is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="mine-") as scratch:
        runs = {exercise.file: run_of(exercise, folder, Path(scratch)) for exercise in kernels}
    return {file: found for file, found in runs.items() if isinstance(found, str)}


def idle_among(written: list[Exercise], calls: dict[str, int], folder: Path) -> list[Exercise]:
    """The exercises that no call reached: neither from the model, nor from a function of the same file that ran."""
    def is_named(exercise: Exercise) -> bool:
        code = ast.walk(ast.parse((folder / exercise.file).read_bytes()))
        return any(isinstance(node, ast.Name) and node.id == exercise.name for node in code)

    return [exercise for exercise in written if not calls[exercise.id] and not (
        is_named(exercise) and any(calls[other.id] and other.path == exercise.path for other in written))]


def since(written: list[Exercise], calls: dict[str, int], folder: Path) -> Callable[[], list[Exercise]]:
    """What tells which of a student's functions were called from now on."""
    before = dict(calls)

    def used() -> list[Exercise]:
        idle = idle_among(written, {id: count - before[id] for id, count in calls.items()}, folder)
        return [exercise for exercise in written if exercise not in idle]
    return used


def listed(exercises: list[Exercise]) -> str:
    """Functions with the numbers of their exercises."""
    return ", ".join(f"{exercise.name} ({exercise.id})" for exercise in exercises)


def main(argv: list[str] | None = None) -> int:
    """Build the model, let it speak, compare it; return 0 if both parts are equal."""
    parser = Parser(prog="python -m tutorial.mine", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--impl", type=Path, default=STUDENT, metavar="DIR", help="the folder (default: student/)")
    args = parser.parse_args(argv)
    if not args.impl.is_dir():
        raise TinyError(f"There is no folder {args.impl}.", "`make student` writes student/; or name yours by --impl.")
    folder = args.impl.resolve()
    every = load_exercises()
    kernels = [exercise for exercise in every if exercise.is_kernel and is_written(exercise, folder)]
    exercises = [exercise for exercise in every if not exercise.is_kernel]
    written = [exercise for exercise in exercises if is_written(exercise, folder)]
    broken = {exercise.file: words for exercise in exercises if (words := unreadable(folder / exercise.file))}
    rest = [exercise for exercise in exercises if exercise not in written and exercise.file not in broken]
    print(f"Yours: {listed(written)}." if written else "No function of yours is finished yet: all are the book's.")
    if written and rest:
        print(f"Not finished, so the book's: {listed(rest)}.")
    for file, words in broken.items():
        lost = [exercise for exercise in exercises if exercise.file == file]
        print(f"{file} does not load ({words}): the book's is used for {listed(lost)}.")
    if kernels:
        print(f"Kernels, which `make try` compiles and runs, and these models do not: {listed(kernels)}.")
    stopped = faulty(kernels, folder)
    for file, words in stopped.items():
        print(f"{file} does not run: {words}")
    with with_functions(written, folder) as calls:
        equal = [show(part, since(written, calls, folder)) for part in PARTS]
    idle = idle_among(written, calls, folder)
    if idle and None not in equal:
        print(f"Not used by these two models: {listed(idle)}.")
    return 0 if all(equal) and not broken and not stopped else 1


if __name__ == "__main__":
    program(main)
