"""Figures. Each function takes numbers and returns a Matplotlib figure; the caller saves it."""

from collections.abc import Mapping

import numpy as np


def routing_heat_map(shares: Mapping[str, np.ndarray], title: str = "Which experts are chosen"):
    """A panel for each domain: layers downwards, experts across, the share of choices as brightness and number.

    All panels have one scale, marked where every expert would be chosen equally often. The colours are cividis,
    which grow evenly brighter in print and for any colour vision.

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
