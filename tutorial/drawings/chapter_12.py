"""The pictures of chapter 12: the bits of one number in three types, and how differences grow through the layers."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np

import tiny
import tiny.ops
from tiny.tools.demo import TEXTS
from tutorial.drawings import PAPER

NUMBER = 0.1  # whose bits are drawn
TYPES = {"float32": (np.float32, 8), "bfloat16": (ml_dtypes.bfloat16, 8), "float16": (np.float16, 5)}  # and exponents
PARTS = (("sign", "#e8e8e8", ""), ("exponent", "#c9d6e8", "///"), ("fraction", "#f5e3b5", ""))


def bits_picture():
    """A row of boxes for each type: sign, exponent and fraction of one number, and what the type makes of it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(9.6, 2.9), facecolor=PAPER, layout="constrained")
    panel = figure.subplots()
    for row, (name, (dtype, exponents)) in enumerate(TYPES.items()):
        value = dtype(NUMBER)
        size = 8 * value.dtype.itemsize
        bits = f"{int(value.view(f'u{size // 8}')):0{size}b}"
        for place, bit in enumerate(bits):
            part = 0 if place == 0 else 1 if place <= exponents else 2
            _, colour, hatch = PARTS[part]
            panel.add_patch(Rectangle((place, row), 1, 0.62, facecolor=colour, edgecolor="0.6", hatch=hatch,
                                      linewidth=0.6))
            panel.text(place + 0.5, row + 0.31, bit, ha="center", va="center", fontsize=10,
                       bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6})
        panel.text(-0.5, row + 0.31, name, ha="right", va="center", fontsize=10)
        panel.text(size + 0.5, row + 0.31, f"{float(value):.10f}", ha="left", va="center", fontsize=10)
    for left, right, (name, _, _) in zip((0, 1, 9), (1, 9, 32), PARTS):
        panel.text((left + right) / 2, -0.15, name, ha="center", va="bottom", fontsize=10)
    panel.set(xlim=(-4.5, 38), ylim=(3, -0.6))
    panel.axis("off")
    return figure


def backwards() -> SimpleNamespace:
    """The operations with every sum of a product formed from its last term to its first: other bits, the same sums."""
    def linear(x, weight, precision="float32"):
        return tiny.ops.linear(np.ascontiguousarray(x[:, ::-1]), np.ascontiguousarray(weight[:, ::-1]), precision)

    def experts(x, expert_ids, expert_weights, w1, w2, w3, precision="float32"):
        turned = [[np.ascontiguousarray(table[e][::-1, ::-1]) for e in range(len(table))] for table in (w1, w2, w3)]
        out = tiny.ops.experts(np.ascontiguousarray(x[:, ::-1]), expert_ids, expert_weights, *turned, precision)
        return np.ascontiguousarray(out[:, ::-1])

    names = {name: getattr(tiny.ops, name) for name in tiny.ops.__all__}
    return SimpleNamespace(**names | {"linear": linear, "experts": experts})


def runs() -> dict[str, dict[str, np.ndarray]]:
    """Traces of tiny-mixtral on one story: float32 and bfloat16, each with its sums forwards and backwards."""
    found = {}
    for precision in ("float32", "bfloat16"):
        for order, ops in (("", None), (" backwards", backwards())):
            model = tiny.load("tiny-mixtral", precision=precision, **({"ops": ops} if ops else {}))
            trace: dict = {}
            model([model.tokenizer.bos_id, *model.tokenizer.encode(TEXTS["stories"])], trace=trace)
            found[precision + order] = trace
    return found


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The length of the difference, relative to the length. Shapes:  (T, D) both."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def errors_by_layer(traces: dict[str, dict[str, np.ndarray]]) -> dict[str, list[float]]:
    """How far apart pairs of runs are: the embedding, each layer, the logits."""
    layers = [name for name in traces["float32"] if name.startswith("layer")]
    pairs = {"float32, two orders of sums": ("float32 backwards", "float32"),
             "bfloat16, two orders of sums": ("bfloat16 backwards", "bfloat16"),
             "bfloat16 against float32": ("bfloat16", "float32")}
    return {label: [error(traces[a][name], traces[b][name]) for name in ("embed", *layers, "logits")]
            for label, (a, b) in pairs.items()}


def errors_picture():
    """One line for each pair of runs, on a logarithmic scale; below the bottom line is equal to the bit."""
    from matplotlib.figure import Figure

    found, equal = errors_by_layer(runs()), 1e-9
    figure = Figure(figsize=(8.4, 4.0), facecolor=PAPER, layout="constrained")
    panel = figure.subplots()
    for (label, errors), marker, style, colour in zip(found.items(), "osX", ("-", "--", ":"),
                                                      ("#00204d", "#b35900", "#555555")):
        panel.plot(np.maximum(errors, equal), marker=marker, linestyle=style, color=colour, linewidth=1.6,
                   label=label, clip_on=False)
    layers = len(next(iter(found.values()))) - 2
    panel.set_xticks(range(layers + 2), ["embedding", *(f"layer {n}" for n in range(layers)), "logits"])
    for step, name in ((2.0**-8, "half a step of bfloat16"), (2.0**-24, "half a step of float32")):
        panel.axhline(step, color="0.7", linewidth=0.8)
        panel.text(layers + 1.3, step, name, fontsize=8, color="0.3", ha="right", va="bottom")
    panel.text(0.1, equal * 1.2, "equal to the bit", fontsize=8, color="0.3", va="bottom")
    panel.set(yscale="log", ylim=(equal, 1), xlim=(-0.3, layers + 1.3), ylabel="relative difference",
              xlabel="in the order of the run")
    panel.legend(frameon=False, loc="upper left", fontsize=9, ncols=3)
    panel.set_facecolor(PAPER)
    return figure


def sums_in_orders(terms: np.ndarray, orders: int = 500) -> np.ndarray:
    """The sum of float32 terms in random orders, each addition rounded. Shapes:  terms (n,) -> (orders,)."""
    rng = np.random.default_rng(12)
    return np.array([np.add.accumulate(rng.permutation(terms))[-1] for _ in range(orders)])


def orders_picture(terms: np.ndarray):
    """For the notebook: how far sums in random orders are from the exact one, in steps. Shapes:  terms (n,)."""
    from matplotlib.figure import Figure

    exact = float(terms.sum(dtype=np.float64))
    steps = (sums_in_orders(terms).astype(np.float64) - exact) / float(np.spacing(np.float32(abs(exact))))
    figure = Figure(figsize=(7.2, 3.2), facecolor=PAPER, layout="constrained")
    panel = figure.subplots()
    panel.hist(steps, bins=41, color="#c9d6e8", edgecolor="0.4", linewidth=0.5)
    panel.axvline(0, color="black", linewidth=1)
    panel.set(xlabel="float32 steps away from the exact sum", ylabel=f"of {len(steps)} orders", facecolor=PAPER)
    return figure


def draw() -> dict:
    """The pictures by name."""
    return {"number_bits": bits_picture(), "two_orders": errors_picture()}
