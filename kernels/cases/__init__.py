"""What the script for a GPU runs: every host function, on small arrays to compare and at published shapes to time.

The small cases run on the emulator too, and a test requires that they launch every kernel of every `.cu` file.
"""

from functools import partial
from typing import Any

import numpy as np

from kernels import attention, experts, grouped, linear, rms_norm, rope, route
from kernels.cases.operation import BF16, BFLOAT16, FLOAT, Draw, Operation, kernels_of, versions_of
from kernels.cases.tokens import token_operations
from kernels.int8 import linear_int8
from tiny import ops as book
from tiny.files.packed.int8 import INT8, dequantise_rows
from tiny.numerics import gelu
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B

STORAGES = [("float32", FLOAT), ("float32", BFLOAT16), ("bfloat16", BFLOAT16)]  # precision, type of weights
# Largest difference, as a share of the largest expected magnitude: on the emulator 1.2e-6 and 4.8e-3 at most.
TOLERANCES = {"float32": 3e-6, "bfloat16": 2e-2}
MIXTRAL = {"D": MIXTRAL_8X7B.dim, "F": MIXTRAL_8X7B.hidden_dim, "E": 8, "K": 2}
__all__ = ["BF16", "BFLOAT16", "FLOAT", "MIXTRAL", "STORAGES", "TOLERANCES", "Draw", "Operation", "agree", "as_float",
           "kernels_of", "largest_error", "one", "operations", "to_device", "versions_of"]


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


def make_experts_int8(draw: Draw, T: int, D: int, F: int, E: int, K: int) -> tuple:
    """Arguments of experts with int8: as those of linear, for the matrices of each expert."""
    parts = [[make_int8(draw, 1, columns, rows)[1:] for _ in range(E)] for rows, columns in ((F, D), (D, F), (F, D))]
    return (draw.activations(T, D), *make_experts(draw, T, 1, 1, E, K)[1:3],
            *([part[n] for part in matrices] for n in range(2) for matrices in parts))


def run_experts_int8(launcher: Any, x: Any, expert_ids: Any, expert_weights: Any, w1: list, w2: list, w3: list,
                     s1: list, s2: list, s3: list, **options: Any) -> Any:
    """experts with int8 weights."""
    return experts.experts(launcher, x, expert_ids, expert_weights, w1, w2, w3, scales=(s1, s2, s3), **options)


def run_grouped(launcher: Any, *arguments: Any, version: str, run: Any = experts.experts, **options: Any) -> Any:
    """A host function of the experts, by a version of the grouped product."""
    return run(launcher, *arguments, version=f"grouped_{version}", **options)


def make_dense(draw: Draw, T: int, D: int, F: int) -> tuple:
    """Arguments of feed_forward."""
    return draw.activations(T, D), *(draw.weights(*shape) for shape in ((F, D), (D, F), (F, D)))


def book_experts_int8(x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, *arrays: list) -> np.ndarray:
    """The same by the book. Shapes:  x (T, D), expert_ids (T, K), expert_weights (T, K) -> (T, D)."""
    w1, w2, w3 = ([dequantise_rows(*parts) for parts in zip(whole, scale)] for whole, scale in zip(arrays, arrays[3:]))
    return book.experts(x, expert_ids, expert_weights, w1, w2, w3)


def floor_experts(T: int, D: int, F: int, E: int, K: int, **options: Any) -> tuple[int, int]:
    """The floor if the tokens choose as many different experts as they can."""
    return experts.floor(T, K, D, F, min(E, T * K), **options)


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


def make_linear(draw: Draw, T: int, D: int, N: int) -> tuple:
    """Arguments of linear."""
    return draw.activations(T, D), draw.weights(N, D)


def make_int8(draw: Draw, T: int, D: int, N: int) -> tuple:
    """Arguments of linear with int8: normal numbers of deviation 20, and scales that keep the magnitude of x."""
    scale = abs(draw.normal((N,), FLOAT, D**-0.5 / 20))
    return draw.activations(T, D), draw.normal((N, D), INT8, 20.0), scale


def make_epilogue(draw: Draw, T: int, D: int, N: int) -> tuple:
    """Arguments of linear with all that may follow the product."""
    return *make_linear(draw, T, D, N), draw.activations(N), draw.activations(T, N)


def run_int8(launcher: Any, x: Any, whole: Any, scale: Any, **options: Any) -> Any:
    """linear with int8 weights."""
    return linear.linear(launcher, x, whole, scale=scale, **options)


def run_epilogue(launcher: Any, x: Any, weight: Any, bias: Any, residual: Any, **options: Any) -> Any:
    """linear with bias, GELU and residual."""
    return linear.linear(launcher, x, weight, bias=bias, gelu=True, residual=residual, **options)


def book_epilogue(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """The same by the book. Shapes:  x (T, D), weight (N, D), bias (N,), residual (T, N) -> (T, N)."""
    return residual + gelu(book.linear(x, weight) + bias)


def one(length: int, H: int, G: int, d: int, keys: int = 0, causal: bool = True) -> dict:
    """Sizes of attention for one sequence: all its tokens, or the last `length` of `keys`."""
    return {"lengths": (length,), "spans": ((0, keys or length),), "H": H, "G": G, "d": d, "causal": causal}


def operations() -> list[Operation]:
    """All host functions, with the versions that the sources have now."""
    return [*row_operations(), *linear_operations(), *prompt_operations(), *attention_operations(),
            *expert_operations(), *token_operations()]


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


def linear_operations() -> list[Operation]:
    """The linear map for few tokens: with weights as they are stored, as int8, and with what may follow it."""
    versions, few = versions_of(linear.FILE, "linear"), {"T": 5, "D": 33, "N": 70}
    qkv, head = {"D": 4096, "N": 6144}, {"D": 4096, "N": 32000}
    return [
        Operation("linear", linear.linear, book.linear, make_linear,
                  lambda T, D, N: linear.floor(T, D, N, BF16, 2), ({"T": 1, "D": 1056, "N": 40}, few),
                  {"Mixtral's queries, keys and values, 1 token": {"T": 1, **qkv},
                   "Mixtral's queries, keys and values, 16 tokens": {"T": 16, **qkv},
                   "Mixtral's head, 1 token": {"T": 1, **head},
                   "Pixtral's head, 1 token": {"T": 1, "D": PIXTRAL_12B.dim, "N": PIXTRAL_12B.vocab_size}}, versions),
        Operation("linear_int8", run_int8, linear_int8, make_int8,
                  lambda T, D, N: linear.floor(T, D, N, BF16, 1, scaled=True), ({"T": 3, "D": 1056, "N": 40}, few),
                  {"Mixtral's queries, keys and values, 1 token": {"T": 1, **qkv},
                   "Mixtral's queries, keys and values, 16 tokens": {"T": 16, **qkv},
                   "Mixtral's head, 1 token": {"T": 1, **head}}, versions),
        Operation("linear_epilogue", run_epilogue, book_epilogue, make_epilogue,
                  lambda T, D, N: linear.floor(T, D, N, BF16, 2, residual=True), ({"T": 2, "D": 264, "N": 40}, few),
                  {"width of Mixtral, 1 token": {"T": 1, "D": 4096, "N": 4096}}, versions),
    ]


def prompt_operations() -> list[Operation]:
    """The linear map for many tokens: the same three, by the versions that are for these."""
    versions = versions_of(linear.PROMPT_FILE, "linear")
    many, few = {"T": 130, "D": 136, "N": 40}, {"T": 19, "D": 33, "N": 70}
    qkv, dense = {"D": 4096, "N": 6144}, {"D": PIXTRAL_12B.dim, "N": PIXTRAL_12B.hidden_dim}
    return [
        Operation("linear_prompt", linear.linear, book.linear, make_linear,
                  lambda T, D, N: linear.floor(T, D, N, BF16, 2), (many, few),
                  {"Mixtral's queries, keys and values, 2,048 tokens": {"T": 2048, **qkv},
                   "width of Mixtral, 2,048 tokens": {"T": 2048, "D": 4096, "N": 4096},
                   "Pixtral's dense layer, one map, 2,048 tokens": {"T": 2048, **dense}}, versions),
        Operation("linear_prompt_int8", run_int8, linear_int8, make_int8,
                  lambda T, D, N: linear.floor(T, D, N, BF16, 1, scaled=True), (many, few),
                  {"Mixtral's queries, keys and values, 2,048 tokens": {"T": 2048, **qkv}}, versions),
        Operation("linear_prompt_epilogue", run_epilogue, book_epilogue, make_epilogue,
                  lambda T, D, N: linear.floor(T, D, N, BF16, 2, residual=True), (many, few),
                  {"Pixtral's adapter, image of 4,096 patches": {"T": 4096, "D": 1024, "N": PIXTRAL_12B.dim}},
                  versions),
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
        *feed_forward_operations(), *grouped_operations(),
    ]


def feed_forward_operations() -> list[Operation]:
    """The experts, with weights as they are stored and as int8, and the one that every token has."""
    versions, small = versions_of(experts.FILE, "experts"), {"T": 3, "D": 80, "F": 48, "E": 8, "K": 3}
    published = {"Mixtral, 1 token": {"T": 1, **MIXTRAL}, "Mixtral, 4 tokens": {"T": 4, **MIXTRAL}}
    dense = {"D": PIXTRAL_12B.dim, "F": PIXTRAL_12B.hidden_dim}
    return [
        Operation("experts", experts.experts, book.experts, make_experts, floor_experts,
                  ({"T": 3, "D": 72, "F": 40, "E": 8, "K": 3}, {"T": 5, "D": 33, "F": 70, "E": 4, "K": 1}),
                  {**published, "Pixtral's dense layer, 1 token": {"T": 1, **dense, "E": 1, "K": 1}}, versions),
        Operation("experts_int8", run_experts_int8, book_experts_int8, make_experts_int8,
                  partial(floor_experts, weight=1, scaled=True), (small, {"T": 5, "D": 33, "F": 70, "E": 4, "K": 1}),
                  published, versions),
        Operation("feed_forward", experts.feed_forward, book.feed_forward, make_dense,
                  lambda T, D, F: experts.floor(T, 1, D, F, 1), ({"T": 3, "D": 72, "F": 40},),
                  {"Pixtral, 1 token": {"T": 1, **dense}}, versions[-1:]),
    ]


def grouped_operations() -> list[Operation]:
    """The same for many tokens: a product for each expert over just its own tokens."""
    versions, uneven = versions_of(grouped.FILE, "grouped"), {"T": 21, "D": 33, "F": 70, "E": 2, "K": 1}
    small, many = {"T": 70, "D": 72, "F": 40, "E": 3, "K": 2}, {"Mixtral, 2,048 tokens": {"T": 2048, **MIXTRAL}}
    vision = {"D": 1024, "F": 4096}  # widths of Pixtral's encoder
    return [
        Operation("grouped", run_grouped, book.experts, make_experts, floor_experts, (small, uneven),
                  {**many, "Mixtral, 512 tokens": {"T": 512, **MIXTRAL}}, versions),
        Operation("grouped_int8", partial(run_grouped, run=run_experts_int8), book_experts_int8, make_experts_int8,
                  partial(floor_experts, weight=1, scaled=True), (small, uneven), many, versions),
        Operation("grouped_dense", partial(run_grouped, run=experts.feed_forward), book.feed_forward, make_dense,
                  lambda T, D, F: experts.floor(T, 1, D, F, 1),
                  ({"T": 70, "D": 72, "F": 40}, {"T": 21, "D": 33, "F": 70}),
                  {"Pixtral, 2,048 tokens": {"T": 2048, "D": PIXTRAL_12B.dim, "F": PIXTRAL_12B.hidden_dim},
                   "Pixtral's vision layer, image of 4,096 patches": {"T": 4096, **vision}}, versions),
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
                  # The last has keys enough for two splits.
                  (one(1, 4, 2, 64, 113), {**packed, "lengths": (1, 1, 1)}, one(1, 4, 2, 64, 300)),
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
