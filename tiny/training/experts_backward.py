"""The backward passes of the feed-forward network and of the experts, in the form of those in `backward.py`.

To multiply by w1 and w3 again would be slow: an operation here returns what the book's does and keeps what is needed.
Read `gradients.py` next.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tiny.training.backward import linear_backward


def swiglu(x: np.ndarray, w1: np.ndarray, w3: np.ndarray) -> tuple[np.ndarray, ...]:
    """The hidden states of a SwiGLU network, silu(w1 x) * w3 x, and what its backward pass needs as well.

    Shapes:  x (n, D), w1 (F, D), w3 (F, D) -> hidden, sigmoid(w1 x), silu(w1 x), w3 x, all (n, F)
    """
    a, b = x @ w1.T, x @ w3.T
    with np.errstate(over="ignore"):  # exp(100) is infinity in float32, and its sigmoid rightly zero.
        s = np.exp(-a)
    s += 1
    np.reciprocal(s, out=s)
    silu = np.multiply(a, s, out=a)
    return silu * b, s, silu, b


def swiglu_backward(dout: np.ndarray, x: np.ndarray, scale: np.ndarray, w1: np.ndarray, w2: np.ndarray,
                    w3: np.ndarray, dw: Sequence[np.ndarray],
                    states: tuple[np.ndarray, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Of y = c w2 h with h = silu(a) b, a = w1 x, b = w3 x and one scale c for each token:
    dw2 = (c dy)^T h, dh = c w2^T dy, dc = h . w2^T dy (no second product), db = dh silu(a), da = dh b silu'(a),
    where silu(a) = a s and silu'(a) = s + silu(a) (1 - s) with s = sigmoid(a).

    Shapes:  dout (n, D), x (n, D), scale (n, 1), w1 (F, D), w2 (D, F), w3 (F, D), dw: the three gradients, written
             -> dx (n, D), dscale (n,); states: what `swiglu` gave in the forward pass, overwritten here
    """
    # (1) forward again, if nothing was kept of it
    hidden, s, silu, b = states or swiglu(x, w1, w3)
    # (2) through w2, and through the scale
    dhidden = dout @ w2
    dscale = np.einsum("nf,nf->n", hidden, dhidden)
    dhidden *= scale
    np.matmul((dout * scale).T, hidden, out=dw[1])
    # (3) through the product: the gate's silu and the linear branch
    db = np.multiply(dhidden, silu, out=hidden)
    dhidden *= b
    slope = np.subtract(1, s, out=b)
    slope *= silu
    slope += s
    da = np.multiply(dhidden, slope, out=dhidden)
    # (4) through w1 and w3
    dx = linear_backward(da, x, w1, dw[0])
    dx += linear_backward(db, x, w3, dw[2])
    return dx, dscale


def feed_forward_backward(dout: np.ndarray, x: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray,
                          dw: Sequence[np.ndarray], states: tuple[np.ndarray, ...] | None = None) -> np.ndarray:
    """Of a dense feed-forward layer y = w2 (silu(w1 x) * w3 x): swiglu_backward with every scale one.

    Shapes:  dout (T, D), x (T, D), w1 (F, D), w2 (D, F), w3 (F, D), dw: the three gradients, written -> dx (T, D);
             states: what `swiglu` gave in the forward pass, overwritten here
    """
    return swiglu_backward(dout, x, np.ones((len(x), 1), x.dtype), w1, w2, w3, dw, states)[0]


def keeping_experts(kept: list[dict[int, tuple[np.ndarray, ...]]]) -> Callable[..., np.ndarray]:
    """The book's `experts`, in float32, that also keeps every expert's hidden states, one dict for each call.

    Training calls it in place of `tiny.ops.experts`, because multiplying by w1 and w3 again takes longer than keeping
    what they gave. A test compares it with the book's.
    """
    def experts(x, expert_ids, expert_weights, w1, w2, w3, precision="float32"):
        out, states = np.zeros_like(x), {}
        for e in np.unique(expert_ids):
            tokens, rank = np.nonzero(expert_ids == e)
            states[int(e)] = swiglu(x[tokens], w1[e], w3[e])
            answer = states[int(e)][0] @ w2[e].T
            answer *= expert_weights[tokens, rank, None]
            out[tokens] += answer
        kept.append(states)
        return out

    return experts


def experts_backward(dout: np.ndarray, x: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray,
                     w1: Sequence[np.ndarray], w2: Sequence[np.ndarray], w3: Sequence[np.ndarray],
                     dw: Sequence[Sequence[np.ndarray]],
                     states: dict[int, tuple[np.ndarray, ...]] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Of y_t = sum_k weights_tk expert_k(x_t): the gradient of each expert from its own tokens, that of x added up
    over a token's experts, and that of each router weight, expert_k(x_t) . dy_t.

    Shapes:  dout (T, D), x (T, D), expert_ids (T, K), expert_weights (T, K), w1 E x (F, D), w2 E x (D, F),
             w3 E x (F, D), dw: for each expert its three gradients, written -> dx (T, D), dweights (T, K);
             states: what `keeping_experts` kept of each expert, if it ran the forward pass
    """
    dx, dweights = np.zeros_like(x), np.empty_like(expert_weights)
    for e in range(len(w1)):
        # (1) the tokens that chose this expert, and as which of their choices; none: no gradient
        tokens, rank = np.nonzero(expert_ids == e)
        if not len(tokens):
            for gradient in dw[e]:
                gradient[...] = 0
            continue
        # (2) the expert's gradients from just those tokens; a token has an expert once at most
        part, dweights[tokens, rank] = swiglu_backward(
            dout[tokens], x[tokens], expert_weights[tokens, rank, None], w1[e], w2[e], w3[e], dw[e],
            states[e] if states else None)
        dx[tokens] += part
    return dx, dweights
