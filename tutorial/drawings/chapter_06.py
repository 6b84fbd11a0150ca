"""The pictures of chapter 6: what the cache saves, the tokens that top-p keeps, and what limits reading and writing."""

import numpy as np

import tiny
from tiny.config import Config
from tiny.sampling import log_softmax
from tiny.tools.releases import MIXTRAL_8X7B
from tiny.tools.token_cost import token_cost
from tutorial.drawings import PAPER

PROMPT, WRITTEN = 4, 4  # tokens of the text that is drawn
START = "Tom had a red ball. Mia had a blue kite. Tom lost his"  # whose next token is drawn
TEMPERATURES, TOP_P, SHOWN = (1.0, 1.3), 0.9, 16  # bars in a panel
OPERATIONS, BANDWIDTH = 1e15, 4e12  # of the machine of the roofline, a second: round numbers, near those of a large GPU
ITEMSIZE = 2


def saved_picture():
    """Two panels: which tokens run through the model in each pass, without a cache and with one."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(9.6, 3.4), facecolor=PAPER, layout="constrained")
    for panel, cached in zip(figure.subplots(1, 2), (False, True)):
        total = 0
        for step in range(WRITTEN):
            for token in range(PROMPT + step):
                new = not cached or token >= (PROMPT + step - 1 if step else 0)
                total += new
                panel.add_patch(Rectangle((token, step), 1, 1, facecolor="0.45" if new else "0.97",
                                          edgecolor="0.3" if new else "0.75", hatch=None if new else "///"))
                panel.text(token + 0.5, step + 0.5, "run" if new else "kept", ha="center", va="center", fontsize=9,
                           color="white" if new else "black", bbox=None if new else {"facecolor": "white",
                                                                                     "edgecolor": "none", "pad": 1})
        panel.set(xlim=(0, PROMPT + WRITTEN - 1), ylim=(WRITTEN, 0), xlabel="token of the text", ylabel="pass")
        panel.set_xticks(np.arange(PROMPT + WRITTEN - 1) + 0.5, range(1, PROMPT + WRITTEN))
        panel.set_yticks(np.arange(WRITTEN) + 0.5, range(1, WRITTEN + 1))
        panel.tick_params(length=0)
        panel.set_title(f"{'with' if cached else 'without'} a cache: {total} tokens run", fontsize=11)
        for side in panel.spines.values():
            side.set_visible(False)
    return figure


def top_p_picture(model):
    """The likeliest next tokens of a short text at two temperatures; those that top-p keeps are dark."""
    from matplotlib.figure import Figure

    logits = model([model.tokenizer.bos_id, *model.tokenizer.encode(START)], last_only=True)[0]
    figure = Figure(figsize=(9.6, 4.2), facecolor=PAPER, layout="constrained")
    for panel, temperature in zip(figure.subplots(1, 2, sharey=True), TEMPERATURES):
        shares = np.exp(log_softmax(logits / temperature))
        order = np.argsort(-shares, kind="stable")
        before = np.cumsum(shares[order]) - shares[order]
        kept = int(np.count_nonzero(before <= TOP_P))
        for n in range(SHOWN):
            panel.bar(n, shares[order[n]], facecolor="0.35" if n < kept else "0.95", edgecolor="0.3",
                      hatch=None if n < kept else "///")
            panel.text(n, shares[order[n]] + 0.008, f"{100 * shares[order[n]]:.0f}", ha="center", fontsize=9)
        pieces = model.tokenizer.pieces(order[:SHOWN].tolist())
        words = [piece.replace("\u2581", " ").strip() for piece in pieces]
        panel.set_xticks(range(SHOWN), words, rotation=60, ha="right", fontsize=9)
        if kept < SHOWN:
            panel.axvline(kept - 0.5, color="black", linewidth=1.4, linestyle="--")
        panel.set_title(f"temperature {temperature:g}: {kept} of {len(shares):,} tokens hold {TOP_P:.0%}", fontsize=11)
        panel.set(xlabel="next token", ylabel="probability")
        panel.label_outer()
        panel.tick_params(length=0)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    return figure


def moved_and_computed(config: Config, texts: int, tokens: int) -> tuple[float, float]:
    """Bytes and operations of one pass in which each of several texts brings so many tokens; nothing is in the cache.

    Every expert that any token chose is read once; the experts are taken to be chosen equally often. Only the last
    token of a text is scored against the vocabulary.
    """
    assert config.moe is not None
    count, expert = texts * tokens, 3 * config.dim * config.hidden_dim * config.n_layers
    read = config.moe.num_experts * (1 - (1 - config.moe.num_experts_per_tok / config.moe.num_experts) ** count)
    first = token_cost(config, 0, ITEMSIZE)
    operations = sum(token_cost(config, past, ITEMSIZE)[1] for past in range(tokens)) * texts
    operations -= (count - texts) * 2 * config.dim * config.vocab_size
    cache = token_cost(config, 1, ITEMSIZE)[0] - first[0]
    return first[0] + (read - config.moe.num_experts_per_tok) * expert * ITEMSIZE + (count - 1) * cache, operations


def roofline_picture(config: Config):
    """Operations a second that a machine reaches, by operations for each byte; points for writing and reading."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.6), facecolor=PAPER, layout="constrained")
    panel = figure.subplots()
    ridge = OPERATIONS / BANDWIDTH
    panel.plot([0.5, ridge, 4000], [0.5 * BANDWIDTH, OPERATIONS, OPERATIONS], color="black", linewidth=2)
    panel.fill_between([0.5, ridge], 1e12, [0.5 * BANDWIDTH, OPERATIONS], facecolor="none", edgecolor="0.8",
                       hatch="///")
    panel.fill_between([ridge, 4000], 1e12, OPERATIONS, facecolor="0.92", edgecolor="none")
    panel.axvline(ridge, color="0.4", linestyle="--", linewidth=1)
    panel.text(3, 1.5e12, "memory is the limit", fontsize=11, bbox={"facecolor": PAPER, "edgecolor": "none"})
    panel.text(ridge * 1.25, 1.5e12, "arithmetic is the limit", fontsize=11)
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
    for texts, tokens, marker, label, place in (
            (1, 1, "o", "write: 1 text", (12, 2)), (64, 1, "s", "write: 64 texts together", (12, 2)),
            (1, 512, "D", "read: 512 tokens", (14, -6)), (1, 4096, "v", "read: 4,096 tokens", (-50, 40))):
        moved, operations = moved_and_computed(config, texts, tokens)
        x = operations / moved
        y = min(OPERATIONS, x * BANDWIDTH)
        panel.plot(x, y, marker, color="black", markersize=9, markerfacecolor="white", markeredgewidth=2)
        panel.annotate(f"{label}: {x:,.0f}\n{1e3 * operations / y:,.1f} ms a pass", (x, y), place, va="top",
                       textcoords="offset points", fontsize=10, bbox=box)
    panel.set(xscale="log", yscale="log", xlim=(0.5, 4000), ylim=(1e12, 4e15),
              xlabel="operations for each byte that is moved", ylabel="operations a second")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    return figure


def draw() -> dict:
    """The pictures by name."""
    return {"cache_saves": saved_picture(), "top_p": top_p_picture(tiny.load("tiny-mixtral")),
            "roofline": roofline_picture(MIXTRAL_8X7B)}
