"""From a picture to the numbers that the vision encoder reads: colours, size, resampling, normalisation.

A picture keeps its own size and shape. It is shrunk only if a side is longer than `max_image_size`, and both sides
are then stretched to the next multiple of `patch_size`. The two references disagree about how, so there are two
styles: "mistral" is mistral-common 1.13.1, which came with the model, and "hf" is the Pillow image processor of
transformers 5.23 (PixtralImageProcessorPil; the one for torchvision differs from it by one level of 255 at most).

    style      shrunk side                  resampling
    mistral    rounded, at least 1          cubic with a = -0.75 on floats: 4 taps, no antialiasing, not clipped
    hf         rounded down, can become 0   Pillow's cubic with a = -0.5 on bytes: antialiased, rounded, clipped

What becomes of files, transparent parts, deep greys and pictures that a camera turned is in `system/pictures.py`. Read
`patch_embed.py` next.

>>> image_grid(1920, 1080)
(64, 36)
"""

from pathlib import Path

import numpy as np
from PIL import Image

from tiny.config import TinyError
from tiny.numerics import FLOAT32, need
from tiny.system.pictures import MAX_PIXELS, check_style, levels_of, open_image, too_large

# Of red, green and blue on a scale from 0 to 1. Source: mistral-common 1.13.1 image.py, DATASET_MEAN and DATASET_STD
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def image_grid(width: int, height: int, patch_size: int = 16, max_image_size: int = 1024,
               style: str = "mistral") -> tuple[int, int]:
    """How many patches a picture of width x height pixels becomes: (columns, rows).

    In style "hf" a side can shrink to nothing, as in 2048 x 1, and the grid then has 0 rows or columns. `preprocess`
    refuses such a picture, as the HF processor does.

    Raises:  TinyError for an unknown style, or sizes that are not whole numbers from 1 to 2^31
    Source:  mistral-common 1.13.1 image.py, _image_to_num_tokens; transformers 5.23, get_resize_output_image_size
    Differs: mistral-common up to 1.11.7 let a rounded side become 0
    """
    check_style(style)
    for size in (width, height, patch_size, max_image_size):
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or not 1 <= size <= 2**31:
            raise TinyError(f"A picture of {width} x {height}, patches of {patch_size}, sides up to {max_image_size}.",
                            "All sizes must be whole numbers of at least 1.")
    width, height, patch_size, max_image_size = map(int, (width, height, patch_size, max_image_size))
    # (1) shrink so that the longer side fits; Python rounds halves to the even neighbour
    ratio = max(height / max_image_size, width / max_image_size)
    if ratio > 1 and style == "mistral":
        width, height = max(round(width / ratio), 1), max(round(height / ratio), 1)
    elif ratio > 1:
        width, height = int(width / ratio), int(height / ratio)
    # (2) patches that cover this, the last ones perhaps in part
    return (width - 1) // patch_size + 1, (height - 1) // patch_size + 1


def preprocess(image: str | Path | Image.Image, patch_size: int = 16, max_image_size: int = 1024,
               style: str = "mistral") -> np.ndarray:
    """Return the pixels of a picture as the vision encoder takes them.

    One resize leads from the original to the size of the grid, which distorts the shape a little.

    Shapes:  -> (3, H, W), H = rows * patch_size, W = columns * patch_size; channels red, green, blue
    Dtypes:  float32, in "mistral" also beyond the values of black and white, because cubics overshoot
    Order:   to RGB on white, resize, divide by 255, subtract MEAN, divide by STD
    Raises:  TinyError as `open_image` and `image_grid` do, or if nothing is left of a side
    Source:  mistral-common 1.13.1 image.py, transform_image; transformers 5.23, image_processing_pil_pixtral.py
    """
    rgb = open_image(image, style)
    columns, rows = image_grid(rgb.width, rgb.height, patch_size, max_image_size, style)
    if not columns or not rows:
        raise TinyError(f"In style {style!r} nothing is left of one side of {rgb.width} x {rgb.height} pixels.",
                        "Use style='mistral', which keeps a pixel, or a picture that is less narrow.")
    width, height = columns * patch_size, rows * patch_size
    if width * height > MAX_PIXELS:
        raise too_large(f"Patches of {patch_size} and sides up to {max_image_size} give {width} x {height} =")
    rgb = rgb.resize((width, height), Image.Resampling.BICUBIC) if style == "hf" else rgb
    return normalise(resize_cubic(levels_of(rgb), height, width))  # which leaves what has this size as it is


def resize_cubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by cubic convolution over 4 x 4 pixels, however much the picture shrinks.

    Only the pixels that count are gathered, tap by tap, so that memory grows with the result, not with the original.

    Shapes:  pixels (y, x, 3) -> (height, width, 3)
    Dtypes:  uint8 or float32 -> float32, not rounded and not clipped
    Order:   in each of 4 rows 4 columns, left to right, then the 4 rows, from the top
    Raises:  ValueError for another dtype or rank
    Source:  OpenCV 5.0 resize, INTER_CUBIC on float32, as mistral-common calls it; on x86 it hands pictures of at
             least 4 x 4 pixels to Intel's library, which has coordinates in float64, and has float32 itself
    Differs: from OpenCV without Intel's library, by up to 0.01 levels of 255 on a side of 1,500
    """
    need("resize_cubic", "pixels", pixels, ("y", "x", "3"), (np.dtype(np.uint8), FLOAT32))
    if pixels.shape[:2] == (height, width):
        return pixels.astype(np.float32)
    dtype = np.dtype(np.float64 if min(pixels.shape[:2]) >= 4 else np.float32)
    rows, row_weights = cubic_taps(pixels.shape[0], height, dtype)
    columns, column_weights = cubic_taps(pixels.shape[1], width, dtype)
    out = np.zeros((height, width, 3), np.float32)
    for row, row_weight in zip(rows, row_weights):
        line = np.zeros_like(out)
        for column, column_weight in zip(columns, column_weights):
            line += pixels[row[:, None], column] * column_weight[:, None]
        out += line * row_weight[:, None, None]
    return out


def cubic_taps(source: int, target: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Which 4 of `source` pixels on a line make each of `target` pixels, and with what weights.

    Shapes:  -> indices (4, target), weights (4, target)
    Dtypes:  coordinates and weights in dtype, weights rounded to float32 at the end
    Source:  Keys 1981, eq. 4, with a = -0.75; beyond the border its pixel is repeated
    """
    # (1) where the centre of each target pixel is, and the last source pixel at or before it
    x = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(dtype)
    first = np.floor(x)
    t = x - first
    # (2) the cubic at the distances 1 + t, t, 1 - t and 2 - t
    a, far, near = -0.75, 1 + t, 1 - t
    w0 = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    w1 = ((a + 2) * t - (a + 3)) * t * t + 1
    w2 = ((a + 2) * near - (a + 3)) * near * near + 1
    weights = np.stack([w0, w1, w2, 1 - w0 - w1 - w2])
    # (3) one pixel before, two after, held within the line
    return np.clip(first.astype(np.int64) + np.arange(-1, 3)[:, None], 0, source - 1), weights.astype(np.float32)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """Bring levels of 0 to 255 to mean 0 and deviation 1 of the training pictures, channels first.

    Shapes:  (H, W, 3) -> (3, H, W), H = height, W = width
    Dtypes:  float32 -> float32, each step rounded
    Raises:  ValueError for another dtype or rank
    """
    need("normalise", "pixels", pixels, ("H", "W", "3"))
    # planes first, because NumPy is slow where the last axis has 3 numbers
    planes = np.divide(pixels.transpose(2, 0, 1), np.float32(255), order="C")
    planes -= np.array(MEAN, np.float32)[:, None, None]
    return np.divide(planes, np.array(STD, np.float32)[:, None, None], out=planes)
