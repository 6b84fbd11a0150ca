"""The linear map as kernels, through the emulator, against NumPy: all versions, storages, and what may follow it."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from compare import Different, assert_close
from emulator_case import Shifted, needs_compiler, run_in_all_modes

from kernels import linear as kernel
from kernels.cases import kernels_of
from kernels.int8 import linear_int8, quantise_rows
from kernels.launch import Emulator
from kernels.signature import HERE
from tests.kernels.test_kernels_experts import Profiler
from tiny.numerics import gelu, linear, round_to

FLOAT, BF16, VERSIONS = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), kernel.VERSIONS
STORAGES = [*itertools.product(("float32", "bfloat16"), (FLOAT, BF16, np.dtype(np.int8)))]
# Measured over the cases below: 1.8e-6 in float32 (v1; 1.2e-6 v2 and v3); 0.0077 with bfloat16 storage, of outputs up
# to 4: half a step of bfloat16 there.
TOLERANCE = {"float32": 6e-6, "bfloat16": 0.02}
# T, D, N: whole and ragged rows, fewer numbers than a warp has lanes, more tokens than share a read, one of all.
CASES = [(1, 1056, 24), (5, 33, 70), (16, 272, 9), (33, 64, 17), (5, 7, 1), (1, 4112, 5)]


def case(T, D, N, precision="float32", dtype=FLOAT, seed=0):
    """x, weight, scale or None, and what the book gives; under bfloat16 x are bfloat16 numbers, as a model's are."""
    rng = np.random.default_rng([T, D, N, seed])
    x = round_to(rng.standard_normal((T, D)).astype(np.float32), precision)
    weight = (rng.standard_normal((N, D)) / np.sqrt(D)).astype(np.float32)
    if dtype != np.int8:
        weight = weight.astype(dtype)
        return x, weight, None, linear(x, weight)
    whole, scale = quantise_rows(weight)
    return x, whole, scale, linear_int8(x, whole, scale)


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision, dtype", STORAGES)
def test_against_numpy(version, precision, dtype):
    launcher = Emulator()
    for sizes in CASES if precision == "float32" else CASES[:2]:
        x, weight, scale, expected = case(*sizes, precision, dtype)
        y = kernel.linear(launcher, x, weight, precision, version, scale)
        assert y.dtype == np.float32
        assert_close(y, expected, TOLERANCE[precision], name=f"linear {sizes}")


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision, dtype", [STORAGES[0], STORAGES[2], STORAGES[4], STORAGES[5]])
def test_all_modes_give_equal_bits(version, precision, dtype):
    for sizes in CASES[:2]:
        x, weight, scale, _ = case(*sizes, precision, dtype)
        run_in_all_modes(lambda launcher: kernel.linear(launcher, x, weight, precision, version, scale))  # noqa: B023


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("options", [("bias",), ("gelu",), ("residual",), ("bias", "gelu", "residual")])
def test_what_follows_the_product(version, options):
    T, D, N = 5, 64, 20
    for dtype in (FLOAT, np.dtype(np.int8)):
        x, weight, scale, expected = case(T, D, N, dtype=dtype)
        bias, residual = case(1, 8, N, seed=1)[1][:, 0].copy(), case(T, N, 1, seed=2)[0]
        expected = expected + bias if "bias" in options else expected
        expected = gelu(expected) if "gelu" in options else expected
        expected = expected + residual if "residual" in options else expected
        given = {"bias": bias, "gelu": True, "residual": residual}
        y = run_in_all_modes(lambda launcher: kernel.linear(
            launcher, x, weight, "float32", version, scale, **{key: given[key] for key in options}))[0]  # noqa: B023
        assert_close(y, expected, TOLERANCE["float32"], name=f"linear with {options}")


@needs_compiler
def test_a_token_has_the_same_bits_alone_and_among_others():
    """One to sixteen tokens are compiled in five forms; the order of a sum is the same in all of them."""
    launcher = Emulator()
    for version in ("v2", "v3"):
        x, weight, _, _ = case(33, 1056, 6)
        together = kernel.linear(launcher, x, weight, version=version)
        for T in (1, 2, 3, 5, 8, 16, 17):
            y = kernel.linear(launcher, x[:T], weight, version=version)
            assert_close(y, together[:T], 0.0, name=f"{T} tokens, {version}")


@needs_compiler
@pytest.mark.parametrize("split", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.int8)])
def test_any_number_of_warps_may_share_a_row(monkeypatch, split, dtype):
    monkeypatch.setattr(kernel, "split_of", lambda N, D, width: split)
    for sizes in ((3, 1056, 21), (1, 48, 35), (2, 33, 5)):
        x, weight, scale, expected = case(*sizes, dtype=dtype)
        y = run_in_all_modes(lambda launcher: kernel.linear(launcher, x, weight, scale=scale))[0]  # noqa: B023
        assert_close(y, expected, TOLERANCE["float32"], name=f"linear {sizes}")


def test_how_many_warps_share_a_row():
    """Mixtral's maps in bfloat16: few rows are split, the head is not, and no warp gets less than one load a lane."""
    assert [kernel.split_of(N, 4096, 8) for N in (1024, 4096, 6144, 14336, 32000)] == [8, 2, 2, 1, 1]
    assert [kernel.split_of(64, D, 8) for D in (256, 511, 512, 1024, 4096)] == [1, 1, 2, 4, 8]
    assert [kernel.tokens_of(T) for T in (0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 600)] == [1, 1, 2, 4, 4, 8, 8, 16, 16, 16, 16]


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
def test_arrays_that_begin_between_sixteen_bytes(version):
    """Rows of whole 16 bytes at an odd address are read number by number, and give the same numbers."""
    x, weight, _, expected = case(2, 64, 5)

    y = run_in_all_modes(lambda launcher: kernel.linear(
        Shifted(launcher.check, launcher.order), x, weight, version=version))[0]
    assert_close(y, expected, TOLERANCE["float32"], name="shifted")


@needs_compiler
@pytest.mark.parametrize("version", VERSIONS)
def test_weights_of_several_axes_and_no_tokens(version):
    """Hugging Face's wq is a view of four axes, which counts as its rows."""
    x, weight, _, expected = case(2, 16, 24)
    turned = np.ascontiguousarray(weight.reshape(3, 4, 2, 16).swapaxes(1, 2)).swapaxes(1, 2)
    y = kernel.linear(Emulator(), x, turned, version=version)
    assert_close(y, expected, TOLERANCE["float32"], name="four axes")
    assert kernel.linear(Emulator(), x[:0], weight, version=version).shape == (0, 24)


# ---- mistakes

def check_host(host):
    """Small cases that a wrong host side, or wrong arguments, cannot pass."""
    launcher = Emulator()
    for dtype in (FLOAT, np.dtype(np.int8)):
        for sizes in ((5, 33, 70), (3, 1056, 21)):
            x, weight, scale, expected = case(*sizes, dtype=dtype)
            bias, residual = case(1, 8, sizes[2], seed=1)[1][:, 0].copy(), case(sizes[0], sizes[2], 1, seed=2)[0]
            y = host(launcher, x, weight, scale=scale, bias=bias, gelu=True, residual=residual)
            assert_close(y, residual + gelu(expected + bias), TOLERANCE["float32"], name="all of it")


def wrong(**changes):
    """The host function with arguments that were changed on their way."""
    def host(launcher, x, weight, **options):
        for name, change in changes.items():
            if options.get(name) is not None:
                options[name] = change(options[name])
        return kernel.linear(launcher, x, weight, **options)
    return host


@needs_compiler
@pytest.mark.parametrize("mistake", [
    wrong(scale=lambda scale: np.roll(scale, 1)), wrong(scale=np.ones_like), wrong(bias=lambda bias: np.roll(bias, 1)),
    wrong(residual=lambda residual: residual[::-1]), wrong(gelu=lambda gelu: False), wrong(bias=lambda bias: None)])
def test_mistakes_are_refused(mistake):
    check_host(kernel.linear)
    with pytest.raises(Different):
        check_host(mistake)


SOURCE_MISTAKES = {
    "a warp's share begins at its own lane only": ("warp % SPLIT * 32 + lane", "lane"),
    "one part of a split row is forgotten": ("part < SPLIT", "part < SPLIT - 1"),
    "the last row is left out": ("block_row + at >= N", "block_row + at >= N - 1"),
    "the scale of the next row": ("scale[row]", "scale[row + 1 - 2 * (row & 1)]"),
    "whole numbers without their sign": (" ^ 0x80808080u", ""),
    "the residual of another token": ("residual[place]", "residual[row]"),
    "another token's numbers": ("min(j / R, last)", "min(j / R + 1, last)")}


@needs_compiler
@pytest.mark.parametrize("mistake", SOURCE_MISTAKES)
def test_mistakes_in_the_source_are_refused(mistake, tmp_path, monkeypatch):
    """A kernel with one of them, in a folder of its own, against the same comparison."""
    right, spoilt = SOURCE_MISTAKES[mistake]
    found = 0
    for file in ("linear.cu", "epilogue.cuh", "numbers.cuh", "ptx.cuh"):
        text = (HERE / file).read_text(encoding="utf-8")
        found += text.count(right)
        (tmp_path / file).write_text(text.replace(right, spoilt), encoding="utf-8")
    assert found == 1
    monkeypatch.setattr(kernel, "FILE", str(tmp_path / "linear.cu"))
    monkeypatch.setattr(kernel, "split_of", lambda N, D, width: 4)
    with pytest.raises(Different):
        check_host(kernel.linear)


# ---- costs, refusals

def counts(version, T=2, D=512, N=64, dtype=BF16):
    """Loads of 16 bytes by warps, and used through moved bytes of global memory."""
    profiler = Profiler()
    x, weight, scale, _ = case(T, D, N, "bfloat16", dtype)
    kernel.linear(profiler, x, weight, "bfloat16", version, scale)
    rows = [row for row in profiler.module.profile() if row.memory == "global"]
    return (sum(row.requests for row in rows if row.bytes == 16),
            sum(row.ideal for row in rows) / sum(row.work for row in rows))


@needs_compiler
def test_profile():
    """What the versions say that they save: v2 uses all bytes, and reads weights once; v3 shares the reads of x."""
    T, N, loads_of_a_row = 2, 64, 512 // (32 * 8)
    loads, used = counts("v1")
    assert loads == 0 and used < 0.15
    loads, used = counts("v2")
    assert loads == N * loads_of_a_row * (1 + T) and used > 0.95, "a row once, and each token's numbers"
    loads, used = counts("v3")
    assert loads == N * loads_of_a_row * (1 + T / kernel.ROWS) and used > 0.95, "two rows share them"


def test_the_kernels_are_those_of_the_versions():
    assert kernels_of(kernel.FILE) == [f"linear_{version}" for version in VERSIONS]


X, W = np.ones((2, 4), np.float32), np.ones((3, 4), np.float32)


@pytest.mark.parametrize("arguments, words", [
    ({"x": X[0]}, "linear expects x"), ({"x": X.astype(np.float64)}, "linear expects x"),
    ({"weight": W[:, :3]}, "The last axes must agree"), ({"weight": W.astype(np.float64)}, "linear expects weight"),
    ({"precision": "int8"}, "'float32' or 'bfloat16'"), ({"version": "v6"}, "v1, v2, v3, v4 .* got 'v6' for float32"),
    ({"version": "v5"}, "bfloat16 with weights of bfloat16 or int8, v5; got 'v5' for float32 with float32"),
    ({"weight": W.astype(np.int8)}, "a scale for each row of int8 weights; got none"),
    ({"scale": np.ones(3, np.float32)}, "linear_int8 expects whole"),
    ({"weight": W.astype(np.int8), "scale": np.ones(2, np.float32)}, r"scale \(N,\)"),
    ({"bias": W}, "linear expects bias"), ({"bias": np.ones(4, np.float32)}, r"bias \(3,\)"),
    ({"residual": W}, r"residual \(2, 3\)"), ({"residual": np.ones(3, np.float32)}, "linear expects residual")])
def test_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        kernel.linear(None, **{"x": X, "weight": W, **arguments})


def test_floor():
    """Mixtral's queries, keys and values of one token: 6,144 rows of 4,096 numbers, half as many bytes in int8."""
    assert kernel.floor(1, 4096, 6144, "bfloat16", 2) == (6144 * 4096 * 2 + 2 * (4096 + 6144), 2 * 4096 * 6144)
    assert kernel.floor(1, 4096, 6144, "bfloat16", 1, True)[0] == 6144 * 4096 + 2 * (4096 + 6144) + 4 * 6144
    assert kernel.floor(2, 8, 4, residual=True) == (4 * 8 * 4 + 4 * (2 * 8 + 2 * 2 * 4), 2 * 2 * 8 * 4)
