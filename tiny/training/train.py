"""The training run: one recipe, one loop, and a state on disk from which it goes on to the same numbers.

A step is a pure function of the state and of the step's number: batches, rate and sizes follow from the recipe. So a
run that is stopped at any moment and started again gives the weights that it would have given. Read `evaluate.py` next.
"""

import dataclasses
import json
import os
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tiny.config import Config, MoeConfig, TinyError
from tiny.mixtral import Mixtral
from tiny.training import data
from tiny.training.gradients import loss_and_gradients
from tiny.training.optimiser import adamw, clip_factor, initialise, layout, learning_rate, views

CONTEXT = 512  # Tokens that the finished model accepts: its longest training windows.


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the numbers of a run. Shares and phases are shares of all tokens.

    batch_tokens: tokens of a step, one value for each equal part of the run: small steps learn fastest at first
    windows:      longest sequence of a step, one value for each equal part of the run
    answers:      the last part of the run, where of a chat only the answers are learnt, on answer_shares
    aux:          coefficient of the load-balancing loss, which is K = 2 at even load and averaged over 4 layers: 0.02
                  weighs as much as 0.01 for each layer in the Switch Transformer's form, which is 1 at even load
    """

    dim: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 32
    hidden_dim: int = 256
    num_experts: int = 8
    num_experts_per_tok: int = 2
    vocab_size: int = 2048
    rope_theta: float = 1e4
    norm_eps: float = 1e-5
    seed: int = 1
    tokens: int = 30_000_000
    windows: tuple[int, ...] = (256, 256, 512)
    batch_tokens: tuple[int, ...] = (1024, 2048, 4096)
    rate: float = 2e-3
    warmup: float = 0.0048
    flat: float = 0.3
    floor: float = 0.02
    answers: float = 0.12
    aux: float = 0.02
    clip: float = 1.0
    decay: float = 0.1
    shares: tuple[tuple[str, float], ...] = tuple(data.SHARES.items())
    answer_shares: tuple[tuple[str, float], ...] = (
        ("shakespeare", 0.10), ("milton", 0.02), ("bible", 0.06), ("dictionary", 0.06), ("python", 0.06),
        ("stories", 0.20), ("tasks", 0.50))

    def config(self) -> Config:
        """The sizes of the model."""
        names = {field.name for field in dataclasses.fields(Config)} & {f.name for f in dataclasses.fields(self)}
        return Config(**{name: getattr(self, name) for name in names}, max_seq_len=CONTEXT,
                      moe=MoeConfig(self.num_experts, self.num_experts_per_tok))

    def steps(self) -> np.ndarray:
        """The number of tokens of every step of the run, in order."""
        part = self.tokens / len(self.batch_tokens)
        return np.concatenate([np.full(max(1, round(part / size)), size) for size in self.batch_tokens])


class Trainer:
    """A run in progress: parameters, gradients and moments as flat arrays, and how many steps are done."""

    def __init__(self, recipe: Recipe, streams: dict[str, data.Stream]):
        self.recipe, self.streams, self.step = recipe, streams, 0
        config, self.sizes = recipe.config(), recipe.steps()
        self.ends = np.cumsum(self.sizes)
        shapes = layout(config)
        sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        self.decayed = sum(size for name, size in sizes.items() if len(shapes[name]) > 1)
        self.parameters, self.gradients, self.moment1, self.moment2 = np.zeros((4, sum(sizes.values())), np.float32)
        self.weights, self.grads = views(self.parameters, shapes), views(self.gradients, shapes)
        initialise(self.weights, recipe.n_layers, recipe.seed)
        self.model = Mixtral(config, self.weights)
        shares = np.zeros((recipe.n_layers, recipe.num_experts))
        self.smoothed: dict[str, Any] = {"loss": 0.0, "aux": 0.0, "shares": shares}

    def advance(self) -> dict:
        """Train one step; return its loss, aux, shares, rate and gradient norm."""
        recipe, size, progress = self.recipe, int(self.sizes[self.step]), self.ends[self.step] / self.ends[-1]
        answers = progress > 1 - recipe.answers
        # (1) the batch of this step
        shares = dict(recipe.answer_shares if answers else recipe.shares)
        window = recipe.windows[min(int(progress * len(recipe.windows)), len(recipe.windows) - 1)]
        batch = data.batch(self.streams, shares, recipe.seed, self.step, size, window, answers)
        # (2) loss and gradients
        result = loss_and_gradients(self.model, batch, recipe.aux, self.grads)
        norm, factor = clip_factor(self.gradients, recipe.clip)
        if not np.isfinite(norm):
            raise TinyError(f"The gradient is not finite at step {self.step}.", "Lower the rate; the state is kept.")
        # (3) the update
        rate = learning_rate(progress, recipe.rate, recipe.warmup, recipe.flat, recipe.floor)
        self.step += 1
        adamw(self.parameters, self.gradients, self.moment1, self.moment2, self.step, rate, factor, self.decayed,
              recipe.decay)
        # (4) running means over about 50 steps, for the progress line
        weight = max(0.02, 1 / self.step)
        for name in self.smoothed:
            self.smoothed[name] += weight * (result[name] - self.smoothed[name])
        return result | {"rate": float(rate), "norm": norm}

    def identity(self) -> str:
        """What a state must have been made with: the recipe, and a checksum of the training streams."""
        ids = [zlib.crc32(np.ascontiguousarray(stream.ids)) for stream in self.streams.values()]
        return json.dumps({"recipe": dataclasses.asdict(self.recipe), "streams": ids})

    def save(self, path: Path) -> None:
        """Write the state; a crash at any moment leaves the old state or the new one, both whole."""
        part = path.with_name(path.name + ".part")
        with open(part, "wb") as file:
            np.savez(file, identity=self.identity(), step=self.step, parameters=self.parameters,
                     moment1=self.moment1, moment2=self.moment2, **self.smoothed)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)

    def restore(self, path: Path) -> None:
        """Read a state. Raises TinyError if it was made by another recipe, or on other data."""
        with np.load(path, allow_pickle=False) as state:
            if str(state["identity"]) != self.identity():
                raise TinyError(f"{path} was made by another recipe or on other data.",
                                "Give the options it was started with, or another --out folder.")
            for name in ("parameters", "moment1", "moment2"):
                getattr(self, name)[...] = state[name]
            self.step = int(state["step"])
            self.smoothed = {"loss": float(state["loss"]), "aux": float(state["aux"]), "shares": state["shares"]}


def train(recipe: Recipe, out: Path, stop_after: int | None = None, save_minutes: float = 2.0,
          log_every: int = 25) -> Trainer:
    """Train, or go on with the state found in the folder, until the recipe, a signal or stop_after (steps) ends it.

    SIGINT and SIGTERM end the step in hand, save and return.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = tokenizer_file(out, recipe.vocab_size)
    trainer = Trainer(recipe, data.load_streams(model, out)[0])
    state, log = out / "state.npz", out / "log.jsonl"
    if state.exists():
        trainer.restore(state)
    # A run that was killed may have logged steps that its state does not hold: they are logged again.
    lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= trainer.step] \
        if log.exists() else []
    log.write_text("".join(line + "\n" for line in lines))
    last = len(trainer.sizes) if stop_after is None else min(len(trainer.sizes), trainer.step + stop_after)
    clock = Clock(trainer)
    with Signals() as signals, open(log, "a", buffering=1) as file:
        while trainer.step < last and not signals.received:
            result = trainer.advance()
            if trainer.step % log_every == 0 or trainer.step == len(trainer.sizes):
                line = clock.line(trainer, result)
                file.write(json.dumps(line) + "\n")
                print(progress_text(line), flush=True)
            if clock.minutes_since_save() > save_minutes:
                trainer.save(state)
                clock.saved()
        trainer.save(state)
    return trainer


class Clock:
    """Times of a run: since it started or went on, and since it was last saved."""

    def __init__(self, trainer: Trainer):
        self.first = int(trainer.ends[trainer.step - 1]) if trainer.step else 0
        self.start = self.last = time.monotonic()

    def minutes_since_save(self) -> float:
        """Minutes since the state was last written."""
        return (time.monotonic() - self.last) / 60

    def saved(self) -> None:
        """Note that the state was written."""
        self.last = time.monotonic()

    def line(self, trainer: Trainer, result: dict) -> dict:
        """What the log keeps of a step; loss, aux and shares are running means."""
        done, shares = int(trainer.ends[trainer.step - 1]), trainer.smoothed["shares"]
        speed = (done - self.first) / (time.monotonic() - self.start)
        return {"step": trainer.step, "steps": len(trainer.sizes), "tokens": done,
                "loss": round(trainer.smoothed["loss"], 4), "step_loss": round(result["loss"], 4),
                "aux": round(trainer.smoothed["aux"], 4), "tokens_per_second": round(speed),
                "seconds_left": round((int(trainer.ends[-1]) - done) / speed),
                "smallest_share": round(float(shares.min()), 4), "largest_share": round(float(shares.max()), 4),
                "rate": result["rate"], "norm": round(result["norm"], 4)}


def progress_text(line: dict) -> str:
    """One progress line."""
    return (f"step {line['step']:,}/{line['steps']:,}  {line['tokens'] / 1e6:.2f} M tokens  loss {line['loss']:.3f}  "
            f"aux {line['aux']:.3f}  {line['tokens_per_second']:,} tokens/s  left {line['seconds_left'] // 60} min  "
            f"experts {line['smallest_share']:.1%} to {line['largest_share']:.1%}  rate {line['rate']:.2e}")


class Signals:
    """While open, SIGINT and SIGTERM are noted instead of ending the program at once."""

    def __enter__(self) -> "Signals":
        self.received = False
        self.old = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number, frame) -> None:
        """Remember that a signal came."""
        self.received = True

    def __exit__(self, *error) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)


def tokenizer_file(out: Path, vocab_size: int) -> bytes:
    """The tokenizer.model of a run: the one in its folder, else trained now and stored there."""
    path = out / "tokenizer.model"
    if not path.exists():
        part = path.with_name(path.name + ".part")
        part.write_bytes(data.train_tokenizer(data.texts(), vocab_size))
        os.replace(part, path)
    return path.read_bytes()
