"""The linear map of many tokens as kernels, through the emulator, against NumPy: tiles, stages, and what may follow."""

import numpy as np
import pytest
from compare import Different, assert_close
from emulator_case import Shifted, needs_compiler, run_in_all_modes

from kernels import linear as kernel
from kernels.cases import kernels_of
from kernels.emulator import Report
from kernels.launch import Emulator, Launcher
from kernels.signature import HERE
from tests.kernels.test_kernels_linear import BF16, FLOAT, TOLERANCE, case
from tiny.numerics import gelu

INT8 = np.dtype(np.int8)
# Version, precision, type of weights: all that each takes.
FORMS = [*(("v4", precision, dtype) for precision in ("float32", "bfloat16") for dtype in (FLOAT, BF16, INT8)),
         ("v5", "bfloat16", BF16), ("v5", "bfloat16", INT8)]
# T, D, N: more than a tile each way, and more steps than stages; ragged ones; fewer columns than one stage has.
CASES = [(150, 136, 270), (17, 33, 70), (70, 100, 132), (129, 16, 1), (5, 7, 3)]


@needs_compiler
@pytest.mark.parametrize("version, precision, dtype", FORMS)
def test_against_numpy(version, precision, dtype):
    launcher = Emulator()
    for sizes in CASES:
        x, weight, scale, expected = case(*sizes, precision, dtype)
        y = kernel.linear(launcher, x, weight, precision, version, scale)
        assert y.dtype == np.float32
        assert_close(y, expected, TOLERANCE[precision], name=f"linear {sizes}")


@needs_compiler
@pytest.mark.parametrize("version, precision, dtype", [FORMS[0], *FORMS[-2:]])
def test_all_modes_give_equal_bits(version, precision, dtype):
    for sizes in (*CASES[:2], CASES[3]):
        x, weight, scale, _ = case(*sizes, precision, dtype)
        run_in_all_modes(lambda launcher: kernel.linear(launcher, x, weight, precision, version, scale))  # noqa: B023


def all_of_it(launcher, sizes, version, precision, dtype, **changes):
    """linear with bias, GELU and residual, and what NumPy gives for it."""
    x, weight, scale, expected = case(*sizes, precision, dtype)
    bias, residual = case(1, 8, sizes[2], seed=1)[1][:, 0].copy(), case(sizes[0], sizes[2], 1, precision, seed=2)[0]
    bias = bias.astype(BF16).astype(np.float32) if precision == "bfloat16" else bias
    given = {"scale": scale, "bias": bias, "gelu": True, "residual": residual, **changes}
    y = kernel.linear(launcher, x, weight, precision, version, **given)
    return y, residual + gelu(expected + bias)


@needs_compiler
@pytest.mark.parametrize("version, precision, dtype", [FORMS[0], FORMS[2], *FORMS[-2:]])
@pytest.mark.parametrize("sizes", [(40, 64, 20), (19, 48, 37)])
def test_what_follows_the_product(version, precision, dtype, sizes):
    y, expected = run_in_all_modes(lambda launcher: all_of_it(launcher, sizes, version, precision, dtype))
    assert_close(y, expected, TOLERANCE[precision], name="all of it")


@needs_compiler
@pytest.mark.parametrize("version, precision, dtype", [FORMS[0], *FORMS[-2:]])
def test_a_token_has_the_same_bits_in_every_prompt(version, precision, dtype):
    launcher = Emulator()
    x, weight, scale, _ = case(150, 72, 40, precision, dtype)
    together = kernel.linear(launcher, x, weight, precision, version, scale)
    for tokens in (slice(0, 17), slice(100, 150), slice(149, 150)):
        y = kernel.linear(launcher, x[tokens], weight, precision, version, scale)
        assert_close(y, together[tokens], 0.0, name=f"tokens {tokens}")


@needs_compiler
@pytest.mark.parametrize("version, precision, dtype", [FORMS[0], *FORMS[-2:]])
def test_arrays_that_begin_between_sixteen_bytes(version, precision, dtype):
    """Rows of whole 16 bytes at an odd address are read number by number, and give the same numbers."""
    x, weight, scale, expected = case(20, 64, 24, precision, dtype)

    y = kernel.linear(Shifted(check=True), x, weight, precision, version, scale)
    assert_close(y, expected, TOLERANCE[precision], name="shifted")


@needs_compiler
@pytest.mark.parametrize("dtype", [BF16, INT8])
def test_blocks_with_twice_the_rows_give_the_same_bits(monkeypatch, dtype):
    """A large prompt gets them, here also a small one."""
    for sizes in ((150, 136, 270), (17, 33, 70)):
        x, weight, scale, _ = case(*sizes, "bfloat16", dtype)
        expected = kernel.linear(Emulator(), x, weight, "bfloat16", "v5", scale)
        with monkeypatch.context() as patch:
            patch.setattr(kernel, "tile_rows", lambda tiles, N: 256)
            y = run_in_all_modes(lambda launcher: kernel.linear(
                launcher, x, weight, "bfloat16", "v5", scale))[0]  # noqa: B023
        assert_close(y, expected, 0.0, name=f"linear {sizes}")


def test_rows_of_a_block():
    """Mixtral's queries, keys and values: many tokens leave blocks enough; the shared memory is that of the source."""
    assert [kernel.tile_rows(-(-T // 128), 6144) for T in (128, 512, 600, 2048)] == [128, 128, 256, 256]
    assert [kernel.stages_bytes(rows) for rows in (128, 256)] == [48 << 10, 72 << 10]


class Named(Launcher):
    """A launcher that launches nothing and keeps the names of the kernels."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def empty(self, shape, dtype):
        return np.zeros(shape, dtype)

    def launch(self, file, kernel, *args, **options):
        self.names.append(kernel)


def test_tokens_and_types_choose_the_version():
    chosen = {}
    for T in (1, 16, 17):
        for precision, dtype in (("float32", FLOAT), ("bfloat16", FLOAT), ("bfloat16", BF16), ("bfloat16", INT8)):
            launcher, (x, weight, scale, _) = Named(), case(T, 8, 4, precision, dtype)
            kernel.linear(launcher, x, weight, precision, scale=scale)
            chosen[T, precision, dtype.name], = launcher.names
    assert {names for (T, *_), names in chosen.items() if T <= 16} == {"linear_v3"}
    assert [name for (T, *_), name in chosen.items() if T == 17] == ["linear_v4"] * 2 + ["linear_v5"] * 2
    assert kernels_of(kernel.PROMPT_FILE) == [f"linear_{version}" for version in kernel.PROMPT_VERSIONS]


# ---- mistakes

def check_host(launcher, version, **changes):
    """Small cases that wrong kernels, or wrong arguments, cannot pass."""
    for precision, dtype in (("bfloat16", BF16), ("bfloat16", INT8)):
        for sizes in ((140, 136, 36), (19, 33, 70)):
            y, expected = all_of_it(launcher, sizes, version, precision, dtype, **changes)
            assert_close(y, expected, TOLERANCE[precision], name=f"all of it {sizes}")


SOURCE_MISTAKES = {
    "a stage is not waited for": ("cp_async_wait<STAGES - 2>", "cp_async_wait<STAGES - 1>", "v5"),
    "a stage is overwritten while it is read": ("next = STAGES - 1;", "next = STAGES - 2;", "v5"),
    "no barrier before a stage is read": (
        "    __syncthreads();              // and those of all", "    // those of all", "v5"),
    "parts of a row in another order": ("place_of(row + 16 * n, 2 * k", "place_of(row + 16 * n + 2, 2 * k", "v5"),
    "columns behind the last": ("int there = row(j) < rows ? D - k - column() : 0", "int there = WIDE<S>", "v5"),
    "whole numbers without their sign": (" ^ 0x80808080u", "", "v5"),
    "the scale of the next rows": ("load_some(scale + row", "load_some(scale + row / 2", "v5"),
    "the residual of the first token": ("load_some(residual + place", "load_some(residual + row", "v5"),
    "a half of the tokens is left out": ("threadIdx.x / 32 / (ROWS / SHARE) * SHARE", "0 * SHARE", "v5"),
    "a tile is overwritten while it is read": ("    __syncthreads();  // the last tile has been read\n", "", "v4"),
    "columns of the next row": ("there = D - k - part * 4;", "there = 4;", "v4"),
    "one token twice": ("threadIdx.x / 16 + 16 * i, row =", "threadIdx.x / 16 + 16 * (i | 1), row =", "v4")}


QUICK = "a stage is not waited for"  # the others are for .ci/run


@needs_compiler
@pytest.mark.parametrize("mistake", [pytest.param(name, marks=[] if name == QUICK else pytest.mark.thorough)
                                     for name in SOURCE_MISTAKES])
def test_mistakes_in_the_source_are_refused(mistake, tmp_path, monkeypatch):
    """A kernel with one of them, in a folder of its own, against the same comparison, in checked mode."""
    right, spoilt, version = SOURCE_MISTAKES[mistake]
    found = 0
    for file in ("linear_prompt.cu", "epilogue.cuh", "tile.cuh", "numbers.cuh", "ptx.cuh"):
        text = (HERE / file).read_text(encoding="utf-8")
        found += text.count(right)
        (tmp_path / file).write_text(text.replace(right, spoilt), encoding="utf-8")
    assert found == 1
    monkeypatch.setattr(kernel, "PROMPT_FILE", str(tmp_path / "linear_prompt.cu"))
    with pytest.raises((Different, Report)):
        check_host(Emulator(check=True), version)


@needs_compiler
@pytest.mark.parametrize("change", [{"residual": None}, {"gelu": False}, {"bias": None}])
def test_what_is_left_out_is_missed(change):
    check_host(Emulator(), "v5")
    with pytest.raises(Different):
        check_host(Emulator(), "v5", **change)
