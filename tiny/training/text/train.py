"""The training run: one recipe, one loop, and a state on disk from which it goes on to the same numbers.

A step is a pure function of the state and of the step's number: batches, rate and sizes follow from the recipe. So a
run that is stopped at any moment and started again gives the weights that it would have given. Read `evaluate.py` next.
"""

import ctypes
import dataclasses
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tiny.config import Config, MoeConfig, TinyError
from tiny.mixtral import Mixtral
from tiny.system.whole import write_whole
from tiny.training.gradients import loss_and_gradients
from tiny.training.optimiser import adamw, clip_factor, initialise, learning_rate, views, weight_shapes
from tiny.training.run_state import (
    Clock,
    Signals,
    cut_log,
    load_state,
    log_line,
    progress_text,
    require_finite,
    save_state,
)
from tiny.training.saving import save_safetensors
from tiny.training.text import data

CONTEXT = 512  # Tokens that the finished model accepts: its longest training windows.
ARRAYS = ("parameters", "moment1", "moment2")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # Options of mallopt. Source: malloc.h of glibc


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the numbers of a run. Shares and phases are shares of all tokens.

    batch_tokens: tokens of a step, one value for each equal part of the run: small steps learn fastest at first
    windows:      longest sequence of a step, one value for each equal part of the run
    answers:      the last part of the run, where of a chat only the answers are learnt, on answer_shares; it has a new
                  rate and step size, because answering is a new task and needs more than the end of a falling rate
    closing:      tokens after that, with all of the loss and the shares of before: answering alone lets the model
                  forget how prompts go
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
    answers_rate: float = 1e-3
    answers_tokens: int = 2048
    closing: int = 2_000_000
    closing_rate: float = 6e-4
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
        """The number of tokens of every step of the run before the closing part, in order."""
        part = self.tokens / len(self.batch_tokens)
        sizes = np.concatenate([np.full(max(1, round(part / size)), size) for size in self.batch_tokens])
        before = sizes[np.cumsum(sizes) <= self.tokens * (1 - self.answers)]
        return np.append(before, np.full(round(self.tokens * self.answers / self.answers_tokens), self.answers_tokens))

    def closing_steps(self) -> np.ndarray:
        """The same for the closing part."""
        return np.full(round(self.closing / self.answers_tokens), self.answers_tokens)

    def rate_at(self, progress: float) -> float:
        """The learning rate at a point of the run, given as a share of its tokens; above 1 in the closing part."""
        if progress <= 1 - self.answers:
            return learning_rate(progress, self.rate, self.warmup, self.flat, self.floor)
        if progress <= 1:
            return learning_rate((progress - 1) / self.answers + 1, self.answers_rate, 0.02, 0.1, self.floor)
        closed = (progress - 1) * self.tokens / self.closing
        return learning_rate(min(1.0, closed), self.closing_rate, 0.02, 0.1, self.floor)


# The run that the finished model is compared with: short, in small steps, without the phase of answers.
BASELINE = dataclasses.replace(Recipe(), tokens=2_000_000, batch_tokens=(1024,), windows=(256,), answers=0.0, closing=0,
                               warmup=60 / 1953)


class Trainer:
    """A run in progress: parameters, gradients and moments as flat arrays, and how many steps are done."""

    def __init__(self, recipe: Recipe, streams: dict[str, data.Stream]):
        self.recipe, self.streams, self.step = recipe, streams, 0
        config, before = recipe.config(), recipe.steps()
        self.sizes = np.append(before, recipe.closing_steps())
        self.ends, self.total = np.cumsum(self.sizes), int(before.sum())
        if not self.total:
            raise TinyError(f"A run of {recipe.tokens:,} tokens has no step.", "Train on 10,000 tokens at least.")
        shapes = weight_shapes(config)
        sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        self.decayed = sum(size for name, size in sizes.items() if len(shapes[name]) > 1)
        self.parameters, self.gradients, self.moment1, self.moment2 = np.zeros((4, sum(sizes.values())), np.float32)
        self.weights, self.grads = views(self.parameters, shapes), views(self.gradients, shapes)
        initialise(self.weights, recipe.n_layers, recipe.seed)
        self.model = Mixtral(config, self.weights)
        shares = np.zeros((recipe.n_layers, recipe.num_experts))
        self.smoothed: dict[str, Any] = {"loss": 0.0, "aux": 0.0, "shares": shares}

    def tokens(self) -> int:
        """How many tokens have been trained on."""
        return int(self.ends[self.step - 1]) if self.step else 0

    def advance(self) -> dict:
        """Train one step; return its loss, aux, shares, rate and gradient norm."""
        recipe, size, progress = self.recipe, int(self.sizes[self.step]), self.ends[self.step] / self.total
        answers = 1 - recipe.answers < progress <= 1
        # (1) the batch of this step
        shares = dict(recipe.answer_shares if answers else recipe.shares)
        window = recipe.windows[min(int(progress * len(recipe.windows)), len(recipe.windows) - 1)]
        batch = data.batch(self.streams, shares, recipe.seed, self.step, size, window, answers)
        # (2) loss and gradients
        result = loss_and_gradients(self.model, batch, recipe.aux, self.grads)
        norm, factor = clip_factor(self.gradients, recipe.clip)
        if not np.isfinite(norm):
            raise TinyError(f"The gradient is not finite at step {self.step}; the saved state is older, and whole.",
                            "The rate is too high: start again with a lower one, in another --out folder.")
        # (3) the update
        rate = recipe.rate_at(progress)
        self.step += 1
        adamw(self.parameters, self.gradients, self.moment1, self.moment2, self.step, rate, factor, self.decayed,
              recipe.decay)
        require_finite(self.parameters, self.step)
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
        """Write the state of the run."""
        save_state(path, identity=self.identity(), step=self.step, **{name: getattr(self, name) for name in ARRAYS},
                   **self.smoothed)

    def restore(self, path: Path) -> None:
        """Read a state. Raises TinyError if it is damaged, or was made by another recipe or on other data."""
        like = {"step": np.asarray(self.step), **{name: getattr(self, name) for name in ARRAYS},
                **{name: np.asarray(x) for name, x in self.smoothed.items()}}
        state = load_state(path, like, self.identity())
        if state["step"] > len(self.sizes):
            raise TinyError(f"{path} is not a whole training state.", "Remove it to train from the start.")
        for name in ARRAYS:
            getattr(self, name)[...] = state[name]
        self.step = int(state["step"])
        self.smoothed = {"loss": float(state["loss"]), "aux": float(state["aux"]), "shares": state["shares"]}


def train(recipe: Recipe, out: Path, stop_after: int | None = None, save_minutes: float = 2.0,
          log_every: int = 25) -> Trainer:
    """Train, or go on with the state found in the folder, until the recipe, a signal or stop_after (steps) ends it.

    SIGINT and SIGTERM end the step in hand, save and return.
    """
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    model = tokenizer_file(out, recipe.vocab_size)
    trainer = Trainer(recipe, data.load_streams(model, out)[0])
    state, log = out / "state.npz", out / "log.jsonl"
    if state.exists():
        trainer.restore(state)
    cut_log(log, trainer.step)
    last = len(trainer.sizes) if stop_after is None else min(len(trainer.sizes), trainer.step + stop_after)
    clock = Clock(trainer.tokens())
    with Signals() as signals, open(log, "a", buffering=1, encoding="utf-8") as file:
        while trainer.step < last and not signals.received:
            result = trainer.advance()
            if trainer.step % log_every == 0 or trainer.step == len(trainer.sizes):
                line = log_line(trainer, result, clock)
                file.write(json.dumps(line) + "\n")
                print(progress_text(line), flush=True)
            if clock.due(save_minutes):
                trainer.save(state)
        trainer.save(state)
    return trainer


def keep_freed_memory() -> None:
    """Ask glibc to keep memory that a step frees for the next one instead of returning it to the system.

    Getting it back, page by page, takes a tenth of the time of a step of 4,096 tokens. Elsewhere nothing happens.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 1 << 30)


def export(trainer: Trainer, out: Path) -> None:
    """Write the model as a checkpoint in Mistral's layout, in bfloat16; the tokenizer is already in the folder."""
    params = {name: value for name, value in dataclasses.asdict(trainer.model.config).items()
              if name not in ("vision", "end_ids")}
    write_whole(out / "params.json", json.dumps(params, indent=1) + "\n")
    save_safetensors(out / "consolidated.safetensors",
                     {name: weight.astype(ml_dtypes.bfloat16) for name, weight in trainer.weights.items()})


def tokenizer_file(out: Path, vocab_size: int) -> bytes:
    """The tokenizer.model of a run: the one in its folder, else trained now and stored there."""
    path = out / "tokenizer.model"
    if not path.exists():
        write_whole(path, data.train_tokenizer(data.texts(), vocab_size))
    return path.read_bytes()
