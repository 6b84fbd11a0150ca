"""What the tests of kernels share: the emulator in every mode, and the sentence of a skip without a compiler."""

import shutil
from collections.abc import Callable

import numpy as np
import pytest

from kernels.launch import Emulator

ORDERS = ("forward", "reverse", "random:1")  # of threads and of blocks
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None,
                                    reason="The emulator compiles kernels with g++, which is not on this machine.")


class Shifted(Emulator):
    """The emulator, which moves the first two arrays of a launch to addresses between multiples of 16 bytes."""

    def launch(self, file, name, grid, block, args, **options):
        moved = [self.shift(array) if n < 2 else array for n, array in enumerate(args)]
        super().launch(file, name, grid, block, moved, **options)

    def shift(self, array):
        room = np.empty(array.size + 1, array.dtype)[1:].reshape(array.shape)
        room[...] = array
        return room


def arrays(result) -> list[np.ndarray]:
    """The result of a host function as a list: most return one array, some a tuple."""
    return list(result) if isinstance(result, tuple) else [result]


def run_in_all_modes(run: Callable) -> list[np.ndarray]:
    """Call run(launcher) plain, checked and in every order; require equal bits; return the arrays of the plain run.

    Outputs that a launcher makes are poisoned, so a place that a kernel leaves out shows as NaN. The checked run comes
    first, for it reports a bad access before it happens.
    """
    checked = arrays(run(Emulator(check=True)))
    results = [arrays(run(Emulator(order=order))) for order in ORDERS]
    for order, result in zip(("checked", *ORDERS[1:]), (checked, *results[1:])):
        for n, (expected, other) in enumerate(zip(results[0], result, strict=True)):
            same = expected.shape == other.shape and expected.dtype == other.dtype
            assert same and expected.tobytes() == other.tobytes(), f"result {n} has other bits in the run {order!r}"
    return results[0]
