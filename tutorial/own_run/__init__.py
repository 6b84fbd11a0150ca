"""Pictures of a student's own run: what their function makes of a small case, beside what is right.

The runs are in a module for each part of the book; `part_a.py` says how one is written, `table.py` draws it.
"""

from collections.abc import Callable

from tutorial.own_run import part_a, part_b, part_c
from tutorial.own_run.table import Table, differ, draw

RUNS: dict[str, Callable[[Callable], Table]] = {**part_a.RUNS, **part_b.RUNS, **part_c.RUNS}

__all__ = ["RUNS", "Table", "differ", "draw"]
