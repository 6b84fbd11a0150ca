"""Your own model: the embedded models, run with the functions that you have written.

    python -m tutorial.mine                 the functions in student/
    python -m tutorial.mine --impl DIR      those in another folder

What is not finished is the book's. The model writes a story and names what is in two pictures; then its numbers are
compared with those that transformers computed with the same weights (tests/golden/verify), array by array, and the
logits of the text once more through the cache.
Each of your functions runs in a process of its own, as when you try it, with your other functions of the same file
beside it; but one that calls others of the model, as a layer does, runs among them.
"""

import ast
import json
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

import tiny
from tiny.config import TinyError
from tiny.tools import demo
from tiny.tools.prompt_images import user_turn
from tiny.tools.terminal import Parser, printable, program
from tutorial.binding import bind, instead, load
from tutorial.grader.isolated import Isolated, Limits
from tutorial.grader.wall import find_wall
from tutorial.make_coursework import STUDENT, Exercise, is_written, load_exercises, reference
from tutorial.source import ROOT

DUMPS = ROOT / "tests/golden/verify"
# How far logits may be from those of transformers. Measured on 2026-11-29 with the book's functions and with right
# answers mixed at random, on OpenBLAS for five processors: up to 2.1e-5 of tiny-mixtral, whose largest logit is 20 (so
# 2e-5 would refuse a right answer), and at most 1.2e-5 of tiny-pixtral; through the cache, with the book's, 1.8e-5.
LOGITS, NEAR = 5e-5, "5e-5"
# Of any other array, as a part of its largest number, or of 1 if that is larger. Measured likewise: at most 1.2e-6.
PART = 5e-6
SECONDS = 300  # for each function
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
            return call(*args, **kwargs)
        return function

    with tempfile.TemporaryDirectory(prefix="mine-") as trees:
        try:
            for exercise in exercises:
                book = reference(exercise)
                if exercise.runs_others:
                    call = load(exercise, folder / exercise.file)
                else:
                    one = Isolated(exercise, book, folder, Path(trees).resolve(), Limits(SECONDS), find_wall(),
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


def inputs_of(model, dump: dict[str, np.ndarray]) -> tuple[list[int], list[np.ndarray]]:
    """The ids and pixels of a stored run, as this code makes them from its prompt and pictures."""
    record = json.loads(str(dump["record"]))
    if not record["chat"]:
        return [model.tokenizer.bos_id, *model.tokenizer.encode(record["prompt"])], []
    pictures = [Image.fromarray(dump[f"image{n}"]) for n in range(len(record["images"]))]
    return model.tokenizer.encode_chat([user_turn(record["prompt"], pictures)])


def first_difference(model, dump: dict[str, np.ndarray]) -> tuple[str, float]:
    """The first array that differs from a stored run, and by how much; or an empty name, and how far the logits are.

    A text is read once more through the cache, and its logits are compared again.
    """
    ids, pixels = inputs_of(model, dump)
    own: dict[str, np.ndarray] = {}
    shown = {"ids": np.array(ids), **{f"pixels{n}": array for n, array in enumerate(pixels)}}
    for name, array in shown.items():
        if distance(array, dump[name]) > allowed(name, dump[name]):
            return name, distance(array, dump[name])
    with np.errstate(all="ignore"):
        own["logits"] = model(ids, images=pixels, trace=own)
    for name, array in dump.items():
        if name in own and distance(own[name], array) > allowed(name, array):
            return name, distance(own[name], array)
    far = distance(own["logits"], dump["logits"])
    if not pixels:
        with np.errstate(all="ignore"):
            far = max(far, distance(in_chunks(model, ids), dump["logits"]))
    return "" if far <= LOGITS else "logits through the cache", far


def in_chunks(model, ids: list[int]) -> np.ndarray:
    """The logits of a text of which half is read in one call, and the rest token by token. Shapes:  -> (T, V)."""
    cache, half = model.new_cache(len(ids)), len(ids) // 2
    return np.concatenate([model(chunk, cache=cache) for chunk in (ids[:half], *([token] for token in ids[half:]))])


def allowed(name: str, theirs: np.ndarray) -> float:
    """How far an array may be from that of transformers."""
    return LOGITS if name == "logits" else PART * max(1.0, float(np.abs(theirs).max()))


def distance(mine: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two arrays: infinite for another shape, or a NaN on one side."""
    if mine.shape != theirs.shape:
        return float("inf")
    far = np.abs(np.asarray(mine, np.float64) - theirs)
    return float("inf") if np.isnan(far).any() else float(far.max(initial=0.0))


def said(error: Exception) -> str:
    """What stopped a student's function, or the model, in one line."""
    stop = getattr(error, "stop", None)
    if isinstance(error, TinyError) and "hold NaN or infinity" in str(error):  # The weights are embedded, and whole.
        return f"{error.cause} Does one of your functions read what nobody wrote, or divide by zero?"
    return " ".join((f"{stop}: {stop.text}" if stop and stop.text else str(stop or error)).split())[:200]


def show(part: str) -> bool | None:
    """Let the model of a part speak, and compare it; return whether its numbers are those of transformers, or None if
    it stops.
    """
    name = PARTS[part]
    try:
        model = tiny.load(name)
        if part == "A":
            ids = [model.tokenizer.bos_id, *model.tokenizer.encode(demo.STORY)]
            text = "".join(token.text for token in tiny.generate(model, ids, max_tokens=TOKENS))
            story = textwrap.fill(f"{demo.STORY} {printable(text)} ...", 100)
            print(f"\n{name} continues a story:\n\n{textwrap.indent(story, '  ')}\n")
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
    else:
        print(f"Part {part}: your model's logits equal transformers' within {NEAR} (largest difference {far:.1e}).")
    return not array


def idle_among(written: list[Exercise], calls: dict[str, int], folder: Path) -> list[Exercise]:
    """The exercises that no call reached: neither from the model, nor from a function of the same file that ran."""
    def is_named(exercise: Exercise) -> bool:
        code = ast.walk(ast.parse((folder / exercise.file).read_bytes()))
        return any(isinstance(node, ast.Name) and node.id == exercise.name for node in code)

    return [exercise for exercise in written if not calls[exercise.id] and not (
        is_named(exercise) and any(calls[other.id] and other.path == exercise.path for other in written))]


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
    exercises = [exercise for exercise in load_exercises() if not exercise.is_kernel]
    written = [exercise for exercise in exercises if is_written(exercise, folder)]
    rest = [exercise for exercise in exercises if exercise not in written]
    print(f"Yours: {listed(written)}." if written else "No function of yours is finished yet: all are the book's.")
    if written and rest:
        print(f"Not finished, so the book's: {listed(rest)}.")
    with with_functions(written, folder) as calls:
        equal = [show(part) for part in PARTS]
    idle = idle_among(written, calls, folder)
    if idle and None not in equal:
        print(f"Not used by these two models: {listed(idle)}.")
    return 0 if all(equal) else 1


if __name__ == "__main__":
    program(main)
