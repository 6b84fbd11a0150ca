"""What comes before and behind the vision encoder, as kernels through the emulator, against NumPy."""

import ml_dtypes
import numpy as np
import pytest
from compare import Different, assert_close
from emulator_case import needs_compiler, run_in_all_modes

from kernels import adapter, linear, patch_embed
from kernels.cases import kernels_of
from kernels.cases.tokens import named
from kernels.int8 import linear_int8, quantise_rows
from kernels.launch import Emulator
from kernels.signature import HERE
from tests.kernels.test_kernels_experts import Profiler
from tiny.adapter import adapter as book_adapter
from tiny.numerics import round_to
from tiny.patch_embed import patch_embed as book_patch_embed
from tiny.patch_embed import patches

STORES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
# Measured over the cases below: 2.4e-6 in float32, and 0.011 with bfloat16: half a unit of the last of its 8 bits, of
# numbers up to 4, once for a vector of a patch and twice on the way through the adapter.
TOLERANCE = {"float32": 4e-6, "bfloat16": 0.02}
# Columns and rows of each image; channels, pixels of a side of a patch, width of a vector.
CASES = [([(2, 3), (1, 2)], 3, 16, 20), ([(3, 2)], 1, 5, 33), ([(1, 1), (2, 1), (1, 4)], 2, 4, 5), ([(7, 3)], 3, 2, 9)]


def case(grids, C, p, D, precision="float32", dtype=np.float32):
    """Images whose pixels the precision can store, and weights."""
    rng = np.random.default_rng([C, p, D])
    images = [round_to(rng.standard_normal((C, rows * p, columns * p)).astype(np.float32), precision)
              for columns, rows in grids]
    return images, (rng.standard_normal((D, C, p, p)) / np.sqrt(C * p * p)).astype(dtype)


@needs_compiler
@pytest.mark.parametrize("version", patch_embed.VERSIONS)
@pytest.mark.parametrize("precision", STORES)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_patches(version, precision, dtype):
    for sizes in CASES if precision == "bfloat16" else CASES[:2]:
        images, weight = case(*sizes, precision, dtype)
        found = patch_embed.patch_embed(Emulator(), images, weight, precision, version)
        expected = book_patch_embed(images, weight)
        assert found.dtype == np.float32
        assert_close(found, expected, TOLERANCE[precision], name=f"patch_embed {sizes}")


@needs_compiler
@pytest.mark.parametrize("version", patch_embed.VERSIONS)
def test_all_modes_give_equal_bits(version):
    for sizes in CASES[1:3]:
        images, weight = case(*sizes, "bfloat16", ml_dtypes.bfloat16)
        run_in_all_modes(lambda launcher: patch_embed.patch_embed(
            launcher, images, weight, "bfloat16", version))  # noqa: B023


@needs_compiler
def test_squares_become_rows_of_the_same_numbers(monkeypatch):
    """Version 2 without its product: nothing but rounding to the storage."""
    monkeypatch.setattr(linear, "run_linear", lambda launcher, x, weight, scale: x)
    for dtype in STORES.values():
        for sizes in CASES:
            images, weight = case(*sizes)
            x = patch_embed.run_patch_embed(Emulator(check=True), [image.astype(dtype) for image in images], weight)
            expected = np.concatenate([patches(image, sizes[2]) for image in images]).astype(dtype)
            assert_close(x, expected, 0, name=f"squares {sizes}")


@needs_compiler
def test_whole_weights():
    """int8 with a scale for each row of the product."""
    images, weight = case(*CASES[0])
    whole, scale = quantise_rows(weight.reshape(len(weight), -1))
    found = patch_embed.run_patch_embed(Emulator(), images, whole.reshape(weight.shape), scale=scale)
    x = np.concatenate([patches(image, 16) for image in images])
    assert_close(found, linear_int8(x, whole, scale), TOLERANCE["float32"], name="int8")


def weights_of(hidden, D, dtype=np.float32):
    rng = np.random.default_rng([hidden, D])
    shapes = ((D, hidden), (D,), (D, D), (D,))
    return named(*((rng.standard_normal(shape) * shape[-1] ** -0.5).astype(dtype) for shape in shapes))


@needs_compiler
@pytest.mark.parametrize("precision", STORES)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("N, hidden, D", [(1, 64, 40), (5, 33, 70), (19, 24, 17)])
def test_the_adapter(precision, dtype, N, hidden, D):
    weights = weights_of(hidden, D, dtype)
    x = round_to(np.random.default_rng(N).standard_normal((N, hidden)).astype(np.float32), precision)
    found, = run_in_all_modes(lambda launcher: adapter.adapter(launcher, x, weights, precision))
    assert found.dtype == np.float32
    assert_close(found, book_adapter(x, weights), TOLERANCE[precision], name="adapter")


# ---- mistakes, costs, refusals

def check_squares():
    for version in patch_embed.VERSIONS:
        images, weight = case(*CASES[0])
        found = patch_embed.patch_embed(Emulator(), images, weight, version=version)
        assert_close(found, book_patch_embed(images, weight), TOLERANCE["float32"], name="patch_embed")


SOURCE_MISTAKES = {
    "rows and columns of the grid the other way round": (
        "patch / columns * p + row) * width + patch % columns", "patch % columns * p + row) * width + patch / columns"),
    "the second image over the first": ("((size_t)(first + patch) * C", "((size_t)patch * C"),
    "channels last": ("* C + c) * p + row) * p + column;", "* p + row) * C + c) * p + column;"),
    "the first channel for all": ("((size_t)c * height + patch", "((size_t)0 * height + patch"),
    "a patch of its neighbour's pixels": ("patch % columns * p + column;\n  size_t to",
                                          "patch % columns * p + column + 1;\n  size_t to")}


@needs_compiler
@pytest.mark.parametrize("mistake", SOURCE_MISTAKES)
def test_mistakes_in_the_source_are_refused(mistake, tmp_path, monkeypatch):
    right, spoilt = SOURCE_MISTAKES[mistake]
    text = (HERE / patch_embed.FILE).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (tmp_path / patch_embed.FILE).write_text(text.replace(right, spoilt), encoding="utf-8")
    monkeypatch.setattr(patch_embed, "FILE", str(tmp_path / patch_embed.FILE))
    with pytest.raises(Different):
        check_squares()


def wrong(**changes):
    """A product that leaves out or changes what follows it."""
    right = linear.run_linear
    return lambda launcher, x, weight, **tail: right(launcher, x, weight, **{**tail, **changes})


@needs_compiler
@pytest.mark.parametrize("mistake", [wrong(gelu=True), wrong(gelu=False), wrong(bias=None)],
                         ids=["GELU twice", "no GELU", "no bias"])
def test_mistakes_of_the_adapter_are_refused(mistake, monkeypatch):
    weights, x = weights_of(33, 70), np.random.default_rng(1).standard_normal((5, 33)).astype(np.float32)
    monkeypatch.setattr(linear, "run_linear", mistake)
    with pytest.raises(Different):
        found = adapter.adapter(Emulator(), x, weights)
        assert_close(found, book_adapter(x, weights), TOLERANCE["float32"], name="adapter")


@needs_compiler
def test_profile():
    """Pixels are read in whole sectors, and rows of 16 bytes are written."""
    profiler = Profiler()
    images, weight = case([(4, 2)], 3, 16, 8, "bfloat16", ml_dtypes.bfloat16)
    patch_embed.patch_embed(profiler, images, weight, "bfloat16")
    rows = [row for module in profiler.modules.values() for row in module.profile()
            if row.file.endswith("patch_embed.cu")]
    assert rows and all(row.efficiency == 1 and row.bytes == 16 for row in rows)


def test_the_kernels_are_those_of_the_versions():
    assert kernels_of(patch_embed.FILE) == ["patch_embed_v1", "patch_embed_v2"]


IMAGE, W = np.ones((3, 8, 4), np.float32), np.ones((5, 3, 4, 4), np.float32)


@pytest.mark.parametrize("call, words", [
    (lambda: patch_embed.patch_embed(None, [], W), "at least one image"),
    (lambda: patch_embed.run_patch_embed(None, [], W), "at least one image"),
    (lambda: patch_embed.run_patch_embed(None, [IMAGE[:2]], W), "got (2, 8, 4)"),
    (lambda: patch_embed.run_patch_embed(None, [IMAGE[:, :7]], W), "h p, w p"),
    (lambda: patch_embed.run_patch_embed(None, [IMAGE.astype(np.float64)], W), "images"),
    (lambda: patch_embed.run_patch_embed(None, [IMAGE], W, "v3"), "v1 and v2; got 'v3'"),
    (lambda: patch_embed.run_patch_embed(None, [IMAGE], W, "v1", scale=W[0, 0, 0]), "no int8"),
    (lambda: adapter.adapter(None, W[0, 0], weights_of(3, 4)), "adapter expects x"),
    (lambda: adapter.adapter(None, W[0, 0].astype(np.float64), weights_of(4, 4)), "adapter expects x"),
    (lambda: adapter.adapter(None, W[0, 0], weights_of(4, 4), "int8"), "'float32' or 'bfloat16'")])
def test_refuses(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert words in str(caught.value)


def test_floors():
    assert patch_embed.floor(6, 3, 4, 5, "bfloat16", 2) == (6 * (48 + 5) * 2 + 5 * 48 * 2, 2 * 6 * 48 * 5)
    assert adapter.floor(2, 3, 4, "bfloat16", 2) == ((6 + 24 + 8) * 2 + 7 * 4 * 2, 2 * 2 * 4 * 7)
