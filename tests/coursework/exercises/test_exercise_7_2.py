"""Exercise 7.2, cut an image into vectors: one test for each idea, on numbers that count up."""

import numpy as np
from compare import assert_close, assert_dtype

from tiny import patch_embed as book


def counting(C, height, width):
    """Numbers 0, 1, 2, ... in an image: its value says where a number was."""
    return np.arange(C * height * width, dtype=np.float32).reshape(C, height, width)


def test_there_is_a_vector_for_each_square():
    assert_close(book.patches(counting(1, 4, 6), 2).shape, (6, 4), 0.0, name="shape of 4 x 6 pixels in squares of 2")
    assert_close(book.patches(counting(3, 6, 3), 3).shape, (2, 27), 0.0, name="shape of 3 x 6 x 3 in squares of 3")


def test_numbers_are_moved():
    found = book.patches(counting(1, 4, 4), 2)[0].tolist()
    assert found != [0, 1, 2, 3], "vector 0 of 4 x 4 pixels in squares of 2: got [0, 1, 2, 3], expected [0, 1, 4, 5]"


def test_a_vector_holds_one_square():
    found = np.sort(book.patches(counting(1, 4, 4), 2), axis=1)
    order = np.argsort(found[:, 0])
    assert_close(found[order], [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]], 0.0,
                 name="numbers of each square of 4 x 4 pixels, sorted")


def test_squares_come_row_by_row():
    found = book.patches(counting(1, 4, 6), 2)
    assert_close(found.min(axis=1), [0, 2, 4, 12, 14, 16], 0.0, name="smallest number of each square, in order")


def test_a_square_is_read_row_by_row():
    found = book.patches(counting(1, 4, 6), 2)
    assert_close(found[0], [0, 1, 6, 7], 0.0, name="square 0 of one channel of 4 x 6 pixels")


def test_the_channel_comes_first():
    found = book.patches(counting(2, 4, 6), 2)
    assert_close(found[0], [0, 1, 6, 7, 24, 25, 30, 31], 0.0, name="square 0 of two channels of 4 x 6 pixels")


def test_all_sizes_are_arguments():
    for C, rows, columns, p in ((1, 2, 3, 1), (3, 2, 3, 4), (4, 3, 1, 5), (3, 1, 2, 16)):
        pixels = counting(C, rows * p, columns * p)
        expected = [pixels[:, r * p : (r + 1) * p, c * p : (c + 1) * p].ravel()
                    for r in range(rows) for c in range(columns)]
        assert_close(book.patches(pixels, p), expected, 0.0, name=f"{C} channels, {columns} x {rows} squares of {p}")


def test_the_type_is_kept():
    for dtype in (np.uint8, np.float32, np.float64):
        assert_dtype(book.patches(counting(1, 2, 2).astype(dtype), 2), dtype, f"type for {dtype.__name__}")


def test_pixels_are_left_alone():
    pixels = counting(2, 4, 4)
    book.patches(pixels, 2)
    assert_close(pixels, counting(2, 4, 4), 0.0, name="the pixels")
