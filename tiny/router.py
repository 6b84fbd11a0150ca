"""The router: a small linear map that gives every token its own few experts, and a weight for each.

Read `experts.py` next.

>>> route(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 1)[1:]
(array([[0],
       [1]]), array([[1.],
       [1.]], dtype=float32))
"""

import numpy as np

from tiny.numerics import linear, softmax


def route(x: np.ndarray, gate: np.ndarray, num_experts_per_tok: int,
          precision: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose each token's experts and how much each one counts.

    Shapes:  x (T, D), gate (E, D) -> logits (T, E), experts (T, K), weights (T, K)
    Dtypes:  x float32 -> logits float32, experts int64, weights float32
    Order:   experts by falling logit; of equal logits the lower index wins (torch.topk promises no order)
    Raises:  ValueError if K is not between 1 and E
    Source:  arXiv:2401.04088 sec. 2.1: Softmax(TopK(x Wg)); mistral-inference moe.py, MoeLayer
    Differs: transformers takes the softmax over all E and divides by the chosen ones' sum: the same in exact
             arithmetic. Leaving that division out is a classic mistake
    """
    if not 1 <= num_experts_per_tok <= len(gate):
        raise ValueError(f"route expects between 1 and {len(gate)} experts per token; got {num_experts_per_tok}.")
    # (1) one logit for each expert
    logits = linear(x, gate, precision)
    # (2) the K largest, in falling order
    experts = np.argsort(-logits, axis=1, kind="stable")[:, :num_experts_per_tok]
    # (3) softmax over the chosen logits only; transformers keeps these weights in float32 also in bfloat16
    weights = softmax(np.take_along_axis(logits, experts, axis=1))
    return logits, experts, weights
