"""The cache: where rows go, what a subset shares, and what overflows."""

import resource
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close

from tiny.kv_cache import KVCache

STATM = Path("/proc/self/statm")


def resident_bytes():
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


def rows(start, T):
    """Recognisable keys (T, 2, 3) and values."""
    k = np.arange(start, start + T * 6, dtype=np.float32).reshape(T, 2, 3)
    return k, -k


def test_rows_and_spans():
    cache = KVCache(n_layers=2, n_kv_heads=2, head_dim=3, max_tokens=[4, 1, 5])
    assert cache.keys.shape == cache.values.shape == (2, 10, 2, 3)
    assert cache.keys.dtype == cache.values.dtype == np.float32
    assert cache.lengths == [0, 0, 0]
    k, v = rows(0, 6)
    for layer in range(2):
        assert cache.append(layer, k + 100 * layer, v, [2, 1, 3]) == [(0, 2), (4, 5), (5, 8)]
    assert cache.lengths == [0, 0, 0], "lengths change once all layers have appended"
    cache.advance([2, 1, 3])
    assert cache.lengths == [2, 1, 3]
    for layer in range(2):
        assert_close(cache.keys[layer, [0, 1, 4, 5, 6, 7]], k + 100 * layer, 0.0, name="keys")
        assert_close(cache.values[layer, [0, 1, 4, 5, 6, 7]], v, 0.0, name="values")


def test_later_rows_go_behind_the_earlier_ones():
    cache = KVCache(1, 2, 3, [4, 4])
    first, second = rows(0, 3), rows(500, 3)
    cache.append(0, *first, [2, 1])
    cache.advance([2, 1])
    assert cache.append(0, *second, [1, 2]) == [(0, 3), (4, 7)]
    cache.advance([1, 2])
    assert cache.lengths == [3, 3]
    assert_close(cache.keys[0, [0, 1, 4]], first[0], 0.0, name="old rows")
    assert_close(cache.keys[0, [2, 5, 6]], second[0], 0.0, name="new rows")


def test_a_subset_shares_rows_and_lengths():
    cache = KVCache(1, 2, 3, [2, 3, 4])
    part = cache.subset([2, 0])
    assert np.shares_memory(part.keys, cache.keys) and np.shares_memory(part.values, cache.values)
    k, v = rows(0, 3)
    assert part.append(0, k, v, [2, 1]) == [(5, 7), (0, 1)]
    part.advance([2, 1])
    assert part.lengths == [2, 1] and cache.lengths == [1, 0, 2]
    assert_close(cache.keys[0, [5, 6, 0]], k, 0.0)
    cache.advance([0, 1, 0])
    assert cache.subset([1]).lengths == [1] and cache.subset([]).lengths == []
    assert part.subset([1]).lengths == [1]


def test_capacity_is_used_to_the_last_row():
    cache = KVCache(1, 2, 3, [3])
    k, v = rows(0, 3)
    cache.append(0, k, v, [3])
    cache.advance([3])
    with pytest.raises(ValueError, match="3 rows for a sequence of 4 tokens.*new_cache"):
        cache.append(0, k[:1], v[:1], [1])


@pytest.mark.parametrize("lengths", [[3, 1], [1, 4], [2, 4]])
def test_overflow_touches_nothing_that_counts(lengths):
    """Rows that are filled stay as they are, and so do the lengths; what lies behind them was free and still is."""
    cache = KVCache(1, 2, 3, [2, 3])
    k, v = rows(0, 2)
    cache.append(0, k, v, [1, 1])
    cache.advance([1, 1])
    new = rows(900, sum(lengths))
    with pytest.raises(ValueError, match="rows for a sequence of"):
        cache.append(0, *new, lengths)
    assert cache.lengths == [1, 1]
    assert_close(cache.keys[0, [0, 2]], k, 0.0)
    assert_close(cache.values[0, [0, 2]], v, 0.0)


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], []])
def test_one_length_for_each_sequence(lengths):
    cache = KVCache(1, 2, 3, [2, 3])
    with pytest.raises(ValueError):
        cache.append(0, *rows(0, 3), lengths)
    with pytest.raises(ValueError):
        cache.advance(lengths)


def test_a_large_cache_costs_nothing_until_it_is_written():
    """Half a gigabyte of rows, of which one layer's first is written: memory is only promised."""
    if not STATM.exists():
        pytest.skip("Resident memory is read from /proc, which this system has not.")
    before = resident_bytes()
    cache = KVCache(8, 8, 128, [8192])
    cache.append(3, *np.ones((2, 1, 8, 128), np.float32), [1])
    assert cache.keys.nbytes + cache.values.nbytes == 2**29
    assert resident_bytes() - before < 2**24
