"""What a function may return: the form that its signature promises, or the same by value.

A list of pairs where tuples are meant is as good; a list where an array is meant, `None`, or two arrays of three are
told in words, for no test could say it better.
"""

import types
from collections.abc import Callable
from typing import get_args, get_origin

import numpy as np

PLAIN = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", bytes: "bytes"}
NUMBERS = ("no", "one", "two", "three", "four")


class OtherForm(AssertionError):
    """What was returned has another form than the docstring says."""


def accept(name: str, wanted: object, value: object) -> object:
    """A result in the form of a return annotation: an array, a number, text or bytes, whole numbers or pairs of them in
    a list, a list of arrays, or a tuple of any of these.

    Raises:  OtherForm in words for a student
    """
    if value is None:
        raise OtherForm(f"{name} returned None: is there a `return` at its end?")
    if wanted is np.ndarray:
        return array(name, value, "")
    if wanted in PLAIN:
        return plain_value(name, wanted, value)
    parts = get_args(wanted)
    if set(parts) == {int}:
        return integers(name, value, len(parts) if get_origin(wanted) is tuple else None)
    if get_origin(wanted) is tuple and len(parts) == 2 and parts[1] is ...:
        return tuple(many(name, parts[0], value))
    if get_origin(wanted) is tuple:
        kind = "arrays" if set(parts) == {np.ndarray} else "values"
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise OtherForm(f"{name} returns {NUMBERS[len(parts)]} {kind}; got {told(value)}.")
        return tuple(array(name, part, f"number {n} of its {NUMBERS[len(parts)]}") if wish is np.ndarray
                     else accept(name, wish, part) for n, (wish, part) in enumerate(zip(parts, value), 1))
    if parts == (tuple[int, int],):
        return pairs(name, value)
    if get_origin(wanted) is list:
        return many(name, parts[0], value)
    if get_origin(wanted) is dict and isinstance(value, dict):
        return {key: accept(name, parts[1], one) for key, one in value.items()}
    raise OtherForm(f"{name} returned {told(value)}, which is not what its signature says.")


def many(name: str, wanted: object, value: object) -> list:
    """A list of values of one kind."""
    if not isinstance(value, list | tuple):
        raise OtherForm(f"{name} returns a list; got {told(value)}.")
    return [accept(name, wanted, one) for one in value]


def plain_value(name: str, wanted: object, value: object) -> object:
    """A number, a text or bytes. A number of NumPy, or an array of one number, is as good."""
    if isinstance(value, np.ndarray) and not value.ndim or isinstance(value, np.generic):
        value = value.item()
    kinds = {float: float | int, int: int, bool: bool, str: str, bytes: bytes}
    if not isinstance(value, kinds[wanted]) or isinstance(value, bool) and wanted is not bool:
        raise OtherForm(f"{name} returns {PLAIN[wanted]}; got {told(value)}.")
    return wanted(value)


def array(name: str, value: object, which: str) -> np.ndarray:
    """An array, or the reason why this is not one."""
    if not isinstance(value, np.ndarray):
        raise OtherForm(f"{name} returned {told(value)}{f' as {which}' * bool(which)}, where an array is meant: "
                        "np.array(...) makes one, with the dtype that the docstring says.")
    return value


def integers(name: str, value: object, count: int | None) -> list[int] | tuple[int, ...]:
    """Whole numbers, from any sequence of them: a tuple of `count`, or a list of any length."""
    numbers = value.tolist() if isinstance(value, np.ndarray) else value
    many = f"{NUMBERS[count]} whole numbers" if count is not None else "a list of whole numbers"
    if not isinstance(numbers, list | tuple) or count not in (None, len(numbers)):
        raise OtherForm(f"{name} returns {many}; got {told(value)}.")
    other = [n for n, one in enumerate(numbers, 1) if not whole(one)]
    if other and isinstance(numbers[other[0] - 1], list | tuple):
        raise OtherForm(f"{name} returns {many}; number {other[0]} of what it returned is "
                        f"{told(numbers[other[0] - 1])}: join the lists into one.")
    if other:
        kind = ("bytes, not a whole number: the token's id is wanted" if isinstance(numbers[other[0] - 1], bytes)
                else "not a whole number: int(...) makes one")
        raise OtherForm(f"{name} returns {many}; number {other[0]} of what it returned is {kind}.")
    plain = [int(one) for one in numbers]
    return plain if count is None else tuple(plain)


def pairs(name: str, value: object) -> list[tuple[int, int]]:
    """A list of pairs of whole numbers, from any sequence of such pairs."""
    rows = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(rows, list | tuple):
        plain = [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]
        if all(isinstance(row, list | tuple) and len(row) == 2 and all(whole(n) for n in row) for row in plain):
            return [(int(first), int(last)) for first, last in plain]
    raise OtherForm(f"{name} returns a list with one pair of row numbers for each sequence, like [(0, 2), (4, 5)]; "
                    f"got {told(value)}.")


def whole(value: object) -> bool:
    """Whether this is a whole number, of Python or NumPy."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def told(value: object) -> str:
    """What kind of thing this is, in words."""
    if isinstance(value, list | tuple):
        return f"a {'list' if isinstance(value, list) else 'tuple'} of {len(value)}"
    kinds = ((types.NoneType, "None"), (np.ndarray, "an array"), (str, "a text"), (dict, "a dictionary"),
             ((bool, int, float, np.generic), "a number"))
    return next((words for kind, words in kinds if isinstance(value, kind)), "something else")


def in_form(name: str, wanted: object, function: Callable) -> Callable:
    """The function with its results in the form that is wanted."""
    return lambda *args, **kwargs: accept(name, wanted, function(*args, **kwargs))
