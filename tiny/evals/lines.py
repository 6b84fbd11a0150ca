"""JSON in lines: read, held against a shape, and written a line at a time. Whenever a run is killed, all lines of its
files but the last are whole.

What is wrong with a file is said with its row and its column. Read `items.py` next.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny.config import TinyError
from tiny.system.reading import check_plain, parse_object, short, unreadable
from tiny.system.whole import lock

LONGEST_LINE = 16 << 20  # bytes
MOST = 1000  # members of a list
REMEDY = "Correct it, or make it again: items with `evals import`, a run or judgements with the same command."
NAMES = {str: "text", int: "whole number", bool: "true or false", dict: "object", type(None): "null"}


class Wrong(ValueError):
    """What is wrong with a column of a row, whose file and number `at` adds."""

    def __init__(self, column: str, what: str):
        super().__init__(f"column {column}: {what}")
        self.column = column


@contextmanager
def at(path: Path, row: int) -> Iterator[None]:
    """Say of everything Wrong in here the file and the row, counted from 1."""
    try:
        yield
    except Wrong as wrong:
        raise TinyError(f"{path}, row {row}, {wrong}.", REMEDY) from wrong


def ours(read: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Read what belongs to items or a run: the remedies for files of a model would lead astray."""
    try:
        return read(*arguments)
    except TinyError as error:
        raise TinyError(error.cause, REMEDY) from None


def misfit(value: Any, shape: Any) -> str:
    """The part of a JSON value that does not fit a shape, as a message shows it; "" if all of it fits.

    A shape is a type, a function, or a text to be equal to; [shape] is a list that is not empty, {key: shape} an
    object, in which `...` as a key allows more keys; (shape, shape) is one or the other.
    """
    inside: list[tuple[Any, Any]] = []
    if isinstance(shape, tuple):
        fits = not all(misfit(value, one) for one in shape)
    elif isinstance(shape, list):
        fits = isinstance(value, list) and 0 < len(value) <= MOST
        inside = [(one, shape[0]) for one in value] if fits else []
    elif isinstance(shape, dict):
        fits = isinstance(value, Mapping) and (... in shape or value.keys() <= shape.keys())
        inside = [(value.get(key), one) for key, one in shape.items() if key is not ...] if fits else []
    elif isinstance(shape, type):
        fits = isinstance(value, shape) and (shape is not int or not isinstance(value, bool))
    else:
        fits = shape(value) if callable(shape) else value == shape
    return next(filter(None, (misfit(*pair) for pair in inside)), "") if fits else short(value)


def described(shape: Any) -> str:
    """A shape in words. Those of a function are its docstring."""
    if isinstance(shape, tuple):
        return " or ".join(map(described, shape))
    if isinstance(shape, list):
        return f"list, not empty, of {described(shape[0])}"
    if isinstance(shape, dict):
        return "object of " + ", ".join(str(key) for key in shape if key is not ...)
    return NAMES.get(shape, shape.__name__) if isinstance(shape, type) else repr(shape) if isinstance(
        shape, str) else shape.__doc__


def check(row: Mapping[str, Any], shape: Mapping[Any, Any]) -> None:
    """Raise Wrong for the first column that does not fit its shape; without `...` also for one that has none."""
    for column in sorted(shape.keys() - {...}):
        if bad := misfit(row.get(column), shape[column]):
            raise Wrong(column, f"{bad} is no {described(shape[column])}" if column in row else "it is missing")
    for column in sorted(row.keys() - shape.keys()) if ... not in shape else ():
        raise Wrong(column, "there is no such column")


def read_lines(path: Path, cut: bool = True) -> Iterator[tuple[int, dict]]:
    """The objects of a file, each with the number of its row.

    cut: a last line without its end is what a kill left, and is not there
    Raises:  TinyError, with file and row, for what is no JSON object, has a key twice, or is too long
    """
    try:
        check_plain(path)
        with open(path, "rb") as file:
            for row in itertools.count(1):
                data = file.readline(LONGEST_LINE)
                if len(data) == LONGEST_LINE:
                    raise TinyError(f"{path}, row {row} has {LONGEST_LINE:,} bytes or more.", "Give images as files.")
                if not data or cut and not data.endswith(b"\n"):
                    return
                yield row, ours(parse_object, data, Path(f"{path}, row {row}"))
    except FileNotFoundError:
        raise TinyError(f"{path} does not exist.", REMEDY) from None
    except OSError as error:
        raise unreadable(path, error) from None


def as_line(value: Mapping[str, Any]) -> bytes:
    """An object as a line of a file. What UTF-8 cannot hold, halves of characters, is escaped."""
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


@contextmanager
def adding(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open a file to add lines, each written at once; what a kill left of a last line is cut off.

    Raises:  TinyError if another process is adding to it
    """
    with open(path, "a+b") as file:
        if not lock(file.fileno()):
            raise TinyError(f"{path} is being written by another process.",
                            "Wait for it, or give this run another folder.")
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)

        def add(value: Mapping[str, Any]) -> None:
            file.write(as_line(value))
            file.flush()

        yield add
