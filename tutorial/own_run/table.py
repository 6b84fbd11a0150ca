"""A run as a table of numbers, and the picture of two: a student's, with what differs framed, and the right one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LIGHT = "#fafafa"


@dataclass(frozen=True)
class Table:
    """A run in numbers: values (rows, columns), NaN where there is nothing; names of rows and columns, and what it is.

    `digits` is how a number is written; with `arrows` a number is an angle in degrees and drawn as one, too.
    """

    values: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    title: str
    digits: str = "{:.2f}"
    arrows: bool = False


def differ(mine: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Which cells are not the same, to three digits; a NaN is the same as a NaN."""
    return ~np.isclose(mine, right, rtol=1e-3, atol=1e-3, equal_nan=True)


def draw(mine: Table | str, right: Table) -> Any:
    """Two panels: the student's run, or in words why there is none, and the right one."""
    from matplotlib.figure import Figure

    rows, columns = right.values.shape
    size = 2.6 + 2 * 0.95 * max(columns, 4), 1.5 + 0.45 * rows
    figure = Figure(figsize=size, facecolor=LIGHT, layout="constrained")
    ours, theirs = figure.subplots(1, 2)
    wrong = None
    if isinstance(mine, Table) and np.shape(mine.values) == right.values.shape:
        wrong = differ(mine.values, right.values)
        cells(ours, mine, wrong)
        count = int(wrong.sum())
        ours.set_title("yours: no cell differs" if not count else f"yours: {count} of {wrong.size} differ (framed)",
                       fontsize=10)
    else:
        words = mine if isinstance(mine, str) else f"it has the shape {np.shape(mine.values)}"
        ours.set_title("yours", fontsize=10)
        ours.axis("off")
        ours.text(0.5, 0.5, words, ha="center", va="center", wrap=True, transform=ours.transAxes)
    cells(theirs, right, None)
    theirs.set_title("right", fontsize=10)
    figure.suptitle(right.title, fontsize=11)
    return figure


def cells(panel: Any, table: Table, wrong: np.ndarray | None) -> None:
    """Draw the cells of a table: darker is larger, the number is written, empty cells are hatched."""
    values = np.asarray(table.values, np.float64)
    size = np.where(np.isfinite(values), np.abs(values), 0)
    shade = 1 - 0.55 * size / (size.max() or 1)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        panel.add_patch(rectangle(column, row, facecolor=LIGHT if np.isnan(value) else str(shade[row, column]),
                                  edgecolor="0.75", hatch="///" if np.isnan(value) else None, linewidth=0.5))
        if not np.isnan(value):
            panel.text(column, row - 0.22 * table.arrows, table.digits.format(value), ha="center", va="center",
                       fontsize=9)
        if table.arrows and np.isfinite(value):
            angle = np.radians(value)
            panel.annotate("", xy=(column + 0.32 * np.cos(angle), row + 0.18 - 0.25 * np.sin(angle)),
                           xytext=(column, row + 0.18), arrowprops={"arrowstyle": "->"})
        if wrong is not None and wrong[row, column]:
            panel.add_patch(rectangle(column, row, 0.44, fill=False, edgecolor="#b00020", linewidth=2))
    panel.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    panel.set_xticks(range(values.shape[1]), table.columns, rotation=30, ha="right", fontsize=8)
    panel.set_yticks(range(values.shape[0]), table.rows, fontsize=8)
    for side in panel.spines.values():
        side.set_visible(False)


def rectangle(column: float, row: float, half: float = 0.5, **style: Any) -> Any:
    """A square around a cell's middle."""
    from matplotlib.patches import Rectangle

    return Rectangle((column - half, row - half), 2 * half, 2 * half, **style)
