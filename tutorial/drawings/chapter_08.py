"""The pictures of chapter 8: the angles of patches in two dimensions, and who sees whom among two images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

import tiny
from tiny.config import VisionConfig
from tiny.patch_embed import grid_of
from tiny.rope import rope, rope_table
from tiny.rope_2d import patch_positions, rope_2d_table
from tiny.tools.looking import image_weights
from tiny.tools.plots.patches import levels
from tiny.training.images import scenes
from tutorial.drawings import PAPER

COLUMNS, ROWS, HEAD, THETA = 5, 4, 8, 16.0  # of the grid whose angles are drawn: few pairs, and round frequencies
SIZES = ((24, 16), (16, 24))  # of two small images, in pixels
LAYER, SHOWN = 0, 2  # whose weights are drawn, and the head


def two_images(vision: VisionConfig) -> list[np.ndarray]:
    """Two small drawings of unequal size, one shape each. Shapes:  -> 2 x (3, H, W)."""
    rng = np.random.default_rng(8)
    return [tiny.preprocess(Image.fromarray(image), vision.patch_size, vision.max_image_size)
            for size in SIZES for image in scenes.draw(rng, "objects1", *size).images]


def angles_picture():
    """A panel for each pair of a head: the grid of patches, in each a hand turned by the patch's angle."""
    from matplotlib.figure import Figure

    cos, sin = rope_2d_table(patch_positions([(COLUMNS, ROWS)]), HEAD, THETA)
    figure = Figure(figsize=(9.6, 6.4), facecolor=PAPER, layout="constrained")
    for pair, panel in enumerate(figure.subplots(2, 2).flat):
        of_rows = pair < HEAD // 4
        number = 2 * pair if of_rows else 2 * pair - HEAD // 2 + 1
        for n, (row, column) in enumerate(patch_positions([(COLUMNS, ROWS)])):
            shade = row if of_rows else column  # Patches with the same angle have the same grey.
            panel.add_patch(cell(column, row, 1 - 0.11 * shade))
            x, y = column + 0.5, row + 0.5
            panel.annotate("", (x + 0.36 * cos[n, pair], y - 0.36 * sin[n, pair]), (x, y),
                           arrowprops={"arrowstyle": "-|>", "linewidth": 2, "color": "black", "shrinkA": 0})
            angle = shade * THETA ** (-2 * number / HEAD)
            panel.text(x, row + 0.87, f"{angle:g}", ha="center", va="center", fontsize=9)
        panel.set(xlim=(0, COLUMNS), ylim=(ROWS, 0), aspect="equal", xlabel="column", ylabel="row")
        panel.set_xticks(np.arange(COLUMNS) + 0.5, range(COLUMNS))
        panel.set_yticks(np.arange(ROWS) + 0.5, range(ROWS))
        panel.tick_params(length=0)
        panel.set_title(f"pair {pair} turns with the {'row' if of_rows else 'column'}: "
                        f"{'row' if of_rows else 'column'} \u00d7 {THETA ** (-2 * number / HEAD):g}", fontsize=11)
    return figure


def cell(column: float, row: float, grey: float):
    """A square of a grid, with a thin edge."""
    from matplotlib.patches import Rectangle

    return Rectangle((column, row), 1, 1, facecolor=(grey,) * 3, edgecolor="0.45", linewidth=0.6)


def mask_picture(model):
    """Two images with numbered patches; the weights of one head of the encoder with the mask between images, and
    without it.
    """
    from matplotlib.figure import Figure

    images, trace = two_images(model.config.vision), {}
    grids = [grid_of(image, model.config.vision.patch_size) for image in images]
    ids = [token for columns, rows in grids for token in model.tokenizer.image_tokens(columns, rows)]
    model([model.tokenizer.bos_id, *ids], images, trace=trace)
    q, k = (trace[f"vision_{name}{LAYER:02}"][:, SHOWN] for name in "qk")
    lengths = [columns * rows for columns, rows in grids]
    figure = Figure(figsize=(10.4, 4.7), facecolor=PAPER, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(0.42, 1, 1))
    draw_numbered(left, images, grids)
    for panel, title, parts in ((middle, "with the mask between images", lengths),
                                (right, "the mask forgotten", [sum(lengths)])):
        draw_weights(panel, image_weights(q, k, parts), parts, image_weights(q, k, lengths).max())
        panel.set_title(title, fontsize=11)
        for edge in np.cumsum(lengths)[:-1] - 0.5:
            panel.axhline(edge, color="black", linewidth=1.6)
            panel.axvline(edge, color="black", linewidth=1.6)
    return figure


def draw_numbered(panel, images: Sequence[np.ndarray], grids: Sequence[tuple[int, int]]) -> None:
    """Draw images one below the other, each patch with its number among all. Shapes:  images n x (3, H, W)."""
    top, number = 0, 0
    for image, (columns, rows) in zip(images, grids):
        panel.imshow(levels(image), extent=(0, columns, top + rows, top), interpolation="nearest")
        for row in range(rows):
            for column in range(columns):
                panel.add_patch(cell(column, top + row, 1))
                panel.patches[-1].set(facecolor="none")
                panel.text(column + 0.05, top + row + 0.07, str(number), fontsize=9, ha="left", va="top",
                           bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
                number += 1
        top += rows + 0.5
    panel.set(xlim=(-0.1, max(columns for columns, _ in grids) + 0.1), ylim=(top - 0.4, -0.1))
    panel.axis("off")


def draw_weights(panel, weights: np.ndarray, lengths: Sequence[int], top: float) -> None:
    """Draw a table of weights, brightest at `top`; what may not be seen is hatched. Shapes:  weights (N, N)."""
    N, starts = len(weights), np.cumsum([0, *lengths])
    panel.set_facecolor("0.94")
    panel.fill_between([-0.5, N - 0.5], -0.5, N - 0.5, facecolor="none", edgecolor="0.7", hatch="///", linewidth=0)
    for first, last in zip(starts, starts[1:]):
        block = weights[first:last, first:last]
        panel.imshow(block, extent=(first - 0.5, last - 0.5, last - 0.5, first - 0.5), cmap="cividis", vmin=0, vmax=top,
                     zorder=1)
    for (row, column), weight in np.ndenumerate(weights):
        if weight > 0:
            panel.text(column, row, f"{100 * weight:.0f}", ha="center", va="center", fontsize=7.5, zorder=2,
                       color="black" if weight > 0.55 * top else "white")
    panel.set(xlim=(-0.5, N - 0.5), ylim=(N - 0.5, -0.5), xticks=range(N), yticks=range(N), xlabel="patch that is seen",
              ylabel="patch that looks")
    panel.tick_params(length=0, labelsize=8)


def scores_picture(columns: int = 9, rows: int = 7, head_dim: int = 64, theta: float = 1e4):
    """For the notebook: the score of the patch in the middle of a grid with every patch, numbered along the rows and
    in two dimensions. All numbers of queries and keys are 1; the score of a patch with itself counts 100.
    """
    from matplotlib.figure import Figure

    ones, middle = np.ones((rows * columns, 1, head_dim), np.float32), rows // 2 * columns + columns // 2
    tables = {"one dimension: numbered along the rows": rope_table(np.arange(rows * columns), head_dim, theta),
              "two dimensions: row and column": rope_2d_table(patch_positions([(columns, rows)]), head_dim, theta)}
    figure = Figure(figsize=(9.6, 3.9), facecolor=PAPER, layout="constrained")
    for panel, (title, (cos, sin)) in zip(figure.subplots(1, 2), tables.items()):
        turned = rope(ones, cos, sin)[:, 0]
        scores = (turned @ turned[middle] / head_dim).reshape(rows, columns)
        panel.imshow(scores, cmap="cividis", vmin=0.3, vmax=1)
        for (row, column), score in np.ndenumerate(scores):
            panel.text(column, row, f"{100 * score:.0f}", ha="center", va="center", fontsize=8,
                       color="black" if score > 0.68 else "white")
        panel.set(title=title, xlabel="column", ylabel="row", xticks=range(columns), yticks=range(rows))
        panel.title.set_fontsize(11)
    return figure


def draw() -> dict:
    """The pictures by name."""
    return {"rope_2d_angles": angles_picture(), "image_mask": mask_picture(tiny.load("tiny-pixtral"))}
