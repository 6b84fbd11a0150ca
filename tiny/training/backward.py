"""The backward passes: from the gradient of what an operation returned to the gradients of what it was given.

Each function is named after the operation of the book that it differentiates and starts from that operation's inputs:
what it needs of the forward pass it computes again (activation checkpointing). That would be slow for attention, which
has an operation here that returns what the book's does and keeps what is needed. Gradients of activations are returned;
gradients of weights are written into the arrays that the caller gives as `dw`. Every function keeps the dtype of its
input: float32 in training, float64 in the tests. Read `experts_backward.py` next.

>>> rope_backward(np.ones((1, 1, 2), np.float32), np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32))
array([[[ 1., -1.]]], dtype=float32)
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tiny.numerics import softmax
from tiny.rope import rope

QUERIES = 64  # Queries differentiated at a time, as in the forward pass.
ROWS = 64  # Tokens whose scores of the whole vocabulary are differentiated at a time.


def cross_entropy(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean negative log-likelihood of the targets, and its gradient.

    loss = sum_t weights_t (log sum_v exp logits_tv - logits_t,target) / sum_t weights_t
    d loss / d logits_tv = weights_t (softmax(logits_t)_v - [v = target_t]) / sum_t weights_t

    Shapes:  logits (T, V), targets (T,), weights (T,) -> loss, dlogits (T, V)
    Dtypes:  targets int; a weight of zero leaves a token out; the loss is added up in float64
    Raises:  ValueError if the weights add up to nothing
    """
    total = float(weights.sum(dtype=np.float64))
    if total <= 0:
        raise ValueError("cross_entropy expects at least one target with a weight above zero; got none.")
    share = (weights / total).astype(logits.dtype)
    loss, dlogits = 0.0, np.empty_like(logits)
    # (1) a block of tokens at a time, which stays in the cache
    for start in range(0, len(logits), ROWS):
        block = slice(start, start + ROWS)
        out, rows = dlogits[block], np.arange(len(logits[block]))
        # (2) the loss: log of the sum of exponentials minus the target's logit, each relative to the largest logit
        np.subtract(logits[block], logits[block].max(axis=1, keepdims=True), out=out)
        chosen = out[rows, targets[block]]
        np.exp(out, out=out)
        sums = out.sum(axis=1)
        loss += float((np.log(sums) - chosen).astype(np.float64) @ weights[block]) / total
        # (3) the gradient: the softmax minus one at the target, weighted
        out *= (share[block] / sums)[:, None]
        out[rows, targets[block]] -= share[block]
    return loss, dlogits


def linear_backward(dout: np.ndarray, x: np.ndarray, weight: np.ndarray, dw: np.ndarray) -> np.ndarray:
    """Of y = x W^T: dx = dy W and dW = dy^T x.

    Shapes:  dout (T, out), x (T, in), weight (out, in), dw (out, in) written -> dx (T, in)
    """
    np.matmul(dout.T, x, out=dw)
    return dout @ weight


def embedding_backward(dout: np.ndarray, ids: np.ndarray, dw: np.ndarray) -> None:
    """Of y_t = W[id_t]: dW[i] is the sum of dy_t over the tokens with id i, zero for ids that do not occur.

    Shapes:  dout (T, D), ids (T,), dw (V, D) written
    """
    order = np.argsort(ids, kind="stable")
    present, starts = np.unique(ids[order], return_index=True)
    dw[...] = 0
    dw[present] = np.add.reduceat(dout[order], starts, axis=0)


def rms_norm_backward(dout: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float, dw: np.ndarray) -> np.ndarray:
    """Of y = n * w with n = x r and r = 1 / sqrt(mean(x^2) + eps). The gradient of x has two terms, because x also
    moves its own root mean square.

    Shapes:  dout (T, D), x (T, D), weight (D,), dw (D,) written -> dx (T, D)
    """
    D = x.shape[1]
    # (1) forward again: the normalised rows
    r = 1 / np.sqrt(np.einsum("td,td->t", x, x)[:, None] / D + eps).astype(x.dtype)
    normed = x * r
    # (2) the weight, which all tokens share
    np.einsum("td,td->d", dout, normed, out=dw)
    # (3) through the weight and the division by the root
    # dn = dy w, and dx = r (dn - n mean(dn n)), for the derivative of r by x_j is -r^3 x_j / D
    dnormed = dout * weight
    normed *= np.einsum("td,td->t", dnormed, normed)[:, None] / D
    dnormed -= normed
    dnormed *= r
    return dnormed


def rope_backward(dout: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Of y = R(angle) x, a rotation of each pair: dx = R(-angle) dy. A rotation's transpose is its inverse.

    Shapes:  dout (T, n, d), cos (T, d / 2), sin (T, d / 2) -> dx (T, n, d)
    """
    return rope(dout, cos, -sin)


def heads_first(x: np.ndarray, G: int, B: int = 1) -> np.ndarray:
    """Lay out queries, or keys, of B equally long sequences by KV head, so that one call handles all.

    Shapes:  (B T, G R, d) -> (B G, T R, d)
    """
    rows, H, d = x.shape
    return x.reshape(B, rows // B, G, H // G, d).swapaxes(1, 2).reshape(B * G, -1, d)


def tokens_first(x: np.ndarray, T: int, B: int = 1) -> np.ndarray:
    """The inverse of heads_first; T is the tokens of all sequences. Shapes:  (B G, T R, d) -> (B T, G R, d)."""
    _, n, d = x.shape
    return x.reshape(B, -1, T // B, n * B // T, d).swapaxes(1, 2).reshape(T, -1, d)


def blocks(lengths: Sequence[int], R: int) -> Iterator[tuple[int, slice, slice]]:
    """Blocks of queries: their number, their rows in (G, T R, d), and the rows of the keys that they may see."""
    first = 0
    for length in lengths:
        for block in range(0, length, QUERIES):
            t = min(QUERIES, length - block)
            yield t, slice((first + block) * R, (first + block + t) * R), slice(first, first + block + t)
        first += length


def attend(q: np.ndarray, keys: np.ndarray, values: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Attention of one block of queries, and what its backward pass needs as well.

    All scores are transposed, a row for each key: sums over keys then run along whole rows of memory, which is faster.
    The probabilities e / l, exponentials over their sum, are never formed: 1 / l goes into the narrower result.

    Shapes:  q (G, n, d) with n = t R, keys, values (G, s, d), mask (t, n) or (G, t, n), for the last t keys, or None
             -> e (G, s, n), inverse (G, n, 1), out (G, n, d)
    """
    e = keys @ (q * q.dtype.type(q.shape[-1] ** -0.5)).mT
    if mask is not None:
        e[:, -mask.shape[-2] :] += mask
    e -= e.max(axis=1, keepdims=True)
    np.exp(e, out=e)
    inverse = 1 / e.sum(axis=1)[..., None]
    out = e.mT @ values
    out *= inverse
    return e, inverse, out


def keeping_attention(kept: list[list[tuple[np.ndarray, ...]]]) -> Callable[..., np.ndarray]:
    """The book's causal `attention` without a cache, in float32, that also keeps the exponentials of every block.

    Training calls it in place of `tiny.ops.attention`, because the backward pass needs them. A test compares it with
    the book's.
    """
    def attention(q, keys, values, lengths, spans=(), causal=True, precision="float32"):
        T, H, _ = q.shape
        G, R = keys.shape[1], H // keys.shape[1]
        q, keys, values = heads_first(q, G), heads_first(keys, G), heads_first(values, G)
        # 0 where a query (column, repeated for its heads) may see a key (row), -infinity elsewhere
        mask = np.repeat(np.tril(np.full((QUERIES, QUERIES), -np.inf, q.dtype), -1), R, axis=1)
        out, states = np.empty_like(q), []
        for t, rows, seen in blocks(lengths, R):
            states.append(attend(q[:, rows], keys[:, seen], values[:, seen], mask[:t, : t * R]))
            out[:, rows] = states[-1][2]
        kept.append(states)
        return tokens_first(out, T)

    return attention


def attention_backward(dout: np.ndarray, q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Sequence[int],
                       states: list[tuple[np.ndarray, ...]] | None = None) -> tuple[np.ndarray, ...]:
    """Causal attention over packed sequences without a cache: each sequence's queries see its own keys.

    Shapes:  dout (T, H, d), q (T, H, d), keys (T, G, d), values (T, G, d)
             -> dq (T, H, d), dkeys (T, G, d), dvalues (T, G, d), and out (T, H, d), the forward pass's own result,
             which the gradient of wo needs; states: what `keeping_attention` kept, if it ran the forward pass
    Order:   a block of queries against the keys it may see, as in the forward pass; the gradients of a key add up
             over the queries that see it and over the H / G heads that share it
    """
    if states is None:
        kept: list = []
        keeping_attention(kept)(q, keys, values, lengths)
        states = kept[0]
    T, G, R = len(q), keys.shape[1], q.shape[1] // keys.shape[1]
    q, dout, keys, values = (heads_first(x, G) for x in (q, dout, keys, values))
    out, dq = np.empty_like(q), np.empty_like(q)
    dkeys, dvalues = np.zeros_like(keys), np.zeros_like(values)
    for (_, rows, seen), state in zip(blocks(lengths, R), states):
        dq[:, rows], dk, dv = attend_backward(dout[:, rows], q[:, rows], keys[:, seen], values[:, seen], state)
        out[:, rows] = state[2]
        dkeys[:, seen] += dk
        dvalues[:, seen] += dv
    return tokens_first(dq, T), tokens_first(dkeys, T), tokens_first(dvalues, T), tokens_first(out, T)


def attend_backward(dout: np.ndarray, q: np.ndarray, keys: np.ndarray, values: np.ndarray,
                    state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of O = P V with P = softmax(S) and S = q K^T / sqrt(d), causal: dV = P^T dO, dP = dO V^T,
    dS = P (dP - sum_s P dP), dq = dS K / sqrt(d), dK = dS^T q / sqrt(d). The row sum equals dO . O.

    Shapes:  dout, q (G, n, d), keys, values (G, s, d), state: what `attend` gave
             -> dq (G, n, d), dkeys, dvalues (G, s, d)
    """
    e, inverse, out = state
    scale = q.dtype.type(q.shape[-1] ** -0.5)
    # (1) through the average of the values
    dout = dout * inverse
    dvalues = e @ dout
    dscores = values @ dout.mT
    # (2) through the softmax: the row sum of P dP
    dscores -= np.einsum("gnd,gnd->gn", dout, out)[:, None]
    dscores *= e
    # (3) through the scores and their scale
    dkeys = dscores @ (q * scale)
    dq = dscores.mT @ keys
    dq *= scale
    return dq, dkeys, dvalues


def load_balancing(logits: np.ndarray, expert_ids: np.ndarray) -> tuple[float, np.ndarray]:
    """The load-balancing loss of one layer: E sum_e f_e P_e, and the share f_e / K of choices of each expert.

    f_e is the number of times that expert e was chosen, divided by T; P_e is the mean over tokens of the softmax over
    ALL E logits. An even load gives K.

    Shapes:  logits (T, E), expert_ids (T, K) -> loss, shares (E,)
    Source:  arXiv:2101.03961 eq. 4-6; transformers modeling_mixtral.py, load_balancing_loss_func
    Differs: transformers first joins the rows of all layers, so that one layer's imbalance can cancel another's. Here
             each layer has its own loss, and the model's is their mean. Switch counts first choices only: even is 1
    """
    # (1) how often each expert was chosen, by any of the K choices of a token
    counts = np.bincount(expert_ids.reshape(-1), minlength=logits.shape[1])
    # (2) how probable each was, over the tokens: the mean of a softmax over all E
    mean = softmax(logits).mean(axis=0, dtype=np.float64)
    # (3) both together
    return float(logits.shape[1] * (counts / len(logits)) @ mean), counts / expert_ids.size


def route_backward(dweights: np.ndarray, logits: np.ndarray, expert_ids: np.ndarray, expert_weights: np.ndarray,
                   coefficient: float = 0.0) -> np.ndarray:
    """Of w = softmax over the chosen logits: dlogit_k = w_k (dw_k - sum_j w_j dw_j), zero for the others; plus
    coefficient times the gradient of the load-balancing loss. The choice itself, and f, have no gradient.

    With P_te the softmax over all logits, d loss / d P_te = E f_e / T, and through that softmax
    dlogit_te = P_te (E f_e / T - sum_i P_ti E f_i / T).

    Shapes:  dweights (T, K), logits (T, E), expert_ids (T, K), expert_weights (T, K) -> dlogits (T, E)
    """
    T, E = logits.shape
    dlogits = np.zeros_like(logits)
    # (1) the load-balancing loss, through the softmax over all logits
    if coefficient:
        probabilities = softmax(logits)
        slope = np.bincount(expert_ids.reshape(-1), minlength=E) * (coefficient * E / T**2)
        slope = slope.astype(logits.dtype)
        dlogits = probabilities * (slope - (probabilities @ slope)[:, None])
    # (2) the weights, through the softmax over the chosen logits
    dchosen = expert_weights * (dweights - np.einsum("tk,tk->t", expert_weights, dweights)[:, None])
    dlogits[np.arange(T)[:, None], expert_ids] += dchosen
    return dlogits
