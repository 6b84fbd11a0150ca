"""The backward passes of the vision half: patch embedding, attention inside images, adapter, and the merge with text.

In training all images of a batch have one size and all its texts one length, so that one product computes the
attention of all. What each function computes, and in which form, is as in `../backward.py`. Read `gradients.py` next.

>>> gelu_backward(np.ones(1, np.float32), np.zeros(1, np.float32))
array([0.5], dtype=float32)
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tiny.numerics import erf, gelu
from tiny.patch_embed import patches
from tiny.training.backward import (
    attend,
    attend_backward,
    embedding_backward,
    heads_first,
    linear_backward,
    tokens_first,
)
from tiny.training.experts_backward import swiglu

State = tuple[np.ndarray, ...]
SCORES = 1 << 18  # of attention that are computed together, 1 MiB: what stays in a core's cache


def complex_rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, precision: str = "float32") -> np.ndarray:
    """The book's `rope`, in float32, computed as a product of complex numbers, which takes a quarter of the time.

    Shapes:  x (T, n, d), cos (T, d / 2), sin (T, d / 2) -> (T, n, d)
    """
    turn = np.empty(cos.shape, np.result_type(x, np.complex64))
    turn.real, turn.imag = cos, sin
    return (x.view(turn.dtype) * turn[:, None]).view(x.dtype)


def keeping_equal_attention(images: list[list[State]], texts: list[list[State]],
                            mask: np.ndarray | None) -> Callable[..., np.ndarray]:
    """The book's `attention` for equally long sequences, in float32, that also keeps what its backward pass needs.

    Bidirectional calls (images) add to one list, causal ones (texts) to the other. The mask says which keys a query of
    a text sees, so that several questions can follow one picture without seeing each other.

    Shapes:  mask (B, T', T') additive, [text, key, query], T' the length of a text; None for a model without texts
    """
    def attention(q, keys, values, lengths, spans=(), causal=True, precision="float32"):
        if min(lengths) != max(lengths):
            raise ValueError(f"training expects sequences of one length in a batch; got {sorted(set(lengths))}.")
        B, G = len(lengths), keys.shape[1]
        if causal and mask is None:
            raise ValueError("training expects a mask for texts, which says who sees whom; got none.")
        R, states, out = q.shape[1] // G, [], []
        for part in sequences_at_a_time(len(q), B, G, R):
            n = (part.stop - part.start) * B // len(q)
            # each query of the mask once for every head, each text once for every KV head
            seen = None if not causal or mask is None else np.repeat(np.repeat(
                mask[part.start * B // len(q):][:n], R, axis=2), G, axis=0)
            a, k, v = (heads_first(x[part], G, n) for x in (q, keys, values))
            states.append(attend(a, k, v, seen))
            out.append(tokens_first(states[-1][2], part.stop - part.start, n))
        (texts if causal else images).append(states)
        return np.concatenate(out)

    return attention


def sequences_at_a_time(T: int, B: int, G: int, R: int) -> list[slice]:
    """The tokens of as many of B equally long sequences as make SCORES scores, or of one: attention passes over its
    scores several times, and they stay in the cache.
    """
    length = T // B
    step = max(1, SCORES // (G * R * length**2)) * length
    return [slice(first, min(T, first + step)) for first in range(0, T, step)]


def equal_attention_backward(dout: np.ndarray, q: np.ndarray, keys: np.ndarray, values: np.ndarray, sequences: int,
                             states: list[State]) -> State:
    """Attention over equally long sequences: the gradients as in `attention_backward`, and its output.

    Shapes:  dout, q (T, H, d), keys, values (T, G, d) -> dq (T, H, d), dkeys, dvalues (T, G, d), out (T, H, d)
    """
    T, G, found = len(q), keys.shape[1], []
    parts = sequences_at_a_time(T, sequences, G, q.shape[1] // G)
    for part, state in zip(parts, states, strict=True):
        t = part.stop - part.start
        n = t * sequences // T
        d, a, k, v = (heads_first(x[part], G, n) for x in (dout, q, keys, values))
        gradients = attend_backward(d, a, k, v, state)
        found.append([tokens_first(x, t, n) for x in (*gradients, state[2])])
    dq, dkeys, dvalues, out = (np.concatenate(arrays) for arrays in zip(*found))
    return dq, dkeys, dvalues, out


def keeping_feed_forward(kept: list[State]) -> Callable[..., np.ndarray]:
    """The book's `feed_forward`, in float32, that also keeps its hidden states."""
    def feed_forward(x, w1, w2, w3, precision="float32"):
        kept.append(swiglu(x, w1, w3))
        return kept[-1][0] @ w2.T

    return feed_forward


def patch_embed_backward(dout: np.ndarray, images: Sequence[np.ndarray], dw: np.ndarray) -> None:
    """Of y = patches W^T: dW = dy^T patches. Pixels get no gradient.

    Shapes:  dout (N, D), images n x (C, h p, w p), dw (D, C, p, p) written
    """
    x = np.concatenate([patches(pixels, dw.shape[-1]) for pixels in images])
    np.matmul(dout.T, x, out=dw.reshape(len(dw), -1))


def gelu_backward(dout: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Of y = x P(x), P the normal distribution: dx = dy (P(x) + x p(x)), p(x) = exp(-x^2 / 2) / sqrt(2 pi).

    Shapes:  dout, x any -> same
    """
    slope = 0.5 * (1 + erf(x * x.dtype.type(0.5**0.5)))
    slope += x * np.exp(-0.5 * x * x) * x.dtype.type((2 * np.pi) ** -0.5)
    return (dout * slope).astype(x.dtype, copy=False)


def adapter_backward(dout: np.ndarray, x: np.ndarray, weights: Mapping[str, np.ndarray],
                     grads: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of y = w_out gelu(w_in x + b_in) + b_out: db = sum_t dy, and the rest as for linear and gelu.

    Shapes:  dout (N, D), x (N, hidden_size) -> dx (N, hidden_size); the four gradients are written into grads
    """
    w_in, w_out = (f"vision_language_adapter.{name}.weight" for name in ("w_in", "w_out"))
    b_in, b_out = (f"vision_language_adapter.{name}.bias" for name in ("w_in", "w_out"))
    # (1) forward again
    hidden = x @ weights[w_in].T + weights[b_in]
    # (2) the second map, (3) the GELU, (4) the first map
    dout.sum(axis=0, out=grads[b_out])
    dhidden = gelu_backward(linear_backward(dout, gelu(hidden), weights[w_out], grads[w_out]), hidden)
    dhidden.sum(axis=0, out=grads[b_in])
    return linear_backward(dhidden, x, weights[w_in], grads[w_in])


def merge_backward(dout: np.ndarray, ids: np.ndarray, image_token_id: int, dw: np.ndarray) -> np.ndarray:
    """Of the merge, where the rows of [IMG] are patches and all others embeddings: each gets its own rows.

    Shapes:  dout (T, D), ids (T,), dw (V, D) written -> the gradient of the patches (N, D)
    """
    seen = ids == image_token_id
    embedding_backward(dout[~seen], ids[~seen], dw)
    return dout[seen]
