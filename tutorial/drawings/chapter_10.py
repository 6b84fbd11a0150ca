"""The pictures of chapter 10: two trainings, of which one keeps its experts balanced, and how good differences are."""

import numpy as np

from tiny.training.backward import rms_norm_backward
from tutorial.drawings import PAPER
from tutorial.pages.records import record
from tutorial.pages.training_record import NAME, RECIPES

LABELS = {"balanced": "with the loss for balance", "free": "without it"}
STYLES = {"balanced": {"color": "#00204d", "linestyle": "-"}, "free": {"color": "#b35900", "linestyle": "--"}}


def recorded() -> dict[str, list[dict]]:
    """What both runs logged, by their names."""
    return record(NAME)["runs"]


def training_picture():
    """Left the loss of both runs, right the smallest and the largest share of an expert."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), facecolor=PAPER, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, lines in recorded().items():
        tokens = [line["tokens"] / 1000 for line in lines]
        left.plot(tokens, [line["loss"] for line in lines], label=LABELS[name], linewidth=2, **STYLES[name])
        for share in ("largest", "smallest"):
            values = [100 * line[share] for line in lines]
            right.plot(tokens, values, linewidth=2, **STYLES[name])
            right.text(tokens[-1] * 1.02, values[-1], f"{values[-1]:.0f}", va="center", fontsize=10)
    even = 100 / RECIPES["balanced"].num_experts
    right.axhline(even, color="0.5", linestyle=":", linewidth=1)
    right.text(5, even, f"even: {even:g}", fontsize=8, color="0.3", va="bottom")
    left.set(title="loss, nats per token", ylim=(3, None))
    right.set(title="largest and smallest share of an expert, per cent", ylim=(0, None), xlim=(0, 560))
    for panel in (left, right):
        panel.set_xlabel("thousand tokens read")
        panel.title.set_fontsize(11)
        panel.grid(alpha=0.3)
        panel.set_facecolor(PAPER)
    left.legend(frameon=False)
    return figure


def errors_of_differences(dtype: type[np.floating], steps: np.ndarray) -> np.ndarray:
    """How far central differences are off, relative to the longest gradient. Shapes:  steps (n,) -> (n,).

    By one number of x of an RMSNorm, formed in this dtype; right is the backward pass in float64.
    """
    rng = np.random.default_rng(10)
    x, dout, weight = rng.standard_normal((1, 16)), rng.standard_normal((1, 16)), rng.standard_normal(16)
    right = rms_norm_backward(dout, x, weight, 1e-5, np.empty(16))[0]

    def loss(moved: np.ndarray) -> np.floating:
        root = np.sqrt((moved * moved).mean(dtype=dtype) + dtype(1e-5))
        return (moved[0] / root * weight.astype(dtype) * dout[0].astype(dtype)).sum(dtype=dtype)

    found = []
    for step in steps:
        error = 0.0
        for place in range(16):
            up, down = x.astype(dtype), x.astype(dtype)
            up[0, place] += dtype(step)
            down[0, place] -= dtype(step)
            difference = float(loss(up) - loss(down)) / float(up[0, place] - down[0, place])
            error = max(error, abs(difference - right[place]))
        found.append(error / np.abs(right).max())
    return np.array(found)


def differences_picture():
    """The error of central differences for steps from large to small, in float64 and in float32."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), facecolor=PAPER, layout="constrained")
    panel = figure.subplots()
    for dtype, marker, color in ((np.float32, "s", "#b35900"), (np.float64, "o", "#00204d")):
        steps = 10.0 ** -np.arange(1, 12 if dtype is np.float64 else 7)
        errors = errors_of_differences(dtype, steps)
        panel.plot(steps, errors, marker=marker, color=color, linewidth=1.5, markersize=6)
        panel.annotate(dtype.__name__, (steps[-1], errors[-1]), xytext=(10, 0), textcoords="offset points",
                       ha="left", va="center", fontsize=10)
    panel.set(xscale="log", yscale="log", xlabel="step h, from large to small", xlim=(0.3, 1e-13),
              ylabel="error of the gradient, relative")
    panel.grid(alpha=0.3)
    panel.set_facecolor(PAPER)
    return figure


def draw() -> dict:
    """The pictures by name."""
    return {"two_trainings": training_picture(), "difference_steps": differences_picture()}
