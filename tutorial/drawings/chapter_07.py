"""Chapter 7: a picture as a run of tokens, what cutting it does to the numbers, and what squeezing it would do."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import tiny
from tiny.image import resize_cubic
from tiny.patch_embed import grid_of, patches
from tiny.tools.demo import STORED
from tiny.tools.plots.patches import levels
from tutorial.drawings import PAPER

PRINT = "IN SMALL PRINT: milk 0.89, bread 2.49, two lemons 0.70, total 4.08"
SQUARE, PATCH = 224, 16  # the side of the square that encoders of one size take, and the patch of Pixtral 12B


def draw() -> dict:
    """The pictures of the chapter."""
    return {"image_tokens": token_picture(), "patch_vectors": vector_picture(), "native_resolution": print_picture()}


def token_picture():
    """A stored drawing under its grid, each patch with the place of its token, and the whole run below."""
    from matplotlib.figure import Figure

    model = tiny.load("tiny-pixtral")
    ids, pixels = model.tokenizer.encode_image(STORED / "picture1.png")
    columns, rows = grid_of(pixels, model.config.vision.patch_size)
    names = model.tokenizer.pieces(ids)
    figure = Figure(figsize=(9, 6.6), facecolor=PAPER)
    panel = figure.add_axes((0.03, 0.33, 0.94, 0.6))
    panel.imshow(levels(pixels), extent=(0, columns, rows, 0), interpolation="nearest")
    panel.hlines(range(rows + 1), 0, columns, color="white", linewidth=1.2, clip_on=False)
    panel.vlines(range(columns + 1), 0, rows, color="white", linewidth=1.2, clip_on=False)
    for place, name in enumerate(names):
        row, column = divmod(place, columns + 1)
        if name == "[IMG]":
            outlined(panel.text(column + 0.5, row + 0.5, place, fontsize=10, ha="center", va="center"))
        else:
            mark(panel, columns + 0.15, row + 0.15, 1.9, 0.7, name)
            outlined(panel.text(columns + 1.1, row + 0.5, f"{name}  {place}", fontsize=9, ha="center", va="center"))
    panel.set(xlim=(-0.1, columns + 2.2), ylim=(rows + 0.1, -0.1))
    panel.axis("off")
    high, wide = pixels.shape[1:]
    figure.text(0.03, 0.955, f"{wide} x {high} pixels, {columns} x {rows} patches: {columns * rows} [IMG] + {rows - 1} "
                             f"[IMG_BREAK] + 1 [IMG_END] = {len(ids)} tokens. Numbers: places in the run.",
                fontsize=10)
    draw_run(figure, ids, names, pixels, (columns, rows))
    return figure


def draw_run(figure, ids, names, pixels, grid) -> None:
    """The tokens in the order of reading, in lines of whole rows, each with its id. Shapes:  pixels (3, H, W)."""
    columns, rows = grid
    side, C = pixels.shape[2] // columns, len(pixels)
    squares = iter(levels(square) for square in patches(pixels, side).reshape(-1, C, side, side))
    lines, length = 2, len(ids) // 2
    panel = figure.add_axes((0.03, 0.015, 0.94, 0.27))
    for place, (id, name) in enumerate(zip(ids, names)):
        line, left = divmod(place, length)
        top = 2.0 * line
        if name == "[IMG]":
            panel.imshow(next(squares), extent=(left, left + 0.92, top + 0.92, top), interpolation="nearest")
        else:
            mark(panel, left, top, 0.92, 0.92, name)
        panel.text(left + 0.46, top + 1.3, id, fontsize=8, ha="center", va="center")
    panel.set(xlim=(-0.1, length + 0.1), ylim=(2.0 * lines, -0.7), aspect="auto")
    panel.text(0, -0.4, "The same tokens as the decoder reads them, row after row; below each its id.", fontsize=10)
    panel.axis("off")


def mark(panel, left, top, width, height, name) -> None:
    """The box of a token that is no patch: light with lines for a break, dark with crosses for the end."""
    from matplotlib.patches import Rectangle

    shade, hatch = ("0.88", "///") if name == "[IMG_BREAK]" else ("0.62", "xxx")
    panel.add_patch(Rectangle((left, top), width, height, facecolor=shade, edgecolor="0.35", hatch=hatch))


def outlined(text) -> None:
    """Black letters that can be read on any ground."""
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def vector_picture():
    """Two channels of 4 x 6 numbers, and the six vectors that `patches` makes of them."""
    from matplotlib.figure import Figure

    C, h, w, p = 2, 2, 3, 2
    pixels = np.arange(C * h * p * w * p).reshape(C, h * p, w * p)
    vectors, chosen = patches(pixels, p), 1
    figure = Figure(figsize=(9, 3.6), facecolor=PAPER)
    for channel in range(C):
        panel = figure.add_axes((0.02 + 0.22 * channel, 0.1, 0.2, 0.7))
        cells(panel, pixels[channel],
              lambda row, column, channel=channel: (channel, row // p == 0 and column // p == chosen))
        panel.hlines(range(0, h * p + 1, p), 0, w * p, color="black", linewidth=2.2, clip_on=False)
        panel.vlines(range(0, w * p + 1, p), 0, h * p, color="black", linewidth=2.2, clip_on=False)
        panel.set_title(f"channel {channel}", fontsize=10)
    panel = figure.add_axes((0.535, 0.1, 0.45, 0.7))
    cells(panel, vectors, lambda row, column: (column // (p * p), row == chosen))
    for row in range(h * w):
        panel.text(-0.15, row + 0.5, f"square {row}", fontsize=9, ha="right", va="center")
    for channel in range(C):
        panel.text((channel + 0.5) * p * p, -0.25, f"channel {channel}", fontsize=10, ha="center", va="bottom")
    panel.axhline(chosen, color="black", linewidth=2.2)
    panel.axhline(chosen + 1, color="black", linewidth=2.2)
    figure.text(0.02, 0.93, f"pixels {pixels.shape}, patches of {p} x {p}", fontsize=11)
    figure.text(0.535, 0.93, f"patches(pixels, {p}) {vectors.shape}", fontsize=11)
    return figure


def cells(panel, numbers, kind) -> None:
    """A table of numbers; kind(row, column) gives the channel, told by hatches, and whether a cell stands out.

    Shapes:  numbers (rows, columns)
    """
    from matplotlib.patches import Rectangle

    for (row, column), number in np.ndenumerate(numbers):
        channel, chosen = kind(row, column)
        panel.add_patch(Rectangle((column, row), 1, 1, facecolor="0.75" if chosen else "white", edgecolor="0.8",
                                  hatch="...." if channel else None, linewidth=0.8))
        outlined(panel.text(column + 0.5, row + 0.5, number, fontsize=10, ha="center", va="center"))
    rows, columns = numbers.shape
    panel.set(xlim=(0, columns), ylim=(rows, 0))
    panel.axis("off")


def small_print() -> Image.Image:
    """A line of text as an image, as wide as it is."""
    import matplotlib

    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 15)
    width = int(font.getlength(PRINT)) + 20
    image = Image.new("RGB", (width, 3 * PATCH), "white")
    ImageDraw.Draw(image).text((10, 15), PRINT, fill="black", font=font)
    return image


def print_picture():
    """A line of small print in its own shape, and squeezed into a square."""
    from matplotlib.figure import Figure

    image = small_print()
    own = tiny.preprocess(image, PATCH)
    columns, rows = grid_of(own, PATCH)
    squeezed = np.clip(resize_cubic(np.asarray(image), SQUARE, SQUARE) / 255, 0, 1)
    figure = Figure(figsize=(9, 4.7), facecolor=PAPER)
    for box, shown, (across, down), words in (
            ((0.02, 0.78, 0.96, 0.13), levels(own), (columns, rows),
             f"In its own shape: {image.width} x {image.height} pixels become {columns} x {rows} patches."),
            ((0.02, 0.02, 0.96, 0.64), squeezed, (SQUARE // PATCH, SQUARE // PATCH),
             f"Squeezed into {SQUARE} x {SQUARE} pixels: {(SQUARE // PATCH)**2} patches; letters run together.")):
        panel = figure.add_axes(box)
        panel.imshow(shown, extent=(0, across, down, 0), interpolation="nearest")
        panel.hlines(range(down + 1), 0, across, color="0.6", linewidth=0.5, clip_on=False)
        panel.vlines(range(across + 1), 0, down, color="0.6", linewidth=0.5, clip_on=False)
        panel.set(anchor="W")
        panel.axis("off")
        figure.text(0.02, box[1] + box[3] + 0.02, words, fontsize=10.5)
    figure.text(0.39, 0.34, f"across: {image.width} pixels to {SQUARE}\ndown: {image.height} pixels to {SQUARE}",
                fontsize=10.5, va="center", linespacing=1.6)
    return figure
