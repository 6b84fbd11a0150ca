"""Exercise 11.1, a sum over a block: one test for each idea. The emulator runs rms_norm_v2, which calls it once.

A row of numbers x becomes x / sqrt(sum / D), if eps is 0: so the result says which sum a thread had.
"""

import numpy as np
from compare import assert_close
from emulator_case import needs_compiler

from tutorial.grader import emulated

pytestmark = needs_compiler
RNG = np.random.default_rng(111)
ROUGH = 1e-2  # Coarse numbers have a test of their own, the last.
DEFINES = ("STORE=float", "WEIGHT=float")


def normed(row, threads, order="forward"):
    """The kernel's result for one row, by a block of so many threads; each has four neighbouring numbers at a time."""
    x = np.array(row, np.float32).reshape(1, -1)
    arguments = [x, np.ones(x.size, np.float32), np.full_like(x, np.nan), np.int32(x.size), np.float32(0)]
    return emulated.run("kernels/rms_norm.cu", "rms_norm_v2", (1,), (threads,), arguments, DEFINES, order)[2][0]


def sums(row, threads, order="forward"):
    """The sum of squares that each thread had, from the first number of each."""
    row = np.array(row, float)
    scale = normed(row, threads, order).astype(float)[::4] / row[::4]
    with np.errstate(divide="ignore"):
        return row.size / scale**2


def rising(threads):
    """A row in which the squares of thread n add up to n + 1."""
    return np.repeat(np.sqrt(np.arange(1, threads + 1) / 4), 4)


def test_no_warp_reads_too_early():
    """Every access is checked; what the emulator reports ends the test."""
    try:
        normed(rising(128), 128, "checked")
    except emulated.Reported as report:
        raise emulated.Reported(f"got a report of the emulator: {report}") from None


def test_a_warp_adds_its_lanes():
    """1 + 2 + ... + 32 = 528."""
    assert_close(sums(rising(32), 32)[0], 528, 528 * ROUGH, name="sum that lane 0 has of 1, 2, ... 32")


def test_every_lane_has_the_sum():
    assert_close(sums(rising(32), 32), np.full(32, 528), 528 * ROUGH, name="sums that the lanes have of 1, 2, ... 32")


def test_all_warps_are_added():
    """1 + 2 + ... + 128 = 8,256."""
    assert_close(sums(rising(128), 128), np.full(128, 8256), 8256 * ROUGH, name="sums that 128 threads have")


def test_a_block_may_have_any_number_of_warps():
    """Checked, so that a place too few is reported."""
    for threads in (96, 1024):
        sum_ = threads * (threads + 1) / 2
        try:
            got = sums(rising(threads), threads, "checked")
        except emulated.Reported as report:
            raise emulated.Reported(f"got a report of the emulator: {report}") from None
        assert_close(got, np.full(threads, sum_), sum_ * ROUGH,
                     name=f"sums that {threads} threads have of 1, 2, ... {threads}")


def test_the_order_is_fixed():
    """The squares of the first warp add up to 2^24, those of the others to 1 each."""
    row = np.repeat([2.0**12 / 128**0.5, *[1 / 128**0.5] * 7], 128)
    forward = normed(row, 256)
    for order in ("reverse", "random:1"):
        assert_close(normed(row, 256, order), forward, 0.0, name=f"result with threads in {order} order, and forward")


def test_digits_are_kept():
    row = RNG.standard_normal(512).astype(np.float32)
    exact = row / np.sqrt((row.astype(float) ** 2).mean())
    assert_close(normed(row, 128), exact, 2e-6, name="normalised row of 512 numbers")
