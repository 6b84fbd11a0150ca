"""What the script for a GPU runs: every host function, on small arrays to compare and at published shapes to time.

The small cases run on the emulator too, and a test requires that they launch every kernel of every `.cu` file.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from kernels import attention, experts, rms_norm, rope, route
from kernels.signature import HERE
from tiny import ops as book
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B

BF16, BFLOAT16 = "bfloat16", np.dtype(ml_dtypes.bfloat16)
FLOAT = np.dtype(np.float32)
STORAGES = [("float32", FLOAT), ("float32", BFLOAT16), ("bfloat16", BFLOAT16)]  # precision, type of weights
# Largest difference, as a share of the largest expected magnitude: on the emulator 5.5e-7 and 4.8e-3 at most.
TOLERANCES = {"float32": 3e-6, "bfloat16": 2e-2}
MIXTRAL = {"D": MIXTRAL_8X7B.dim, "F": MIXTRAL_8X7B.hidden_dim, "E": 8, "K": 2}
KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^()]*\)\s*)?(\w+)\s*\(")


class Draw:
    """Random arguments for one storage, as arrays of NumPy or of CuPy."""

    def __init__(self, arrays: ModuleType, precision: str, weight: np.dtype, seed: int = 0):
        self.arrays, self.precision, self.weight = arrays, precision, weight
        self.random, self.host = arrays.random.default_rng(seed), np.random.default_rng(seed)

    def activations(self, *shape: int) -> Any:
        """Standard normal numbers, in the type in which the precision stores activations."""
        return self.normal(shape, FLOAT if self.precision == "float32" else BFLOAT16)

    def weights(self, *shape: int) -> Any:
        """Normal numbers that keep the magnitude of what they multiply, in the type of weights."""
        return self.normal(shape, self.weight, shape[-1] ** -0.5)

    def normal(self, shape: tuple[int, ...], dtype: np.dtype, scale: float = 1.0) -> Any:
        """Normal numbers. CuPy converts to bfloat16 as NumPy does, to the nearest, ties to even."""
        numbers = self.random.standard_normal(shape, dtype=np.float32)
        numbers *= np.float32(scale)
        return numbers.astype(dtype, copy=False)

    def put(self, array: np.ndarray) -> Any:
        """An array of the host where the others are."""
        return self.arrays.asarray(array)


@dataclass(frozen=True)
class Operation:
    """One host function: how to make its arguments, what the book says they give, and which shapes are run.

    versions: by letter, or (None,) for a function that has one form only
    """

    name: str
    host: Callable
    expected: Callable
    make: Callable[..., tuple]
    floor: Callable[..., tuple[int, int]]
    small: tuple[dict, ...]
    published: dict[str, dict]
    versions: tuple = (None,)

    def call(self, launcher: Any, arguments: tuple, precision: str, version: str | None) -> tuple:
        """Run the host function; its results as a tuple."""
        options = {"version": version} if version else {}
        result = self.host(launcher, *arguments, precision=precision, **options)
        return result if isinstance(result, tuple) else (result,)


def kernels_of(file: str) -> list[str]:
    """The names of the kernels that a `.cu` file of this folder declares."""
    return KERNEL.findall((HERE / file).read_text(encoding="utf-8"))


def versions_of(file: str, name: str) -> tuple[str, ...]:
    """The versions of an operation: every v1, v2, ... for which the file has a kernel NAME_vN."""
    found = (re.fullmatch(rf"{name}_(v\d+)", kernel) for kernel in kernels_of(file))
    return tuple(sorted(match[1] for match in found if match))


def make_angles(draw: Draw, T: int, d: int) -> tuple:
    """Tables as rope_table makes them. Shapes:  -> cos (T, d / 2), sin (T, d / 2)."""
    return tuple(map(draw.put, book.rope_table(np.arange(T) * 7, d, 1e6)))


def make_cached(draw: Draw, T: int, H: int, G: int, d: int) -> tuple:
    """Arguments of rope_into_cache, its cache twice as long as needed and filled at every other row."""
    q, new, cache = (draw.activations(T, H, d), *([draw.activations(n, G, d) for _ in "kv"] for n in (T, 2 * T)))
    rows = draw.put(np.arange(1, 2 * T, 2, dtype=np.int32)[::-1].copy())
    return q, *new, *make_angles(draw, T, d), rows, *cache


def run_cached(launcher: Any, q: Any, k: Any, v: Any, cos: Any, sin: Any, rows: Any, keys: Any, values: Any,
               precision: str) -> tuple:
    """rope_into_cache, with the cache that it filled as results too."""
    return rope.rope_into_cache(launcher, q, k, v, cos, sin, rows, keys, values, precision), keys, values


def book_cached(q: np.ndarray, k: np.ndarray, v: np.ndarray, cos: np.ndarray, sin: np.ndarray, rows: np.ndarray,
                keys: np.ndarray, values: np.ndarray) -> tuple:
    """The same by the book."""
    keys, values = keys.copy(), values.copy()
    keys[rows], values[rows] = book.rope(k, cos, sin), v
    return book.rope(q, cos, sin), keys, values


def make_experts(draw: Draw, T: int, D: int, F: int, E: int, K: int) -> tuple:
    """Arguments of experts."""
    expert_ids = draw.put(np.array([draw.host.permutation(E)[:K] for _ in range(T)], np.int32))
    expert_weights = draw.put(draw.host.random((T, K), np.float32))
    matrices = ([draw.weights(*shape) for _ in range(E)] for shape in ((F, D), (D, F), (F, D)))
    return draw.activations(T, D), expert_ids, expert_weights, *matrices


def floor_experts(T: int, D: int, F: int, E: int, K: int) -> tuple[int, int]:
    """The floor if the tokens choose as many different experts as they can."""
    return experts.floor(T, K, D, F, min(E, T * K))


def make_attention(draw: Draw, lengths: tuple, spans: tuple, H: int, G: int, d: int, causal: bool = True) -> tuple:
    """Arguments of attention."""
    T, S = sum(lengths), max(stop for _, stop in spans)
    return draw.activations(T, H, d), *(draw.activations(S, G, d) for _ in "kv"), lengths, spans, causal


def run_decode(launcher: Any, q: Any, keys: Any, values: Any, lengths: tuple, spans: tuple, causal: bool,
               **options: Any) -> Any:
    """attention_decode, which takes one query for each sequence, with the arguments of attention."""
    return attention.attention_decode(launcher, q, keys, values, spans, **options)


def group(launcher: Any, expert_ids: Any, E: int, precision: str) -> tuple:
    """group_by_expert, which knows no precision."""
    return route.group_by_expert(launcher, expert_ids, E)


def book_group(expert_ids: np.ndarray, E: int) -> tuple:
    """What group_by_expert returns, by NumPy."""
    counts = np.bincount(expert_ids.reshape(-1), minlength=E)
    return counts, np.concatenate([[0], np.cumsum(counts)]), np.argsort(expert_ids.reshape(-1), kind="stable")


def one(length: int, H: int, G: int, d: int, keys: int = 0, causal: bool = True) -> dict:
    """Sizes of attention for one sequence: all its tokens, or the last `length` of `keys`."""
    return {"lengths": (length,), "spans": ((0, keys or length),), "H": H, "G": G, "d": d, "causal": causal}


def operations() -> list[Operation]:
    """All host functions, with the versions that the sources have now."""
    return [*row_operations(), *attention_operations(), *expert_operations()]


def row_operations() -> list[Operation]:
    """Those that treat every token by itself."""
    return [
        Operation("rms_norm", rms_norm.rms_norm, book.rms_norm,
                  lambda draw, T, D: (draw.activations(T, D), draw.weights(D), 1e-5),
                  lambda T, D: rms_norm.floor(T, D, BF16, 2), ({"T": 3, "D": 256}, {"T": 33, "D": 77}),
                  {"Mixtral, 16,384 tokens": {"T": 16384, "D": 4096}, "Pixtral, 16,384 tokens": {"T": 16384, "D": 5120},
                   "Mixtral, 1 token": {"T": 1, "D": 4096}}, versions_of("rms_norm.cu", "rms_norm")),
        Operation("add_rms_norm", rms_norm.add_rms_norm, lambda x, y, w, eps: (x + y, book.rms_norm(x + y, w, eps)),
                  lambda draw, T, D: (draw.activations(T, D), draw.activations(T, D), draw.weights(D), 1e-5),
                  lambda T, D: rms_norm.floor(T, D, BF16, 2, residual=True), ({"T": 3, "D": 256}, {"T": 5, "D": 77}),
                  {"Mixtral, 16,384 tokens": {"T": 16384, "D": 4096}}),
        Operation("rope", rope.rope, book.rope,
                  lambda draw, T, n, d: (draw.activations(T, n, d), *make_angles(draw, T, d)),
                  lambda T, n, d: rope.floor(T, n, d, BF16), ({"T": 5, "n": 3, "d": 64}, {"T": 31, "n": 2, "d": 10}),
                  {"Mixtral's queries, 16,384 tokens": {"T": 16384, "n": 32, "d": 128},
                   "Pixtral's image of 4,096 patches": {"T": 4096, "n": 16, "d": 64}},
                  tuple(version for version in versions_of("rope.cu", "rope") if version != "v3")),
        Operation("rope_into_cache", run_cached, book_cached, make_cached,
                  lambda T, H, G, d: rope.floor(T, H + G, d, BF16, G), ({"T": 5, "H": 4, "G": 2, "d": 64},),
                  {"Mixtral, 16,384 tokens": {"T": 16384, "H": 32, "G": 8, "d": 128}}),
    ]


def expert_operations() -> list[Operation]:
    """The mixture of experts."""
    return [
        Operation("route", route.route, book.route,
                  lambda draw, T, D, E, K: (draw.activations(T, D), draw.weights(E, D), K),
                  lambda T, D, E, K: route.floor(T, D, E, K, BF16, 2),
                  ({"T": 33, "D": 77, "E": 8, "K": 2}, {"T": 5, "D": 64, "E": 4, "K": 3}),
                  {"Mixtral, 4,096 tokens": {"T": 4096, "D": 4096, "E": 8, "K": 2},
                   "Mixtral, 1 token": {"T": 1, "D": 4096, "E": 8, "K": 2}}, versions_of("route.cu", "route")),
        Operation("group_by_expert", group, book_group,
                  lambda draw, T, E, K: (make_experts(draw, T, 1, 1, E, K)[1], E),
                  lambda T, E, K: (8 * T * K, 0), ({"T": 400, "E": 8, "K": 2},),
                  {"Mixtral, 4,096 tokens": {"T": 4096, "E": 8, "K": 2}}),
        Operation("experts", experts.experts, book.experts, make_experts, floor_experts,
                  ({"T": 3, "D": 72, "F": 40, "E": 8, "K": 3}, {"T": 5, "D": 33, "F": 70, "E": 4, "K": 1}),
                  {"Mixtral, 1 token": {"T": 1, **MIXTRAL}, "Mixtral, 4 tokens": {"T": 4, **MIXTRAL},
                   "Pixtral's dense layer, 1 token": {"T": 1, "D": PIXTRAL_12B.dim, "F": PIXTRAL_12B.hidden_dim,
                                                      "E": 1, "K": 1}},
                  versions_of("experts.cu", "experts")),
    ]


def attention_operations() -> list[Operation]:
    """Attention of many queries, packed, and of one for each sequence."""
    packed = {"lengths": (3, 70, 1), "spans": ((0, 3), (5, 80), (80, 113)), "H": 4, "G": 2, "d": 64}
    return [
        Operation("attention", attention.attention_prefill, book.attention, make_attention,
                  partial(attention.floor, precision=BF16), (packed, one(33, 3, 3, 10, causal=False)),
                  {"Mixtral, 8,192 tokens": one(8192, 32, 8, 128), "Pixtral's image of 4,096 patches":
                   one(4096, 16, 16, 64, causal=False)}, versions_of("attention.cu", "attention")),
        Operation("attention_decode", run_decode, book.attention, make_attention,
                  partial(attention.floor, precision=BF16),
                  (one(1, 4, 2, 64, 113), {**packed, "lengths": (1, 1, 1)}),
                  {"Mixtral, 32,768 keys": one(1, 32, 8, 128, 32768), "Mixtral, 1,024 keys": one(1, 32, 8, 128, 1024)},
                  versions_of("attention_decode.cu", "attention_decode")),
    ]


def agree(launcher: Any, operation: Operation, sizes: dict, storage: tuple[str, np.dtype], version: str | None) -> dict:
    """Compare one small case with the book: {"error": share of the largest magnitude, "ok": ...}, or why not.

    A ValueError is no failure here: the docstrings say what a function refuses, and other tests check it.
    """
    precision, weight = storage
    arguments = operation.make(Draw(np, precision, weight), **sizes)
    expected = operation.expected(*map(as_float, arguments))
    placed = tuple(to_device(launcher, argument) for argument in arguments)
    try:
        results = operation.call(launcher, placed, precision, version)
    except ValueError as refusal:
        if type(refusal) is not ValueError:  # what users meet: no compiler, no such kernel
            raise
        return {"ok": True, "refused": str(refusal)}
    wanted = expected if isinstance(expected, tuple) else (expected,)
    found = [largest_error(launcher.get(result), want) for result, want in zip(results, wanted, strict=True)]
    return {"ok": max(found) <= TOLERANCES[precision], "error": min(max(found), 1e30)}  # JSON has no infinity


def largest_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest magnitude; infinite if anything is NaN or infinite.

    Shapes:  any, the same. Whole numbers have no tolerance: any difference of theirs is infinite.
    """
    if actual.shape != expected.shape or expected.dtype.kind in "iu" and (actual != expected).any():
        return float("inf")
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    if not np.isfinite(difference).all():
        return float("inf")
    return float(difference.max() / max(np.abs(expected).max(), 1e-30))


def as_float(argument: Any) -> Any:
    """Arguments for the book: bfloat16 numbers as float32 ones of the same value."""
    if isinstance(argument, list):
        return [as_float(item) for item in argument]
    return argument.astype(np.float32) if getattr(argument, "dtype", None) == BFLOAT16 else argument


def to_device(launcher: Any, argument: Any) -> Any:
    """Arrays, and lists of them, put on the launcher's device; anything else as it is."""
    if isinstance(argument, list):
        return [launcher.put(item) for item in argument]
    return launcher.put(argument) if isinstance(argument, np.ndarray) else argument
