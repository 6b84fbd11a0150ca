"""RoPE as kernels, through the emulator, against the NumPy function, and the form that fills the cache."""

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from emulator_case import Emulator, needs_compiler, run_in_all_modes

from kernels import rope as kernel
from tiny.kv_cache import KVCache
from tiny.numerics import round_to
from tiny.rope import rope, rope_table
from tiny.rope_2d import patch_positions, rope_2d_table

STORES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
# Numbers of standard deviation 1, up to 4.4. Measured: 0, or 2.4e-7 where a compiler fuses a product with the sum. With
# bfloat16 the result is rounded once, to half a unit of the last of 8 bits; measured 3.9e-3 of the result.
FLOAT32, BFLOAT16_ROUNDING = 1e-6, 2.0**-8


def heads(T, n, d, seed=0):
    return np.random.default_rng([T, n, d, seed]).standard_normal((T, n, d)).astype(np.float32)


def assert_turned(y, x, cos, sin, precision, name):
    """Require what the NumPy function makes of x as it is stored, up to one rounding."""
    expected = rope(round_to(x, precision), cos, sin)
    assert_close(y, expected, FLOAT32, BFLOAT16_ROUNDING if precision == "bfloat16" else 0.0, name)


@needs_compiler
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("precision", STORES)
@pytest.mark.parametrize("T, n, d", [(1, 1, 2), (1, 4, 128), (31, 3, 10), (33, 2, 12), (257, 1, 32), (5, 4, 64),
                                     (7, 3, 80)])
def test_against_numpy(version, precision, T, n, d):
    x, (cos, sin) = heads(T, n, d), rope_table(np.arange(T) + 30000, d, 1e6)
    y, = run_in_all_modes(lambda launcher: kernel.rope(launcher, x, cos, sin, precision, version))
    assert y.dtype == np.float32
    assert_turned(y, x, cos, sin, precision, f"rope {version}")


@needs_compiler
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("precision", STORES)
@pytest.mark.parametrize("d", [12, 64, 80])
def test_places_in_two_dimensions(version, precision, d):
    cos, sin = rope_2d_table(patch_positions([(3, 2), (1, 5)]), d, 1e4)
    x = heads(11, 2, d)
    y, = run_in_all_modes(lambda launcher: kernel.rope(launcher, x, cos, sin, precision, version))
    assert_turned(y, x, cos, sin, precision, f"rope {version}")


@needs_compiler
@pytest.mark.parametrize("precision", STORES)
def test_unaligned_arrays_give_the_same_bits(precision):
    x, (cos, sin) = heads(3, 2, 16).astype(STORES[precision]), rope_table(np.arange(3), 16, 1e4)
    storage = np.empty(x.size + 1, x.dtype)
    storage[1:] = x.ravel()
    shifted = storage[1:].reshape(x.shape)
    results = [run_in_all_modes(lambda launcher, x=x: kernel.rope(launcher, x, cos, sin, precision))[0]
               for x in (x, shifted)]
    assert_close(results[1], results[0], 0.0)


@needs_compiler
@pytest.mark.parametrize("precision", STORES)
@pytest.mark.parametrize("H, G, d", [(4, 2, 32), (3, 1, 10), (2, 2, 128), (1, 1, 12)])
def test_into_the_cache(precision, H, G, d):
    """Three sequences packed, two of them with a past: their rows do not follow each other, and no other is written."""
    past, lengths, cache = [2, 0, 1], [3, 7, 1], KVCache(2, G, d, [5, 9, 4])
    q, k, v = (round_to(heads(11, n, d, seed), precision) for seed, n in enumerate((H, G, G)))
    cos, sin = rope_table(np.concatenate([start + np.arange(n) for start, n in zip(past, lengths)]), d, 1e6)
    cache.keys[...], cache.values[...] = 7.0, 8.0
    cache.advance(past)
    before = cache.keys[1].copy(), cache.values[1].copy()
    rows = np.concatenate([slot.start + slot.length + np.arange(n) for slot, n in zip(cache.slots, lengths)])
    cache.append(1, rope(k, cos, sin), v, lengths)

    def run(launcher):
        keys, values = (x.astype(STORES[precision]) for x in before)
        places = rows.astype(np.int32)
        return kernel.rope_into_cache(launcher, q, k, v, cos, sin, places, keys, values, precision), keys, values

    turned, keys, values = run_in_all_modes(run)
    assert_turned(turned, q, cos, sin, precision, "q")
    rounding = BFLOAT16_ROUNDING if precision == "bfloat16" else 0.0
    assert_close(keys.astype(np.float32), cache.keys[1], FLOAT32, rounding, "keys")
    assert_close(values.astype(np.float32), cache.values[1], 0.0, name="values")


@needs_compiler
def test_a_row_behind_the_cache_is_caught_by_the_checked_mode():
    q, (cos, sin) = heads(2, 1, 8), rope_table(np.arange(2), 8, 1e4)
    keys, values, rows = np.zeros((4, 1, 8), np.float32), np.zeros((4, 1, 8), np.float32), np.array([0, 4], np.int32)
    with pytest.raises(Exception, match=r"(rope\.cu|numbers\.cuh):\d+: out-of-bounds write of 16 bytes"):
        kernel.rope_into_cache(Emulator(check=True), q, q, q, cos, sin, rows, keys, values)


@needs_compiler
def test_without_tokens_the_cache_stays():
    q, (cos, sin), keys = heads(0, 2, 8), rope_table(np.arange(0), 8, 1e4), heads(4, 1, 8)
    before, rows = keys.copy(), np.zeros(0, np.int32)
    assert kernel.rope_into_cache(Emulator(), q, q[:, :1], q[:, :1], cos, sin, rows, keys, keys).shape == (0, 2, 8)
    assert_close(keys, before, 0.0)


def test_refuses():
    q, (cos, sin) = heads(2, 1, 8), rope_table(np.arange(2), 8, 1e4)
    keys, rows = np.zeros((4, 1, 8), np.float32), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="Build them with rope_table"):
        kernel.rope(None, q, cos[:1], sin[:1])
    with pytest.raises(ValueError, match="must be even"):
        kernel.rope(None, heads(2, 1, 9), cos, sin)
    with pytest.raises(ValueError, match="v1 and v2, and v3 as rope_into_cache; got 'v3'"):
        kernel.rope(None, q, cos, sin, version="v3")
    for bad in ({"v": q[:1]}, {"cache_keys": keys[:, :, :4]}, {"cache_values": keys[:3]}, {"rows": rows[:1]}):
        given = {"v": q, "rows": rows, "cache_keys": keys, "cache_values": keys, **bad}
        with pytest.raises(ValueError, match=r"a cache \(S, G, d\) and rows \(T,\)"):
            kernel.rope_into_cache(None, q, q, cos=cos, sin=sin, **given)
    with pytest.raises(ValueError, match="a cache of bfloat16 and rows of int32; got float32"):
        kernel.rope_into_cache(None, q, q, q, cos, sin, rows, keys, keys, "bfloat16")
    with pytest.raises(ValueError, match="rows of int32; got float32, float32 and int64"):
        kernel.rope_into_cache(None, q, q, q, cos, sin, rows.astype(np.int64), keys, keys)
    with pytest.raises(ValueError, match="must be contiguous"):
        kernel.rope_into_cache(None, q, q, q, cos, sin, rows, np.zeros((8, 1, 8), np.float32)[::2], keys)


def test_floor():
    """One token of 32 query and 8 key heads of 128 numbers in bfloat16, its values copied; 64 angles twice."""
    assert kernel.floor(1, 40, 128, "bfloat16", copied=8) == (2 * 48 * 128 * 2 + 2 * 64 * 4, 3 * 40 * 128)
