"""Whole models on a GPU: as NumPy's at the sizes that this repository holds, and their speed at those of the releases.

There are no released weights on such a machine, so they are random and made on the device, from a seed. A model that
does not fit into the memory gets fewer layers, and its rows say how many.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import tiny
from kernels import resident
from kernels.device.memory import ITEMSIZES, SCALE, need
from kernels.device.ops import DeviceOps, Whole
from kernels.int8 import int8_model
from kernels.launch import Cuda
from kernels.resident import Resident, ResidentPixtral
from tiny.config import Config, TinyError
from tiny.files.packed.int8 import INT8, MATRICES
from tiny.files.weights import expected_shapes
from tiny.kv_cache import KVCache
from tiny.tools.memory import kv_bytes
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B

BF16 = np.dtype(ml_dtypes.bfloat16)
PROMPT, TOKENS, SEQUENCES, WARM_UPS = 512, 48, 4, 3
SPARE = 6 << 30  # bytes for the largest tensor while it is made, and for what others on the device hold
# Root mean square of the logits' error as a share of theirs; on the emulator 9e-7, 0.012 and 1e-6 at most.
AGREE = {"float32": 2e-5, "bfloat16": 0.05, "int8": 2e-5}


DRAWN = {"token chosen on device": {"temperature": 0.0, "top_p": 1.0},
         "token drawn on device": {"temperature": 0.7, "top_p": 0.9}}


class Release(NamedTuple):
    """A model to measure: its sizes, and the form of its weights."""

    config: Config
    form: str


RELEASES = {"mixtral-int8": Release(MIXTRAL_8X7B, "int8"), "mixtral-bfloat16": Release(MIXTRAL_8X7B, "bfloat16"),
            "pixtral-bfloat16": Release(PIXTRAL_12B, "bfloat16")}


def agree(form: str) -> Iterator[dict]:
    """The embedded model on the GPU against NumPy's: a prompt, and tokens after it from the cache.

    Raises:  TinyError if logits differ by more than AGREE says
    """
    name, precision = "tiny-mixtral", "bfloat16" if form == "bfloat16" else "float32"
    book = tiny.load(name, weights="mapped")
    model = resident.load(name, Cuda(poisoned=True), precision, form)
    ids, wrong = [1, *book.tokenizer.encode("Once there was a kind boy who had")], 0
    book = int8_model(book) if form == "int8" else book
    caches = [one.new_cache(len(ids) + 8) for one in (book, model)]
    for step in range(9):
        expected, logits = (one(ids, cache=cache, last_only=True) for one, cache in zip((book, model), caches))
        error = float(np.sqrt(np.mean((logits - expected) ** 2) / np.mean(expected**2)))
        ok = error <= AGREE[form]  # NaN is not
        wrong += not ok
        yield {"form": form, "step": step, "tokens": len(ids), "ok": ok, "error": error if ok else str(error)}
        ids = [int(expected.argmax())]
    if wrong:
        raise TinyError(f"{wrong} of 9 passes differ from NumPy's.", "See the rows that are not ok.")


# ---- the sizes of the releases

class RandomWeights(Mapping[str, Any]):
    """The tensors of a model on the device: normal numbers that keep the magnitude of what they multiply."""

    def __init__(self, config: Config, form: str, launcher: Any):
        self.cupy, self.random = launcher.cupy, launcher.cupy.random.default_rng(0)
        self.form = form
        self.arrays = {name: self.tensor(name, shape) for name, shape in expected_shapes(config).items()}

    def tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        """One tensor: ones for a norm, zeros for a bias, whole numbers with scales for a matrix in int8."""
        if len(shape) == 1:
            return self.cupy.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32).astype(BF16)
        scale = math.prod(shape[1:]) ** -0.5
        if self.form == "int8" and MATRICES.search(name):
            return Whole(self.normal(shape, INT8, 30.0), self.cupy.full(shape[:1], scale / 30, np.float32))
        return self.normal(shape, BF16, 1.0 if name.startswith("tok_embeddings") else scale)

    def normal(self, shape: tuple[int, ...], dtype: np.dtype, scale: float) -> Any:
        """Normal numbers. Shapes:  -> as asked for."""
        numbers = self.random.standard_normal(shape, dtype=np.float32)
        numbers *= np.float32(scale)
        return numbers.astype(dtype)

    def nbytes(self) -> int:
        """Bytes that are on the device."""
        return sum(array.nbytes for array in self.arrays.values())

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def fitting(config: Config, form: str, tokens: int, free: int) -> Config:
    """The model with as many of its layers as fit into so many bytes. Raises TinyError if not even one does."""
    for layers in range(config.n_layers, 0, -1):
        fewer = dataclasses.replace(config, n_layers=layers)
        if need(fewer, form, tokens).total + SPARE <= free:
            return fewer
    raise TinyError(f"Not one layer fits into {free / 1e9:.1f} GB.", "End other programs on this GPU.")


def random_model(config: Config, form: str, launcher: Any) -> Resident:
    """A resident model in bfloat16 with random weights."""
    kind = ResidentPixtral if config.vision else Resident
    ops: Any = DeviceOps(launcher, "bfloat16")
    return kind(config, RandomWeights(config, form, launcher), None, ops, "bfloat16")


def speed(name: str) -> Iterator[dict]:
    """How long a model takes for a prompt, for each token after it with and without a graph, and for several sequences.

    A program waits for the logits of every token and takes the largest, or for a token that was chosen on the device.
    """
    release, launcher = RELEASES[name], Cuda()
    rows = PROMPT + 4 * (TOKENS + WARM_UPS)
    config = fitting(release.config, release.form, rows + SEQUENCES * rows, launcher.free_bytes() or 0)
    start = time.perf_counter()
    model = random_model(config, release.form, launcher)
    launcher.cupy.cuda.Device().synchronize()
    about = {"model": name, "layers": config.n_layers, "of": release.config.n_layers}
    yield {**about, "what": "weights", "bytes": need(config, release.form, 1).weights,
           "seconds": time.perf_counter() - start}
    prompt = np.random.default_rng(0).integers(3, config.vocab_size, PROMPT)
    prompt[prompt == (config.vision.image_token_id if config.vision else -1)] = 3
    cache = model.new_cache(rows)
    yield {**about, "what": "prompt", "tokens": PROMPT, **prefill(model, prompt)}
    model(prompt, cache=cache, last_only=True)
    for what, step in (("token", model), ("token without graph", without_graph(model))):
        moved = token_bytes(config, release.form, cache.lengths[0])
        yield {**about, "what": what, "tokens": TOKENS, "bytes": moved, **decode(step, cache, 1)}
    for what, options in DRAWN.items():
        yield {**about, "what": what, "tokens": TOKENS, "bytes": token_bytes(config, release.form, cache.lengths[0]),
               **decode_on_device(model, cache, **options)}
    several = model.new_cache([rows] * SEQUENCES)
    model(np.tile(prompt, SEQUENCES), cache=several, lengths=[PROMPT] * SEQUENCES, last_only=True)
    yield {**about, "what": f"token of {SEQUENCES} sequences", "tokens": TOKENS, "bytes": token_bytes(
        config, release.form, several.lengths[0], SEQUENCES), **decode(model, several, SEQUENCES)}
    if config.vision:
        yield {**about, "what": "image", **image(model, config.vision)}


def prefill(model: Resident, prompt: np.ndarray) -> dict:
    """Milliseconds for a prompt, at its second time. Shapes:  prompt (T,)."""
    for _ in range(2):
        start = time.perf_counter()
        logits = model(prompt, cache=model.new_cache(len(prompt)), last_only=True)
        ms = 1000 * (time.perf_counter() - start)
    require_finite(logits)
    return {"ms": ms}


def decode(step: Callable[..., np.ndarray], cache: KVCache, sequences: int) -> dict:
    """Milliseconds for a token of each sequence, mean of TOKENS after a few that are not counted."""
    ids = np.full(sequences, 3)
    for n in range(WARM_UPS + TOKENS):
        if n == WARM_UPS:
            start = time.perf_counter()
        logits = step(ids, cache=cache, lengths=[1] * sequences, last_only=True)
        ids = logits.argmax(axis=-1)
    ms = 1000 * (time.perf_counter() - start) / TOKENS
    require_finite(logits)
    return {"ms": ms}


def decode_on_device(model: Resident, cache: Any, temperature: float, top_p: float) -> dict:
    """Milliseconds for a token that is chosen on the device, where the next step reads it."""
    draws = np.random.default_rng(0).random((1, WARM_UPS + TOKENS)) if temperature else None
    for n in range(WARM_UPS + TOKENS):
        if n == WARM_UPS:
            start = time.perf_counter()
        ids, logprobs = model.choose(cache, None if n else [3], temperature, top_p, draws, [n])
    ms = 1000 * (time.perf_counter() - start) / TOKENS
    require_finite(logprobs)
    if ids.min() < 0:
        raise TinyError("A token was chosen from logits that are not finite.", "Compare the kernels with NumPy first.")
    return {"ms": ms}


def without_graph(model: Resident) -> Callable[..., np.ndarray]:
    """A step whose kernels are launched one by one, from the same arrays as the graph's."""
    def step(ids: np.ndarray, cache: Any, lengths: list[int], last_only: bool) -> np.ndarray:
        one = cache.steps[len(ids)]
        after = one.place(cache.slots, one.used_by(cache.slots))
        one.launcher.write(one.ids, ids.astype(np.int32))
        logits = model.host(one.forward(None))
        one.held = after
        cache.advance(lengths)
        return logits

    return step


def image(model: Resident, vision: Any) -> dict:
    """Milliseconds for a prompt with one image of the largest size, at its second time."""
    side = vision.max_image_size // vision.patch_size
    row = [vision.image_token_id] * side
    ids = [1, *([*row, 12] * (side - 1)), *row, 13, 3]
    pixels = np.random.default_rng(0).standard_normal((3, *[side * vision.patch_size] * 2), dtype=np.float32)
    for _ in range(2):
        start = time.perf_counter()
        logits = model(ids, images=[pixels], cache=model.new_cache(len(ids)), last_only=True)
        ms = 1000 * (time.perf_counter() - start)
    require_finite(logits)
    return {"tokens": len(ids), "ms": ms}


def require_finite(logits: np.ndarray) -> None:
    """Raise TinyError for logits that are no numbers. Shapes:  any."""
    if not np.isfinite(logits).all():
        raise TinyError("The logits are not finite.", "Compare the kernels with NumPy first.")


def token_bytes(config: Config, form: str, length: int, sequences: int = 1) -> int:
    """Bytes that one token of each sequence must read: what it uses of the weights, and its keys and values.

    The sequences are taken to choose as many different experts as they can.
    """
    moe, total = config.moe, 0
    used = min(moe.num_experts, sequences * moe.num_experts_per_tok) if moe else 0
    for name, shape in expected_shapes(config).items():
        expert = int(name.split(".experts.")[1].split(".")[0]) if ".experts." in name else 0
        if name.startswith(("vision", "tok_embeddings")) or expert and expert >= used:
            continue
        matrix = form == "int8" and MATRICES.search(name)
        total += math.prod(shape) * (1 if matrix else ITEMSIZES[form]) + (SCALE * shape[0] if matrix else 0)
    return total + sequences * length * kv_bytes(config, ITEMSIZES["bfloat16"])
