"""What was tried to make the products and the layers faster: each change before and after, and how much it gains.

`python -m tutorial.pages.tried` measures all of it. What was kept is in the book, what was not is here only.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

Run = Callable[[], Any]  # gives arrays; the same ones, nearly, before and after


class Sizes(NamedTuple):
    """Of the arrays that are multiplied: an expert, how many of them, the keys of a head, the layers of a model."""

    hidden: int
    width: int
    copies: int
    keys: int
    layers: int


EXPERT = Sizes(3584, 1024, 4, 8192, 2)  # of the synthetic Mixtral that `bench` measures


class Case(NamedTuple):
    """One measurement of a change: what it computes on, and both ways."""

    label: str
    before: Run
    after: Run


def case(label: str, before: Callable[..., Any], after: Callable[..., Any], *given: Any) -> Case:
    """A case of two functions of the same arrays."""
    return Case(label, lambda: before(*given), lambda: after(*given))


class Change(NamedTuple):
    """A change that was tried, whether it was kept and why, and its cases, which are made when they are measured."""

    what: str
    kept: str
    cases: Callable[[Sizes], Iterable[Case]]


def matrices(rows: int, width: int, count: int, dtype: Any = np.float32) -> list[np.ndarray]:
    """Random weights that keep the size of what goes through. Shapes:  count x (rows, width)."""
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((rows, width), np.float32) * np.float32(width**-0.5)).astype(dtype)
            for _ in range(count)]


def tokens(count: int, width: int) -> np.ndarray:
    """Random vectors. Shapes:  (count, width)."""
    return np.random.default_rng(1).standard_normal((count, width), np.float32)
