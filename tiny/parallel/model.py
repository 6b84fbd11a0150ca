"""A model of which this process has one rank's part: the book's recipe, and before each pass a question to all ranks.

Read `__main__.py` next.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tiny.config import Config, Images, Trace
from tiny.decoder import ForwardPass
from tiny.generate import ExpertTrace
from tiny.kv_cache import KVCache
from tiny.mixtral import Mixtral
from tiny.numerics import product
from tiny.parallel.cost import bytes_sent, eight_machines
from tiny.parallel.ranks import Group
from tiny.pixtral import ImageRows, Pixtral, vision_of

SAME = "Give every rank the same prompt, images and options; a temperature above 0 needs a seed."
WORDS = "Once upon 2 times: na\u00efve \u732b\n"  # which tokenizers cut in their own ways
HEADS = ("q", "k", "v", "vision_q", "vision_k", "vision_v")  # arrays of a trace of which a rank has its own heads


class Gathered:
    """A trace that gets the heads of all ranks: a rank computes only its own ones. What is sent is not counted."""

    def __init__(self, trace: Trace, ranks: Group) -> None:
        self.trace, self.ranks = trace, ranks

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        if name.rstrip("0123456789") in HEADS:
            T, H, d = value.shape
            every = self.ranks.gather(value.reshape(T, H * d), [T] * self.ranks.size)
            value = every.reshape(-1, T, H, d).swapaxes(0, 1).reshape(T, -1, d)
        self.trace[name] = value


class OneRank:
    """What a model does otherwise on one of several ranks: it asks whether all run the same pass, and counts it.

    whole: the sizes of the whole model, of which config has one rank's heads
    """

    ranks: Group
    split: str
    whole: Config
    inside = False  # whether a pass is running, in which other ranks wait for this one

    def join(self, ranks: Group, split: str, whole: Config) -> None:
        """Become one of several ranks."""
        self.ranks, self.split, self.whole = ranks, split, whole
        self.before = ranks.received.copy(), ranks.calls.copy()
        self.formula = self.last = self.patches = 0

    def forward(self, ids: np.ndarray, positions: np.ndarray, lengths: Sequence[int], pixels: Images,
                cache: KVCache | None, trace: Trace | None, last_only: bool) -> np.ndarray:
        """As the book's, after all ranks said that they run this pass and had the same logits in the last one.

        Shapes:  ids (T,), positions (T,) -> logits (T, V), or (len(lengths), V) with last_only
        Raises:  Together, on every rank
        """
        heads = self.split == "all" and trace is not None and not isinstance(trace, ExpertTrace)
        seen = pixels.encoded if isinstance(pixels, ImageRows) else 0  # images of earlier passes, compared by then
        self.ranks.agree({"tokens": checksum(ids, positions, np.array(lengths)), "images": checksum(*pixels[seen:]),
                          "trace": (heads, last_only), "the logits of the last pass": self.last}, SAME)
        self.inside = True
        logits = super().forward(ids, positions, lengths, pixels, cache,  # type: ignore[misc]
                                 Gathered(trace, self.ranks) if trace is not None and heads else trace, last_only)
        self.inside = False
        self.last = checksum(logits[-1])
        self.formula += bytes_sent(self.whole, self.ranks.size, self.split, len(ids), len(logits), self.patches)
        self.patches = 0
        return logits

    def facts(self) -> dict[str, Any]:
        """What was sent so far, of all ranks together; every rank asks."""
        ranks, (received, calls) = self.ranks, self.before
        every = ranks.tell(sum((ranks.received - received).values()))
        return {"ranks": ranks.size, "split": self.split, "bytes_sent": sum(every), "bytes_by_formula": self.formula,
                "bytes_received_by_rank": every, "calls": dict(ranks.calls - calls),
                "eight_machines": eight_machines(self.whole)}


class OneMixtral(OneRank, Mixtral):
    """One rank of a text model."""


class OnePixtral(OneRank, Pixtral):
    """One rank of a model that sees."""

    def encode(self, images: Images, run: ForwardPass) -> np.ndarray:
        """As the book's; counts the patches. Shapes:  images n x (3, height, width) -> (N, D), N = patches."""
        if not isinstance(images, ImageRows):
            self.patches += sum(pixels[0].size // vision_of(self.config).patch_size ** 2 for pixels in images)
        return super().encode(images, run)


def checksum(*arrays: np.ndarray) -> int:
    """A number that differs if the arrays do. Shapes:  any."""
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array).tobytes(), zlib.crc32(str(array.shape).encode(), total))
    return total


def own_config(config: Config, size: int, split: str) -> Config:
    """The sizes of one rank's part: with heads split, its heads. The encoder counts its heads by itself."""
    if split == "experts":
        return config
    return dataclasses.replace(config, n_heads=config.n_heads // size, n_kv_heads=config.n_kv_heads // size)


def fingerprint(model: Mixtral, split: str) -> dict[str, Any]:
    """What all ranks must have alike, by the words of the message: files, versions, options, arithmetic."""
    tokenizer = model._tokenizer
    return {"the model's sizes": repr(model.config), "the weights": weights_checksum(model.checkpoint.tensors),
            "the tokenizer": tokenizer and (tokenizer.vocab_size, tokenizer.encode(WORDS)),
            "the options": (split, model.precision, model.cache), "the version of NumPy": np.__version__,
            "the version of ml_dtypes": ml_dtypes.__version__, "their arithmetic": arithmetic()}


def weights_checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """A checksum of names, types, shapes, and of the first and the last row of every tensor: not of all numbers."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tensor.shape} {getattr(tensor, 'kind', '')}\n".encode())
        for end in (0, -1):
            row: Any = tensor
            while row.ndim > 1:
                row = row[end]
            digest.update(np.ascontiguousarray(row).tobytes())
    return digest.hexdigest()


def arithmetic() -> int:
    """The bits of a few products, exponentials and sums, which another processor, BLAS or number of threads may compute
    otherwise.

    Ranks repeat each other's work, and a router that differs by one bit would send a token to two experts.
    """
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((67, 516), (300, 516)))
    weights = w, w.astype(ml_dtypes.bfloat16)
    products = [product(x[:tokens], weight, "float32") for tokens in (1, 2, 5, 67) for weight in weights]
    return checksum(*products, np.exp(x), np.einsum("td,td->t", x, x), x.sum(axis=1))


def build(model: Mixtral, weights: Any, ops: Any, ranks: Group, split: str) -> Mixtral:
    """The same model with one rank's weights and operations."""
    kind: Callable = OnePixtral if isinstance(model, Pixtral) else OneMixtral
    one = kind(own_config(model.config, ranks.size, split), weights, model._tokenizer, ops, model.precision,
               model.checkpoint, model.cache)
    one.join(ranks, split, model.config)
    return one
