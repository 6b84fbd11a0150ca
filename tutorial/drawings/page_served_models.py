"""The picture of the page on served models: where along a text each fault shows."""

import numpy as np

import tiny
from tiny.tools.verify.server.decide import deviation, seen_of
from tiny.tools.verify.server.faults import Fault, hypotheses, logprobs, made
from tiny.tools.verify.server.reference.texts import choose_texts
from tutorial.drawings import PAPER

TEXTS, LENGTH, WINDOW = 6, 400, 20  # texts, tokens of each, tokens over which a curve is averaged


def draw() -> dict:
    """The pictures by name."""
    from matplotlib.figure import Figure

    model = tiny.load("tiny-mixtral", weights="resident")
    texts = choose_texts(model.tokenizer, [LENGTH] * TEXTS, None)
    healthy = [logprobs(model, None, ids) for ids in texts]
    figure = Figure(figsize=(9, 4.6), facecolor=PAPER, layout="constrained")
    axes = figure.subplots()
    for fault in shown(model.config):
        curves = [deviation(seen_of(ids, logprobs(model, fault, ids)), plain) for ids, plain in zip(texts, healthy)]
        rows = np.stack([np.append(curve, np.full(LENGTH - len(curve), np.nan)) for curve in curves])
        parts = rows.reshape(len(rows), -1, WINDOW)
        said = ~np.isnan(parts).all(axis=(0, 2))
        means = np.nanmean(parts[:, said], axis=(0, 2))
        axes.plot((np.flatnonzero(said) + 0.5) * WINDOW, np.maximum(means, 1e-4), marker="o", markersize=3,
                  label=fault.name)
    axes.set(yscale="log", xlabel="position in the text", ylabel="nats from the healthy model", facecolor=PAPER)
    axes.legend(fontsize=9, ncols=2, frameon=False, loc="lower right")
    return {"served_faults": figure}


def shown(config) -> list[Fault]:
    """One fault of each shape."""
    no_bos = next(fault for fault in hypotheses(config, LENGTH) if fault.kind == "no_bos")
    return [no_bos, made("bos", 2), made("theta", 100 * config.rope_theta), made("window", 128),
            made("top_experts", 1), made("temperature", 0.8), made("kept", LENGTH // 2)]
