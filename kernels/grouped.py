"""The experts on the device, for many tokens: the host side of `grouped.cu`, one product for each expert.

The NumPy functions are `feed_forward` and `experts` of `tiny/experts.py`.

Tokens are sorted by expert on the device (`route.cu`), and nothing of that is read here: the grid has as many tiles as
there can be.
"""

from typing import Any

import numpy as np

from kernels.linear import TILE, run_linear, stages_bytes, tile_options, tile_rows
from kernels.route import group_by_expert
from kernels.storage import STORES, type_defines, wide

FILE, VERSIONS = "grouped.cu", ("v1", "v2", "v3")
LINEAR = {"v1": "v1", "v2": "v4", "v3": "v5"}  # the version of the linear map that goes with each
V1_THREADS, V2_THREADS, ADD_THREADS = 128, 256, 128  # of a block; in v3 as many as it has rows of weights


def run_grouped(launcher: Any, x: Any, expert_ids: Any, expert_weights: Any, tables: Any,
                version: str | None = None) -> Any:
    """The experts, of arrays that are on the device as the kernels read them; nothing is read on the host.

    tables: the matrices, as `make_tables` of `experts.py` gives them; version: see `version_of`

    Shapes:  x (T, D), expert_ids (T, K), expert_weights (T, K) -> (T, D)
    Dtypes:  x float32 or bfloat16, expert_ids int32, expert_weights float32 -> as x. Without ids, None, the first
             expert is every token's, with the weight 1
    Order:   a token's experts in ascending index
    Raises:  ValueError for an unknown version, v3 with types that it does not take, and sizes that do not agree
    """
    chosen, version = version, version_of(x, tables.w1[0], version)
    if x.shape[1] != tables.D:
        raise ValueError(f"experts expects x (T, {tables.D}); got {x.shape}.")
    if not len(x):
        return launcher.empty(x.shape, x.dtype)
    if expert_ids is None:
        return run_dense(launcher, x, tables, version, chosen and LINEAR[chosen])
    (T, D), (E, F), pairs = x.shape, (len(tables.w1), tables.F), expert_ids.size
    if not expert_ids.shape == expert_weights.shape == (T, pairs // T):
        raise ValueError(f"experts expects ids and weights (T, K) for x {x.shape}; got {expert_ids.shape} and "
                         f"{expert_weights.shape}.")
    _, offsets, order = group_by_expert(launcher, expert_ids, E)
    hidden, answers = launcher.empty((pairs, F), x.dtype), launcher.empty((pairs, D), x.dtype)
    defines, sizes = defines_of(x, tables), [np.int32(size) for size in (T, D, F, E, pairs // T)]
    first = [x, order, offsets, tables.w1, tables.w3, tables.s1, tables.s3, hidden, *sizes]
    second = [hidden, order, offsets, expert_weights, tables.w2, tables.s2, answers, *sizes[1:4]]
    if pairs:
        launch(launcher, version, "", (tiles_of(version, pairs, E), F), first, defines)
        launch(launcher, version, "_down", (tiles_of(version, pairs, E), D), second, defines)
    return add(launcher, version, answers, expert_ids, launcher.empty(x.shape, x.dtype), defines)


def run_dense(launcher: Any, x: Any, tables: Any, version: str, linear: str | None) -> Any:
    """One expert, which every token has: the way back to the width of the model is a linear map.

    linear: the version of that; by default as the number of tokens has it

    Shapes:  x (T, D) -> (T, D)
    """
    T, F = len(x), tables.F
    hidden, nobody = launcher.empty((T, F), x.dtype), launcher.empty((1,), np.int32)  # which no kernel reads
    arrays = [x, nobody, nobody, tables.w1, tables.w3, tables.s1, tables.s3, hidden]
    launch(launcher, version, "", (1 if version == "v1" else -(-T // TILE), F),
           [*arrays, *(np.int32(size) for size in (T, tables.D, F, 1, 1))], (*defines_of(x, tables), "DENSE=1"))
    return run_linear(launcher, hidden, tables.w2[0], tables.s2[0] if tables.scaled else None, version=linear)


def version_of(x: Any, weight: Any, version: str | None) -> str:
    """The version that is asked for; by default v3 for bfloat16 with weights of bfloat16 or int8, else v2.

    Shapes:  any

    Raises:  ValueError for an unknown version, and v3 with other types
    """
    tensor_cores = x.dtype == STORES["bfloat16"] and weight.dtype != STORES["float32"]
    version = version or ("v3" if tensor_cores else "v2")
    if version not in VERSIONS or version == "v3" and not tensor_cores:
        raise ValueError("The grouped product has the versions v1, v2 and, for bfloat16 with weights of bfloat16 or "
                         f"int8, v3; got {version!r} for {x.dtype} with {weight.dtype}.")
    return version


def tiles_of(version: str, pairs: int, E: int) -> int:
    """The blocks of a version for all places: in v1 one for each expert, else as many tiles as there can be at most.

    An expert that has tokens fills all of its tiles but one, and that one with a token at least.
    """
    return E if version == "v1" else (pairs + (TILE - 1) * min(E, pairs)) // TILE


def defines_of(x: Any, tables: Any) -> tuple[str, ...]:
    """The options that compile the kernels for these arrays. Shapes:  any."""
    return *type_defines(x, tables.w1[0]), *(("SCALE=float", "SCALED=1") if tables.scaled else ())


def launch(launcher: Any, version: str, part: str, sizes: tuple[int, int], arguments: list,
           defines: tuple[str, ...]) -> None:
    """One of the two products. sizes: blocks for all places, and rows of the matrix."""
    tiles, rows = sizes
    share = 1 if part or version == "v1" else 2  # matrices, w1 and w3, that share the rows of a block
    of_a_block = {"v1": V1_THREADS, "v2": TILE, "v3": tile_rows(tiles, share * rows)}[version]
    threads = V2_THREADS if version == "v2" else of_a_block
    more = tile_options(of_a_block) if version == "v3" else ()
    launcher.launch(FILE, f"grouped_{version}{part}", (tiles, -(-share * rows // of_a_block)), (threads,), arguments,
                    shared_bytes=stages_bytes(of_a_block) if version == "v3" else 0, defines=(*defines, *more))


def add(launcher: Any, version: str, answers: Any, expert_ids: Any, out: Any, defines: tuple[str, ...]) -> Any:
    """The sum over each token's experts. Shapes:  answers (T K, D), expert_ids (T, K), out (T, D) -> out."""
    (T, D), numbers = out.shape, 1 if version == "v1" else wide(out)
    threads = min(ADD_THREADS, -(-D // numbers))
    launcher.launch(FILE, f"grouped_{'v1' if version == 'v1' else 'v2'}_add", (T, -(-D // (threads * numbers))),
                    (threads,), [answers, expert_ids, out, np.int32(D), np.int32(expert_ids.shape[1])], defines=defines)
    return out
