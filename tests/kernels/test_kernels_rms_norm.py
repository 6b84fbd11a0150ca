"""RMSNorm as kernels, through the emulator, against the NumPy function: every version, storage type and ragged size."""

import ml_dtypes
import numpy as np
import pytest
from compare import assert_close
from emulator_case import Emulator, needs_compiler, run_in_all_modes

from kernels import rms_norm as kernel
from tiny.numerics import round_to
from tiny.rms_norm import rms_norm

BFLOAT16 = ml_dtypes.bfloat16
STORAGE = [("float32", np.float32), ("float32", BFLOAT16), ("bfloat16", BFLOAT16), ("bfloat16", np.float32)]
# Relative, because a row has one scale. Measured: 4.2e-7 up to 64 columns; at 4,096, 8.2e-7 by v1 and 3.4e-7 by the
# others. With bfloat16 the result is rounded once, to half a unit of the last of 8 bits; measured 3.9e-3.
FLOAT32, BFLOAT16_ROUNDING = 4e-6, 2.0**-8


def tolerance(precision):
    return FLOAT32 + (BFLOAT16_ROUNDING if precision == "bfloat16" else 0.0)


def case(T, D, dtype=np.float32, scale=3.0):
    rng = np.random.default_rng([T, D])
    return (scale * rng.standard_normal((T, D))).astype(np.float32), (1 + rng.standard_normal(D) / 2).astype(dtype)


def off_by_one(x):
    """The same numbers at an address that 16 bytes cannot be read from."""
    storage = np.empty(x.size + 1, x.dtype)
    storage[1:] = x.ravel()
    return storage[1:].reshape(x.shape)


def compare(version, T, D, precision, dtype):
    x, weight = case(T, D, dtype)
    y, = run_in_all_modes(lambda launcher: kernel.rms_norm(launcher, x, weight, 1e-5, precision, version))
    assert y.dtype == np.float32
    assert_close(y, rms_norm(round_to(x, precision), weight, 1e-5), 0.0, tolerance(precision), f"rms_norm {version}")


@needs_compiler
@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
@pytest.mark.parametrize("precision, dtype", STORAGE)
@pytest.mark.parametrize("T, D", [(1, 1), (31, 48), (33, 50), (257, 7), (2, 520)])
def test_against_numpy(version, precision, dtype, T, D):
    compare(version, T, D, precision, dtype)


@needs_compiler
@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
@pytest.mark.parametrize("precision, dtype, D", [("float32", np.float32, 14336), ("bfloat16", BFLOAT16, 4096)])
def test_the_widths_of_the_released_models(version, precision, dtype, D):
    compare(version, 2, D, precision, dtype)


@needs_compiler
@pytest.mark.parametrize("precision, dtype", STORAGE)
@pytest.mark.parametrize("T, D", [(1, 50), (33, 48)])
def test_with_the_residual(precision, dtype, T, D):
    x, weight = case(T, D, dtype)
    y = case(T + 1, D)[0][:T]
    total, normed = run_in_all_modes(lambda launcher: kernel.add_rms_norm(launcher, x, y, weight, 1e-5, precision))
    expected = round_to(round_to(x, precision) + round_to(y, precision), precision)
    assert_close(total, expected, 0.0, name="sum")
    assert_close(normed, rms_norm(expected, weight, 1e-5), 0.0, tolerance(precision), "normed")


@needs_compiler
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_unaligned_arrays_give_the_same_bits(version):
    x, weight = case(3, 48)
    pairs = (x, weight), (off_by_one(x), weight), (x, off_by_one(weight))
    aligned, *others = (run_in_all_modes(lambda launcher, a=a, b=b: kernel.rms_norm(launcher, a, b, 1e-5, "float32",
                                                                                    version))[0] for a, b in pairs)
    for other in others:
        assert_close(other, aligned, 0.0)


@needs_compiler
@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
def test_epsilon_is_inside_the_root(version, scale):
    x, weight = case(5, 48, scale=scale)
    y, = run_in_all_modes(lambda launcher: kernel.rms_norm(launcher, x, weight, 1e-5, version=version))
    assert_close(y, rms_norm(x, weight, 1e-5), 0.0, FLOAT32)


@needs_compiler
def test_without_tokens_the_sum_is_empty_too():
    x, weight = case(0, 48)
    assert [y.shape for y in kernel.add_rms_norm(Emulator(), x, x, weight, 1e-5)] == [(0, 48), (0, 48)]


@needs_compiler
def test_slices_and_half_precision_weights_are_converted():
    x, weight = case(4, 96, np.float16)
    y, = run_in_all_modes(lambda launcher: kernel.rms_norm(launcher, x[:, ::2], weight[::2], 1e-5))
    assert_close(y, rms_norm(x[:, ::2], weight[::2], 1e-5), 0.0, FLOAT32)


@pytest.mark.parametrize("width", [4, 8])
def test_registers_hold_every_row(width):
    for D in [*range(1, 3000), 4096, 5120, 14336, kernel.V3_LIMIT]:
        threads, chunks = kernel.registers(D, width)
        assert threads % 32 == 0 and threads <= 1024 and chunks * width <= 16 and threads * chunks * width >= D
        assert threads <= kernel.V3_THREADS or chunks * width == 16


def test_refuses():
    x, weight = case(2, 4)
    for bad in (np.ones(3, np.float32), np.ones((4, 1), np.float32)):
        with pytest.raises(ValueError, match="rms_norm expects"):
            kernel.rms_norm(None, x, bad, 1e-5)
    with pytest.raises(ValueError, match="one shape"):
        kernel.add_rms_norm(None, x, x[:1], weight, 1e-5)
    with pytest.raises(ValueError, match="The precision is"):
        kernel.rms_norm(None, x, weight, 1e-5, "float16")
    wide, row = np.zeros((1, kernel.V3_LIMIT + 1), np.float32), np.ones(kernel.V3_LIMIT + 1, np.float32)
    message = 'at most 16,384 columns; got 16,385. Use version "v2"'
    with pytest.raises(ValueError, match=message):
        kernel.rms_norm(None, wide, row, 1e-5)
    with pytest.raises(ValueError, match=message):
        kernel.add_rms_norm(None, wide, wide, row, 1e-5)


@needs_compiler
def test_refuses_unknown_versions():
    x, weight = case(2, 4)
    with pytest.raises(ValueError, match="v1, v2 and v3; got 'v4'"):
        run_in_all_modes(lambda launcher: kernel.rms_norm(launcher, x, weight, 1e-5, version="v4"))


def test_floor():
    """One token of 4,096 columns in bfloat16: 8 KiB in, 8 KiB of weights, 8 KiB out; with the residual twice more."""
    assert kernel.floor(1, 4096, "bfloat16", 2) == (3 * 8192, 4 * 4096)
    assert kernel.floor(1, 4096, "bfloat16", 2, residual=True) == (5 * 8192, 5 * 4096)
