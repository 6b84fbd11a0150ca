"""Page 0: the way of a token through Mixtral and of an image through Pixtral, with the shape of every array."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tiny
from tiny.config import Config
from tiny.patch_embed import grid_of
from tiny.tools.demo import STORED
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B
from tutorial.drawings import PAPER

PROMPT = "Once there was a"
LAYER, PLAIN = "0.9", "white"
BESIDE = "keys, and values"  # made of the same as the box above it, not of that box


class Step(NamedTuple):
    """A box: what happens, the array that comes out in letters and in numbers for a model, the chapter that has it."""

    name: str
    letters: str
    shape: Callable[[Config, Any], tuple]
    chapter: str = ""
    shade: str = PLAIN


# T: how many tokens there are.
TOKEN = [
    Step("text to ids", "T", lambda c, T: (T,), "1"),
    Step("look up embeddings", "T, D", lambda c, T: (T, c.dim), "2"),
    Step("RMSNorm", "T, D", lambda c, T: (T, c.dim), "2", LAYER),
    Step("queries", "T, H, d", lambda c, T: (T, c.n_heads, c.head_dim), "3", LAYER),
    Step(BESIDE, "T, G, d", lambda c, T: (T, c.n_kv_heads, c.head_dim), "3", LAYER),
    Step("turn queries and keys", "as they were", lambda c, T: (), "4", LAYER),
    Step("attention", "T, H, d", lambda c, T: (T, c.n_heads, c.head_dim), "3", LAYER),
    Step("back to D, add", "T, D", lambda c, T: (T, c.dim), "3", LAYER),
    Step("RMSNorm", "T, D", lambda c, T: (T, c.dim), "2", LAYER),
    Step("router: scores", "T, E", lambda c, T: (T, c.moe.num_experts), "5", LAYER),
    Step("chosen experts", "T, K", lambda c, T: (T, c.moe.num_experts_per_tok), "5", LAYER),
    Step("inside an expert", "rows, F", lambda c, T: ("rows", c.hidden_dim), "5", LAYER),
    Step("back to D, weigh, add", "T, D", lambda c, T: (T, c.dim), "5", LAYER),
    Step("RMSNorm", "T, D", lambda c, T: (T, c.dim), "2"),
    Step("scores of all tokens", "T, V", lambda c, T: (T, c.vocab_size), "6"),
    Step("draw one from the last row", "1 id", lambda c, T: (1,), "6"),
]


# g: columns and rows of patches.
IMAGE = [
    Step("resize, normalise", "3, height, width",
         lambda c, g: (3, g[1] * c.vision.patch_size, g[0] * c.vision.patch_size), "7"),
    Step("patches", "N, 3 p p", lambda c, g: (g[0] * g[1], 3 * c.vision.patch_size**2), "7"),
    Step("one product, RMSNorm", "N, width", lambda c, g: (g[0] * g[1], c.vision.hidden_size), "7"),
    Step("attention of all patches", "N, width", lambda c, g: (g[0] * g[1], c.vision.hidden_size), "8", LAYER),
    Step("feed-forward network", "N, width", lambda c, g: (g[0] * g[1], c.vision.hidden_size), "8", LAYER),
    Step("adapter", "N, D", lambda c, g: (g[0] * g[1], c.dim), "9"),
    Step("tokens, with breaks", "T, D", lambda c, g: ((g[0] + 1) * g[1], c.dim), "9"),
]


def draw() -> dict:
    """The pictures of the page."""
    mixtral, pixtral = tiny.load("tiny-mixtral"), tiny.load("tiny-pixtral")
    T = 1 + len(mixtral.tokenizer.encode(PROMPT))
    image = pixtral.tokenizer.encode_image(STORED / "picture1.png")[1]
    largest = PIXTRAL_12B.vision.max_image_size
    return {
        "one_token": ladder(TOKEN, f"“{PROMPT}”: {T} tokens with <s>", {"tiny-mixtral": (mixtral.config, T),
                                                                       "Mixtral 8x7B": (MIXTRAL_8X7B, T)}),
        "one_image": ladder(IMAGE, "a picture of its own size", {
            "tiny-pixtral": (pixtral.config, grid_of(image, pixtral.config.vision.patch_size)),
            "Pixtral 12B, at most": (PIXTRAL_12B, tiny.image_grid(largest, largest))})}


def ladder(steps, start, models):
    """A column of boxes from top to bottom, and beside it the shapes in letters and for both models."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(9.2, 0.36 * len(steps) + 1.2), facecolor=PAPER)
    panel = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    left, *columns = 0.55, 3.75, 5.5, 7.2
    panel.text(left, -0.4, start, fontsize=10, va="center")
    for place, title in zip(columns, ("shape", *models)):
        panel.text(place, -0.4, title, fontsize=10.5, va="center", weight="bold")
    shaded = [n for n, step in enumerate(steps) if step.shade != PLAIN]
    panel.add_patch(Rectangle((0.05, shaded[0] + 0.02), 9.1, shaded[-1] - shaded[0] + 0.98, facecolor="none",
                              edgecolor="0.3", linestyle="--"))
    for n, step in enumerate(steps):
        panel.add_patch(Rectangle((left, n + 0.14), 2.9, 0.72, facecolor=step.shade, edgecolor="0.25"))
        panel.text(left + 0.12, n + 0.5, step.name, fontsize=9.5, va="center")
        panel.text(left + 2.8, n + 0.5, step.chapter, fontsize=8, va="center", ha="right", color="0.35")
        if step.name != BESIDE:
            panel.annotate("", (left + 1.2, n + 0.14), (left + 1.2, n - 0.14),
                           arrowprops={"arrowstyle": "-|>", "color": "0.25"})
        panel.text(columns[0], n + 0.5, step.letters, fontsize=9.5, va="center", style="italic")
        for place, (config, size) in zip(columns[1:], models.values()):
            shape = ", ".join(f"{x:,}" if isinstance(x, int) else x for x in step.shape(config, size))
            panel.text(place, n + 0.5, shape, fontsize=9.5, va="center")
    past = shaded[0]
    for n, step in enumerate(steps):
        if step.name.endswith("add"):  # what goes past the boxes, and is added to
            panel.plot([left + 1.0, 0.3, 0.3, left], [past, past, n + 0.5, n + 0.5], color="0.25", linewidth=1.4)
            panel.plot([left], [n + 0.5], marker=">", color="0.25", markersize=6)
            past = n + 1
    times = " and ".join(f"{layers_of(config)} in {name.partition(',')[0]}" for name, (config, _) in models.items())
    panel.text(left, len(steps) + 0.3, f"Dashed: one layer; there are {times}. The small number: the chapter.",
               fontsize=9.5, va="center")
    panel.set(xlim=(0, 9.2), ylim=(len(steps) + 0.8, -0.9))
    panel.axis("off")
    return figure


def layers_of(config: Config) -> int:
    """How many times the shaded boxes are run through: those of the encoder, if there is one."""
    return config.vision.num_hidden_layers if config.vision else config.n_layers
