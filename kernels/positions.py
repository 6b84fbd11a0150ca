"""Angles of positions, and the step to the next token, on the device: the host side of `positions.cu`.

The NumPy functions are `rope_table` of `tiny/rope.py` and `rope_2d_table` of `tiny/rope_2d.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tiny.numerics import need
from tiny.rope import check_rope_table

FILE, VERSIONS, THREADS = "positions.cu", ("v1",), 64
FARTHEST = 1 << 20  # the last position whose angles are exact to a double
INT32 = (np.dtype(np.int32),)


def frequencies(head_dim: int, theta: float) -> np.ndarray:
    """How fast each pair of a head turns, as the NumPy functions have it; made once for a model, and put on the device.

    Shapes:  -> (d / 2,) float64
    """
    return theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def rope_table(launcher: Any, positions: np.ndarray, head_dim: int, theta: float, precision: str = "float32",
               version: str = "v1") -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of the angle position * theta^(-2i / head_dim) for each pair i.

    Shapes:  positions (T,) -> cos (T, d / 2), sin (T, d / 2)
    Dtypes:  positions int, from 0 to 2^20, not checked; angles in float64, rounded once to float32 in every precision
    Raises:  ValueError as the NumPy function, or for another version
    Source:  tiny/rope.py rope_table
    """
    check_rope_table(positions, head_dim, theta)
    positions = positions.astype(np.int32, order="C", copy=False)
    return run_rope_table(launcher, positions, launcher.put(frequencies(head_dim, theta)), version)


def run_rope_table(launcher: Any, positions: Any, turns: Any, version: str = VERSIONS[-1]) -> tuple[Any, Any]:
    """`rope_table` of positions that are on the device, where they are not read by the host.

    Shapes:  positions (T,), turns (d / 2,): the `frequencies` -> cos (T, d / 2), sin (T, d / 2)
    Dtypes:  positions int32, turns float64 -> float32
    Raises:  ValueError for another dtype, rank or version
    """
    need("rope_table", "positions", positions, ("T",), INT32)
    need("rope_table", "turns", turns, ("d / 2",), (np.dtype(np.float64),))
    if version not in VERSIONS:
        raise ValueError(f"rope_table has the version v1; got {version!r}.")
    cos, sin = (launcher.empty((len(positions), len(turns)), np.float32) for _ in range(2))
    if cos.size:
        launcher.launch(FILE, f"rope_table_{version}", (len(positions), -(-len(turns) // THREADS)), (THREADS,),
                        [positions, turns, cos, sin, np.int32(len(turns))])
    return cos, sin


def rope_2d_table(launcher: Any, grids: Sequence[tuple[int, int]], head_dim: int, theta: float,
                  precision: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """The angles of all patches of some images: of their rows, then of their columns.

    Shapes:  grids n x (columns, rows) -> cos (N, d / 2), sin (N, d / 2), N = patches
    Dtypes:  angles in float64, rounded once to float32 in every precision
    Raises:  ValueError for a head_dim that is no multiple of 4, a theta that is not positive, or a grid without patches
    Source:  tiny/rope_2d.py rope_2d_table of patch_positions
    """
    if head_dim < 4 or head_dim % 4 or not 0 < theta < np.inf:
        raise ValueError("rope_2d_table expects a head_dim that is a multiple of 4, and a theta above 0; got "
                         f"{head_dim} and {theta}.")
    return run_rope_2d_table(launcher, grids, launcher.put(frequencies(head_dim, theta)))


def run_rope_2d_table(launcher: Any, grids: Sequence[tuple[int, int]], turns: Any) -> tuple[Any, Any]:
    """`rope_2d_table` with frequencies that are on the device. Grids are sizes: nothing else is uploaded.

    Shapes:  turns (d / 2,) float64 -> cos (N, d / 2), sin (N, d / 2)
    Raises:  ValueError for another dtype or rank, or a grid without patches
    """
    need("rope_2d_table", "turns", turns, ("d / 2",), (np.dtype(np.float64),))
    counts = [columns * rows for columns, rows in grids]
    if not counts or min(counts) < 1:
        raise ValueError(f"rope_2d_table expects the columns and rows of at least one image; got {list(grids)}.")
    cos, sin = (launcher.empty((sum(counts), len(turns)), np.float32) for _ in range(2))
    first = 0
    for (columns, _), count in zip(grids, counts):
        launcher.launch(FILE, "rope_2d_table", (count, -(-len(turns) // THREADS)), (THREADS,),
                        [turns, cos, sin, np.int32(first), np.int32(columns), np.int32(len(turns))])
        first += count
    return cos, sin


def advance(launcher: Any, going: Any, positions: Any, rows: Any, spans: Any, used: Any) -> None:
    """Move the sequences that go on by one token, in place: what the next step reads on the device.

    going: not 0 for a sequence that goes on; used: how many random numbers each sequence has taken

    Shapes:  going (B,), positions (B,), rows (B,), spans (B, 2): start and stop, used (B,)
    Dtypes:  int32
    Raises:  ValueError for another dtype or shape
    Source:  tiny/kv_cache.py KVCache.append and advance, of one token for each sequence
    """
    for name, array in (("going", going), ("positions", positions), ("rows", rows), ("used", used)):
        need("advance", name, array, ("B",), INT32)
    need("advance", "spans", spans, ("B", "2"), INT32)
    B = len(going)
    if not positions.shape == rows.shape == used.shape == (B,) or spans.shape != (B, 2):
        raise ValueError(f"advance expects arrays ({B},) and spans ({B}, 2); got positions {positions.shape}, rows "
                         f"{rows.shape}, used {used.shape} and spans {spans.shape}.")
    if B:
        launcher.launch(FILE, "advance", (-(-B // THREADS),), (THREADS,),
                        [going, positions, rows, spans, used, np.int32(B)])


def place(launcher: Any, numbers: Any, parts: Sequence[tuple[int, int, int]]) -> Any:
    """Count up in parts of an array of the device; the numbers travel with the launches, and nothing is uploaded.

    parts: for each its first place, how many numbers it has, and the first number

    Shapes:  numbers (T,), filled in place -> the same
    Dtypes:  int32
    Raises:  ValueError for another dtype or rank, or a part outside of the array
    Source:  tiny/mixtral.py positions_of
    """
    need("place", "numbers", numbers, ("T",), INT32)
    if any(first < 0 or count < 0 or first + count > len(numbers) for first, count, _ in parts):
        raise ValueError(f"place expects parts of {len(numbers)} numbers; got {list(parts)}.")
    for first, count, value in parts:
        if count:
            launcher.launch(FILE, "place", (-(-count // THREADS),), (THREADS,), [numbers, *map(np.int32, (
                first, count, value))])
    return numbers


def place_tiles(launcher: Any, lengths: Sequence[int], spans: Sequence[tuple[int, int]], causal: bool,
                queries: int) -> Any:
    """The table of `attention.tiles`, made on the device; tiles with many keys come first in each sequence.

    Shapes:  -> (tiles, 4), each of at most `queries` queries
    Dtypes:  int32
    Source:  kernels/attention.py tiles
    """
    counts = [-(-length // queries) for length in lengths]
    table = launcher.empty((sum(counts), 4), np.int32)
    row = first = 0
    for count, length, (start, stop) in zip(counts, lengths, spans):
        launcher.launch(FILE, "place_tiles", (-(-count // THREADS),), (THREADS,), [table, *map(np.int32, (
            row, count, first, length, start, stop, queries, causal))])
        row, first = row + count, first + length
    return table


def floor(T: int, head_dim: int) -> tuple[int, int]:
    """Bytes that must move and floating-point operations: positions in, two angles of each pair out; 40 a pair."""
    return 4 * T + 8 * T * (head_dim // 2), 40 * T * (head_dim // 2)
