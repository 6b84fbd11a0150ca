"""The pictures of chapter 11: what the versions of a kernel move, and the banks of a tile in shared memory."""

import numpy as np

from tutorial.drawings import PAPER
from tutorial.drawings.stages import ATTENTION, NORM, VERSIONS, read

SHOWN = 8  # rows and columns of the tile that are drawn


def stages_picture():
    """Bars: bytes of global memory for three versions of two kernels, and cycles of shared memory for attention."""
    from matplotlib.figure import Figure

    counts = read()
    figure = Figure(figsize=(10.4, 2.9), facecolor=PAPER, layout="constrained")
    norm, attention, shared = figure.subplots(1, 3)
    T, H, G, d = ATTENTION.values()
    bars(norm, "rms_norm: KB of global memory", [counts["rms_norm"][v]["bytes"] / 1e3 for v in VERSIONS],
         4 * (2 * NORM["T"] * NORM["D"] + NORM["D"]) / 1e3)
    bars(attention, "attention: KB of global memory", [counts["attention"][v]["bytes"] / 1e3 for v in VERSIONS],
         2 * T * (2 * H + 2 * G) * d / 1e3)
    bars(shared, "attention: cycles of shared memory", [counts["attention"][v]["cycles"] for v in VERSIONS], None)
    return figure


def bars(panel, title: str, values: list[float], floor: float | None) -> None:
    """Three bars on a logarithmic scale, each with its number; a line where it cannot be less."""
    hatches = ("", "///", "...")
    for place, (value, hatch) in enumerate(zip(values, hatches)):
        panel.bar(place, value, color=("0.55", "0.75", "0.9")[place], edgecolor="0.2", hatch=hatch, width=0.7)
        panel.text(place, value * 1.12, f"{value:,.0f}", ha="center", va="bottom", fontsize=9.5)
    if floor:
        panel.axhline(floor, color="black", linewidth=1.4, linestyle="--")
        panel.text(2.45, floor * 0.9, f"least: {floor:,.0f}", ha="right", va="top", fontsize=9,
                   bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})
    panel.set_yscale("log")
    panel.set(ylim=(min([*values, floor or values[-1]]) / 3, max(values) * 3), facecolor=PAPER, xlabel="version")
    panel.set_xticks(range(3), VERSIONS)
    panel.set_yticks([])
    panel.minorticks_off()
    panel.set_title(title, fontsize=10.5)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def banks_picture():
    """The corner of a tile with rows 32 and 33 places apart: the bank of each number, the first column marked."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    counts = read()["tile"]
    figure = Figure(figsize=(9.6, 4.3), facecolor=PAPER, layout="constrained")
    for panel, stride in zip(figure.subplots(1, 2), (32, 33)):
        for row, column in np.ndindex(SHOWN, SHOWN):
            bank = (row * stride + column) % 32
            marked = column == 0
            panel.add_patch(Rectangle((column, row), 0.95, 0.95, facecolor="0.75" if bank == 0 else "0.95",
                                      edgecolor="black" if marked else "0.6", linewidth=2 if marked else 0.6,
                                      hatch="///" if bank == 0 else ""))
            panel.text(column + 0.47, row + 0.47, str(bank), ha="center", va="center", fontsize=10,
                       bbox={"facecolor": "0.95", "edgecolor": "none", "pad": 1.5} if bank == 0 else None)
        panel.set(xlim=(-0.1, SHOWN), ylim=(SHOWN, -0.1), aspect="equal", facecolor=PAPER, xlabel="column",
                  ylabel="row")
        panel.set_xticks(np.arange(SHOWN) + 0.47, range(SHOWN))
        panel.set_yticks(np.arange(SHOWN) + 0.47, range(SHOWN))
        panel.tick_params(length=0, labelsize=9)
        panel.set_title(f"rows {stride} places apart: {counts[str(stride)] // 32} cycle{'s' * (stride == 32)} "
                        "to read a column", fontsize=10.5)
        for side in panel.spines.values():
            side.set_visible(False)
    return figure


def draw() -> dict:
    """The pictures by name."""
    return {"kernel_stages": stages_picture(), "shared_banks": banks_picture()}
