"""Changes to experts, attention and element-wise functions, and all that was kept in a whole model."""

from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

import tiny
from tiny.attention import attention
from tiny.config import Config, MoeConfig
from tiny.experts import feed_forward, filled
from tiny.generate import run_finite
from tiny.numerics import BFLOAT16, silu, softmax
from tiny.tools.synthetic import RandomTensors
from tutorial.pages.tried import Case, Change, Sizes, case, matrices, tokens
from tutorial.pages.tried.products import plain

HEADS, HEAD, QUERIES, KEYS = 4, 64, 64, 512  # query heads of one KV head, their width, and the sizes of blocks


def swiglu(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray) -> np.ndarray:
    """An expert without any trick."""
    return plain(silu(plain(x, w1)) * plain(x, w3), w2)


def plain_experts(x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray, w1: Sequence[np.ndarray],
                  w2: Sequence[np.ndarray], w3: Sequence[np.ndarray], precision: str = "float32") -> np.ndarray:
    """All experts without any trick."""
    out = np.zeros_like(x)
    for expert in np.unique(expert_ids):
        rows, rank = np.nonzero(expert_ids == expert)
        out[rows] += expert_weights[rows, rank, None] * swiglu(x[rows], w1[expert], w2[expert], w3[expert])
    return out


def expert(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices of an expert."""
    w1, w3 = matrices(sizes.hidden, sizes.width, 2)
    return w1, matrices(sizes.width, sizes.hidden, 1)[0], w3


def with_zeros(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray) -> np.ndarray:
    """An expert on its tokens with rows of zeros behind them, as the book has it."""
    return feed_forward(filled(x), w1, w2, w3)[: len(x)]


def with_more_zeros(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray) -> np.ndarray:
    """The same, up to a multiple of 16."""
    return feed_forward(np.pad(x, ((0, -len(x) % 16), (0, 0))), w1, w2, w3)[: len(x)]


def columns_first(sizes: Sizes) -> Iterator[Case]:
    """An expert as it was at first, and as it is, with the columns of its answers side by side."""
    matrix = expert(sizes)
    for count in (16, 128, 512):
        yield case(f"{count} tokens", swiglu, feed_forward, tokens(count, sizes.width), *matrix)


def zeros_to_8(sizes: Sizes) -> Iterator[Case]:
    for count in (47, 68, 121):
        yield case(f"{count} tokens", feed_forward, with_zeros, tokens(count, sizes.width), *expert(sizes))


def zeros_to_16(sizes: Sizes) -> Iterator[Case]:
    for count in (36, 68):
        yield case(f"{count} tokens", with_zeros, with_more_zeros, tokens(count, sizes.width), *expert(sizes))


def adjacent(sizes: Sizes) -> Iterator[Case]:
    """The two matrices that read the same tokens, apart and as one."""
    w1, _, w3 = expert(sizes)
    both = np.concatenate([w1, w3])
    for count in (1, 128):
        yield case(f"{count} token{'s' * (count > 1)}", lambda x: np.concatenate([x @ w1.T, x @ w3.T], axis=1),
                   lambda x: x @ both.T, tokens(count, sizes.width))


def stacked(sizes: Sizes) -> Iterator[Case]:
    """Two experts of one token, one after the other and as one expert of twice the hidden width."""
    first, (b1, b3) = expert(sizes), matrices(sizes.hidden, sizes.width, 2)[::-1]
    second, x = (b1, first[1][:, ::-1].copy(), b3), tokens(1, sizes.width)
    w1, w3 = (np.concatenate([first[i], second[i]]) for i in (0, 2))
    w2 = np.concatenate([first[1], second[1]], axis=1)
    yield Case("1 token", lambda: feed_forward(x, *first) + feed_forward(x, *second),
               lambda: feed_forward(x, w1, w2, w3))


def silu_in_blocks(sizes: Sizes) -> Iterator[Case]:
    def after(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        for start in range(0, len(x), 16):
            out[start : start + 16] = silu(x[start : start + 16])
        return out

    yield case("128 tokens", silu, after, tokens(128, sizes.hidden))


def added_in_place(sizes: Sizes) -> Iterator[Case]:
    """Answers are added to the rows of their tokens."""
    answer, rows = tokens(128, sizes.width), np.arange(0, 256, 2)

    def before() -> np.ndarray:
        out = np.zeros((256, sizes.width), np.float32)
        out[rows] = out[rows] + answer
        return out

    def after() -> np.ndarray:
        out = np.zeros((256, sizes.width), np.float32)
        out[rows] += answer
        return out

    yield Case("128 tokens", before, after)


def queries(keys: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A block of queries of all heads that share their keys and values, and these."""
    k, v = matrices(keys, HEAD, 2)
    return tokens(QUERIES * HEADS, HEAD).reshape(QUERIES, HEADS, HEAD), k[:, None] * 8, v[:, None] * 8


def attend(q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The book's attention, of an image: all see all."""
    return attention(q, keys, values, [len(q)], [(0, len(keys))], causal=False)


def divided_late(q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The scale multiplies the queries, and the sum divides what the values gave."""
    scores = (q.reshape(-1, HEAD) * np.float32(HEAD**-0.5)) @ keys[:, 0].T
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    return (scores @ values[:, 0] / scores.sum(axis=1, keepdims=True)).reshape(q.shape)


def online(q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A block of keys at a time, with what was summed so far shrunk whenever a larger score comes."""
    rows = q.reshape(-1, HEAD) * np.float32(HEAD**-0.5)
    most, total = np.full((len(rows), 1), -np.inf, np.float32), np.zeros((len(rows), 1), np.float32)
    out = np.zeros_like(rows)
    for start in range(0, len(keys), KEYS):
        scores = rows @ keys[start : start + KEYS, 0].T
        larger = np.maximum(most, scores.max(axis=1, keepdims=True))
        shrink, most = np.exp(most - larger), larger
        np.exp(np.subtract(scores, larger, out=scores), out=scores)
        total = total * shrink + scores.sum(axis=1, keepdims=True)
        out = out * shrink + scores @ values[start : start + KEYS, 0]
    return (out / total).reshape(q.shape)


def late(sizes: Sizes) -> Iterator[Case]:
    yield case(f"{sizes.keys:,} keys", attend, divided_late, *queries(sizes.keys))


def in_blocks(sizes: Sizes) -> Iterator[Case]:
    for keys in (sizes.keys, 4 * sizes.keys):
        yield case(f"{keys:,} keys", attend, online, *queries(keys))


def no_maximum(sizes: Sizes) -> Iterator[Case]:
    x = tokens(128, sizes.keys)

    def after() -> np.ndarray:
        out = np.exp(x)
        return np.divide(out, out.sum(axis=-1, keepdims=True), out=out)

    yield Case(f"{sizes.keys:,} keys", lambda: softmax(x), after)


def other_exponentials(sizes: Sizes) -> Iterator[Case]:
    x = tokens(128, sizes.hidden)
    yield Case("exp2", lambda: np.exp(x), lambda: np.exp2(x * np.float32(np.log2(np.e))))
    yield Case("silu by tanh", lambda: silu(x), lambda: x * (np.float32(0.5) + np.float32(0.5) * np.tanh(
        x * np.float32(0.5))))


def whole(sizes: Sizes) -> Iterator[Case]:
    """A narrow Mixtral with all that was kept, and with none of it: prompts, and sequences that go on together."""
    config = Config(dim=sizes.width, n_layers=sizes.layers, head_dim=HEAD, hidden_dim=sizes.hidden, n_heads=16,
                    n_kv_heads=4, norm_eps=1e-5, vocab_size=4096, rope_theta=1e6, max_seq_len=1024,
                    moe=MoeConfig(8, 2))
    tensors = RandomTensors(config, 0)
    simple: Any = SimpleNamespace(**vars(tiny.ops))
    simple.linear, simple.experts = (lambda x, weight, precision: plain(x, weight)), plain_experts
    for kind, dtype in (("resident", np.float32), ("mapped", BFLOAT16)):
        weights = {name: tensors[name].astype(dtype) for name in tensors}
        models = [tiny.Mixtral(config, weights, ops=ops) for ops in (simple, tiny.ops)]
        for lengths in ([1], [1] * 2, [1] * 4, [1] * 8, [16], [64], [128]):
            ids = np.random.default_rng(1).integers(3, config.vocab_size, sum(lengths))
            label = f"{len(lengths)} together" if lengths[0] == 1 else f"a prompt of {lengths[0]}"
            yield case(f"{kind}, {label}", *(partial(run_finite, model) for model in models), ids, (), lengths)


CHANGES = [
    Change("an expert's products with columns first", "yes", columns_first),
    Change("zeros up to a multiple of 8 for more than 32 tokens", "yes", zeros_to_8),
    Change("zeros up to a multiple of 16", "no: 8 is as good, or better", zeros_to_16),
    Change("w1 and w3 of an expert adjacent", "no", adjacent),
    Change("the two experts of a token stacked", "no", stacked),
    Change("silu in blocks", "no", silu_in_blocks),
    Change("answers added by +=", "no", added_in_place),
    Change("attention: scale in q, division after the values", "no: 2 % of a prompt", late),
    Change("attention: blocks of keys with the online softmax", "no: it belongs to the kernels", in_blocks),
    Change("softmax without its maximum", "no: it overflows from scores of 88 on", no_maximum),
    Change("other exponentials", "no: by machine they are faster or slower", other_exponentials),
    Change("all that was kept, in a model of 2 layers", "", whole)]
