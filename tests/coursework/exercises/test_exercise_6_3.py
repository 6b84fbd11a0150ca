"""Exercise 6.3, positions of a chunk: one test for each idea, on numbers that can be checked by hand."""

import numpy as np
from compare import assert_close

from tiny import mixtral as book


def test_a_new_text_begins_at_zero():
    assert_close(book.positions_of([0], [4]), [0, 1, 2, 3], 0.0, name="positions of 4 tokens, nothing in the cache")


def test_a_chunk_goes_on_where_the_cache_ends():
    assert_close(book.positions_of([4], [3]), [4, 5, 6], 0.0, name="positions of 3 tokens, 4 in the cache")
    assert_close(book.positions_of([7], [1]), [7], 0.0, name="position of 1 token, 7 in the cache")


def test_every_text_counts_for_itself():
    assert_close(book.positions_of([0, 0], [2, 3]), [0, 1, 0, 1, 2], 0.0,
                 name="positions of two new texts with 2 and 3 tokens")


def test_every_text_has_its_own_past():
    assert_close(book.positions_of([5, 0, 2], [1, 3, 2]), [5, 0, 1, 2, 2, 3], 0.0,
                 name="positions of 1, 3 and 2 tokens, 5, 0 and 2 in the cache")
    assert_close(book.positions_of([9, 4, 6], [1, 1, 1]), [9, 4, 6], 0.0,
                 name="positions of one token each, 9, 4 and 6 in the cache")


def test_positions_are_whole_numbers():
    kind = book.positions_of([0, 3], [2, 1]).dtype.kind
    assert_close(kind in "iu", True, 0.0, name="whether the positions are whole numbers")


def test_arguments_are_left_alone():
    past, lengths = np.array([5, 0]), np.array([1, 2])
    book.positions_of(past, lengths)
    assert_close(past, [5, 0], 0.0, name="past afterwards")
    assert_close(lengths, [1, 2], 0.0, name="lengths afterwards")
