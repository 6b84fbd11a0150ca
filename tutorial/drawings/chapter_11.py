"""The pictures of chapter 11: what the versions of a kernel move, the banks of a tile in shared memory, and a step."""

import numpy as np

from tutorial.drawings import PAPER, steps
from tutorial.drawings.stages import ATTENTION, NORM, VERSIONS, read

SHOWN = 8  # rows and columns of the tile that are drawn
LAYER = "rms_norm_v3_add"  # the launch that ends each half of a layer
PRODUCTS = ("queries", "keys", "values", "mix the heads")  # the linear maps of a layer, in their order
SAID = {"rope_v3": "rope, into the cache", "attention_decode_v2": "attention, in splits",
        "attention_decode_v1_combine": "splits put together", LAYER: "add, and rms_norm", "route_v3": "route",
        "experts_v4": "experts: w1, w3, SwiGLU", "experts_v4_down": "experts: w2, weighted sum"}


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


def step_picture():
    """The launches of one layer with the bytes that each moves; bytes that go up to the device for one more token."""
    from matplotlib.figure import Figure

    record = steps.read()
    names = [name for name, _ in record["launches"]]
    first = names.index("linear_v3")
    last = [place for place, name in enumerate(names) if name == LAYER][1]
    layer = record["launches"][first : last + 1]
    figure = Figure(figsize=(10.4, 3.9), facecolor=PAPER, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    left.barh(range(len(layer)), [moved / 1e3 for _, moved in layer], color="0.75", edgecolor="0.2", height=0.7)
    for place, (_, moved) in enumerate(layer):
        left.text(moved / 1e3 * 1.15, place, f"{moved / 1e3:,.1f}", va="center", fontsize=9)
    products = iter(PRODUCTS)
    said = [f"linear: {next(products)}" if name.startswith("linear") else SAID[name] for name, _ in layer]
    left.set_yticks(range(len(layer)), said, fontsize=9.5)
    left.set(xscale="log", xlim=(0.5, 4e3), ylim=(len(layer) - 0.4, -0.6), facecolor=PAPER,
             xlabel="KB of global memory")
    left.set_title(f"the {len(layer)} launches of a layer", fontsize=10.5)
    rows = [int(text) for text in record["one by one"]]
    for kind, style, marker in (("one by one", "-", "o"), ("on the device", "--", "s")):
        values = [record[kind][str(n)]["up"] for n in rows]
        right.plot(rows, values, style, marker=marker, color="0.2")
        right.text(rows[1], values[1] * 2.2, kind, ha="center", va="bottom", fontsize=10)
        for n, value in zip(rows, values):
            right.text(n, value / 1.5, f"{value:,}", ha="center", va="top", fontsize=9)
    right.set(xscale="log", yscale="log", ylim=(0.6, 3e7), xlim=(min(rows) / 2, max(rows) * 2), facecolor=PAPER,
              xlabel="rows of the cache")
    right.set_xticks(rows, [f"{n:,}" for n in rows])
    right.minorticks_off()
    right.set_title("bytes to the device for one more token", fontsize=10.5)
    for panel in (left, right):
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    left.tick_params(axis="y", length=0)
    return figure


def draw() -> dict:
    """The pictures by name."""
    return {"kernel_stages": stages_picture(), "shared_banks": banks_picture(), "graph_step": step_picture()}
