"""The training run of tiny-pixtral: the patches first, then the words for them, then both together.

(1) The encoder alone learns to say of every patch what it shows, through linear heads that are thrown away. (2) The
encoder stays as it is while adapter and decoder learn to answer. (3) All of it learns, the encoder at a lower rate and
still with the labels of its patches. As in `../text/train.py`, a step is a pure function of the state and of its
number, so that a run can stop and go on at any moment. Read `evaluate.py` next, then `going_on.py`, whose stages
have parts: it trains the finished weights on.
"""

import dataclasses
import json
import mmap
import multiprocessing
import signal
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from tiny.config import Config, TinyError, VisionConfig
from tiny.pixtral import Pixtral, vision_of
from tiny.system.whole import write_whole
from tiny.training.images import batches
from tiny.training.images.gradients import Head, answer_loss, encoder_loss
from tiny.training.images.prompts import FORMS, prompted
from tiny.training.images.scenes import Scene
from tiny.training.images.vocabulary import write_tokenizer
from tiny.training.optimiser import adamw, clip_factor, initialise, learning_rate, views, weight_shapes
from tiny.training.run_state import Clock, Signals, cut_log, load_state, require_finite, save_state
from tiny.training.saving import save_safetensors
from tiny.training.text.train import keep_freed_memory

CONTEXT = 2048  # Tokens that the finished model accepts.
LARGEST = 96  # Pixels of the longest side that it takes without shrinking: it sees best at sizes that were trained.
HEADS = {"what": Head(45, 1.0, 0.25), "color": Head(9, 0.5, 0.25), "place": Head(7, 0.5, 0.25),
         "zone": Head(10, 0.7, 0.0), "side": Head(3, 0.7, 0.0), "level": Head(3, 0.7, 0.0), "rank": Head(4, 0.5, 0.0),
         "count": Head(6, 0.5, 0.0)}
SHARDS = 3  # Shards of a step, at most.
MOMENTS = ("parameters", "moment1", "moment2", "before")


# How often a question is asked where it could be: those that are hard or seldom possible first.
ASKED = (("where", 4.0), ("which", 3.0), ("which_3", 3.0), ("left_of", 2.0), ("above", 2.0), ("caption2", 2.0),
         ("count_3", 2.0), ("count_4", 2.0), ("count_5", 2.0), ("same", 2.0), ("color", 0.6), ("count_1", 0.4),
         ("count_2", 0.7), ("m_color", 0.4), ("m_color_3", 0.4), ("caption_many", 0.2), ("caption_images", 0.2),
         ("caption_images_3", 0.2), ("text_color", 0.25), ("caption_text", 0.1))
# The same once the easy ones are known.
ASKED_LATER = (("where", 6.0), ("which", 4.0), ("which_3", 2.0), ("left_of", 2.0), ("above", 2.0), ("count_3", 3.0),
               ("count_4", 3.0), ("count_5", 3.0), ("same", 2.0), ("shape", 0.3), ("color", 0.25), ("caption1", 0.4),
               ("shape_of", 0.5), ("color_of", 0.7), ("tallest", 0.7), ("shortest", 0.8), ("count_1", 0.2),
               ("count_2", 0.4), ("m_shape", 0.6), ("m_color", 0.3), ("m_color_3", 0.3), ("caption_many", 0.1),
               ("caption_images", 0.1), ("caption_images_3", 0.1), ("text_color", 0.1), ("caption_text", 0.05))


@dataclasses.dataclass(frozen=True)
class Part:
    """What a shard shows if it is not what the first one shows; the fields are as in Stage.

    prompts: shares of the prompts that its questions carry; each settles how many pictures and questions the shard has
    """

    name: str
    pictures: int
    kinds: tuple[tuple[str, float], ...]
    sides: tuple[int, ...]
    small: float
    prompts: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of the run. Rates rise over the warm-up and fall linearly from `flat` on, both shares of its steps.

    rate:         highest rate of adapter and decoder; 0: they do not learn, and nothing is answered
    encoder_rate: highest rate of the encoder; 0: it is frozen
    dense:        weight of the patches' labels beside the answers
    pictures:     scenes of a shard; those of several images count their images
    shards:       a step's gradient is the mean over this many batches
    kinds:        shares of the kinds of scenes
    sides:        pixels that a side can have; small: how much rarer large sizes are
    asked:        how often a question is asked where it could be, 1 by default
    parts:        what the shards after the first one show, if it is not the same
    back:         how far all weights first go back to what they were before the first stage with parts: a mean of two
                  states that one run passes through keeps most of what each can do
    """

    name: str
    steps: int
    pictures: int
    rate: float
    encoder_rate: float
    dense: float
    kinds: tuple[tuple[str, float], ...]
    sides: tuple[int, ...]
    warmup: float = 0.03
    flat: float = 0.3
    floor: float = 0.03
    small: float = 0.5
    shards: int = 1
    asked: tuple[tuple[str, float], ...] = ASKED
    parts: tuple[Part, ...] = ()
    back: float = 0.0


PATCHES = (("objects1", 0.12), ("objects2", 0.28), ("objects3", 0.03), ("objects4", 0.04), ("objects5", 0.04),
           ("bars", 0.06), ("number1", 0.05), ("number2", 0.06), ("number3", 0.08), ("word3", 0.06), ("word4", 0.10),
           ("word5", 0.05), ("word6", 0.03))
ANSWERS = (("objects1", 0.16), ("objects2", 0.21), ("objects3", 0.06), ("objects4", 0.07), ("objects5", 0.07),
           ("bars", 0.07), ("number1", 0.03), ("number2", 0.05), ("number3", 0.09), ("word3", 0.05), ("word4", 0.10),
           ("word5", 0.03), ("word6", 0.02), ("pair", 0.14), ("triple", 0.04))
HARDER = (("objects1", 0.16), ("objects2", 0.22), ("objects3", 0.04), ("objects4", 0.06), ("objects5", 0.06),
          ("bars", 0.05), ("number1", 0.02), ("number2", 0.05), ("number3", 0.10), ("word3", 0.07), ("word4", 0.13),
          ("word5", 0.03), ("word6", 0.02), ("pair", 0.14), ("triple", 0.03))
READING = (("objects1", 0.12), ("objects2", 0.20), ("objects3", 0.03), ("objects4", 0.07), ("objects5", 0.04),
           ("bars", 0.04), ("number1", 0.03), ("number2", 0.06), ("number3", 0.10), ("word3", 0.10), ("word4", 0.19),
           ("word5", 0.04), ("word6", 0.02), ("pair", 0.09), ("triple", 0.02))
LETTERS = (("objects1", 0.06), ("objects2", 0.12), ("objects3", 0.02), ("objects4", 0.07), ("objects5", 0.03),
           ("bars", 0.03), ("number1", 0.03), ("number2", 0.07), ("number3", 0.13), ("word3", 0.14), ("word4", 0.27),
           ("word5", 0.06), ("word6", 0.02), ("pair", 0.06), ("triple", 0.01))
WORDS = (("objects1", 0.05), ("objects2", 0.08), ("objects3", 0.04), ("objects4", 0.05), ("objects5", 0.03),
         ("bars", 0.02), ("number1", 0.01), ("number2", 0.04), ("number3", 0.08), ("word3", 0.19), ("word4", 0.32),
         ("word5", 0.03), ("word6", 0.01), ("pair", 0.04), ("triple", 0.01))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the numbers of a run.

    largest: pixels of the longest side of a picture
    prompts: the texts of prompts that questions can carry, by name
    """

    width: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    hidden_dim: int = 256
    patch_size: int = 8
    vision_theta: float = 100.0
    rope_theta: float = 1e4
    norm_eps: float = 1e-5
    seed: int = 1
    questions: int = 4
    clip: float = 1.0
    decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    largest: int = LARGEST
    prompts: tuple[tuple[str, str], ...] = ()
    stages: tuple[Stage, ...] = (
        Stage("patches", 8000, 64, 0.0, 2e-3, 0.0, PATCHES, tuple(range(24, 81, 8))),
        Stage("answers", 2000, 32, 1.5e-3, 0.0, 0.0, ANSWERS, tuple(range(24, 81, 8)), floor=0.6, small=1.0),
        Stage("together", 5147, 32, 1e-3, 3e-4, 0.5, ANSWERS, tuple(range(24, 97, 8)), warmup=0.0466, flat=0.4663,
              floor=0.5193, small=1.0),
        Stage("harder", 928, 32, 1e-3, 3e-4, 0.5, HARDER, tuple(range(32, 97, 8)), warmup=0.0754, floor=1.0, small=0.7,
              shards=2, asked=ASKED_LATER),
        Stage("reading", 1933, 32, 1e-3, 3e-4, 0.5, READING, tuple(range(32, 97, 8)), warmup=0.0, flat=0.1707,
              floor=0.4657, small=0.7, shards=2, asked=ASKED_LATER),
        Stage("letters", 2000, 32, 7e-4, 5e-4, 1.0, LETTERS, tuple(range(32, 97, 8)), flat=0.2, floor=0.01, small=0.7,
              shards=2, asked=ASKED_LATER),
        Stage("words", 4000, 32, 7e-4, 6e-4, 1.0, WORDS, tuple(range(32, 97, 8)), flat=0.15, floor=0.01, small=0.7,
              shards=2, asked=ASKED_LATER),
        Stage("small", 5000, 32, 7e-4, 6e-4, 1.0, WORDS, tuple(range(32, 97, 8)), flat=0.2, floor=0.01, small=1.1,
              shards=2, asked=ASKED_LATER))

    def config(self, vocab_size: int) -> Config:
        """The sizes of the model."""
        head_dim = self.width // self.n_heads
        vision = VisionConfig(self.width, 3, self.largest, self.patch_size, self.vision_theta, self.hidden_dim,
                              self.n_layers, self.n_heads, batches.IMG, self.largest)
        return Config(self.width, self.n_layers, head_dim, self.hidden_dim, self.n_heads, self.n_kv_heads,
                      self.norm_eps, vocab_size, self.rope_theta, CONTEXT, vision=vision)


def shared(shape: tuple[int, int]) -> np.ndarray:
    """Zeros in memory that this process shares with those that it forks."""
    return np.frombuffer(mmap.mmap(-1, 4 * int(np.prod(shape))), np.float32).reshape(shape)


class Group:
    """Weights that learn at one rate: parameters, gradients and moments as flat arrays, its updates so far, and what
    the parameters were before the first stage with parts.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], n_layers: int, seed: int):
        sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        self.decayed = sum(size for name, size in sizes.items() if len(shapes[name]) > 1)
        self.moment1, self.moment2, self.before = np.zeros((3, sum(sizes.values())), np.float32)
        # parameters and the gradients of every shard are in memory that processes share
        self.parameters, *self.shards = shared((1 + SHARDS, sum(sizes.values())))
        self.weights, self.grads = views(self.parameters, shapes), [views(shard, shapes) for shard in self.shards]
        self.updates = 0
        initialise(self.weights, n_layers, seed)

    def update(self, rate: float, recipe: Recipe, shards: int) -> float:
        """Clip and apply the mean of the shards' gradients; return its length before."""
        gradients = self.shards[0]
        for shard in self.shards[1:shards]:
            gradients += shard
        gradients /= np.float32(shards)
        norm, factor = clip_factor(gradients, recipe.clip)
        self.updates += 1
        adamw(self.parameters, gradients, self.moment1, self.moment2, self.updates, rate, factor, self.decayed,
              recipe.decay, recipe.betas)
        return norm


class Trainer:
    """A run in progress: the encoder with its heads, adapter and language model, and how many steps are done."""

    def __init__(self, recipe: Recipe, tokenizer):
        self.recipe, self.tokenizer, self.step = recipe, tokenizer, 0
        config = recipe.config(tokenizer.vocab_size)
        shapes = weight_shapes(config)
        rows = sum(head.classes for head in HEADS.values())
        encoder = {"heads.weight": (rows, recipe.width), "heads.bias": (rows,)}
        encoder |= {name: shape for name, shape in shapes.items() if name.startswith("vision_encoder.")}
        encoder = dict(sorted(encoder.items(), key=lambda item: -len(item[1])))
        self.groups = {
            "encoder": Group(encoder, recipe.n_layers, recipe.seed),
            "language": Group({name: shape for name, shape in shapes.items() if name not in encoder}, recipe.n_layers,
                              recipe.seed + 1)}
        self.weights = {**self.groups["encoder"].weights, **self.groups["language"].weights}
        self.grads = [{**encoder, **language} for encoder, language in
                      zip(self.groups["encoder"].grads, self.groups["language"].grads)]
        self.workers: list = []
        self.model = Pixtral(config, self.weights)
        self.total = sum(stage.steps for stage in recipe.stages)

    def next_stage(self) -> tuple[Stage, float]:
        """The stage of the next step, and how much of it will then be done."""
        first = 0
        for stage in self.recipe.stages:
            if self.step < first + stage.steps:
                return stage, (self.step + 1 - first) / stage.steps
            first += stage.steps
        raise ValueError(f"the run has {self.total} steps, and all are done")

    def advance(self) -> dict:
        """Train one step; return its losses, rates and gradient lengths."""
        recipe, (stage, progress) = self.recipe, self.next_stage()
        if progress == 1 / stage.steps:
            self.begin(stage)
        # (1) the gradients of the shards, in other processes if there are any, else one after the other
        helpers = dict(zip(range(1, stage.shards), self.workers))
        for worker in helpers.values():
            worker.send(self.step)
        results = [self.shard(number) for number in range(stage.shards) if number not in helpers]
        results += [worker.recv() for worker in helpers.values()]
        result = {name: float(np.mean([one[name] for one in results if name in one])) for name in results[0]}
        # (2) the update of what learns
        shape = learning_rate(progress, 1.0, stage.warmup, stage.flat, stage.floor)
        self.step += 1
        for name, peak in (("encoder", stage.encoder_rate), ("language", stage.rate)):
            if peak:
                norm = self.groups[name].update(peak * shape, recipe, stage.shards)
                result |= {f"{name}_rate": peak * shape, f"{name}_norm": norm}
                if not np.isfinite(norm):
                    raise TinyError(f"The gradient is not finite at step {self.step}.", "Look at the recipe's rates.")
                require_finite(self.groups[name].parameters, self.step)
        return result | {"stage": stage.name, "pictures": sum(one["pictures"] for one in results)}

    def begin(self, stage: Stage) -> None:
        """What happens to the weights before the first step of a stage."""
        for group in self.groups.values():
            if stage == next((one for one in self.recipe.stages if one.parts), None):
                group.before[...] = group.parameters
            group.parameters += np.float32(stage.back) * (group.before - group.parameters)

    def shard(self, number: int) -> dict[str, float]:
        """Loss and gradients of one shard of the next step."""
        recipe, (stage, _) = self.recipe, self.next_stage()
        # (1) its scenes: of one size, which all shards share if they show the same, so that none waits long for another
        part = stage.parts[number - 1] if number and stage.parts else stage
        step = [recipe.seed, self.step]
        rng = np.random.default_rng([*step, number] if number else step)
        plan_rng = np.random.default_rng(step) if number and not stage.parts else rng
        plan = batches.draw_plan(plan_rng, dict(part.kinds), part.sides, part.small)
        scenes, questions = self.draw(rng, part, plan)
        # (2) loss and gradients
        vision = vision_of(self.model.config)
        if stage.rate:
            batch = batches.answer_batch(rng, scenes, self.tokenizer, dict(stage.asked), questions, recipe.patch_size)
            heads = HEADS if stage.encoder_rate else None
            result = answer_loss(self.model, batch, self.grads[number], heads, stage.dense)
        else:
            images, labels = batches.images_and_labels(scenes)
            result = encoder_loss(images, labels, vision, HEADS, self.weights, self.grads[number])
        return result | {"pictures": sum(len(scene.images) for scene in scenes)}

    def draw(self, rng: np.random.Generator, part: Stage | Part, plan: batches.Plan) -> tuple[list[Scene], int]:
        """The scenes of a shard, and how many questions are asked of each."""
        if not (isinstance(part, Part) and part.prompts):
            return batches.draw_scenes(rng, plan, part.pictures), self.recipe.questions
        names, shares = zip(*part.prompts)
        name = names[rng.choice(len(names), p=shares)]
        form, text = FORMS[name], dict(self.recipe.prompts)[name]
        scenes = batches.draw_scenes(rng, plan, form.pictures)
        return [scene._replace(questions=prompted(scene.questions, form, text)) for scene in scenes], form.questions

    def start_workers(self, processes: int) -> None:
        """Let other processes compute shards; they end with this one. The numbers stay the same."""
        context = multiprocessing.get_context("fork")
        for number in range(1, min(processes, SHARDS)):
            ours, theirs = context.Pipe()
            context.Process(target=self.serve, args=(number, theirs), daemon=True).start()
            self.workers.append(ours)

    def serve(self, number: int, pipe) -> None:
        """Compute one shard of every step that is asked for, in a separate process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run ends its last step; its end ends this process
        while True:
            self.step = pipe.recv()
            pipe.send(self.shard(number))

    def identity(self) -> str:
        """What a state must have been made with."""
        return json.dumps({"recipe": dataclasses.asdict(self.recipe), "vocab_size": self.tokenizer.vocab_size})

    def save(self, path: Path) -> None:
        """Write the state of the run."""
        arrays = {f"{name}.{field}": getattr(group, field) for name, group in self.groups.items()
                  for field in (*MOMENTS, "updates")}
        save_state(path, identity=self.identity(), step=self.step, **arrays)

    def restore(self, path: Path) -> None:
        """Read a state. Raises TinyError if it is damaged, or was made by another recipe."""
        like = {f"{name}.{field}": np.asarray(getattr(group, field)) for name, group in self.groups.items()
                for field in (*MOMENTS, "updates")}
        state = load_state(path, like | {"step": np.asarray(self.step)}, self.identity())
        if state["step"] > self.total:
            raise TinyError(f"{path} is not a whole training state.", "Remove it to train from the start.")
        for name, group in self.groups.items():
            for moment in MOMENTS:
                getattr(group, moment)[...] = state[f"{name}.{moment}"]
            group.updates = int(state[f"{name}.updates"])
        self.step = int(state["step"])


def train(recipe: Recipe, out: Path, stop_after: int | None = None, save_minutes: float = 2.0, log_every: int = 50,
          processes: int = 1) -> Trainer:
    """Train, or go on with the state found in the folder, until the recipe, a signal or stop_after (steps) ends it."""
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, write_tokenizer(out / "tekken.json", recipe.patch_size, recipe.largest))
    state, log = out / "state.npz", out / "log.jsonl"
    if state.exists():
        trainer.restore(state)
    cut_log(log, trainer.step)
    trainer.start_workers(processes)
    last = trainer.total if stop_after is None else min(trainer.total, trainer.step + stop_after)
    clock, seen = Clock(0), 0
    sums: dict[str, list] = {}
    with Signals() as signals, open(log, "a", buffering=1, encoding="utf-8") as file:
        while trainer.step < last and not signals.received:
            result = trainer.advance()
            seen += result["pictures"]
            for name, value in result.items():
                sums.setdefault(name, []).append(value)
            if trainer.step % log_every == 0 or trainer.step == trainer.total:
                line = {"step": trainer.step, "steps": trainer.total, "stage": result["stage"],
                        "seconds": round(time.monotonic() - clock.start),
                        "pictures_per_second": round(clock.speed(seen))}
                line |= {name: float(np.mean(values)) for name, values in sums.items() if name != "stage"}
                sums = {}
                file.write(json.dumps(line) + "\n")
                print("  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                                for name, value in line.items()), flush=True)
            if clock.due(save_minutes):
                trainer.save(state)
        trainer.save(state)
    return trainer


def export(trainer: Trainer, out: Path) -> None:
    """Write the model as a checkpoint in Mistral's layout, in bfloat16; the tokenizer is already in the folder."""
    config = trainer.model.config
    params = {name: getattr(config, name) for name in ("dim", "n_layers", "head_dim", "hidden_dim", "n_heads",
                                                       "n_kv_heads", "rope_theta", "norm_eps", "vocab_size")}
    params["max_position_embeddings"] = config.max_seq_len
    vision = dataclasses.asdict(vision_of(config))
    params["vision_encoder"] = {name: value for name, value in vision.items()
                                if name not in ("norm_eps", "max_image_size") and value is not None}
    write_whole(out / "params.json", json.dumps(params, indent=1) + "\n")
    save_safetensors(out / "consolidated.safetensors",
                     {name: weight.astype(ml_dtypes.bfloat16) for name, weight in trainer.weights.items()
                      if not name.startswith("heads.")})
