"""The router: a small linear map that gives every token its own few experts, and a weight for each.

Read `experts.py` next.

>>> route(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 1)[1:]
(array([[0],
       [1]]), array([[1.],
       [1.]], dtype=float32))
"""

from collections.abc import Sequence

import numpy as np

from tiny.numerics import STORED, check_precision, need, product, softmax


def route(x: np.ndarray, gate: np.ndarray, num_experts_per_tok: int,
          precision: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose each token's experts and how much each one counts.

    Shapes:  x (T, D), gate (E, D) -> logits (T, E), expert_ids (T, K), expert_weights (T, K)
    Dtypes:  x float32; gate float32, bfloat16 or float16 -> logits, expert_weights float32; expert_ids int64
    Order:   expert_ids by falling logit; of equal logits the lower index wins (torch.topk promises no order)
    Raises:  ValueError for another dtype, rank or precision, if the D of x and gate differ, or if K is not between 1
             and E
    Source:  arXiv:2401.04088 sec. 2.1: Softmax(TopK(x Wg)); mistral-inference moe.py, MoeLayer
    Differs: transformers takes the softmax over all E and divides by the chosen ones' sum: the same in exact
             arithmetic. Leaving that division out is a classic mistake
    """
    check_route(x, gate, num_experts_per_tok, precision)
    # (1) one logit for each expert
    logits = product(x, gate, precision)
    # (2) the K largest, in falling order
    expert_ids = np.argsort(-logits, axis=1, kind="stable")[:, :num_experts_per_tok]
    # (3) softmax over the chosen logits only; transformers keeps these weights in float32 also in bfloat16
    expert_weights = softmax(logits[np.arange(len(logits))[:, None], expert_ids])
    return logits, expert_ids, expert_weights


def check_route(x: np.ndarray, gate: np.ndarray, num_experts_per_tok: int, precision: str,
                stored: Sequence[np.dtype] = ()) -> None:
    """The guard of `route`, here and as a kernel, which also takes what is stored. Shapes:  x (T, D), gate (E, D)."""
    need("route", "x", x, ("T", "D"), None, stored)
    need("route", "gate", gate, ("E", "D"), STORED)
    check_precision(precision)
    if x.shape[1] != gate.shape[1]:
        raise ValueError(f"route expects x (T, D) and gate (E, D); got {x.shape} and {gate.shape}. The last axes must "
                         "agree: weights are stored one row for each output.")
    if not isinstance(num_experts_per_tok, (int, np.integer)) or not 1 <= num_experts_per_tok <= len(gate):
        raise ValueError(f"route expects between 1 and {len(gate)} experts per token; got {num_experts_per_tok}.")
