"""A picture of what the model sees: each image after resizing, cut into patches, and the tokens at the ends of rows."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tiny.image import MEAN, STD
from tiny.tools.prompt_images import Picture

DPI = 100
ENDS = {"[IMG_BREAK]": "0.78", "[IMG_END]": "0.35"}  # greys of the tokens beside a row


def levels(pixels: np.ndarray) -> np.ndarray:
    """Undo the normalisation of an image: levels from 0 to 1, clipped, because cubics overshoot.

    Shapes:  (3, H, W) -> (H, W, 3)
    """
    scaled = pixels.transpose(1, 2, 0) * np.array(STD, np.float32) + np.array(MEAN, np.float32)
    return np.clip(scaled, 0, 1)


def patch_figure(images: Sequence[np.ndarray], pictures: Sequence[Picture]):
    """A panel for each preprocessed image: its pixels, the lines between patches, and a mark for each row's last token.

    A patch is as large in one image as in another.

    Shapes:  images n x (3, H, W), of n pictures
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    across = math.ceil(len(pictures) ** 0.5)
    side = (8 if across == 1 else 5) / max(max(p.columns + 1, p.rows) for p in pictures)  # inches of a patch
    wide = max(3.6, side * max(p.columns + 1 for p in pictures) + 0.6)
    lines = [pictures[start : start + across] for start in range(0, len(pictures), across)]
    heights = [side * max(p.rows for p in line) + 0.9 for line in lines]
    width, height = wide * across, sum(heights) + 0.3
    figure = Figure(figsize=(width, height), dpi=DPI)
    for n, (pixels, picture) in enumerate(zip(images, pictures)):
        columns, rows = picture.columns + 1, picture.rows
        left, top = wide * (n % across) + 0.4, sum(heights[: n // across]) + 0.8
        box = left / width, 1 - (top + rows * side) / height, columns * side / width, rows * side / height
        draw_patches(figure.add_axes(box), levels(pixels), picture, side)
    marks = [Patch(facecolor=grey, edgecolor="black", linewidth=0.5, label=name) for name, grey in ENDS.items()]
    figure.legend(handles=marks, loc="lower center", ncols=2, fontsize=8, frameon=False, borderpad=0)
    return figure


def draw_patches(panel, image: np.ndarray, picture: Picture, side: float) -> None:
    """Draw one image, its patches `side` inches wide, with lines in white on black so that they show on any colour.

    Shapes:  image (H, W, 3)
    """
    columns, rows = picture.columns, picture.rows
    panel.imshow(image, extent=(0, columns, rows, 0), interpolation="nearest", aspect="auto")
    weight = min(1.0, 4 * side)
    step = 2 ** max(0, math.ceil(math.log2(0.2 / side)))  # patches from number to number
    for color, linewidth in (("black", 1.6 * weight), ("white", 0.8 * weight)):
        panel.hlines(range(rows + 1), 0, columns, color=color, linewidth=linewidth, clip_on=False)
        panel.vlines(range(columns + 1), 0, rows, color=color, linewidth=linewidth, clip_on=False)
    greys = [*[ENDS["[IMG_BREAK]"]] * (rows - 1), ENDS["[IMG_END]"]]
    panel.barh(np.arange(rows) + 0.5, 0.6, 0.8, columns + 0.25, color=greys, edgecolor="black",
               linewidth=0.5 * weight)
    for axis, count in ((panel.xaxis, columns), (panel.yaxis, rows)):
        axis.set_ticks(np.arange(0, count, step) + 0.5, range(0, count, step), fontsize=8)
    panel.set(xlim=(0, columns + 1), ylim=(rows, 0))
    panel.xaxis.tick_top()
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    wide, high = picture.size
    name = Path(picture.path).name[-40:]
    panel.set_title(f"{name}: {picture.width} x {picture.height} pixels, here {wide} x {high}\n{columns} x {rows} "
                    f"patches of {picture.patch_size} pixels, {picture.tokens:,} tokens", fontsize=9, loc="left")
