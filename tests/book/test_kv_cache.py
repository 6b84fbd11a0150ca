"""The cache: where rows go, what a subset shares, and what overflows."""

import resource
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from emulator_case import needs_compiler

import tiny
from kernels.ops import choose
from tiny.attention import attention
from tiny.config import TinyError
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


# ---- bfloat16

PROMPTS = {"tiny-mixtral": "Once upon a time there was a little girl", "tiny-pixtral": "what does the image show ?"}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_cache_in_bfloat16_loses_nothing_under_that_precision(name):
    """What a pass remembers is rounded already, so half the bytes give the same logits to the bit."""
    model = tiny.load(name, precision="bfloat16", weights="resident")
    ids = [1, *model.tokenizer.encode(PROMPTS[name])]
    caches = [model.new_cache(99, dtype) for dtype in (None, "float32")]
    assert [cache.keys.dtype for cache in caches] == [ml_dtypes.bfloat16, np.float32]
    assert 2 * caches[0].keys.nbytes == caches[1].keys.nbytes
    for piece in (ids[:5], ids[5:], [7]):
        narrow, wide = (model(piece, cache=cache) for cache in caches)
        assert_close(narrow, wide, 0.0, name="logits")
    assert_close(caches[0].values[:, : len(ids)].astype(np.float32), caches[1].values[:, : len(ids)], 0.0)


def test_in_float32_it_is_rounded_only_if_that_is_asked_for():
    model, asked = tiny.load("tiny-mixtral"), tiny.load("tiny-mixtral", cache="bfloat16")
    ids = [1, *model.tokenizer.encode(PROMPTS["tiny-mixtral"])]
    whole = model(ids)
    assert model.new_cache(3).keys.dtype == np.float32 and asked.new_cache(3).keys.dtype == ml_dtypes.bfloat16
    rounded = asked(ids, cache=asked.new_cache(len(ids)))
    assert_close(rounded, model(ids, cache=model.new_cache(len(ids), "bfloat16")), 0.0, name="both ways of asking")
    moved = np.abs(rounded - whole).max()
    assert 1e-3 < moved < 0.1, f"{moved:.3g}; measured: 0.034 of logits of standard deviation 3"
    with pytest.raises(TinyError, match="cache='float16' is unknown"):
        tiny.load("tiny-mixtral", cache="float16")


@pytest.mark.parametrize("kernel", [False, pytest.param(True, marks=needs_compiler)], ids=["NumPy", "kernel"])
@pytest.mark.parametrize("lengths, spans", [([70, 3], [(0, 80), (85, 90)]), ([1, 1], [(3, 40), (60, 90)])])
def test_attention_reads_bfloat16_as_the_numbers_that_it_holds(kernel, lengths, spans):
    rng, operation = np.random.default_rng(2), choose("attention", "emulator").attention if kernel else attention
    q = rng.standard_normal((sum(lengths), 4, 8), np.float32)
    keys, values = rng.standard_normal((2, 90, 2, 8), np.float32).astype(ml_dtypes.bfloat16)
    wide = operation(q, keys.astype(np.float32), values.astype(np.float32), lengths, spans)
    assert_close(operation(q, keys, values, lengths, spans), wide, 0.0)


def test_one_head_at_a_time_becomes_float32():
    """16 heads of 4,096 keys would take 34 MB; one takes 2 MB, for its keys and its values."""
    keys, values = np.ones((2, 4096, 16, 64), ml_dtypes.bfloat16)
    tracemalloc.start()
    attention(np.ones((1, 16, 64), np.float32), keys, values, [1], [(0, 4096)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6, f"{peak / 1e6:.1f} MB"
