"""The picture of the page about streamed weights: how many of the chosen experts must be read, by who stays."""

import mmap

import numpy as np

import tiny
from tiny.files.streamed.shelf import Shelf
from tiny.system.direct import Arrival, Span, pages_for
from tutorial.drawings import PAPER

TEXT, TOKENS = "Once upon a time there was a little girl who lived near the forest.", 120


class OneList(Shelf):
    """A shelf on which what was used least recently goes first, in whichever layer it is."""

    def choose(self, free):
        return free[0]


class NoDisk:
    """What is read is there at once, without numbers: only who stays counts here."""

    def read(self, name: str, span: Span, buffer: mmap.mmap) -> Arrival:
        arrival = Arrival(name, span, buffer)
        arrival.left = 0
        return arrival


def choices() -> tuple[np.ndarray, int]:
    """The experts that tiny-mixtral chooses while it writes a text, and how many a layer has. Shapes:  (T, L, K)."""
    model = tiny.load("tiny-mixtral", weights="mapped")
    assert model.config.moe is not None
    ids = [model.tokenizer.bos_id, *model.tokenizer.encode(TEXT)]
    tokens = tiny.generate(model, ids, max_tokens=TOKENS, stop_at_eos=False)
    return np.array([token.experts for token in tokens]), model.config.moe.num_experts


def share_read(kind: type[Shelf], chosen: np.ndarray, names: dict, room: int) -> float:
    """The share of the chosen experts that are not there, on a shelf with room for some."""
    spans = {name: Span("", 0, 1) for name in names.values()}
    shelf = kind(NoDisk(), spans)  # type: ignore[arg-type]
    shelf.limit, missed = room * pages_for(1), 0
    for token in chosen:
        for layer, experts in enumerate(token):
            for name in (names[layer, e] for e in sorted(experts)):
                if name not in shelf.tenants:
                    missed += 1
                    shelf.make_room(name, set())
                    shelf.begin(name)
                shelf.tenants.move_to_end(name)
    return missed / chosen.size


def draw() -> dict:
    """The picture by its name."""
    from matplotlib.figure import Figure

    chosen, E = choices()
    _, L, K = chosen.shape
    names = {(layer, e): f"layers.{layer}.feed_forward.experts.{e}.w1.weight" for layer in range(L) for e in range(E)}
    rooms = range(1, L * E + 1)
    shares = [room / (L * E) for room in rooms]
    figure = Figure(figsize=(6.4, 3.6), facecolor=PAPER, layout="constrained")
    panel = figure.subplots()
    for kind, line, label in ((OneList, "--", "one list: what was used least recently goes"),
                              (Shelf, "-", "each layer keeps as many, and of these the last used")):
        panel.plot(shares, [share_read(kind, chosen, names, room) for room in rooms], line, color="0.15", label=label)
    panel.plot([0, 1], [1, 0], ":", color="0.45", label="the share that does not fit")
    panel.axvline(K / E, color="0.6", linewidth=0.8)
    panel.text(K / E + 0.01, 0.03, "as many as one token uses", fontsize=8.5, color="0.3")
    panel.set(xlabel="share of all experts that fits in memory", ylabel="share of chosen experts\nthat must be read",
              xlim=(0, 1), ylim=(0, 1.05), facecolor=PAPER)
    panel.legend(frameon=False, fontsize=8.5)
    return {"who_stays": figure}
