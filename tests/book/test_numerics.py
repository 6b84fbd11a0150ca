"""softmax, SiLU, GELU, the linear map and bfloat16 rounding, against their definitions written in loops."""

import importlib.util
import math
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from tolerances import OPS

from tests.mutants.numerics import MUTANTS
from tiny import numerics
from tiny.numerics import erf, gelu, linear, round_to, silu, softmax

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("x", [normal(1), normal(31, 65), normal(2, 3, 130), 300 * normal(5, 7), normal(4, 1),
                               np.float32([[1e30, 1e30, -1e30]]), np.float32([[-1e30, -2e30]]),
                               np.float32([[0, -np.inf, 1]])])
def test_softmax(x):
    y = softmax(x)
    assert y.shape == x.shape and y.dtype == np.float32
    for row, out in zip(x.reshape(-1, x.shape[-1]).astype(float), y.reshape(-1, x.shape[-1])):
        exponentials = [math.exp(v - max(row)) for v in row]
        assert_close(out, np.array(exponentials) / math.fsum(exponentials), OPS["softmax"], name="softmax")


def test_softmax_does_not_see_a_shift():
    x = np.float32(RNG.integers(-8, 8, (3, 5)))
    assert_close(softmax(x + np.float32(4096)), softmax(x), 0.0)


def test_silu():
    x = np.concatenate([normal(130) * 4, np.float32([0, 100, -100, 1e38, -1e38, 88, -88, -89, -104, 1e-30])])
    before, y = x.copy(), silu(x)
    assert y.dtype == np.float32
    for v, out in zip(before.astype(float), y):
        assert_close(out, v / (1 + math.exp(-v)) if v > -700 else 0.0, OPS["silu"], 3e-7, name=f"silu({v})")
    assert_close(x, before, 0.0, name="the argument is left alone")


GRID = np.concatenate([np.linspace(-7, 7, 28001), np.linspace(-0.02, 0.02, 401), [0, 1e-30, -1e-30, 1e-6, 13.9, 14.1,
                       -14.1, 100, -100, 1e30, -1e30]]).astype(np.float32)


def test_erf():
    before, y = GRID.copy(), erf(GRID)
    assert y.dtype == np.float32 and y.shape == GRID.shape
    assert_close(y, [math.erf(v) for v in GRID.tolist()], OPS["erf"], name="erf")
    assert (np.abs(y) <= 1).all() and (GRID == 0).any() and not y[GRID == 0].any()
    assert_close(erf(-GRID), -y, 0.0, name="erf is odd")
    assert_close(erf(np.float32([np.inf, -np.inf])), [1, -1], 0.0)
    assert_close(GRID, before, 0.0, name="the argument is left alone")


def test_gelu():
    before, y = GRID.copy(), gelu(GRID)
    assert y.dtype == np.float32
    expected = np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in GRID.tolist()])
    assert_close(y, expected, OPS["gelu"], 3e-7, name="gelu")
    assert_close(GRID, before, 0.0, name="the argument is left alone")
    # The form with tanh is another function.
    tanh = [v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2 for v in GRID[:28001].tolist()]
    assert np.abs(tanh - expected[:28001]).max() > 100 * OPS["gelu"]


TOKENS = [1, numerics.SINGLE, numerics.SINGLE + 1, numerics.FEW, numerics.FEW + 1, 2 * numerics.FEW + 1]


@pytest.mark.parametrize("T", [2, 31, 65, *TOKENS])
@pytest.mark.parametrize("out, inner", [(1, 1), (7, 10), (130, 33)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_linear(T, out, inner, dtype):
    x, weight = normal(T, inner), (normal(out, inner) / np.float32(inner**0.5)).astype(dtype)
    y = linear(x, weight)
    assert y.dtype == np.float32 and y.shape == (T, out) and y.flags.c_contiguous
    expected = x.astype(float) @ weight.astype(float).T  # in float64, which adds better than the tolerance by 10^8
    assert_close(y, expected, OPS["linear"], name="linear")


@pytest.mark.parametrize("out, inner", [(1, 1), (7, 10), (130, 33)])
def test_linear_against_exact_sums(out, inner):
    x, weight = normal(2, inner), (normal(out, inner) / np.float32(inner**0.5)).astype(ml_dtypes.bfloat16)
    expected = [[math.fsum(float(a) * float(b) for a, b in zip(row, column)) for column in weight] for row in x]
    assert_close(linear(x, weight), expected, OPS["linear"], name="linear")


@pytest.mark.parametrize("block", [1, 16 * 5 * 3, 16 * 5 * 3 + 1, 1 << 18])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_linear_in_blocks(block, dtype, monkeypatch):
    """HF's permuted rows as a 4-D view, and blocks from one row up to more than the matrix."""
    monkeypatch.setattr(numerics, "FEW_WEIGHTS", block)
    monkeypatch.setattr(numerics, "MANY_BYTES", 4 * block)
    stored = normal(7 * 10, 16).astype(dtype)
    view = stored.reshape(7, 2, 5, 16).swapaxes(1, 2)
    assert np.shares_memory(view, stored)
    order = [head * 10 + half * 5 + pair for head in range(7) for pair in range(5) for half in range(2)]
    for T in TOKENS:
        x = normal(T, 16)
        plain = x.astype(float) @ stored[order].astype(float).T
        assert_close(linear(x, view), plain, OPS["linear"], name="4-D view")
        y = linear(x, stored)
        assert_close(y[:, order], plain, OPS["linear"], name="2-D")


@pytest.mark.parametrize("T", [2, numerics.FEW, 2 * numerics.FEW + 1])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_linear_of_large_matrices_goes_in_blocks_by_itself(T, dtype):
    x, weight = normal(T, 1024), normal(1500, 1024).astype(dtype)
    assert 4 * weight.size > numerics.MANY_BYTES > 4 * numerics.FEW_WEIGHTS
    expected = np.concatenate([x.astype(float) @ weight[n].astype(float)[:, None] for n in range(1500)], axis=1)
    assert_close(linear(x, weight), expected, 16 * OPS["linear"], name="1024 terms of size 1")


def patterns():
    """Every finite bfloat16 number, two in each row: zeros and subnormal ones too, and both signs."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    return bits[bits & 0x7F80 != 0x7F80].reshape(-1, 2).view(ml_dtypes.bfloat16)


def test_every_bfloat16_weight_is_exact():
    """Oracle: its bits, which are the upper half of a float32."""
    weight, x = patterns(), np.float32([[1, 0], [0, 1]])
    exact = (weight.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert_close(linear(x, weight), exact.T, 0.0, name="first and second column")


def test_what_is_no_number_stays_where_it_is():
    """Infinity, and NaN with bits below: the other rows do not see them."""
    bits = np.zeros((8, 2), np.uint16)
    bits[1, 0], bits[3, 1], bits[5, 0], bits[6, 1] = 0x7F80, 0xFF80, 0x7F81, 0xFFFF
    weight = bits.view(ml_dtypes.bfloat16)
    with np.errstate(invalid="ignore"):  # of NaN that signals
        y = linear(np.ones((1, 2), np.float32), weight)[0]
    assert_close(y[:5], [0, np.inf, 0, -np.inf, 0], 0.0)
    assert np.isnan(y[5:7]).all() and y[7] == 0


def layouts():
    """(name, bfloat16 weights (6, 10)) as files and callers hand them over, all of the same numbers."""
    plain = normal(6, 10).astype(ml_dtypes.bfloat16)
    yield "every other column", plain, np.repeat(plain, 2, axis=1)[:, ::2]
    yield "rows far apart", plain, np.tile(np.repeat(plain, 2, axis=0), 2)[::2, :10]
    yield "columns first", plain, np.asfortranarray(plain)
    yield "backwards", plain, plain[:, ::-1].copy()[:, ::-1]
    for offset in (1, 2):  # a file may put a tensor at any byte
        raw = np.frombuffer(bytes(offset) + plain.tobytes(), np.uint8)[offset:]
        yield f"from byte {offset}, read-only", plain, raw.view(plain.dtype).reshape(plain.shape)


@pytest.mark.parametrize("name, plain, weight", [pytest.param(*case, id=case[0]) for case in layouts()])
def test_bfloat16_weights_in_any_layout(name, plain, weight):
    for T in TOKENS:
        x = normal(T, 10)
        assert_close(linear(x, weight), x @ plain.astype(np.float32).T, OPS["linear"], name=name)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_nothing_times_nothing(dtype):
    assert linear(normal(0, 10), normal(6, 10).astype(dtype)).shape == (0, 6)
    for T in TOKENS:
        assert linear(normal(T, 10), normal(0, 10).astype(dtype)).shape == (T, 0)


class Rows:
    """Weights that are no array: they unpack the rows that are asked for, and remember how many that were."""

    def __init__(self, weight):
        self.weight, self.shape, self.ndim, self.dtype = weight, weight.shape, weight.ndim, np.dtype(np.float32)
        self.most = 0

    def __len__(self):
        return len(self.weight)

    def __getitem__(self, key):
        found = self.weight[key].astype(np.float32)
        self.most = max(self.most, found.size)
        return found


def test_memory_for_conversions_is_used_again_and_by_one_thread_only():
    first = numerics.SCRATCH.take((3, 5))
    assert first.shape == (3, 5) and first.dtype == np.float32
    assert np.shares_memory(first, numerics.SCRATCH.take((7,))) and numerics.SCRATCH.take((0, 4)).shape == (0, 4)
    larger = numerics.SCRATCH.take((numerics.SCRATCH.memory.size + 1,))
    assert np.shares_memory(larger, numerics.SCRATCH.take((2, 2)))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(numerics.SCRATCH.take, (3, 5)).result()
    assert other.shape == (3, 5) and not np.shares_memory(larger, other)


def test_an_answer_is_not_in_the_memory_for_conversions():
    x, weight = normal(20, 10), normal(30, 10).astype(ml_dtypes.bfloat16)
    y = linear(x, weight)
    kept = y.copy()
    linear(x, -weight)
    assert_close(y, kept, 0.0, name="after another product")


def test_products_do_not_depend_on_the_number_of_cores(monkeypatch):
    """What this file fixes when it is read is the same on every machine."""
    found = []
    for cores in (1, 64, None):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        spec = importlib.util.spec_from_file_location("numerics_again", numerics.__file__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append({name: value for name, value in vars(module).items() if isinstance(value, int) and name.isupper()})
    assert found[0] == found[1] == found[2] and found[0]["FEW"] == numerics.FEW


def test_what_unpacks_itself_goes_by_blocks(monkeypatch):
    monkeypatch.setattr(numerics, "FEW_WEIGHTS", 40)
    monkeypatch.setattr(numerics, "MANY_BYTES", 4 * 80)
    for T in TOKENS:
        x, weight = normal(T, 10), normal(30, 10)
        rows = Rows(weight)
        assert_close(linear(x, rows), x @ weight.T, OPS["linear"], name="rows")
        assert rows.most == 80


@pytest.mark.parametrize("out, inner", [(1500, 1024), (3584, 320), (100, 14336)])
def test_what_is_unpacked_or_converted_gives_the_bits_of_an_array(out, inner):
    """Matrices of several blocks, the last one short: in other blocks than the array's, BLAS adds in another order."""
    stored = normal(out, inner).astype(ml_dtypes.bfloat16)
    weight = stored.astype(np.float32)
    for T in (1, 2, 5, 8, 9, 12, 16, 17, 33, 100):
        x = normal(T, inner)
        y = linear(x, stored)
        assert_close(linear(x, Rows(weight)), y, 0.0, name=f"{T} tokens, unpacked")
        if T > 1:
            assert_close(linear(x, weight), y, 0.0, name=f"{T} tokens")
    with pytest.importorskip("threadpoolctl", reason="This needs threadpoolctl (the dev extra).").threadpool_limits(1):
        x = normal(1, inner)
        assert_close(linear(x, weight), linear(x, stored), 0.0, name="one token, with one thread")


@pytest.mark.parametrize("name", MUTANTS)
def test_mistakes_with_few_tokens_are_seen(name, monkeypatch):
    """By the comparisons above, with blocks and parts of blocks of which the last is short."""
    monkeypatch.setattr(numerics, "FEW_WEIGHTS", 3 * 10)
    monkeypatch.setattr(numerics, "MANY_BYTES", 4 * 4 * 10)
    dtype, mistake = MUTANTS[name]
    x, weight = normal(2, 10), normal(7, 10).astype(dtype)
    expected = x.astype(float) @ weight.astype(float).T
    assert_close(linear(x, weight), expected, OPS["linear"], name="without the mistake")
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        assert_close(linear(x, weight), expected, OPS["linear"], name=name)


@pytest.mark.parametrize("x, weight", [((2, 3), (4, 2)), ((2, 3), (3, 4)), ((3,), (4, 3)), ((2, 3), (3,)),
                                       ((1, 2, 3), (4, 3))])
def test_linear_refuses(x, weight):
    with pytest.raises(ValueError, match="linear expects"):
        linear(np.zeros(x, np.float32), np.zeros(weight, np.float32))


def test_round_to():
    bits = RNG.integers(0, 2**32, 4000, dtype=np.uint64).astype(np.uint32)
    bits = np.concatenate([bits, np.uint32([0x3F808000, 0x3F818000, 0x3F808001, 0x80000000, 0x7F800000, 0x00000001])])
    x = bits.view(np.float32)
    x = x[~np.isnan(x)]
    assert round_to(x, "float32") is x
    y = round_to(x, "bfloat16")
    assert y.dtype == np.float32
    for v, out in zip(x, y):
        (pattern,) = struct.unpack("<I", struct.pack("<f", v))
        nearest = (pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16 << 16  # to nearest, ties to even
        assert struct.pack("<f", out) == struct.pack("<I", nearest), f"{v!r} became {out!r}"


def test_linear_rounds_its_result_once():
    x, weight = normal(5, 33), normal(6, 33).astype(ml_dtypes.bfloat16)
    wide = weight.astype(np.float32)
    for w in (weight, wide):
        assert_close(linear(x, w, "bfloat16"), round_to(linear(x, w), "bfloat16"), 0.0)
