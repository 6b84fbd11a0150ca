"""Attention on the device: the host side of `attention.cu` (many queries) and `attention_decode.cu` (one a sequence).

The NumPy function is `attention` of `tiny/attention.py`.

A small table, made here and read on the device, tells each block of threads its queries and its keys.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels.storage import CPP_NAMES, STORES, stored, to_store
from tiny.attention import check_attention

FILE, DECODE_FILE = "attention.cu", "attention_decode.cu"
WIDEST = 128  # columns of a head, HEAD_DIM
ROWS = 64  # rows of a tile, one head of one query each: ROWS of `attention.cu`
THREADS = {"v1": 128, "v2": 256, "v3": 128}  # of a block
V1_QUERIES = 16  # queries of a tile of v1
GROUP = 8  # heads of a group that the decode kernels keep in registers
LOCAL = 48 << 10  # bytes of shared memory that every kernel may have
BLOCKS, SPLIT_KEYS = 264, 128  # decode: two blocks for each of 132 multiprocessors; the least keys of a split


def attention(launcher: Any, q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Sequence[int],
              spans: Sequence[tuple[int, int]], causal: bool = True, precision: str = "float32",
              version: str | None = None) -> np.ndarray:
    """Grouped-query attention over packed sequences; the split kernels take over where every sequence has one query.

    version: "v1", "v2" or "v3"; by default v3 with bfloat16 and v2 with float32

    Shapes:  q (T, H, d), keys, values (S, G, d) -> (T, H, d)
    Dtypes:  float32, stored as the precision says -> float32
    Order:   each version has its own, the same whatever the order of threads and blocks
    Raises:  ValueError as the NumPy function; for an odd d or one above 128; for more than 64 heads to a KV head; if
             v1 gets more keys than its scores have room for; for v3 with float32
    Source:  tiny/attention.py
    Differs: with bfloat16 scores and weights are not rounded, except that v3 rounds the weights before they are divided
    """
    if causal and one_query_each(q, keys, lengths):
        return attention_decode(launcher, q, keys, values, spans, precision, "v1" if version == "v1" else "v2")
    return attention_prefill(launcher, q, keys, values, lengths, spans, causal, precision, version)


def one_query_each(q: np.ndarray, keys: np.ndarray, lengths: Sequence[int]) -> bool:
    """Whether the decode kernels can take these arguments. Wrong ones are left to the guard of what follows."""
    return getattr(q, "ndim", 0) == getattr(keys, "ndim", 0) == 3 and list(lengths) == [1] * len(q) and (
        0 < q.shape[1] <= GROUP * keys.shape[1])


def attention_prefill(launcher: Any, q: np.ndarray, keys: np.ndarray, values: np.ndarray, lengths: Sequence[int],
                      spans: Sequence[tuple[int, int]], causal: bool = True, precision: str = "float32",
                      version: str | None = None) -> np.ndarray:
    """The kernels for many queries, for any lengths: see `attention`."""
    check_attention(q, keys, values, lengths, spans, precision, stored(precision))
    H, G, _ = sizes(q, keys)
    q, keys, values = (launcher.put(to_store(x, precision)) for x in (q, keys, values))
    version = version or ("v2" if precision == "float32" else "v3")
    if version not in THREADS or (version == "v3" and precision == "float32"):
        raise ValueError(f"attention has the versions v1, v2 and, for bfloat16, v3; got {version!r} for {precision}.")
    table = tiles(lengths, spans, causal, queries_of_a_tile(H // G, version))
    longest = int((table[:, 3] - table[:, 2]).max())
    out = run_attention(launcher, q, keys, values, launcher.put(table), causal, version, longest)
    return out.astype(np.float32, copy=False)


def run_attention(launcher: Any, q: Any, keys: Any, values: Any, table: Any, causal: bool = True,
                  version: str | None = None, longest: int = 0) -> Any:
    """`attention_prefill` of arrays that are on the device as the kernel reads them, with the table of `tiles` there.

    longest: the keys of the longest row of the table, which v1 wants to know

    Shapes:  q (T, H, d), keys, values (S, G, d), table (tiles, 4) -> (T, H, d)
    Dtypes:  q, keys and values float32 or bfloat16, table int32 -> as q
    Raises:  ValueError for a head that the kernels have no room for
    """
    H, G, d = sizes(q, keys)
    version = version or ("v2" if q.dtype == STORES["float32"] else "v3")
    out, grid = launcher.empty(q.shape, q.dtype), (len(table), H if version == "v1" else G)
    launcher.launch(FILE, f"attention_{version}", grid, (THREADS[version],),
                    (q, keys, values, table, out, np.int32(H), np.int32(G), np.int32(causal)),
                    shared_bytes=shared_bytes(version, d, longest),
                    defines=(f"STORE={CPP_NAMES[q.dtype]}", f"HEAD_DIM={d}"))
    return out


def queries_of_a_tile(heads: int, version: str = "v2") -> int:
    """How many queries a tile of the table has. Raises ValueError for more heads to a KV head than a tile has rows."""
    if heads > ROWS:
        raise ValueError(f"The attention kernels take at most {ROWS} heads to a KV head; got {heads}.")
    return V1_QUERIES if version == "v1" else ROWS // heads


def tiles(lengths: Sequence[int], spans: Sequence[tuple[int, int]], causal: bool, queries: int) -> np.ndarray:
    """The table of the prefill kernels: first query, count, and the keys start ... stop - 1 that the last query sees.

    Keys ahead of a tile are not in its row. Tiles with many keys come first, so that short ones fill the end.

    Shapes:  -> (tiles, 4) int32, each of at most `queries` queries
    """
    table, first = [], 0
    for length, (start, stop) in zip(lengths, spans):
        for block in range(0, length, queries):
            count = min(queries, length - block)
            table.append((first + block, count, start, stop - (length - block - count if causal else 0)))
        first += length
    return np.array(sorted(table, key=lambda tile: tile[2] - tile[3]), np.int32)


def shared_bytes(version: str, d: int, keys: int) -> int:
    """Shared memory of a block: the constants of `attention.cu`. Raises ValueError if v1 has too many keys."""
    if version == "v1":
        if 4 * keys > LOCAL:
            raise ValueError(f"attention v1 keeps the scores of one query in {LOCAL} bytes of shared memory, at most "
                             f"{LOCAL // 4} keys; got {keys}. Use version v2 or v3.")
        return 4 * keys
    if version == "v2":
        stride = (-(-d // 4) | 1) * 4
        return 4 * ((ROWS + 2 * 32) * stride + ROWS * 32)
    return 2 * 4 * 64 * (-(-d // 16) * 16 + 8)


def attention_decode(launcher: Any, q: np.ndarray, keys: np.ndarray, values: np.ndarray,
                     spans: Sequence[tuple[int, int]], precision: str = "float32", version: str = "v2",
                     splits: int | None = None) -> np.ndarray:
    """One query for each sequence, which sees its whole span; the keys are split over blocks, then put together.

    splits: how many for each sequence; by default enough to keep a large GPU busy, from the rows of `keys` alone

    Shapes:  q (N, H, d), keys, values (S, G, d) -> (N, H, d)
    Dtypes:  float32, stored as the precision says -> float32
    Raises:  ValueError for wrong shapes or spans, more than 8 heads to a KV head, or too few splits for v1
    Source:  tiny/attention.py
    """
    check_attention(q, keys, values, [1] * len(q), spans, precision, stored(precision))
    sizes(q, keys)
    q, keys, values = (launcher.put(to_store(x, precision)) for x in (q, keys, values))
    out = run_attention_decode(launcher, q, keys, values, launcher.put(np.array(spans, np.int32)), version, splits)
    return out.astype(np.float32, copy=False)


def run_attention_decode(launcher: Any, q: Any, keys: Any, values: Any, spans: Any, version: str = "v2",
                         splits: int | None = None) -> Any:
    """`attention_decode` of arrays that are on the device as the kernel reads them; the spans are read there, too.

    Shapes:  q (N, H, d), keys, values (S, G, d), spans (N, 2): start and stop -> (N, H, d)
    Dtypes:  q, keys and values float32 or bfloat16, spans int32 -> as q
    Raises:  ValueError for an unknown version, more than 8 heads to a KV head, or too few splits for v1
    """
    H, G, d = sizes(q, keys)
    N, S, R = len(q), len(keys), H // G
    if version not in ("v1", "v2"):
        raise ValueError(f"attention_decode has the versions v1 and v2; got {version!r}.")
    if R > GROUP:
        raise ValueError(f"The decode kernels take at most {GROUP} heads to a KV head; got {R}.")
    splits = splits or max(1, min(BLOCKS // (N * G), S // SPLIT_KEYS))
    shared = 4 * R * split_keys(S, splits) if version == "v1" else 0
    if shared > LOCAL:
        raise ValueError(f"attention_decode v1 keeps the scores of a split in {LOCAL} bytes of shared memory; {splits} "
                         f"splits of {S} keys need {shared}. Use more splits, or version v2.")
    partial = launcher.empty((N, splits, H, d), np.float32)
    peaks = launcher.empty((N, splits, H, 2), np.float32)
    out = launcher.empty(q.shape, q.dtype)
    defines = (f"STORE={CPP_NAMES[q.dtype]}", f"HEAD_DIM={d}", f"GROUP={R}")
    launcher.launch(DECODE_FILE, f"attention_decode_{version}", (N, G, splits), (128,),
                    (q, keys, values, spans, partial, peaks, np.int32(G)), shared_bytes=shared, defines=defines)
    launcher.launch(DECODE_FILE, "attention_decode_v1_combine", (N, H), (min(128, -(-d // 32) * 32),),
                    (partial, peaks, spans, out, np.int32(H), np.int32(splits)), defines=defines)
    return out


def split_keys(keys: int, splits: int) -> int:
    """Keys of a split, a multiple of 32: keys_of_a_split of `attention_decode.cu`."""
    share = -(-keys // splits)
    return -(-share // 32) * 32


def sizes(q: np.ndarray, keys: np.ndarray) -> tuple[int, int, int]:
    """H, G and d. Raises ValueError for a head that the kernels have no room for."""
    d = q.shape[2]
    if d % 2 or d > WIDEST:
        raise ValueError(f"The attention kernels take an even head_dim up to {WIDEST}; got {d}.")
    return q.shape[1], keys.shape[1], d


def floor(lengths: Sequence[int], spans: Sequence[tuple[int, int]], H: int, G: int, d: int, causal: bool = True,
          precision: str = "float32") -> tuple[int, int]:
    """Bytes that must move and floating-point operations: q in, out written, the keys and values of every span once;
    4 d operations for each head, query and key that it sees."""
    pairs = sum(length * (stop - start) - (length * (length - 1) // 2 if causal else 0)
                for length, (start, stop) in zip(lengths, spans))
    seen = sum(stop - start for start, stop in spans)
    return 2 * d * (sum(lengths) * H + seen * G) * STORES[precision].itemsize, 4 * d * H * pairs
