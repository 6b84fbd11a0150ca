"""Put a function where the book's is held, in every module that holds it: how a student's comes into a model."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable

from tutorial.make_coursework import Exercise, reference


def bind(exercise: Exercise, function: Callable) -> Callable:
    """Put a function in the place of the book's, and return the book's."""
    old = reference(exercise)
    if "." in exercise.name:
        owner, name = exercise.name.split(".")
        setattr(getattr(importlib.import_module(exercise.module), owner), name, function)
        return old
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").partition(".")[0] in ("tiny", "tutorial"):
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, function)
    return old


def instead(exercise: Exercise, function: Callable, wanted: Callable[[], bool] = lambda: True) -> Callable:
    """The function; or the book's where it is not wanted, or where another precision than float32 is asked for."""
    old = reference(exercise)
    signature = inspect.signature(old)

    @functools.wraps(old)
    def either(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        mine = wanted() and bound.arguments.get("precision", "float32") == "float32"
        return (function if mine else old)(*args, **kwargs)
    return either
