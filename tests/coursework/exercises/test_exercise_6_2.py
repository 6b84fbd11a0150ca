"""Exercise 6.2, append to the cache: one test for each idea, on rows that can be told apart."""

import numpy as np
from compare import assert_close

from tiny.kv_cache import KVCache


def rows(*numbers):
    """Keys whose rows hold the given numbers, and values whose rows hold them with a minus. Shapes: (T, 1, 2)."""
    k = np.repeat(np.array(numbers, np.float32)[:, None, None], 2, axis=2)
    return k, -k


def test_each_sequence_takes_its_own_rows():
    cache = KVCache(1, 1, 2, [2, 3])
    cache.append(0, *rows(10, 20, 21), [1, 2])
    assert_close(cache.keys[0, [0, 2, 3], 0, 0], [10, 20, 21], 0.0, name="first key of sequence 0, two of sequence 1")


def test_values_are_kept_too():
    cache = KVCache(2, 1, 2, [2])
    cache.keys[:] = cache.values[:] = 99
    cache.append(1, *rows(10, 11), [2])
    assert_close(cache.values[1, :, 0, 0], [-10, -11], 0.0, name="values of layer 1")
    assert_close(cache.keys[1, :, 0, 0], [10, 11], 0.0, name="keys of layer 1")
    assert_close([cache.keys[0], cache.values[0]], np.full((2, 2, 1, 2), 99), 0.0, name="layer 0, not appended to")


def test_lengths_change_only_in_advance():
    cache = KVCache(2, 1, 2, [4])
    cache.append(0, *rows(10), [1])
    assert_close(cache.lengths, [0], 0.0, name="length after append")


def test_new_rows_go_behind_the_old():
    cache = KVCache(1, 1, 2, [4])
    cache.append(0, *rows(10, 11), [2])
    cache.advance([2])
    cache.append(0, *rows(12), [1])
    assert_close(cache.keys[0, :3, 0, 0], [10, 11, 12], 0.0, name="keys after two and one more")


def test_the_span_ends_behind_the_last_row():
    cache = KVCache(1, 1, 2, [2, 4])
    ends = [last for _, last in cache.append(0, *rows(10, 20, 21), [1, 2])]
    assert_close(ends, [1, 4], 0.0, name="where the spans of sequences with 1 and 2 rows end")


def test_the_span_holds_old_and_new():
    cache = KVCache(1, 1, 2, [2, 4])
    assert_close(cache.append(0, *rows(10, 20, 21), [1, 2]), [(0, 1), (2, 4)], 0.0, name="spans")
    cache.advance([1, 2])
    assert_close(cache.append(0, *rows(11, 22), [1, 1]), [(0, 2), (2, 5)], 0.0, name="spans with older rows")
