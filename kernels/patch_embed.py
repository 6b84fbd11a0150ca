"""Patch embedding on the device: the host side of `patch_embed.cu`, whose product is that of `linear.py`.

The NumPy functions are `patches` and `patch_embed` of `tiny/patch_embed.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels import linear
from kernels.storage import STORES, stored, to_store, to_weight, type_defines, wide
from tiny.numerics import need
from tiny.patch_embed import check_patch_embed

FILE, VERSIONS, THREADS = "patch_embed.cu", ("v1", "v2"), 128


def patch_embed(launcher: Any, images: Sequence[np.ndarray], weight: np.ndarray, precision: str = "float32",
                version: str = "v2") -> np.ndarray:
    """Embed the patches of all images, packed one image after the other.

    Shapes:  images n x (C, h p, w p), weight (D, C, p, p) -> (N, D); N = the sum of all h w, C = channels
    Dtypes:  images float32, weight float32, bfloat16 or float16 -> float32
    Raises:  ValueError as the NumPy function, or for another version
    Source:  tiny/patch_embed.py
    """
    check_patch_embed(images, weight, precision)
    placed = [launcher.put(to_store(image, precision)) for image in images]
    return run_patch_embed(launcher, placed, to_weight(weight), version).astype(np.float32, copy=False)


def run_patch_embed(launcher: Any, images: Sequence[Any], weight: Any, version: str = VERSIONS[-1],
                    scale: Any = None) -> Any:
    """`patch_embed` of images and weights on the device, as the kernels read them; weights may be int8.

    Shapes:  images n x (C, h p, w p), weight (D, C, p, p), scale (D,) -> (N, D)
    Dtypes:  images float32 or bfloat16; weight float32, bfloat16, or int8 with a scale of float32 -> as the images
    Raises:  ValueError for no images, one of another rank, dtype or sizes, another version, or int8 in version 1
    """
    if version not in VERSIONS:
        raise ValueError(f"patch_embed has the versions v1 and v2; got {version!r}.")
    if scale is not None and version == "v1":
        raise ValueError("patch_embed v1 reads no int8 weights; use v2.")
    (D, C, p, _), counts = weight.shape, [patches_of(image, weight) for image in images]
    if not counts:
        raise ValueError("patch_embed expects at least one image; got none.")
    columns = D if version == "v1" else C * p * p
    out = launcher.empty((sum(counts), columns), images[0].dtype)
    units = D if version == "v1" else C * p * -(-p // wide(out))
    first = 0
    for image, count in zip(images, counts):
        sizes = [np.int32(size) for size in (first, C, *image.shape[1:], p)]
        arrays, tail = ([image, weight, out], [np.int32(D)]) if version == "v1" else ([image, out], [])
        launcher.launch(FILE, f"patch_embed_{version}", (count, -(-units // THREADS)), (THREADS,),
                        [*arrays, *sizes, *tail], defines=type_defines(out, out if scale is not None else weight))
        first += count
    return out if version == "v1" else linear.run_linear(launcher, out, weight, scale)


def patches_of(image: Any, weight: Any) -> int:
    """How many patches an image has. Shapes:  image (C, H, W), weight (D, C, p, p)."""
    need("patch_embed", "images", image, ("C", "H", "W"), None, stored("bfloat16"))
    (C, height, width), p = image.shape, weight.shape[-1]
    if C != weight.shape[1] or weight.shape[2] != p or height % p or width % p or not height * width:
        raise ValueError(f"patch_embed expects images (C, h p, w p) and a weight (D, C, p, p); got {image.shape} and "
                         f"{weight.shape}.")
    return (height // p) * (width // p)


def floor(N: int, C: int, p: int, D: int, precision: str = "float32", weight_bytes: int = 4) -> tuple[int, int]:
    """Bytes that must move and floating-point operations: pixels and weights in, vectors out."""
    numbers = N * (C * p * p + D)
    return numbers * STORES[precision].itemsize + D * C * p * p * weight_bytes, 2 * N * C * p * p * D
