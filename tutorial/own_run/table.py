"""A run as a table of numbers, and the picture of two: a student's, with what differs framed, and the right one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LIGHT, FRAME = "#fafafa", "#b00020"


@dataclass(frozen=True)
class Table:
    """A run in numbers: values (rows, columns), NaN where there is nothing; names of rows and columns, and what it is.

    `digits` is how a number is written; with `arrows` a number is an angle in degrees and drawn as one, too. `look`
    gives the words and the colour of a number instead. With `bars` each row is a share with the low and the high end
    of its interval. `width` is that of a column in inches.
    """

    values: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    title: str
    digits: str = "{:.2f}"
    arrows: bool = False
    look: Callable[[float], tuple[str, str]] | None = None
    bars: bool = False
    width: float = 0.95


def differ(mine: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Which cells are not the same, to three digits; a NaN is the same as a NaN."""
    return ~np.isclose(mine, right, rtol=1e-3, atol=1e-3, equal_nan=True)


def draw(mine: Table | str, right: Table) -> Any:
    """Two panels: the student's run, or in words why there is none, and the right one."""
    from matplotlib.figure import Figure

    rows, columns = right.values.shape
    size = 2.6 + 2 * right.width * max(columns, 4), 1.5 + 0.45 * rows
    figure = Figure(figsize=size, facecolor=LIGHT, layout="constrained")
    ours, theirs = figure.subplots(1, 2)
    drawn = intervals if right.bars else cells
    largest = np.abs(right.values[np.isfinite(right.values)]).max(initial=0) or 1  # one scale for both panels
    if isinstance(mine, Table) and np.shape(mine.values) == right.values.shape:
        wrong = differ(mine.values, right.values)
        drawn(ours, mine, wrong, largest)
        count = int(wrong.sum())
        ours.set_title("yours: no number differs" if not count else f"yours: {count} of {wrong.size} differ (framed)",
                       fontsize=10)
    else:
        words = mine if isinstance(mine, str) else f"it has the shape {np.shape(mine.values)}"
        ours.set_title("yours", fontsize=10)
        ours.axis("off")
        ours.text(0.5, 0.5, words, ha="center", va="center", wrap=True, transform=ours.transAxes)
    drawn(theirs, right, np.zeros_like(right.values, bool), largest)
    theirs.set_title("right", fontsize=10)
    figure.suptitle(right.title, fontsize=11)
    return figure


def looks(table: Table, largest: float) -> Callable[[float], tuple[str, str]]:
    """The words and the colour of a number: darker is larger, up to the largest, unless the table says otherwise."""
    def look(value: float) -> tuple[str, str]:
        return table.digits.format(value), str(1 - 0.55 * min(1, abs(value) / largest))

    def either(value: float) -> tuple[str, str]:
        return (table.look or look)(value) if np.isfinite(value) else (str(value), "white")
    return either


def cells(panel: Any, table: Table, wrong: np.ndarray, largest: float) -> None:
    """Draw the cells of a table with their numbers; empty cells are hatched."""
    values = np.asarray(table.values, np.float64)
    look = looks(table, largest)
    for row, column in np.ndindex(values.shape):
        value = float(values[row, column])
        words, colour = look(value)
        empty = np.isnan(value)
        panel.add_patch(rectangle(column, row, facecolor=LIGHT if empty else colour, edgecolor="0.75",
                                  hatch="///" if empty else None, linewidth=0.5))
        if not empty:
            panel.text(column, row - 0.22 * table.arrows, words, ha="center", va="center", fontsize=9)
        if table.arrows and np.isfinite(value):
            angle = np.radians(value)
            panel.annotate("", xy=(column + 0.32 * np.cos(angle), row + 0.18 - 0.25 * np.sin(angle)),
                           xytext=(column, row + 0.18), arrowprops={"arrowstyle": "->"})
        if wrong[row, column]:
            panel.add_patch(rectangle(column, row, 0.44, fill=False, edgecolor=FRAME, linewidth=2))
    panel.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    panel.set_xticks(range(values.shape[1]), table.columns, rotation=30, ha="right", fontsize=8)
    named(panel, table)


def intervals(panel: Any, table: Table, wrong: np.ndarray, _: float) -> None:
    """Draw each row as a bar with its interval, and write the three numbers beside it. Shares have one scale anyhow."""
    values = np.nan_to_num(np.asarray(table.values, np.float64), posinf=9, neginf=-9).clip(-9, 9)  # out of the picture
    for row, (share, low, high) in enumerate(values.clip(-1.05, 1.05)):  # The numbers stand beside it.
        panel.barh(row, share, height=0.6, color="#b9d4ee", edgecolor="0.4", hatch="///" if share < 0 else None)
        panel.plot([low, high], [row, row], color="black", linewidth=1.5, marker="|", markersize=9)
        panel.text(1.15, row, "{:.2f}   {:.2f} to {:.2f}".format(*table.values[row]), va="center", fontsize=9)
        if wrong[row].any():
            panel.add_patch(rectangle(0.63, row, 1.7, 0.44, fill=False, edgecolor=FRAME, linewidth=2))
    panel.vlines((0, 1), -0.5, len(values) - 0.5, color="0.5", linewidth=0.8)
    panel.set(xlim=(-1.1, 2.35), ylim=(len(values) - 0.5, -0.5))
    panel.set_xticks((-1, -0.5, 0, 0.5, 1))
    named(panel, table)


def named(panel: Any, table: Table) -> None:
    """Name the rows of a panel, and leave its border out."""
    panel.set_yticks(range(len(table.rows)), table.rows, fontsize=8)
    for side in panel.spines.values():
        side.set_visible(False)


def rectangle(column: float, row: float, half: float = 0.5, tall: float | None = None, **style: Any) -> Any:
    """A rectangle around a cell's middle, a square unless half of its height is given."""
    from matplotlib.patches import Rectangle

    tall = half if tall is None else tall
    return Rectangle((column - half, row - tall), 2 * half, 2 * tall, **style)
