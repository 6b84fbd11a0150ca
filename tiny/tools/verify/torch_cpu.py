"""The book's operations in bfloat16 with PyTorch's own order of addition: equal to transformers on a CPU in every bit.

    model = tiny.load(folder, precision="bfloat16", ops=torch_cpu)

The rounding points are the book's; what differs is how each sum is formed before it is rounded (`torch_sums.py`), and
which of two equal router logits wins. That is transformers 5.23's eager attention and experts over PyTorch 2.13, each
prompt by itself, on a processor with AVX512_BF16; one with AMX adds in another order until the environment has
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16. It shows that no rounding point of the book is missing or too many, and where bits
come from. It is slow: each sum is a loop.

Not reproduced: numbers below 1e-38, which the processor's instruction takes for zero; a product of one row, at most 64
columns and length 2048 or 4096 on several threads, whose order depends on their number; from position 256 on, 1 in
10,000 cosines at some sizes of a head (`frequencies`).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tiny.adapter import splice
from tiny.attention import check_spans
from tiny.kv_cache import new_cache
from tiny.numerics import add, embed, round_to, silu
from tiny.patch_embed import patches
from tiny.rope import rope
from tiny.tools.verify.torch_sums import in_blocks, product, row_sums, softmax, top_k

__all__ = ["adapter", "add", "add_norm", "attention", "embed", "experts", "feed_forward", "linear", "new_cache",
           "patch_embed", "rms_norm", "rope", "rope_2d_table", "rope_table", "route", "splice"]

# Where PyTorch's GELU is not the nearest bfloat16 to 0.5 x (1 + erf(x / sqrt 2)), all in [-5.35, -3.14]: bits of input
# and of output. Its erf is a polynomial whose error, 1e-7, is all that 1 + erf has left there.
GELU = {0xC049: 0xBB2E, 0xC062: 0xBA40, 0xC064: 0xBA2B, 0xC06D: 0xB9CE, 0xC075: 0xB981, 0xC07B: 0xB934,
        0xC07F: 0xB90E, 0xC086: 0xB877, 0xC088: 0xB83E, 0xC08C: 0xB7DE, 0xC08D: 0xB7C4, 0xC08F: 0xB795,
        0xC090: 0xB781, 0xC092: 0xB744, 0xC093: 0xB725, 0xC098: 0xB69D, 0xC099: 0xB68F, 0xC09B: 0xB655,
        0xC09C: 0xB626, 0xC09D: 0xB627, 0xC09E: 0xB60A, 0xC09F: 0xB5EE, 0xC0A0: 0xB5A0, 0xC0AB: 0xB42B}


def rounded(x: np.ndarray, precision: str) -> np.ndarray:
    """Mark a rounding point, as the book does; these operations know bfloat16 only.

    Raises:  ValueError for another precision
    """
    if precision != "bfloat16":
        raise ValueError(f"These operations are for precision='bfloat16'; got {precision!r}. Use tiny.ops for float32.")
    return round_to(x, precision)


def linear(x: np.ndarray, weight: np.ndarray, precision: str = "float32") -> np.ndarray:
    """y = x W^T; shapes and dtypes as in the book's `linear`.

    Order:   that of `product`: oneDNN's pairs and blocks, or PyTorch's eight lanes for small ones
    Source:  PyTorch aten Linear.cpp
    """
    rows = np.asarray(weight, np.float32).reshape(-1, weight.shape[-1])
    return rounded(product(x, rows), precision)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float, precision: str = "float32") -> np.ndarray:
    """Normalise each row by its root mean square, as in the book.

    Order:   that of torch.sum; the weight multiplies the rounded value
    Source:  transformers modeling_mixtral.py, MixtralRMSNorm
    """
    mean = row_sums(x * x)[:, None] / np.float32(x.shape[1])
    normed = x * (np.float32(1) / np.sqrt(mean + np.float32(eps)))
    return rounded(rounded(normed, precision) * weight.astype(np.float32), precision)


def add_norm(x: np.ndarray, y: np.ndarray, weight: np.ndarray, eps: float,
             precision: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """The sum of x and y, and its norm. Shapes:  x, y (T, D), weight (D,) -> sum (T, D), normed (T, D)."""
    total = add(x, y, precision)
    return total, rms_norm(total, weight, eps, precision)


def frequencies(head_dim: int, theta: float) -> np.ndarray:
    """The angles of position 1, formed in float32: 1 / theta^(2i / head_dim).

    Shapes:  -> (d / 2,)
    Order:   exponent, power and reciprocal are each rounded to float32
    Source:  transformers modeling_rope_utils.py
    Differs: PyTorch's power is off by one unit in the last place now and then: in 1 of 64 frequencies at theta 1e6 and
             head_dim 128, 1 of 7 at head_dim 14, none at theta 1e4 and head_dim 64 or theta 1e9 and head_dim 128. No
             rounded cosine at a position below 256 changes by that
    """
    exponents = np.arange(0, head_dim, 2).astype(np.float32) / np.float32(head_dim)
    return np.float32(1) / (np.float64(theta) ** exponents.astype(np.float64)).astype(np.float32)


def rope_table(positions: np.ndarray, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of position times frequency, the product rounded to float32; shapes as in the book."""
    angles = np.outer(np.asarray(positions, np.float32), frequencies(head_dim, theta)).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rope_2d_table(positions: np.ndarray, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of a patch's row and column times their frequencies, in float32; shapes as in the book.

    Source:  transformers modeling_pixtral.py, PixtralRotaryEmbedding
    """
    each = frequencies(head_dim, theta)
    place = np.asarray(positions, np.float32)
    angles = np.hstack([np.outer(place[:, 0], each[0::2]), np.outer(place[:, 1], each[1::2])]).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Sequence[int],
              spans: Sequence[tuple[int, int]], causal: bool = True, precision: str = "float32") -> np.ndarray:
    """Grouped-query attention over packed sequences; shapes as in the book.

    Order:   each sequence of text is its own call. The images of a prompt are one row of patches, with a mask, so
             that the place of a patch among all of them decides in which lane and pair it is added
    Source:  transformers modeling_mixtral.py and modeling_pixtral.py, eager_attention_forward
    """
    check_spans(len(q), len(keys), lengths, spans)
    stops = np.cumsum(lengths)
    if not causal:
        own = np.repeat(np.arange(len(lengths)), lengths)
        return attend(q, keys, values, own[:, None] == own, precision)
    parts = []
    for length, stop, (low, high) in zip(lengths, stops, spans):
        seen = np.tri(length, high - low, high - low - length, dtype=bool)
        parts.append(attend(q[stop - length : stop], keys[low:high], values[low:high], seen, precision))
    return np.concatenate(parts)


def attend(q: np.ndarray, keys: np.ndarray, values: np.ndarray, seen: np.ndarray, precision: str) -> np.ndarray:
    """Attention of T queries over S keys, as products in a batch of all heads.

    Shapes:  q (T, H, d), keys, values (S, G, d), seen (T, S) bool -> (T, H, d)
    Order:   the numbers of a head in Hugging Face's order, first of all pairs, then second of all pairs
    """
    H, d = q.shape[1:]
    halves = [*range(0, d, 2), *range(1, d, 2)]
    keys, values = keys.astype(np.float32, copy=False), values.astype(np.float32, copy=False)  # of a cache in bfloat16
    each = np.arange(H) // (H // keys.shape[1])  # the KV head of each query head
    # (1) scores, rounded, scaled by a float32, rounded again
    scores = product(q[..., halves].swapaxes(0, 1), keys[:, each][..., halves].swapaxes(0, 1))
    scores = rounded(scores, precision) * np.float32(d**-0.5)
    scores = rounded(scores, precision)
    # (2) mask, softmax
    weights = softmax(np.where(seen, scores, np.float32(-np.inf)))
    # (3) the weighted average of the values
    out = product(rounded(weights, precision), values[:, each].transpose(1, 2, 0), by_columns=True)
    return rounded(out, precision).swapaxes(0, 1)


def route(x: np.ndarray, gate: np.ndarray, num_experts_per_tok: int,
          precision: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose each token's experts; shapes and dtypes as in the book.

    Order:   softmax over all experts, the largest, divided by their sum; of equal ones those that C++'s nth_element
             happens to keep
    Source:  transformers modeling_mixtral.py, MixtralTopKRouter
    """
    logits = linear(x, gate, precision)
    probabilities = softmax(logits)
    expert_ids = np.array([top_k(row, num_experts_per_tok) for row in probabilities])
    expert_weights = np.take_along_axis(probabilities, expert_ids, axis=1)
    return logits, expert_ids, expert_weights / row_sums(expert_weights)[:, None]


def feed_forward(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray,
                 precision: str = "float32") -> np.ndarray:
    """SwiGLU with three products, as in the book. Source:  transformers modeling_mistral.py, MistralMLP"""
    hidden = rounded(silu(linear(x, w1, precision)), precision) * linear(x, w3, precision)
    return linear(rounded(hidden, precision), w2, precision)


def experts(x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, w1: Sequence[np.ndarray],
            w2: Sequence[np.ndarray], w3: Sequence[np.ndarray], precision: str = "float32") -> np.ndarray:
    """Send every token to its experts and add up their answers; shapes as in the book.

    Order:   experts ascending; gate and up are one product of twice the width, which decides what counts as small
    Source:  transformers modeling_mixtral.py, MixtralExperts
    """
    out = np.zeros_like(x)
    for e in np.unique(expert_ids):
        tokens, rank = np.nonzero(expert_ids == e)
        both = linear(x[tokens], np.concatenate([w1[e], w3[e]]), precision)
        gate, up = np.split(both, 2, axis=1)
        hidden = rounded(rounded(silu(gate), precision) * up, precision)
        answer = rounded(linear(hidden, w2[e], precision) * expert_weights[tokens, rank, None], precision)
        out[tokens] = rounded(out[tokens] + answer, precision)
    return out


def patch_embed(images: Sequence[np.ndarray], weight: np.ndarray, precision: str = "float32") -> np.ndarray:
    """Embed the patches of all images; shapes as in the book.

    Order:   one chain over row, column and channel, the channels filled up to four with a zero, not cut into blocks
    Source:  oneDNN's convolution, in its layout with channels innermost
    """
    D, C, p = weight.shape[:3]

    def channels_last(x):
        padded = np.zeros((len(x), p, p, C + C % 2), np.float32)
        padded[..., :C] = x.reshape(-1, C, p, p).transpose(0, 2, 3, 1)
        return padded.reshape(len(x), -1)

    x = rounded(np.concatenate([patches(pixels, p) for pixels in images]), precision)
    kernel = channels_last(np.asarray(weight, np.float32))
    return rounded(in_blocks(channels_last(x), kernel, block=kernel.shape[1]), precision)


def adapter(x: np.ndarray, weights: Mapping[str, np.ndarray], precision: str = "float32") -> np.ndarray:
    """Two linear maps with biases and a GELU between them; shapes as in the book.

    Order:   the bias is added to the float32 sum, before its only rounding
    Source:  transformers modeling_llava.py, LlavaMultiModalProjector
    """
    def affine(x, name):
        weight, bias = (weights[f"vision_language_adapter.{name}.{part}"].astype(np.float32)
                        for part in ("weight", "bias"))
        return rounded(product(x, weight) + bias, precision)

    return affine(gelu(affine(x, "w_in"), precision), "w_out")


def gelu(x: np.ndarray, precision: str) -> np.ndarray:
    """GELU of bfloat16 numbers, with PyTorch's result where that is not the nearest one.

    Shapes:  any -> same
    Dtypes:  float32 holding bfloat16 values -> the same
    Source:  PyTorch aten native/cpu/Activation.cpp; all bfloat16 inputs between 1e-37 and 1e38 were compared
    """
    values, place = np.unique(x, return_inverse=True)
    erf = np.array([math.erf(value) for value in values * np.float32(0.5**0.5)], np.float32)
    found = rounded(values * np.float32(0.5) * (np.float32(1) + erf), precision)
    keys = np.array(list(GELU), np.uint32) << 16
    bits = np.array(list(GELU.values()), np.uint32) << 16
    for key, value in zip(keys.view(np.float32), bits.view(np.float32)):
        found[values == key] = value
    return found[place].reshape(x.shape)
