"""The picture of `verify server --plot`: how far the server is from the reference, position by position."""

from collections.abc import Sequence

import numpy as np

SMOOTH = 24  # positions of the moving mean
LEAST = 1e-6  # nats that the picture shows


def deviation_by_position(deviations: Sequence[np.ndarray], explained: Sequence[np.ndarray] | None, bound: float,
                          words: str):
    """A figure: the mean over texts, and a moving mean of it; the same with the named fault assumed, and the bound.

    Shapes:  deviations, explained: (T,) nats for each text, NaN where nothing was said
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panel = figure.subplots()
    mean = over_texts(deviations)
    panel.scatter(np.arange(len(mean)), np.maximum(mean, LEAST), 5, "0.7", label="each position")
    panel.plot(np.maximum(smooth(mean), LEAST), color="#00204d", label="from the healthy reference")
    if explained is not None:
        panel.plot(np.maximum(smooth(over_texts(explained)), LEAST), "--", color="#c1272d",
                   label="from the reference with the fault that was named")
    panel.axhline(bound, color="0.4", linewidth=0.9, linestyle=":", label="what rounding explains, on average")
    panel.set(yscale="log", xlabel="position in the text", ylabel="nats", xlim=(0, len(mean) - 1))
    panel.set_title(words, fontsize=9)
    panel.legend(fontsize=8, loc="best")
    return figure


def over_texts(deviations: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of each position over the texts that have it. Shapes:  (T,) each -> (longest,), NaN where none says it.
    """
    longest = max(map(len, deviations))
    rows = np.stack([np.pad(one, (0, longest - len(one)), constant_values=np.nan) for one in deviations])
    said = ~np.isnan(rows)
    return np.divide(np.where(said, rows, 0).sum(0), said.sum(0), out=np.full(longest, np.nan), where=said.any(0))


def smooth(values: np.ndarray) -> np.ndarray:
    """A moving mean of what is there. Shapes:  (T,) -> (T,)."""
    said = ~np.isnan(values)
    window = np.ones(min(SMOOTH, len(values)))
    total, count = (np.convolve(x, window, "same") for x in (np.where(said, values, 0), said.astype(float)))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0.5)
