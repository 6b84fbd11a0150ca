"""What every notebook needs: the source of a function with its place, and a figure as a picture.

A function that is an exercise is shown with its hole, until the reader's own file in student/ is finished; then theirs
is shown. The cells below run on the book's own functions in either case.
"""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tutorial.make_coursework import STUDENT as WORK
from tutorial.make_coursework import Exercise, carve, is_finished, load_exercises, named_steps
from tutorial.source import Source, source_of, split

STUDENT: Path | None = WORK  # where the reader's files are; None while the notebooks are built


def show(function: Callable | str, first: int | None = None, last: int | None = None) -> None:
    """Print a function's source as its file has it now, or its steps first to last, headed by its place.

    A function of a kernel is named by a text, "kernels/rope.cu:rope_v1".
    """
    path, name, _ = split(function)
    wanted = f"{path}:{name}" + (f"#{first}-{last or first}" if first else "")
    holes = [exercise for exercise in load_exercises() if (exercise.path, exercise.name) == (path, name)]
    shown = source_of(wanted)
    place, text = shown.place, shown.text
    if holes:
        theirs = written(holes)
        if theirs:
            place, text = f"student/{theirs.place}  (the cells run the book's)", theirs.text
        else:
            text = carved(holes, wanted).text
    for exercise in holes:
        mark, go = "//" if exercise.is_kernel else "#", "goes" if len(exercise.steps) == 1 else "go"
        words = f"{mark} your {named_steps(exercise)} of exercise {exercise.id} {go} here"
        text = text.replace(exercise.hole, words)
    print(f"{place}\n\n{text}\n")


def carved(holes: list[Exercise], wanted: str) -> Source:
    """What is wanted of the book, with these holes in it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / holes[0].path
        file.parent.mkdir(parents=True)
        file.write_text(carve(holes)[holes[0].file], encoding="utf-8")
        return source_of(wanted, Path(folder))


def written(holes: list[Exercise]) -> Source | None:
    """The reader's own function, if one of its exercises is finished."""
    file = holes[0].file
    if STUDENT is None or not (STUDENT / file).is_file():
        return None
    try:
        if any(is_finished(exercise, (STUDENT / file).read_bytes()) for exercise in holes):
            return source_of(f"{file}:{holes[0].name}", STUDENT)
    except (SyntaxError, ValueError):  # It is being written.
        pass
    return None


class Picture:
    """A Matplotlib figure as a notebook shows it: the last value of a cell that can draw itself as PNG is drawn."""

    def __init__(self, figure, dpi: int = 110):
        self.figure, self.dpi = figure, dpi

    def __repr__(self) -> str:
        words = (panel.get_title() or panel.get_xlabel() for panel in self.figure.axes)
        return f"figure: {', '.join(filter(None, words))}"

    def _repr_png_(self) -> bytes:
        drawn, small = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=self.dpi, bbox_inches="tight")
        # A palette of 255 colours makes the file a third of the size, and notebooks are kept in the repository.
        Image.open(drawn).convert("RGB").quantize(255).save(small, format="png", optimize=True)
        return small.getvalue()
