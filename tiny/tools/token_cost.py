"""What one token costs: the bytes that are moved to write it, and the operations that are computed.

`bench` holds its speeds against these numbers, and chapter 6 explains them.
"""

from tiny.config import Config


def token_cost(config: Config, past: int, itemsize: int) -> tuple[int, int]:
    """Bytes that the decoder moves to write one token behind `past` others, and floating-point operations it computes.

    Counted are the matrices that the token is multiplied with, and the keys and values that it sees, its own included.
    Not counted, because they are small: norms, softmax, rotation, SiLU, and the row of the embedding table.

    Shapes:  itemsize: bytes of one number, of weights and cache alike -> bytes, operations
    Source:  a product and a sum for each weight, as in arXiv:2001.08361 sec. 2.1
    """
    # (1) the numbers in the matrices that the token meets
    D, query, kv = config.dim, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    experts, router = (config.moe.num_experts_per_tok, config.moe.num_experts) if config.moe else (1, 0)
    layer = D * (2 * query + 2 * kv) + D * router + experts * 3 * D * config.hidden_dim
    weights = config.n_layers * layer + D * config.vocab_size
    # (2) the numbers in the keys and values that it sees
    seen = past + 1
    cache = config.n_layers * seen * 2 * kv
    # (3) bytes, and operations: a product and a sum each
    return itemsize * (weights + cache), 2 * weights + 2 * config.n_layers * seen * 2 * query
