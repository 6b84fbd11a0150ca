"""Runs of part B, chapters 7 to 9."""

from collections.abc import Callable

from tutorial.own_run.table import Table

# ---- chapter 7

# ---- chapter 8

# ---- chapter 9


RUNS: dict[str, Callable[[Callable], Table]] = {
    # ---- chapter 7
    # ---- chapter 8
    # ---- chapter 9
}
