"""Patches and their embedding, against a convolution written in loops."""

import ml_dtypes
import numpy as np
import pytest
import reference
from compare import assert_close
from small import random_images
from tolerances import OPS

from tiny.numerics import round_to
from tiny.patch_embed import patch_embed, patches

RNG = np.random.default_rng(6)
GRIDS = [(1, 1), (3, 2), (1, 5), (64, 1), (2, 3)]


def weights(width, patch_size, dtype=np.float32):
    shape = (width, 3, patch_size, patch_size)
    return (RNG.standard_normal(shape) * (3 * patch_size**2) ** -0.5).astype(dtype)


@pytest.mark.parametrize("patch_size", [1, 4, 7])
@pytest.mark.parametrize("columns, rows", GRIDS)
def test_patches(columns, rows, patch_size):
    (pixels,), p = random_images((columns, rows), patch_size=patch_size), patch_size
    cut = patches(pixels, p)
    assert cut.shape == (columns * rows, 3 * p * p) and cut.dtype == np.float32
    for n, vector in enumerate(cut):
        row, column = divmod(n, columns)
        values = [pixels[c, row * p + i, column * p + j] for c in range(3) for i in range(p) for j in range(p)]
        assert vector.tolist() == values, f"patch {n}"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("patch_size", [4, 16])
def test_against_a_convolution_in_loops(patch_size, dtype):
    images, weight = random_images(*GRIDS, patch_size=patch_size), weights(10, patch_size, dtype)
    before = [pixels.copy() for pixels in images]
    x = patch_embed(images, weight)
    assert x.dtype == np.float32 and x.shape == (1 + 6 + 5 + 64 + 6, 10)
    expected = [row for pixels in images for row in reference.embed_patches(pixels, weight.astype(float))[0]]
    assert_close(x, expected, OPS["patch_embed"], name="patch_embed")
    for pixels, old in zip(images, before):
        assert_close(pixels, old, 0.0, name="the pixels are left alone")


def test_pixels_are_rounded_like_everything_else():
    images, weight = random_images((3, 2), (1, 1)), weights(10, 4, ml_dtypes.bfloat16)
    rounded = [round_to(pixels, "bfloat16") for pixels in images]
    assert np.abs(rounded[0] - images[0]).max() > 1e-3
    x = patch_embed(images, weight, "bfloat16")
    assert_close(x, round_to(patch_embed(rounded, weight), "bfloat16"), 0.0)


@pytest.mark.parametrize("shape", [(3, 10, 8), (3, 8, 10), (3, 0, 8), (3, 8, 0), (3, 3, 8)])
def test_refuses(shape):
    with pytest.raises(ValueError, match="patches expects sides that are multiples of 4.*tiny.preprocess"):
        patches(np.zeros(shape, np.float32), 4)
