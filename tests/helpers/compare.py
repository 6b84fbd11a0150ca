"""The one place where arrays are compared.

NaN and infinity are compared by place before any value is; a difference that is not a number can therefore never
pass. The message names the array, counts what differs, and gives the worst place with both values and the share of
the tolerance used.
"""

import numpy as np


class Different(AssertionError):
    """Arrays that differ: what, how many of how many numbers, and of the worst its place and both values."""

    def __init__(self, message: str, name: str, where: tuple[int, ...], got, expected, count: int, size: int):
        super().__init__(message)
        self.name, self.where, self.got, self.expected, self.count, self.size = name, where, got, expected, count, size


def assert_close(actual, expected, atol: float, rtol: float = 0.0, name: str = "array") -> float:
    """Require |actual - expected| <= atol + rtol * |expected| everywhere; return the largest share of that used.

    Shapes must be equal, also where they would broadcast. Raises AssertionError with all that a reader needs.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    assert actual.size, f"{name}: empty arrays prove nothing"
    assert 0 <= atol < np.inf and 0 <= rtol < 1, f"{name}: atol {atol} and rtol {rtol} are no tolerances"
    a, e = as_float64(actual, name), as_float64(expected, name)
    for kind, test in (("NaN", np.isnan), ("+infinity", np.isposinf), ("-infinity", np.isneginf)):
        here, there = test(a), test(e)
        if (here != there).any():
            where = tuple(int(i) for i in np.argwhere(here != there)[0])
            raise Different(f"{name}: {int(here.sum())} {kind}, expected {int(there.sum())}; first differs at "
                            f"{where}: {actual[where]} against {expected[where]}",
                            name, where, actual[where], expected[where], int((here != there).sum()), here.size)
    finite = np.isfinite(e)
    a, e = np.where(finite, a, 0.0), np.where(finite, e, 0.0)
    with np.errstate(over="ignore"):  # A difference beyond the range of float64 is infinite, and fails.
        difference, allowed = np.abs(a - e), atol + rtol * np.abs(e)
    used = np.divide(difference, allowed, out=np.where(difference > 0, np.inf, 0.0), where=allowed > 0)
    bad = ~(used <= 1.0)
    if bad.any():
        where = tuple(int(i) for i in np.unravel_index(np.argmax(used), used.shape))
        raise Different(f"{name}: {int(bad.sum())} of {bad.size} differ; worst at {where}: {actual[where]!r} "
                        f"against {expected[where]!r}, {100 * used[where]:.0f} % of the tolerance "
                        f"(atol {atol:g}, rtol {rtol:g})",
                        name, where, actual[where], expected[where], int(bad.sum()), bad.size)
    return float(used.max())


def assert_dtype(actual: np.ndarray, expected: type[np.generic], name: str) -> None:
    """Require a type of numbers, or one of a kind as np.integer."""
    found = actual.dtype
    if not np.issubdtype(found, expected):
        wanted = "whole numbers" if expected is np.integer else np.dtype(expected).name
        raise Different(f"{name}: {found}, expected {wanted}", name, (), str(found), wanted, 1, 1)


def as_float64(x: np.ndarray, name: str) -> np.ndarray:
    """The same numbers as float64, which holds all that are compared here exactly; anything else is refused."""
    assert np.can_cast(x.dtype, np.float64, "safe"), f"{name}: {x.dtype} is not a type of real numbers"
    wide = x.astype(np.float64)
    assert x.dtype.kind not in "iu" or (np.abs(wide) < 2.0**53).all(), f"{name}: integers of 2**53 and more"
    return wide
