"""Exercise 11.2, a matrix turned through a tile: one test for each idea. First numbers, then the emulator's counts."""

import numpy as np
from compare import assert_close
from emulator_case import needs_compiler

from tutorial.grader import emulated

pytestmark = needs_compiler
RNG = np.random.default_rng(112)


def case(rows, columns, threads=256):
    """How the kernel is called for a matrix of 0, 1, 2 and so on."""
    x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    arguments = [x, np.full((columns, rows), np.nan, np.float32), np.int32(rows), np.int32(columns)]
    return "tutorial/drawings/turn.cu", "turn_matrix", (-(-columns // 32), -(-rows // 32)), (threads,), arguments


def check(rows, columns, threads=256, order="forward"):
    """The matrix that comes out is the one that went in, turned."""
    expected = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns).T
    out = emulated.run(*case(rows, columns, threads), order=order)[1]
    assert_close(out, expected, 0.0, name=f"a matrix of {rows} x {columns} numbers, turned")


def test_no_warp_reads_too_early():
    """Every access is checked; what the emulator reports ends the test."""
    try:
        emulated.run(*case(32, 32))
    except emulated.Reported as report:
        raise emulated.Reported(f"got a report of the emulator: {report}") from None


def test_one_tile_is_turned():
    check(32, 32)


def test_tiles_change_places():
    """In both orders of blocks, so that what one writes beyond its tile is not always written over by its neighbour."""
    for order in ("forward", "reverse"):
        check(64, 96, order=order)


def test_any_number_of_warps_does_it():
    for threads in (64, 1024):
        check(64, 64, threads)


def test_what_is_beyond_the_edge_is_left_out():
    """Checked, so that also an access that does no harm is reported."""
    try:
        for rows, columns in ((33, 70), (5, 3)):
            check(rows, columns, order="checked")
    except emulated.Reported as report:
        raise emulated.Reported(f"got a report of the emulator: {report}") from None


def test_reads_use_whole_sectors():
    got = emulated.counts(*case(64, 96)).get("global load", 0)
    assert got == 768, f"got {got:,} sectors read, expected 768: 64 x 96 x 4 bytes / 32"


def test_writes_use_whole_sectors():
    got = emulated.counts(*case(64, 96)).get("global store", 0)
    assert got == 768, f"got {got:,} sectors written, expected 768: 64 x 96 x 4 bytes / 32"


def test_no_bank_is_asked_twice_at_once():
    found = emulated.counts(*case(64, 96))
    got = found.get("shared load", 0) + found.get("shared store", 0)
    assert got <= 384, f"got {got:,} cycles of shared memory, expected 384: a row of a tile in each, in and out"
