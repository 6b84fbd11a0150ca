"""Changes to one product, x W^T: of few tokens and of many, with float32 weights and with those of 16 bits."""

from collections.abc import Callable, Iterator

import numpy as np

from tiny.numerics import BFLOAT16, linear
from tutorial.pages.tried import Case, Change, Sizes, case, matrices, tokens

FLOAT16 = np.dtype(np.float16)
BLOCK = 1 << 18  # weights converted at a time
SMALL = 125_000  # weights of a block that OpenBLAS does not pack for 8 tokens


def plain(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The product without any trick: a block of rows at a time becomes float32."""
    if weight.dtype == np.float32:
        return x @ weight.T
    step = max(1, BLOCK // weight.shape[1])
    return np.concatenate([x @ weight[start : start + step].astype(np.float32).T
                           for start in range(0, len(weight), step)], axis=1)


def in_small_blocks(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The product a small block of rows at a time, whatever the number of tokens."""
    out, step = np.empty((len(x), len(weight)), np.float32), max(1, SMALL // weight.shape[1])
    for start in range(0, len(weight), step):
        np.matmul(x, weight[start : start + step].T, out=out[:, start : start + step])
    return out


def one_by_one(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Each token by itself, with two bfloat16 weights at a time."""
    return np.concatenate([in_pairs(row, weight) for row in x[:, None]])


def in_pairs(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Two bfloat16 weights at a time, the halves of a word of 32 bits, which become float32 by a shift and a mask."""
    words, step = weight.view(np.uint32), max(1, SMALL // weight.shape[1])
    even, odd = np.ascontiguousarray(x[:, 0::2]), np.ascontiguousarray(x[:, 1::2])
    out, scratch = np.empty((len(x), len(weight)), np.float32), np.empty((step, words.shape[1]), np.uint32)
    for start in range(0, len(words), step):
        block, columns = words[start : start + step], out[:, start : start + step]
        half = scratch[: len(block)]
        np.left_shift(block, 16, out=half)
        np.matmul(even, half.view(np.float32).T, out=columns)
        np.bitwise_and(block, 0xFFFF0000, out=half)
        columns += odd @ half.view(np.float32).T
    return out


def halves_side_by_side(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Two bfloat16 weights at a time: first all of the even columns, then the odd ones, in one product."""
    words, half, step = weight.view(np.uint32), weight.shape[1] // 2, max(1, SMALL // weight.shape[1])
    x, out = np.concatenate([x[:, 0::2], x[:, 1::2]], axis=1), np.empty((len(x), len(weight)), np.float32)
    scratch = np.empty((step, 2 * half), np.uint32)
    for start in range(0, len(words), step):
        block = words[start : start + step]
        np.left_shift(block, 16, out=scratch[: len(block), :half])
        np.bitwise_and(block, 0xFFFF0000, out=scratch[: len(block), half:])
        np.matmul(x, scratch[: len(block)].view(np.float32).T, out=out[:, start : start + step])
    return out


def float16_by_integers(x: np.ndarray) -> np.ndarray:
    """float16 as float32: the bits move to their places, and a factor mends the exponent, but not that of infinity."""
    out, step = np.empty(x.shape, np.uint32), max(1, SMALL // x.shape[1])
    for start in range(0, len(x), step):
        words, block = x[start : start + step].view(np.int16).astype(np.int32), out[start : start + step]
        words <<= 13  # the sign was copied to all places before it
        np.bitwise_and(words.view(np.uint32), 0x8FFFE000, out=block)
        block.view(np.float32)[:] *= np.float32(2.0**112)
    return out.view(np.float32)


def compared(counts: tuple[int, ...], dtype: np.dtype, before: Callable, after: Callable) -> Callable:
    """The cases of two ways to multiply, for each number of tokens. Many tokens need no matrix that no cache holds."""
    def cases(sizes: Sizes) -> Iterator[Case]:
        weights = matrices(sizes.hidden, sizes.width, sizes.copies, dtype)
        for count in counts:
            x, used = tokens(count, sizes.width), weights if count <= 16 else weights[:1]
            yield case(f"{count} token{'s' * (count > 1)}", each(before), each(after), x, *used)

    return cases


def each(product: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., list[np.ndarray]]:
    """The products of the same tokens with several weights."""
    return lambda x, *weights: [product(x, weight) for weight in weights]


def conversion(sizes: Sizes) -> Iterator[Case]:
    """float16 weights become float32."""
    (weight,) = matrices(sizes.hidden, sizes.width, 1, FLOAT16)
    yield case("a matrix", lambda x: x.astype(np.float32), float16_by_integers, weight)


FLOAT32 = np.dtype(np.float32)
CHANGES = [
    Change("bfloat16 weights converted in memory that is kept, 4 MiB at a time, and multiplied in small parts",
           "yes", compared((1, 2, 4, 8, 128), BFLOAT16, plain, linear)),
    Change("bfloat16 weights in pairs, two products, up to 8 tokens",
           "no: the row above is faster, and gives the bits of resident weights",
           compared((1, 4, 8), BFLOAT16, plain, in_pairs)),
    Change("2 or 3 resident tokens one by one, 4 to 8 by blocks that are not packed",
           "yes, though a block keeps only one core busy", compared((2, 4, 8), FLOAT32, plain, linear)),
    Change("few bfloat16 tokens in pairs, one by one", "no: one kernel wins what the other loses",
           compared((2,), BFLOAT16, in_pairs, one_by_one)),
    Change("blocks that are not packed for 9 to 16 tokens", "no: slower on AVX2",
           compared((12,), FLOAT32, plain, in_small_blocks)),
    Change("both halves of the pairs side by side, one product", "no",
           compared((4,), BFLOAT16, in_pairs, halves_side_by_side)),
    Change("pairs for many tokens", "no", compared((17, 128), BFLOAT16, linear, in_pairs)),
    Change("float16 weights by integers", "no: infinities become finite", conversion)]
