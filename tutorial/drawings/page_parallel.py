"""The picture of the page about several processes: who holds what, and who sends what to whom."""

import numpy as np

import tiny
from tiny.parallel.cost import bytes_sent
from tiny.parallel.shards import owner_of
from tutorial.drawings import PAPER

LINE, LAYER, RANKS = "Tom had a red ball", 1, 4
SPLIT = 2  # ranks of the second panel
WIDTH, HEIGHT, GAP = 1.0, 0.62, 0.16  # of a box, in the panel's own units


def box(panel, column: float, row: float, words: str, width: float = WIDTH, grey: float = 0.94, size: float = 8.5):
    """A box with words, its left upper corner at a place."""
    from matplotlib.patches import Rectangle

    panel.add_patch(Rectangle((column, row), width, HEIGHT, facecolor=(grey,) * 3, edgecolor="0.4", linewidth=0.7))
    panel.text(column + width / 2, row + HEIGHT / 2, words, ha="center", va="center", fontsize=size)


def arrows(panel, size: int, row: float, below: float) -> None:
    """Lines from every rank to every other one, and a dotted one to itself: what stays there."""
    for sender in range(size):
        for taker in range(size):
            start, stop = (sender * (WIDTH + GAP) + WIDTH / 2, taker * (WIDTH + GAP) + WIDTH / 2)
            own = sender == taker
            panel.annotate("", (stop, below), (start, row), arrowprops={
                "arrowstyle": "->", "color": "0.55" if own else "0.15", "linewidth": 0.8,
                "linestyle": ":" if own else "-", "shrinkA": 1, "shrinkB": 1})


def frame(panel, size: int, title: str) -> None:
    """The names of the ranks, and no axes."""
    for rank in range(size):
        panel.text(rank * (WIDTH + GAP) + WIDTH / 2, -0.12, f"rank {rank}", ha="center", va="bottom", fontsize=9.5)
    panel.set(xlim=(-0.08, size * (WIDTH + GAP) - GAP + 0.08), ylim=(5.35, -0.45))
    panel.set_title(title, fontsize=10.5)
    panel.axis("off")


def expert_panel(panel, model) -> None:
    """Whole experts: tokens of one line, the experts that they chose, and the answers that are gathered."""
    trace: dict = {}
    ids = model.tokenizer.encode(LINE)
    model([model.tokenizer.bos_id, *ids], trace=trace)
    chosen, E = trace[f"experts{LAYER:02}"][1:], model.config.moe.num_experts
    each, owner = E // RANKS, owner_of(chosen, E, RANKS)
    frame(panel, RANKS, f"--split experts: {len(ids)} tokens, {chosen.shape[1]} experts for each")
    for rank in range(RANKS):
        left = rank * (WIDTH + GAP)
        box(panel, left, 0.0, "attention, router:\nall tokens")
        for n in range(each):
            e = each * rank + n
            tokens = ", ".join(map(str, np.nonzero(chosen == e)[0]))
            words = f"expert {e}\n{f'tokens {tokens}' if tokens else 'nobody'}"
            box(panel, left + n * WIDTH / each, 0.9, words, WIDTH / each, 0.8 if tokens else 0.98, 7.5)
        answers = int(np.count_nonzero(owner == rank))
        panel.text(left + WIDTH / 2, 1.66, f"{answers} answers to each", ha="center", va="center", fontsize=8)
        box(panel, left, 3.3, "add all answers in\nascending expert")
        box(panel, left, 4.2, "the same bits\non every rank", grey=0.98)
    arrows(panel, RANKS, 1.82, 3.28)
    sent = bytes_sent(model.config, RANKS, "experts", len(ids), 0) // model.config.n_layers
    panel.text(RANKS * (WIDTH + GAP) / 2 - GAP / 2, 5.1, f"{sent:,} bytes in this layer, all ranks together",
               ha="center", va="center", fontsize=9)


def matrix(panel, column: float, row: float, by_rows: bool, rank: int, name: str) -> None:
    """A small matrix of which the dark part is here."""
    from matplotlib.patches import Rectangle

    side = 0.42
    panel.add_patch(Rectangle((column, row), side, side, facecolor="white", edgecolor="0.4", hatch="////",
                              linewidth=0.7))
    part = ((column, row + rank * side / SPLIT), side, side / SPLIT) if by_rows else (
        (column + rank * side / SPLIT, row), side / SPLIT, side)
    panel.add_patch(Rectangle(*part, facecolor="0.35", edgecolor="0.2", linewidth=0.7))
    panel.text(column + side / 2, row + side + 0.05, name, ha="center", va="top", fontsize=8)


def parts_panel(panel, model) -> None:
    """Heads and hidden rows: what a rank has of each matrix, and the parts that are added."""
    heads = model.config.n_heads // SPLIT
    frame(panel, SPLIT, "--split all: dark is here")
    for rank in range(SPLIT):
        left = rank * (WIDTH + GAP)
        for n, (by_rows, name) in enumerate(((True, "wq, wk, wv"), (False, "wo"))):
            matrix(panel, left + 0.06 + 0.48 * n, 0.0, by_rows, rank, name)
        panel.text(left + WIDTH / 2, 0.78, f"heads {rank * heads} to {rank * heads + heads - 1}", ha="center",
                   va="center", fontsize=8)
        for n, (by_rows, name) in enumerate(((True, "w1, w3"), (False, "w2"))):
            matrix(panel, left + 0.06 + 0.48 * n, 2.5, by_rows, rank, name)
        panel.text(left + WIDTH / 2, 3.28, "of every expert", ha="center", va="center", fontsize=8)
        for row in (1.72, 4.2):
            box(panel, left, row, "add the parts of\nall ranks", grey=0.94)
    for start in (0.88, 3.38):
        arrows(panel, SPLIT, start, start + 0.82)
    sent = bytes_sent(model.config, SPLIT, "all", 5, 0) // model.config.n_layers
    panel.text(SPLIT * (WIDTH + GAP) / 2 - GAP / 2, 5.1, f"{sent:,} bytes in this layer for 5 tokens", ha="center",
               va="center", fontsize=9)


def draw() -> dict:
    """The picture by its name."""
    from matplotlib.figure import Figure

    model = tiny.load("tiny-mixtral")
    figure = Figure(figsize=(10.4, 4.9), facecolor=PAPER, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(RANKS, SPLIT + 0.3))
    expert_panel(left, model)
    parts_panel(right, model)
    return {"who_sends_what": figure}
