"""Patch embedding: an image becomes a row of tokens, one for each square of pixels.

A convolution whose stride is its kernel never overlaps, so it is a reshape and a product. Read `rope_2d.py` next.

>>> pixels = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
>>> patches(pixels, 2)[:, 0]
array([ 0.,  2.,  8., 10.], dtype=float32)
"""

from collections.abc import Sequence

import numpy as np

from tiny.numerics import STORED, check_precision, linear, need, round_to


def grid_of(pixels: np.ndarray, patch_size: int) -> tuple[int, int]:
    """How many patches an image has: (columns, rows). Shapes:  pixels (C, H, W), C = channels, W = width."""
    return pixels.shape[2] // patch_size, pixels.shape[1] // patch_size


def patches(pixels: np.ndarray, patch_size: int) -> np.ndarray:
    """Cut one image into squares, row by row, each flattened in the order channel, row, column.

    Shapes:  pixels (C, h p, w p), C = channels -> (h w, C p p)
    Dtypes:  any -> same
    Raises:  ValueError if there are not three axes, or a side is not a multiple of the patch size p, or is zero
    """
    if pixels.ndim != 3 or patch_size < 1:
        raise ValueError(f"patches expects pixels (C, H, W) and a patch size of at least 1; got {pixels.shape} and "
                         f"{patch_size}.")
    (C, height, width), p = pixels.shape, patch_size
    if height % p or width % p or not height * width:
        raise ValueError(f"patches expects sides that are multiples of {p}; got {width} x {height}. "
                         "Prepare images with tiny.preprocess.")
    # (1) split both sides in two axes, (2) rows and columns of the grid come first, (3) one vector for each square
    return pixels.reshape(C, height // p, p, width // p, p).transpose(1, 3, 0, 2, 4).reshape(-1, C * p * p)


def patch_embed(images: Sequence[np.ndarray], weight: np.ndarray, precision: str = "float32") -> np.ndarray:
    """Embed the patches of all images, packed one image after the other.

    Shapes:  images n x (C, h p, w p), weight (D, C, p, p) -> (N, D); N = the sum of all h w, C = channels
    Dtypes:  images float32; weight float32, bfloat16 or float16 -> float32
    Raises:  ValueError for another dtype, rank or precision, no images, patches that are not square, or an image of
             other channels or with sides that are no multiples of p
    Source:  arXiv:2010.11929 eq. 1 (without its positions); mistral-inference vision_encoder.py, patch_conv: no bias
    """
    check_patch_embed(images, weight, precision)
    # (1) every square as one vector, (2) one product for all of them
    x = np.concatenate([patches(pixels, weight.shape[-1]) for pixels in images])
    return linear(round_to(x, precision), weight.reshape(len(weight), -1), precision)


def check_patch_embed(images: Sequence[np.ndarray], weight: np.ndarray, precision: str) -> None:
    """The guard of `patch_embed`. Shapes:  images n x (C, H, W), C = channels, W = width; weight (D, C, p, p)."""
    need("patch_embed", "weight", weight, ("D", "C", "p", "p"), STORED)
    check_precision(precision)
    if weight.shape[2] != weight.shape[3] or not len(images):
        raise ValueError(f"patch_embed expects at least one image and square patches; got {len(images)} images and "
                         f"weight {weight.shape}.")
    for pixels in images:
        need("patch_embed", "images", pixels, ("C", "H", "W"))
        if len(pixels) != weight.shape[1]:
            raise ValueError(f"patch_embed expects images of {weight.shape[1]} channels; got {pixels.shape}.")
