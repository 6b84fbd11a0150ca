"""Runs of part C, chapters 10 to 12."""

from collections.abc import Callable

from tutorial.own_run.table import Table

# ---- chapter 10

# ---- chapter 11

# ---- chapter 12


RUNS: dict[str, Callable[[Callable], Table]] = {
    # ---- chapter 10
    # ---- chapter 11
    # ---- chapter 12
}
