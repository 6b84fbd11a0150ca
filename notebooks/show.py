"""What every notebook needs: the source of a function with its place, and a figure as a picture."""

import io
from collections.abc import Callable

from PIL import Image

from tutorial.source import source_of, split


def show(function: Callable, first: int | None = None, last: int | None = None) -> None:
    """Print a function's source as its file has it now, or its steps first to last, headed by its place."""
    path, name, _ = split(function)
    shown = source_of(f"{path}:{name}" + (f"#{first}-{last or first}" if first else ""))
    print(f"{shown.place}\n\n{shown.text}\n")


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
