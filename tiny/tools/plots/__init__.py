"""Figures. Each function takes numbers and returns a Matplotlib figure; the caller saves it.

Brightness carries what colour does: cividis grows evenly brighter in print and for any colour vision, lines differ by
dashes and are labelled where they end, and an expert's colour has its number beside it.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiny.attention import attention
from tiny.config import TinyError
from tiny.rope import rope, rope_table
from tiny.system.whole import write_whole
from tiny.tokenizer import SPACE
from tiny.tools.terminal.coloured_text import COLOURS, digit

DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
FORMATS = (".png", ".pdf", ".svg")


def check_figure_name(path: str | Path) -> None:
    """Raise TinyError unless a figure can be written under this name."""
    if Path(path).suffix.lower() not in FORMATS:
        raise TinyError(f"The figure would be drawn to {path}.", f"Name a file {', '.join(FORMATS)}.")


def write_figure(path: str | Path, figure: Any, dpi: float | str = "figure") -> None:
    """Write a figure in the format that its name says, whole or not at all."""
    check_figure_name(path)
    write_whole(path, lambda file: figure.savefig(file, format=Path(path).suffix[1:].lower(), dpi=dpi))


def routing_heat_map(shares: Mapping[str, np.ndarray], title: str = "Which experts are chosen"):
    """A panel for each domain: layers downwards, experts across, the share of choices as brightness and number.

    All panels have one scale, marked where every expert would be chosen equally often.

    Shapes:  shares: domain -> (L, E), each row summing to 1
    """
    from matplotlib.figure import Figure

    layers, experts = next(iter(shares.values())).shape
    top = max(float(x.max()) for x in shares.values())
    height = min(9.0, max(3.0, 1.7 + 0.42 * layers))
    figure = Figure(figsize=(1.6 + 2.9 * len(shares), height), layout="constrained")
    panels = figure.subplots(1, len(shares), sharey=True, squeeze=False)[0]
    for panel, (domain, share) in zip(panels, shares.items()):
        image = panel.imshow(share, cmap="cividis", vmin=0, vmax=top, aspect="auto")
        panel.set_title(domain, fontsize=11)
        panel.set_xlabel("expert")
        panel.set_xticks(range(experts))
        if layers * experts <= 128:
            write_cells(panel, share, top)
    panels[0].set_ylabel("layer")
    panels[0].set_yticks(range(0, layers, 1 if layers <= 16 else 4))
    bar = figure.colorbar(image, ax=list(panels), fraction=0.03, label="share of choices")
    bar.ax.axhline(1 / experts, color="white", linewidth=2)
    bar.ax.axhline(1 / experts, color="black", linewidth=1, linestyle="--")
    figure.suptitle(f"{title} (per cent of all choices; equal shares are {100 / experts:g})", fontsize=12)
    return figure


def write_cells(panel, share: np.ndarray, top: float) -> None:
    """Write each share into its cell, dark on bright cells and bright on dark ones."""
    for (layer, expert), value in np.ndenumerate(share):
        panel.text(expert, layer, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                   color="black" if value > 0.55 * top else "white")


def repeated_choices(repeats: Mapping[str, tuple[np.ndarray, np.ndarray]], chance: tuple[float, float]):
    """Two panels, the same first choice and any choice in common: the part of consecutive tokens, layer by layer.

    A dotted line marks what random choices would give.

    Shapes:  repeats: text -> two of (L,), parts of 1
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    for side, (panel, title) in enumerate(zip(figure.subplots(1, 2), ("the same first choice", "a choice in common"))):
        panel.axhline(100 * chance[side], color="black", linewidth=1, linestyle=":", label="random")
        for n, (name, values) in enumerate(repeats.items()):
            panel.plot(100 * values[side], label=name, color=shade(n, len(repeats)),
                       linestyle=DASHES[n % len(DASHES)], marker="osD^v"[n % 5], markersize=4)
        panel.set(title=title, xlabel="layer", ylim=(0, None))
        panel.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].set_ylabel("consecutive tokens, per cent")
    figure.axes[1].legend(fontsize=8, loc="lower right")
    return figure


def shade(n: int, of: int) -> tuple:
    """One of several colours that differ in brightness; not the brightest of the map, because paper is white."""
    from matplotlib import colormaps

    return colormaps["cividis"](0.8 * n / max(1, of - 1))


def expert_colour(expert: int) -> tuple[float, float, float]:
    """An expert's colour on paper: the one that it has in a terminal, from the cube of 256 colours."""
    code = COLOURS[expert % len(COLOURS)]
    if code >= 232:
        return ((8 + 10 * (code - 232)) / 255,) * 3
    levels = (0, 95, 135, 175, 215, 255)
    red, green, blue = ((code - 16) // step % 6 for step in (36, 6, 1))
    return levels[red] / 255, levels[green] / 255, levels[blue] / 255


def tokens_by_expert(pieces: Sequence[str], choices: Mapping[str, np.ndarray], columns: int = 76):
    """A panel for each layer: the text, each token on the colour of its expert, with the expert's number below it.

    A token keeps the space before it; lines break at line ends and where the next token would not fit.

    Shapes:  choices: layer -> (T,) int, one expert for each of the T pieces
    """
    from matplotlib.figure import Figure

    cells = place_tokens(pieces, columns)
    rows = max(row for row, _, _ in cells) + 1
    figure = Figure(figsize=(0.085 * columns + 0.4, len(choices) * (0.36 * rows + 0.4)), layout="constrained")
    for panel, (title, experts) in zip(figure.subplots(len(choices), 1, squeeze=False)[:, 0], choices.items()):
        panel.set(xlim=(0, columns), ylim=(rows, 0))
        panel.set_title(title, fontsize=10, loc="left")
        panel.axis("off")
        draw_tokens(panel, cells, list(experts))
    return figure


def draw_tokens(panel, cells: Sequence[tuple[int, int, str]], experts: Sequence[int | None], size: float = 9) -> None:
    """Write placed tokens, each on the colour of its expert with the number below it; without an expert plain."""
    for (row, column, text), expert in zip(cells, experts):
        if expert is not None:
            panel.add_patch(rectangle(column, row, len(text), 0.62, expert_colour(int(expert))))
            panel.text(column + len(text) / 2, row + 0.8, digit(int(expert)), fontsize=size * 7 / 9, ha="center",
                       va="center")
        for n, character in enumerate(text):
            panel.text(column + n + 0.5, row + 0.33, character, fontsize=size, ha="center", va="center",
                       family="monospace", parse_math=False)


def place_tokens(pieces: Sequence[str], columns: int) -> list[tuple[int, int, str]]:
    """Row, column and shown text of each token on a page of this many columns; a line end is shown by its sign."""
    cells, row, column = [], 0, 0
    for piece in pieces:
        text = piece.replace(SPACE, " ").replace("\t", " ")
        end = text == "<0x0A>" or text.endswith("\n")
        text = "\u21b5" if end else text if text.isprintable() else "\u00b7"
        if column and column + len(text) > columns:
            row, column = row + 1, 0
        cells.append((row, column, text[:columns]))
        row, column = (row + 1, 0) if end else (row, column + len(text))
    return cells


def rectangle(column: float, row: float, width: float, height: float, colour):
    """A filled cell with a thin white edge, so that neighbours of one colour stay apart."""
    from matplotlib.patches import Rectangle

    return Rectangle((column, row), width, height, facecolor=colour, edgecolor="white", linewidth=1)


def attention_weights(q: np.ndarray, keys: np.ndarray, head: int) -> np.ndarray:
    """The weights by which one head averages its values, row by row.

    The book's `attention` gives answers, not weights. But if the values are unit vectors, the answers are the weights.

    Shapes:  q (T, H, d), keys (T, G, d) -> (T, T)
    """
    (T, H, d), G = q.shape, keys.shape[1]
    group, weights = head // (H // G), np.empty((T, T), np.float32)
    for first in range(0, T, d):
        units = np.eye(T, d, -first, dtype=np.float32)[:, None]
        answers = attention(q[:, [head]], keys[:, [group]], units, [T], [(0, T)])[:, 0]
        weights[:, first : first + d] = answers[:, : T - first]
    return weights


def attention_map(weights: np.ndarray, tokens: Sequence[str], title: str):
    """The weights of one head: a row for each query, a column for each key; what a query may not see is hatched.

    Shapes:  weights (T, T), rows summing to 1
    """
    from matplotlib.figure import Figure

    T = len(tokens)
    figure = Figure(figsize=(max(3.6, 1.5 + 0.3 * T), max(3.0, 1.1 + 0.28 * T)), layout="constrained")
    panel = figure.subplots()
    panel.set_facecolor("0.94")
    panel.fill_between([-0.5, T - 0.5], -0.5, T - 0.5, facecolor="none", edgecolor="0.75", hatch="///", linewidth=0,
                       zorder=0)
    seen = np.ma.masked_array(weights, np.triu(np.ones((T, T), bool), 1))
    image = panel.imshow(seen, cmap="cividis", vmin=0, vmax=1, aspect="auto", zorder=1)
    labels = [token.replace(SPACE, "\u00b7").replace("<0x0A>", "\u21b5") for token in tokens]
    panel.set_xticks(range(T), labels, rotation=90, fontsize=8, family="monospace", parse_math=False)
    panel.set_yticks(range(T), labels, fontsize=8, family="monospace", parse_math=False)
    panel.set(xlabel="key", ylabel="query")
    panel.set_title(title, fontsize=10)
    if T <= 24:
        for row, column in zip(*(indices.tolist() for indices in np.tril_indices(T))):
            if weights[row, column] >= 0.005:
                panel.text(column, row, f"{100 * weights[row, column]:.0f}", ha="center", va="center", fontsize=7,
                           color="black" if weights[row, column] > 0.55 else "white")
    figure.colorbar(image, fraction=0.04, label="weight (cells: per cent)")
    return figure


def rope_angles(head_dim: int, theta: float, positions: Sequence[int] = (1, 100, 10_000)):
    """Left: the first pairs as clocks, a hand for each of the positions 0 to 5. Right: every pair's angle at a few
    positions, against one full turn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = halves
    for pair, panel in enumerate(left.subplots(2, 4).ravel()[: head_dim // 2]):
        draw_clock(panel, pair, head_dim, theta)
    panel, pairs = right.subplots(), np.arange(head_dim // 2)
    panel.axhline(2 * math.pi, color="black", linewidth=1, linestyle=":")
    panel.text(pairs[-1], 2.6 * math.pi, "one full turn", fontsize=8, ha="right")
    for n, position in enumerate(positions):
        angles = position * theta ** (-2 * pairs / head_dim)
        panel.plot(pairs, angles, color=shade(n, len(positions)), linestyle=DASHES[n % len(DASHES)])
        middle = 2 * len(pairs) // 5
        panel.annotate(f"position {position:,}", (pairs[middle], angles[middle]), fontsize=8, va="bottom",
                       xytext=(3, 1), textcoords="offset points")
    panel.set(yscale="log", xlabel="pair", ylabel="angle in radians")
    return figure


def draw_clock(panel, pair: int, head_dim: int, theta: float) -> None:
    """The pair (1, 0), turned to the positions 0 to 5, with the position at the end of each hand."""
    positions = np.arange(6)
    cos, sin = rope_table(positions, head_dim, theta)
    x = np.zeros((6, 1, head_dim), np.float32)
    x[..., 0::2] = 1
    hands = rope(x, cos, sin)[:, 0, 2 * pair : 2 * pair + 2]
    panel.plot(np.cos(np.linspace(0, 7, 99)), np.sin(np.linspace(0, 7, 99)), color="0.8", linewidth=1)
    for position, (a, b) in zip(positions, hands):
        panel.plot([0, a], [0, b], color=shade(int(position), 6), linewidth=1.5)
        if np.linalg.norm(hands - [a, b], axis=1)[positions != position].min() > 0.25 or position in (0, 5):
            panel.text(1.22 * a, 1.22 * b, str(position), fontsize=7, ha="center", va="center")
    panel.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
    panel.set_title(f"pair {pair}", fontsize=8)
    panel.axis("off")


def rope_scores(head_dim: int, theta: float, T: int = 48) -> np.ndarray:
    """Scores of equal queries and keys, all ones before they are turned, relative to the score of a token with itself.

    Shapes:  -> (T, T) float32: query position downwards, key position across
    """
    turned = rope(np.ones((T, 1, head_dim), np.float32), *rope_table(np.arange(T), head_dim, theta))[:, 0]
    return turned @ turned.T / np.float32(head_dim)


def relative_score_map(head_dim: int, theta: float, T: int = 48):
    """Left: the score by both positions, which is the same along each diagonal. Right: the score by distance alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    scores = rope_scores(head_dim, theta, T)
    image = left.imshow(scores, cmap="cividis", vmin=float(scores.min()), vmax=1)
    left.set(xlabel="position of the key", ylabel="position of the query", title="score")
    figure.colorbar(image, ax=left, fraction=0.046)
    far = rope_scores(head_dim, theta, 8 * T)[:, 0]
    right.axhline(0, color="black", linewidth=1, linestyle=":")
    right.plot(far, color=shade(0, 2))
    right.set(xlabel="distance in tokens", title="score by distance", xlim=(0, len(far)))
    return figure


def kv_cache_bytes(bytes_per_token: Mapping[str, int], tokens: int):
    """Bytes of a KV cache as a text grows: one straight line for each way of keeping it, labelled at its end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    panel, kept = figure.subplots(), np.linspace(0, tokens, 9)
    for n, (name, size) in enumerate(bytes_per_token.items()):
        panel.plot(kept, kept * size / 2**30, color=shade(n, len(bytes_per_token)), linestyle=DASHES[n % len(DASHES)])
        panel.annotate(f"{name}\n{size / 1024:,.0f} KiB a token", (tokens, tokens * size / 2**30), fontsize=8,
                       xytext=(6, 0), textcoords="offset points", va="center", annotation_clip=False)
    panel.set(xlim=(0, tokens), ylim=(0, None), xlabel="tokens in the cache", ylabel="GiB")
    panel.set_xticks(np.linspace(0, tokens, 5), [f"{n:,.0f}" for n in np.linspace(0, tokens, 5)])
    return figure


def kv_cache_rows(capacities: Sequence[int], calls: Sequence[Sequence[int]]):
    """The rows of a cache of several sequences after each call: which call wrote a row, or that it is still free.

    capacities: rows of each sequence; calls: for each call the new tokens of every sequence
    """
    from matplotlib.figure import Figure

    starts, total = np.cumsum([0, *capacities]), sum(capacities)
    figure = Figure(figsize=(max(4.5, 0.42 * total + 1.6), 0.42 * len(calls) + 1.3), layout="constrained")
    panel, owner = figure.subplots(), np.full(total, -1)
    for call, lengths in enumerate(calls):
        for slot, length in enumerate(lengths):
            filled = np.count_nonzero(owner[starts[slot] : starts[slot + 1]] >= 0)
            owner[starts[slot] + filled : starts[slot] + filled + length] = call
        for row, writer in enumerate(owner):
            new = writer == call
            colour = "white" if writer < 0 else shade(0, 2) if new else "0.8"
            panel.add_patch(rectangle(row, call, 1, 0.86, colour))
            panel.text(row + 0.5, call + 0.43, "" if writer < 0 else str(writer + 1), ha="center", va="center",
                       fontsize=8, color="white" if new else "black")
    for slot, (start, stop) in enumerate(zip(starts, starts[1:])):
        panel.plot([start, start, stop, stop, start], [0, len(calls), len(calls), 0, 0], color="black", linewidth=1.2)
        panel.text((start + stop) / 2, -0.3, f"sequence {slot}, {stop - start} rows", ha="center", fontsize=9)
    panel.set(xlim=(-0.05, total + 0.05), ylim=(len(calls) + 0.05, -0.7), xlabel="row of the cache")
    panel.set_xticks(np.arange(total) + 0.5, np.arange(total).astype(str))
    panel.set_yticks(np.arange(len(calls)) + 0.43, [f"after call {n + 1}" for n in range(len(calls))])
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return figure
