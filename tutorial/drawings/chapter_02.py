"""Chapter 2: the residual stream of one layer, the size of vectors over all layers, and the curve of the gate."""

from itertools import pairwise

import numpy as np

import tiny
from tiny.numerics import gelu, silu
from tiny.rms_norm import rms_norm
from tutorial.drawings import PAPER

LINE = "Once there was a brave girl named Zoe who lived in a small house."
SHOWN, LAYER = 3, 1  # the token whose way through a layer is drawn, and the layer


def size(x: np.ndarray) -> np.ndarray:
    """The root mean square of each row. Shapes:  x (T, D) -> (T,)."""
    return np.sqrt(np.mean(np.float64(x) ** 2, axis=-1))


def streams(model) -> tuple[list[str], list[np.ndarray], list[str]]:
    """The residual stream before the first layer and after each half of a layer: where, its rows, and the tokens.

    Shapes:  rows (T, D)
    """
    ids, trace = [model.tokenizer.bos_id, *model.tokenizer.encode(LINE)], {}
    model(ids, trace=trace)
    names, rows = ["embed"], [trace["embed"]]
    for layer in range(model.config.n_layers):
        names += [f"+ attention {layer}", f"+ experts {layer}"]
        rows += [rows[-1] + trace[f"attn{layer:02}"], trace[f"layer{layer:02}"]]
    return names, rows, model.tokenizer.pieces(ids)


def normed(model, rows: list[np.ndarray]) -> list[np.ndarray]:
    """What each half of a layer, and the output, gets: the stream through its RMSNorm. Shapes:  (T, D) each."""
    layers = range(model.config.n_layers)
    names = [f"layers.{layer}.{half}_norm.weight" for layer in layers for half in ("attention", "ffn")]
    return [rms_norm(x, model.weights[name], model.config.norm_eps) for x, name in zip(rows, [*names, "norm.weight"])]


def frame_picture(model):
    """One layer as it is: the stream from left to right, and two branches that read it and add to it, with sizes."""
    from matplotlib.figure import Figure

    _, rows, pieces = streams(model)
    first = 2 * LAYER
    before, middle, after = (size(x)[SHOWN] for x in rows[first : first + 3])
    read = [size(x)[SHOWN] for x in normed(model, rows)[first : first + 2]]
    said = [size(b - a)[SHOWN] for a, b in pairwise(rows[first : first + 3])]
    figure = Figure(figsize=(9.6, 3.7), facecolor=PAPER)
    panel = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    panel.annotate("", (20.4, 0), (0, 0), arrowprops={"arrowstyle": "-|>", "linewidth": 3, "color": "black"})
    for left, size_read, size_said, name in ((2.2, read[0], said[0], "attention"), (11.4, read[1], said[1], "experts")):
        corner = {"arrowstyle": "-|>", "color": "0.25", "linewidth": 1.4}
        panel.plot([left, left, left + 0.6], [0, 2, 2], color="0.25", linewidth=1.4)
        box(panel, left + 0.6, "RMSNorm", "0.86")
        panel.annotate("", (left + 4.2, 2), (left + 2.9, 2), arrowprops=corner)
        panel.text(left + 3.5, 2.35, f"{size_read:.2f}", fontsize=10, ha="center")
        box(panel, left + 4.2, name, "white")
        panel.plot([left + 6.5, left + 7.2], [2, 2], color="0.25", linewidth=1.4)
        panel.annotate("", (left + 7.2, 0.3), (left + 7.2, 2.03), arrowprops=corner)
        panel.text(left + 7.0, 1.2, f"{size_said:.2f}", fontsize=10, ha="right")
        panel.text(left + 7.2, 0, "+", fontsize=15, ha="center", va="center",
                   bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "black"})
    for place, value in ((0.9, before), (10.3, middle), (19.3, after)):
        panel.text(place, -0.55, f"{value:.2f}", fontsize=11, ha="center", va="center", weight="bold")
    panel.text(0, -1.25, f"Numbers: root mean square of the vector of \u201c{pieces[SHOWN]}\u201d in layer {LAYER} of "
                         f"tiny-mixtral. Bold: the residual stream.", fontsize=10)
    panel.set(xlim=(-0.2, 20.6), ylim=(-1.6, 3.1))
    panel.axis("off")
    return figure


def box(panel, left: float, name: str, shade: str) -> None:
    """A box of one operation."""
    from matplotlib.patches import Rectangle

    panel.add_patch(Rectangle((left, 1.5), 2.3, 1, facecolor=shade, edgecolor="0.2"))
    panel.text(left + 1.15, 2, name, fontsize=10.5, ha="center", va="center")


def sizes_picture(model):
    """Sizes of all tokens along the layers: of the stream, and of what the layers read."""
    from matplotlib.figure import Figure

    names, rows, pieces = streams(model)
    figure = Figure(figsize=(9.6, 4.6), facecolor=PAPER, layout="constrained")
    halves = [f"{half} {layer}" for layer in range(model.config.n_layers) for half in ("attention", "experts")]
    for panel, found, title, labels in zip(
            figure.subplots(1, 2, sharey=True), (rows, normed(model, rows)),
            ("the residual stream", "the same after RMSNorm"), (names, [*halves, "output"])):
        of_tokens = np.stack([size(x) for x in found], axis=1)
        for n, line in enumerate(of_tokens):
            begin = n == 0
            panel.plot(line, color="black" if begin else "0.55", linewidth=2.2 if begin else 1,
                       marker="s" if begin else None, markersize=5, linestyle="-" if begin else "--")
        place, above = (4, 1.15) if found is rows else (2, 0.85)
        panel.text(place, of_tokens[0, place] * above, pieces[0], fontsize=10.5, weight="bold", ha="center",
                   va="bottom" if found is rows else "top")
        panel.set(yscale="log", title=title, ylim=(0.05, 20),
                  xlabel="what was added last" if found is rows else "what reads it")
        panel.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8.5)
        panel.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
        panel.minorticks_off()
        panel.title.set_fontsize(11)
        panel.set_facecolor("white")
        panel.grid(axis="y", color="0.88")
    figure.axes[0].text(5.4, 0.15, f"dashed: the other {len(pieces) - 1} tokens", fontsize=9.5, ha="center")
    figure.axes[0].set_ylabel("root mean square of a token's vector")
    return figure


def gate_picture():
    """SiLU beside its relatives."""
    from matplotlib.figure import Figure

    x = np.linspace(-5, 3, 401, dtype=np.float32)
    figure = Figure(figsize=(7.2, 3.8), facecolor=PAPER, layout="constrained")
    panel = figure.subplots()
    for name, y, line, place in (("SiLU: x times sigmoid(x)", silu(x), "-", (-4.6, -0.4)),
                                 ("GELU", gelu(x), "--", (-1.62, 0.12)),
                                 ("ReLU: max(x, 0)", np.maximum(x, 0), ":", (-4.9, 0.12))):
        panel.plot(x, y, line, color="black", linewidth=2.2 if line == "-" else 1.6)
        panel.text(*place, name, fontsize=10)
    lowest = x[np.argmin(silu(x))]
    panel.plot(lowest, silu(x).min(), "o", color="black")
    panel.annotate(f"lowest: {silu(x).min():.3f} at {lowest:.2f}", (lowest, silu(x).min()), (-0.9, -0.85), fontsize=9.5,
                   arrowprops={"arrowstyle": "-", "color": "0.4"})
    panel.set(xlabel="x, a number of the gate w1 x", ylabel="what it multiplies w3 x by", ylim=(-1.1, 2.6),
              xlim=(-5, 3))
    panel.grid(color="0.9")
    panel.set_facecolor("white")
    return figure


def draw() -> dict:
    """The pictures of the chapter."""
    model = tiny.load("tiny-mixtral")
    return {"frame_of_a_layer": frame_picture(model), "sizes_over_layers": sizes_picture(model),
            "gate_curve": gate_picture()}
