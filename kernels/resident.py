"""A model whose weights, activations and cache stay on a device: the book's recipe, run with the operations there.

    model = kernels.load("tiny-mixtral", device="cuda", precision="bfloat16")

The classes here say only what the book leaves open: where arrays are, and when they cross to the host. A step, one
token for each sequence with a cache, is a graph (`graph.py`): from its second time on it is one call, which uploads the
ids and waits once, for what the host reads. `device/ops.py` has the operations.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tiny
from kernels.attention import GROUP, WIDEST
from kernels.device.cache import DeviceCache, StepCache
from kernels.device.memory import STEPS, require_room
from kernels.device.ops import DeviceOps, Whole
from kernels.graph import Graph
from kernels.int8 import quantise
from kernels.launch import Launcher
from kernels.positions import FARTHEST, advance
from kernels.positions import place as place_numbers
from kernels.rms_norm import V3_LIMIT
from kernels.route import MOST_CHOSEN, MOST_EXPERTS
from kernels.sample import MOST_TOKENS, run_sample
from kernels.storage import STORES, to_weight
from tiny.config import Config, Ids, Images, TinyError, Trace
from tiny.files.packed.int8 import MATRICES
from tiny.files.weights import Tensors
from tiny.generate import ExpertTrace
from tiny.kv_cache import KVCache, Slot
from tiny.mixtral import Mixtral, check_list
from tiny.numerics import need
from tiny.pixtral import Pixtral
from tiny.sampling import check_sampling

FORMS = ("float32", "bfloat16", "int8")
ROUTERS = ("router_logits", "experts", "expert_weights")  # arrays of a trace that a step keeps for the host


class DeviceWeights(Tensors):
    """The tensors of a model by name, each put on the device at its first use: as it is stored, or in one of FORMS."""

    def __init__(self, weights: Mapping[str, np.ndarray], launcher: Launcher, precision: str, form: str | None) -> None:
        super().__init__(list(weights))
        self.tensors, self.mode = weights, form or "as stored"
        self.form = form or ("bfloat16" if weights["output.weight"].dtype == STORES["bfloat16"] else "float32")
        self.place = functools.partial(place, launcher=launcher, precision=precision, form=form)
        self.arrays: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self.arrays:
            self.arrays[name] = self.place(name, self.tensors[name])
        return self.arrays[name]

    def nbytes(self) -> int:
        """Bytes that are on the device so far."""
        return sum(array.nbytes for array in self.arrays.values())


def place(name: str, weight: np.ndarray, launcher: Launcher, precision: str, form: str | None) -> Any:
    """Put one tensor on the device, as kernels read it. Shapes:  any -> same, or one row for each output."""
    if weight.ndim > 2 and not name.endswith("patch_conv.weight"):  # a view of Hugging Face's order of rows
        weight = np.ascontiguousarray(weight).reshape(-1, weight.shape[-1])
    weight = weight.astype(STORES[form], copy=False) if form in STORES else weight
    if name.endswith(".bias"):
        return launcher.put(weight.astype(STORES[precision]))
    if form == "int8" and MATRICES.search(name):
        whole, scale = quantise(name, weight)
        return Whole(launcher.put(whole), launcher.put(scale))
    return launcher.put(to_weight(weight))


class Step:
    """One token for each of N sequences. Ids, positions, rows and spans lie on the device, where each step moves them
    on; the host knows what they are, and writes them only if another step came between.
    """

    def __init__(self, model: "Resident", cache: DeviceCache, N: int) -> None:
        self.model, self.launcher = model, model.ops.launcher
        self.block = self.launcher.empty((8, N), np.int32)
        self.ids, _, self.positions, self.rows, _, _, self.going, self.used = (self.block[n] for n in range(8))
        self.logprobs, self.spans = self.block[1].view(np.float32), self.block[4:6].reshape(N, 2)
        self.cache: Any = StepCache(cache, self.rows, self.spans)
        self.lengths = [1] * N
        # of each sequence: start, length, random numbers used; empty while a step goes on, and after one that failed
        self.held: list[tuple[int, int, int]] = []
        self.chosen = False  # whether the ids are those that the last step chose
        self.graph: Graph | None = None
        self.choosing: dict[tuple, Graph] = {}  # graphs that choose a token, by temperature and top_p
        self.draws: Any = None  # the random numbers of each sequence, and the array of the host that they came from
        self.taken: np.ndarray | None = None

    def holds(self, slots: Sequence[Slot]) -> bool:
        """Whether the arrays of the device are those of these sequences."""
        return [at[:2] for at in self.held] == [(slot.start, slot.length) for slot in slots]

    def used_by(self, slots: Sequence[Slot]) -> list[int]:
        """How many random numbers each sequence has used, as the arrays have it."""
        return [at[2] for at in self.held] if self.holds(slots) else [0] * len(slots)

    def place(self, slots: Sequence[Slot], used: Sequence[int]) -> list[tuple[int, int, int]]:
        """Make the arrays of the device those of these sequences, if they are not; return what a step makes of them."""
        wanted = [(slot.start, slot.length, n) for slot, n in zip(slots, used)]
        held, self.held = self.held, []
        if held != wanted:
            # Numbers that the launches carry: positions, rows, spans, that all go on, and the random numbers used.
            starts, lengths, used = zip(*wanted)
            rows = [start + length for start, length in zip(starts, lengths)]
            spans = [number for start, row in zip(starts, rows) for number in (start, row + 1)]
            numbers = enumerate([*lengths, *rows, *spans, *[1] * len(wanted), *used], 2 * len(wanted))
            place_numbers(self.launcher, self.block.reshape(-1), [(n, 1, number) for n, number in numbers])
        return [(start, length + 1, n + 1) for start, length, n in wanted]

    def forward(self, trace: Trace | None, choose: Callable[[Any], None] | None = None) -> Any:
        """The recipe, the choice of the next token if there is one, and the arrays moved on by one token."""
        logits = self.model.forward(self.ids, self.positions, self.lengths, (), self.cache, trace, True)
        if choose:
            choose(logits)
        advance(self.model.ops.launcher, self.going, self.positions, self.rows, self.spans, self.used)
        return logits

    def body(self, launcher: Any, choose: Callable[[Any], None] | None = None) -> tuple[Any, dict[str, Any]]:
        """The step through a launcher; the logits, and what the routers said."""
        ops, kept = self.model.ops, Kept()
        try:
            ops.launcher, ops.kept = launcher, launcher.kept
            return self.forward(kept, choose), kept
        finally:
            ops.launcher = ops.kept = self.launcher

    def take(self, draws: np.ndarray | None) -> None:
        """Put the random numbers of the sequences where the graphs read them. Shapes:  draws (N, M)."""
        if draws is None or self.taken is draws:
            return
        self.taken = None
        if self.draws is None or self.draws.shape != draws.shape:
            self.draws, self.choosing = self.launcher.empty(draws.shape, np.float64), {}
        self.launcher.write(self.draws, draws)
        self.taken = draws

    def choose(self, ids: np.ndarray | None, slots: Sequence[Slot], used: Sequence[int], temperature: float,
               top_p: float) -> tuple[np.ndarray, np.ndarray]:
        """Run the step and choose the next tokens on the device, where they are what the next step reads.

        ids: the tokens to run, or None for those that were chosen last

        Shapes:  ids (N,) -> ids (N,), logprobs (N,)
        """
        after = self.place(slots, used)
        self.chosen = True
        if ids is not None:
            self.launcher.write(self.ids, ids.astype(np.int32))

        def body(launcher: Any) -> None:
            self.body(launcher, lambda logits: run_sample(launcher, logits, self.ids, self.logprobs, temperature, top_p,
                                                          self.draws if temperature > 0 else None, self.used))

        key = float(temperature), float(top_p)
        if key in self.choosing:
            self.choosing[key].replay()
        else:
            self.choosing[key] = Graph(self.launcher, body)
        found, = self.launcher.fetch([self.block[:2]])
        self.held = after
        return found[0], found[1].view(np.float32)

    def run(self, ids: np.ndarray, slots: Sequence[Slot], trace: Trace | None) -> np.ndarray:
        """Run the step. Shapes:  ids (N,) -> logits (N, V) on the host."""
        after = self.place(slots, self.used_by(slots))
        self.chosen = False
        self.launcher.write(self.ids, ids.astype(np.int32))
        logits = self.traced(trace) if trace is None or isinstance(trace, ExpertTrace) else \
            self.model.host(self.forward(HostTrace(self.model, trace)))
        self.held = after
        return logits

    def traced(self, trace: ExpertTrace | None) -> np.ndarray:
        """Start the graph, and read what it leaves. Shapes:  -> logits (N, V) on the host."""
        first = self.graph is None
        graph = self.graph = self.graph or Graph(self.launcher, self.body)
        logits, routers = graph.first if first else graph.replay()
        wanted = [] if trace is None or not routers else list(routers.values()) if first else [graph.kept.block]
        found, *said = self.launcher.fetch([logits, *wanted])
        if trace is not None:
            # The routers' arrays are kept by the recipe in the order in which they were made.
            for name, array in zip(routers, said if first or not said else graph.kept.split(said[0])):
                trace[name] = plain(array)
        return plain(found)


class Kept(dict):
    """A trace that keeps what the routers said, where it lies."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith(ROUTERS):
            super().__setitem__(name, value)


class HostTrace:
    """A trace that copies every array to the host, into the trace of the caller."""

    def __init__(self, model: "Resident", trace: Trace) -> None:
        self.model, self.trace = model, trace

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(self.trace, ExpertTrace) or name.startswith(ROUTERS):
            self.trace[name] = self.model.host(value)


def plain(array: np.ndarray) -> np.ndarray:
    """An array of the device as the book has it: float32, or whole numbers of 64 bits. Shapes:  any -> same."""
    return array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)


class Resident(Mixtral):
    """What a resident model does otherwise than the book's: its calls give it ids and take logits."""

    ops: Any
    weights: Any
    prepared = False

    def prepare(self) -> None:
        """Put on the device what every pass reads beside the weights, and the tables of these."""
        self.ops.prepare(self.weights, self.config)
        self.ops.ones(self.config.dim)
        if self.config.vision:
            self.ops.prepare(self.weights, self.config.vision, "vision_encoder.transformer.")
            self.ops.ones(self.config.vision.hidden_size)
        self.prepared = True

    def __call__(self, ids: Ids, images: Images = (), cache: KVCache | None = None,
                 lengths: Sequence[int] | None = None, last_only: bool = False,
                 trace: Trace | None = None) -> np.ndarray:
        """Score the next token after every token, or after the last one of each sequence, as the book's model does.

        Shapes:  ids (T,) -> logits (T, V), or (len(lengths), V) with last_only
        Dtypes:  ids int -> float32
        Raises:  TinyError as the book's model, and for the cache of another model
        """
        with self.ops.lock:
            return self.score(ids, images, cache, lengths, last_only, trace)

    def score(self, ids: Ids, images: Images, cache: KVCache | None, lengths: Sequence[int] | None, last_only: bool,
              trace: Trace | None) -> np.ndarray:
        """A call, while no other goes on. Shapes:  as a call."""
        self.check_cache(cache)
        ids, lengths, past = self.check_call(ids, cache, lengths)
        pixels = self.check_images(ids, check_list(images), cache)
        if not self.prepared:
            self.prepare()
        if isinstance(cache, DeviceCache) and not len(pixels) and len(ids) == len(lengths):
            cache.check_room(lengths)
            logits = self.step_of(cache).run(ids, cache.slots, trace)
        else:
            trace = None if trace is None else HostTrace(self, trace)
            places = self.ops.counted(past, lengths)
            logits = self.host(self.forward(self.ops.numbers(ids), places, lengths, pixels, cache, trace, last_only))
        if cache:
            cache.advance(lengths)
        return logits

    def check_cache(self, cache: Any) -> None:
        """Raise TinyError for the cache of another model."""
        if cache is not None and getattr(cache, "ops", None) is not self.ops:
            raise TinyError("The cache is of another model; this one's lies on its device.",
                            "Use the new_cache of this model.")

    def choose(self, cache: DeviceCache, ids: Ids | None = None, temperature: float = 0.0, top_p: float = 1.0,
               draws: np.ndarray | None = None, used: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """One more token for each sequence of a cache, chosen on the device: only it and its logarithm come back.

        ids: the tokens that follow those in the cache, or None for those that were chosen last
        draws: the random numbers of each sequence, the same array at each call; used: how many of them it has used

        Shapes:  ids (N,), draws (N, M), M = random numbers -> ids (N,), logprobs (N,)
        Dtypes:  draws float64 -> ids int32, logprobs float32; a token of logits that are not finite is -1
        Raises:  TinyError as a call, or for a temperature or top_p out of range; ValueError if a sequence would outgrow
                 its rows, without ids after another step, or if a temperature above 0 lacks its random numbers
        """
        N = len(cache.slots)
        self.check_cache(cache)
        check_sampling(1, temperature, top_p)
        used = [0] * N if used is None else list(used)
        if len(used) != N:
            raise ValueError(f"choose expects how many random numbers are used, one for each of {N} sequences; "
                             f"got {used}.")
        draws = check_draws(N, draws, used) if temperature > 0 else None
        with self.ops.lock:
            cache.check_room([1] * N)
            step = self.step_of(cache)
            if ids is None and not (step.chosen and step.holds(cache.slots)):
                raise ValueError("choose expects ids: the last step was not one of these sequences.")
            given, _, _ = self.check_call([0] * N if ids is None else ids, cache, [1] * N)
            if not self.prepared:
                self.prepare()
            step.take(draws)
            found = step.choose(None if ids is None else given, cache.slots, used, temperature, top_p)
            cache.advance([1] * N)
        return found

    def step_of(self, cache: DeviceCache) -> Step:
        """The step of as many sequences as the cache has, with the weights of this model; the last few are kept."""
        N = len(cache.slots)
        step = cache.steps.pop(N, None)
        while len(cache.steps) >= STEPS:
            del cache.steps[next(iter(cache.steps))]
        cache.steps[N] = step if step and step.model is self else Step(self, cache, N)
        return cache.steps[N]

    def host(self, array: Any) -> np.ndarray:
        """An array of the device, on the host and as the book has it. Shapes:  any -> same."""
        return plain(self.ops.launcher.get(self.ops.array(array)))

    def new_cache(self, max_tokens: int | Sequence[int], dtype: str | None = None) -> KVCache:
        """An empty cache on the device, which stores numbers as the precision does.

        Raises:  TinyError as the book's, for another dtype, and if the device has no room for a run
        """
        check_cache(dtype, self.precision)
        limits = np.ravel(np.array(max_tokens, object))
        if all(isinstance(limit, (int, np.integer)) and limit >= 1 for limit in limits):
            self.require_room(int(limits.sum()), sequences=len(limits))
        return super().new_cache(max_tokens)

    def require_room(self, tokens: int, patches: Sequence[int] = (), sequences: int = 1) -> None:
        """Raise TinyError, with what would fit, if the device has too little memory for a run of so many tokens.

        patches: how many each image has; sequences: how many share the tokens
        """
        free = self.ops.launcher.free_bytes()
        if free is not None:
            require_room(self.config, self.weights.form, tokens, free + self.weights.nbytes(), self.precision,
                         self.ops.launcher.device, patches, sequences)


class ResidentPixtral(Resident, Pixtral):
    """A resident model that also takes images."""


def check_draws(N: int, draws: Any, used: Sequence[int]) -> np.ndarray:
    """The draws. Raises ValueError unless each of N sequences has one that it has not used.

    Shapes:  draws (N, M), M = random numbers -> the same
    """
    need("choose", "draws", draws, ("N", "M"), (np.dtype(np.float64),))
    if len(draws) != N or not all(0 <= n < draws.shape[1] for n in used):
        raise ValueError(f"choose expects random numbers ({N}, M), and how many of the M each sequence has used, fewer "
                         f"than M; got {draws.shape} and {used}.")
    return draws


def load(folder: str | Path, launcher: Launcher, precision: str = "float32", form: str | None = None) -> Resident:
    """Open a checkpoint. Its weights are put on a device at their first use.

    form: "float32", "bfloat16" or "int8"; None for weights as they are stored

    Raises:  TinyError as tiny.load, for another form, and if the device has too little memory
    """
    if form is not None and form not in FORMS:
        raise TinyError(f"weights={form!r} is unknown.", f"Use {', '.join(map(repr, FORMS))}, or 'auto'.")
    model = tiny.load(folder, precision=precision, weights="mapped")
    check_sizes(model.config)
    ops: Any = DeviceOps(launcher, precision)
    weights = DeviceWeights(model.weights, launcher, precision, form)
    kind = ResidentPixtral if model.config.vision else Resident
    opened = kind(model.config, weights, model._tokenizer, ops, precision, model.checkpoint)
    opened.require_room(1)
    return opened


def check_cache(dtype: str | None, precision: str) -> None:
    """Raise TinyError for a cache in another type than the one in which kernels store what a pass makes."""
    if dtype not in (None, precision):
        raise TinyError(f"A cache in {dtype!r} is asked for; on a device it is in {precision}, as all arrays are.",
                        f"Use precision={dtype!r}, or the model on the CPU.")


def check_sizes(config: Config) -> None:
    """Raise TinyError for sizes that the kernels have no room for, and heads that those of attention have none for."""
    sizes = [("experts", config.moe.num_experts if config.moe else 1, MOST_EXPERTS),
             ("experts for each token", config.moe.num_experts_per_tok if config.moe else 1, MOST_CHOSEN),
             ("numbers in a vector", max(config.dim, config.vision.hidden_size if config.vision else 0), V3_LIMIT),
             ("tokens in its vocabulary", config.vocab_size, MOST_TOKENS),
             ("positions", config.max_seq_len, FARTHEST)]
    for what, size, most in sizes:
        if size > most:
            raise TinyError(f"The model has {size:,} {what}; the kernels take at most {most:,}.", "Use --device cpu.")
    heads = [("The decoder", config.head_dim, config.n_heads // config.n_kv_heads)]
    if config.vision:
        heads.append(("The vision encoder", config.vision.head_dim, 1))
    for what, width, group in heads:
        if width % 2 or width > WIDEST or group > GROUP:
            raise TinyError(f"{what} has heads of {width} columns, {group} to a KV head; the attention kernels take an "
                            f"even number up to {WIDEST}, and {GROUP}.", "Use --device cpu.")
