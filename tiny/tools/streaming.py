"""What the commands say of streamed weights: what a token reads, at which rate, and how far a pass is."""

import re
import sys
import time
from collections.abc import Callable

from tiny.config import TinyError
from tiny.files.streamed import Streamed, needed_by_all
from tiny.files.weights import EMBEDDINGS, Tensors
from tiny.tools.memory import amount
from tiny.tools.terminal import note

SHARE = 0.9  # of the memory that is left; other programs need some too
SAMPLE = 64 << 20  # bytes of a measurement of the disk
PATIENCE = 0.5  # seconds before a pass shows how far it is
STEP = 0.1  # seconds between two layers that are shown
LAYER = re.compile(r"(vision_encoder\..*)?layers\.(\d+)\.attention_norm")


def begin(model, left: int, memory: float | None, progress: Callable) -> None:
    """Give memory to weights; read what they keep, which measures the disk; say what a token will read.

    left: bytes that are free beside the least of a run; memory: gigabytes that were asked for
    progress: makes a bar of a number of bytes and a label

    Raises:  TinyError if so much was asked for is not free, or is too little
    """
    weights: Streamed = model.weights
    limit = weights.least + SHARE * left if memory is None else 1e9 * memory
    most = weights.least + left
    if not weights.least <= limit <= most:
        raise TinyError(f"Streamed weights may take --memory {memory:g} GB; they need {amount(weights.least)}, and "
                        f"{amount(most)} are free.", "Give --memory a number of gigabytes in between, or leave it out.")
    weights.allow(int(limit))
    sizes = weights.shelf.sizes
    names = sorted(weights.shelf.kept, key=list(sizes).index)
    if sum(sizes[name] for name in names) < SAMPLE:  # too little to measure a disk with
        names.append(max(sizes.keys() - {EMBEDDINGS}, key=lambda name: sizes[name]))
    before, started = weights.reader.bytes_read, weights.reader.seconds
    weights.fetch(names)
    with progress(sum(weights.tensors[name].nbytes for name in names), "loading") as done:
        for name in names:
            done.update(weights[name].nbytes)
    rate = (weights.reader.bytes_read - before) / max(weights.reader.seconds - started, 1e-9)
    note(said_before(model.config, weights, rate))
    model.weights = Shown(weights, model.config.n_layers)


def said_before(config, weights: Streamed, rate: float) -> str:
    """What a token will read, about how long that takes, and what stays in memory."""
    size = {name: weights.tensors[name].nbytes for name in weights.tensors}
    kept = sum(size[name] for name in weights.shelf.kept)
    passing = sum(size[name] for name in size if needed_by_all(name)) - kept
    experts = sum(size[name] for name in size if ".experts." in name)
    room = 0 if passing else max(0, weights.shelf.limit - kept - 2 * weights.network)
    held = min(1.0, room / max(1, experts))
    chosen = experts * config.moe.num_experts_per_tok / config.moe.num_experts if config.moe else 0
    reads = passing + chosen * (1 - held)
    if not reads:
        return "all weights stay in memory after their first use"
    stays = f"{amount(kept)} that every token needs stay in memory" if kept else "no weights stay in memory"
    stays += f", and {held:.0%} of the experts" * (held >= 0.005)
    return (f"a token reads about {amount(reads)} from disk, {reads / rate:.1f} s at this disk's {amount(rate)}/s "
            f"(measured); {stays}")


def facts(weights) -> dict:
    """For --json: what was read from disk, and how fast while anything was."""
    reader = getattr(getattr(weights, "weights", weights), "reader", None)
    return {"bytes_read": reader.bytes_read, "disk_bytes_per_second": reader.bytes_read / max(reader.seconds, 1e-9)
            } if reader else {}


class Shown(Tensors):
    """Streamed weights that show in a terminal, behind the text, which layer is at work in a pass that takes long."""

    def __init__(self, weights: Streamed, layers: int):
        super().__init__(weights)
        self.weights, self.mode, self.tensors, self.layers = weights, weights.mode, weights.tensors, layers
        self.start, self.last = 0.0, 0.0

    def __getitem__(self, name: str):
        if sys.stderr.isatty():
            self.show(name, time.perf_counter())
        return self.weights[name]

    def show(self, name: str, now: float) -> None:
        """Show a new layer; where the pass ends, take it away. The cursor stays at the end of the text."""
        if name == "output.weight" and self.last:
            self.last = 0.0
            sys.stderr.write("\x1b[K")  # erase from the cursor on
            sys.stderr.flush()
        if not (layer := LAYER.match(name)):
            return
        self.start = self.start if int(layer[2]) else now
        if now - self.start > PATIENCE and now - self.last > STEP:
            of = "" if layer[1] else f" of {self.layers}"
            state = f"{'encoder ' * bool(layer[1])}layer {int(layer[2]) + 1}{of}"
            read = amount(self.weights.reader.bytes_read)
            # Remember the place, do not wrap at the edge, write, go back.
            sys.stderr.write(f"\x1b7\x1b[?7l [{state}, {read} read]\x1b[K\x1b[?7h\x1b8")
            sys.stderr.flush()
            self.last = now
