"""The router on the device: the host side of `route.cu`, and the sorting of tokens by expert.

The NumPy function is `route` of `tiny/router.py`.
"""

from typing import Any

import numpy as np

from kernels.storage import STORES, stored, to_store, to_weight, type_defines
from tiny.numerics import INTEGERS, need
from tiny.router import check_route

FILE = "route.cu"
V1_THREADS, WARPS, TILE = 64, 4, 512
MOST_EXPERTS, MOST_CHOSEN = 64, 32
FEW_TOKENS = 512  # as many warps as a large GPU has schedulers for: up to here each token gets its own warp


def route(launcher: Any, x: np.ndarray, gate: np.ndarray, num_experts_per_tok: int, precision: str = "float32",
          version: str = "v3") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose each token's experts and how much each one counts.

    Shapes:  x (T, D), gate (E, D) -> logits (T, E), expert_ids (T, K), expert_weights (T, K)
    Dtypes:  x float32, stored as the precision says; gate float32, bfloat16 or float16 -> logits,
             expert_weights float32; expert_ids int64
    Order:   experts by falling logit, NaN last; of equal logits the lower index wins
    Raises:  ValueError as the NumPy function, or, by v2 and v3, beyond 64 experts or 32 experts per token
    Source:  tiny/router.py
    Differs: logits are not rounded to bfloat16, and their sums have another order than NumPy's: where two logits differ
             by less than that, the choice may
    """
    check_route(x, gate, num_experts_per_tok, precision, stored(precision))
    logits, ids, expert_weights = run_route(launcher, to_store(x, precision), to_weight(gate), num_experts_per_tok,
                                            version)
    return logits, ids.astype(np.int64), expert_weights


def run_route(launcher: Any, x: Any, gate: Any, num_experts_per_tok: int, version: str = "v3") -> tuple[Any, Any, Any]:
    """`route` of arrays that are on the device as the kernel reads them; nothing is read on the host.

    Shapes:  x (T, D), gate (E, D) -> logits (T, E), expert_ids (T, K), expert_weights (T, K)
    Dtypes:  x and gate float32 or bfloat16 -> logits and expert_weights float32, expert_ids int32
    Raises:  ValueError for an unknown version, or, by v2 and v3, beyond 64 experts or 32 experts per token
    """
    E, K = len(gate), num_experts_per_tok
    check_version(E, K, version)
    (T, D), tokens = x.shape, tokens_of_a_warp(len(x), E)
    logits, expert_ids = launcher.empty((T, E), np.float32), launcher.empty((T, K), np.int32)
    expert_weights = launcher.empty((T, K), np.float32)
    arguments = [x, gate, logits, expert_ids, expert_weights, np.int32(T), np.int32(D), np.int32(K)]
    of_a_block, threads = {"v1": (V1_THREADS, V1_THREADS), "v2": (WARPS, 32 * WARPS),
                           "v3": (WARPS * tokens, 32 * WARPS)}[version]
    if version == "v1":
        arguments.insert(-1, np.int32(E))
    if T:
        launcher.launch(FILE, f"route_{version}", (-(-T // of_a_block),), (threads,), arguments, defines=(
            *type_defines(x, gate), f"EXPERTS={min(E, MOST_EXPERTS)}", f"TOKENS={tokens}"))
    return logits, expert_ids, expert_weights


def group_by_expert(launcher: Any, expert_ids: np.ndarray,
                    num_experts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort the pairs (token, rank) by the expert that they name, for a product over each expert's own tokens.

    Shapes:  expert_ids (T, K) -> counts (E,), offsets (E + 1,), order (T K,)
    Dtypes:  expert_ids int, from 0 to E - 1: the device does not check them -> int32, for the kernels that come next
    Order:   offsets are the exclusive sums of counts; order holds token * K + rank, each expert's in ascending order
    Raises:  ValueError beyond 64 experts
    """
    need("group_by_expert", "expert_ids", expert_ids, ("T", "K"), INTEGERS)
    if not 1 <= num_experts <= MOST_EXPERTS:
        raise ValueError(f"group_by_expert expects between 1 and {MOST_EXPERTS} experts; got {num_experts}.")
    expert_ids = expert_ids.astype(np.int32, order="C", copy=False)
    tiles = max(1, -(-expert_ids.size // TILE))  # at least one: counts and offsets are always written
    pairs, options = np.int32(expert_ids.size), (f"EXPERTS={num_experts}",)
    of_tiles, counts = launcher.empty((tiles, num_experts), np.int32), launcher.empty((num_experts,), np.int32)
    offsets, order = launcher.empty((num_experts + 1,), np.int32), launcher.empty((expert_ids.size,), np.int32)
    launcher.launch(FILE, "route_v3_count", (tiles,), (TILE,), (expert_ids, of_tiles, pairs), defines=options)
    launcher.launch(FILE, "route_v3_place", (tiles,), (TILE,), (expert_ids, of_tiles, counts, offsets, order, pairs),
                    defines=options)
    return counts, offsets, order


def check_version(E: int, K: int, version: str) -> None:
    """Refuse what a version has no registers for."""
    if version not in ("v1", "v2", "v3"):
        raise ValueError(f"route has the versions v1, v2 and v3; got {version!r}.")
    if version != "v1" and (E > MOST_EXPERTS or K > MOST_CHOSEN):
        raise ValueError(f"route {version} keeps logits in registers, of at most {MOST_EXPERTS} experts and "
                         f'{MOST_CHOSEN} per token; got {E} and {K}. Use version "v1".')


def tokens_of_a_warp(T: int, E: int) -> int:
    """How many tokens share a read of the gate in v3: 1 for few tokens; else 4, or fewer with many experts."""
    return 1 if T <= FEW_TOKENS else max(1, min(4, MOST_EXPERTS // E))


def floor(T: int, D: int, E: int, K: int, precision: str = "float32", weight_bytes: int = 4) -> tuple[int, int]:
    """Bytes that must move and floating-point operations: x and gate in; logits, experts and weights out."""
    return T * D * STORES[precision].itemsize + E * D * weight_bytes + 4 * T * (E + 2 * K), 2 * T * D * E
