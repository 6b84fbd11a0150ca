"""From scores to a token on the device: the host side of `sample.cu`.

The NumPy functions are `sample` and `log_softmax` of `tiny/sampling.py`.
"""

from typing import Any

import numpy as np

from kernels.storage import CPP_NAMES, STORES, stored, to_store
from tiny.numerics import need

FILE, VERSIONS = "sample.cu", ("v1", "v2", "v3")
V1_THREADS, BIN_BITS, PART = 32, 9, 1024  # the last two are the defaults of sample.cu
WORDS = 7  # of a bin
MASS_BITS, MOST_TOKENS = 15, 1 << 24  # bits of a quarter of a probability with up to 2^17 tokens; a vocabulary at most
INT32, DOUBLE = (np.dtype(np.int32),), (np.dtype(np.float64),)


def sample(launcher: Any, logits: np.ndarray, temperature: float = 0.0, top_p: float = 1.0,
           draws: np.ndarray | None = None, precision: str = "float32",
           version: str = "v3") -> tuple[np.ndarray, np.ndarray]:
    """Choose the next token of each sequence; return it, and its log-probability.

    draws: a number of rng.random() for each sequence, which a temperature above 0 needs

    Shapes:  logits (B, V), draws (B,) -> ids (B,), logprobs (B,)
    Dtypes:  logits float32, stored as the precision says; draws float64 -> ids int32, logprobs float32
    Order:   as the NumPy function
    Raises:  ValueError for another dtype, rank or version, a temperature above 0 without draws, or an empty vocabulary
    Source:  tiny/sampling.py sample and log_softmax
    Differs: sums have no rounding here (v2, v3). Where NumPy's add up to within some 1e-13 of a border between two
             tokens, or of top_p, the other token may come; see tests/kernels/test_kernels_sample.py. Logits that are
             not finite give the id -1 and the logarithm NaN
    """
    logits = to_store(logits, precision)
    B = len(logits)
    if draws is None and temperature > 0:
        raise ValueError("sample expects a random number for each sequence when the temperature is above 0; got None.")
    if draws is not None:
        need("sample", "draws", draws, ("B",), DOUBLE)
    ids, logprobs = launcher.empty((B,), np.int32), launcher.empty((B,), np.float32)
    random = None if draws is None else launcher.put(draws.reshape(-1, 1))
    used = None if draws is None else launcher.put(np.zeros(B, np.int32))
    run_sample(launcher, logits, ids, logprobs, temperature, top_p, random, used, version)
    return ids, logprobs


def run_sample(launcher: Any, logits: Any, ids: Any, logprobs: Any, temperature: float = 0.0, top_p: float = 1.0,
               draws: Any = None, used: Any = None, version: str = VERSIONS[-1]) -> None:
    """`sample` of arrays on the device, into ids and logprobs there; nothing is read on the host.

    draws: rng.random(N) of each sequence, of which it takes the one at `used`; not read at temperature 0

    Shapes:  logits (B, V), ids (B,), logprobs (B,), draws (B, N), used (B,)
    Dtypes:  logits float32 or bfloat16; ids, used int32; logprobs float32; draws float64
    Raises:  ValueError as `sample`
    """
    check(logits, ids, logprobs, temperature, draws, used, version)
    (B, V), greedy = logits.shape, not temperature > 0
    if not B:
        return
    if greedy:
        draws, used = launcher.empty((1, 1), np.float64), launcher.empty((1,), np.int32)
    N, defines = np.int32(draws.shape[1]), (f"STORE={CPP_NAMES[logits.dtype]}", f"MASS_BITS={mass_bits(V)}",
                        f"BIN_BITS={BIN_BITS}")
    ends = [draws, used, ids, logprobs, np.int32(V), N]
    scalars = [np.float64(0 if greedy else temperature), np.float64(top_p)]
    if version == "v1":
        launcher.launch(FILE, "sample_v1", (-(-B // V1_THREADS),), (V1_THREADS,),
                        [logits, *ends, *scalars, np.int32(B)], defines=defines)
    elif version == "v2":
        launcher.launch(FILE, "sample_v2", (B,), (1 << BIN_BITS,), [logits, *ends, *scalars], defines=defines)
    else:
        run_v3(launcher, logits, ends, scalars, greedy, defines)


def run_v3(launcher: Any, logits: Any, ends: list, scalars: list, greedy: bool, defines: tuple) -> None:
    """The launches of version 3: two, or three for a draw. Shapes:  logits (B, V)."""
    (B, V), words = logits.shape, 0 if greedy else WORDS << BIN_BITS
    parts = -(-V // PART)
    bests, sums = launcher.empty((B, parts), np.uint64), launcher.empty((B, parts), np.float64)
    masses = launcher.empty((B, max(1, words)), np.uint32)
    launcher.launch(FILE, "sample_v3_parts", (parts, B), (PART // 4,),
                    [logits, bests, sums, masses, np.int32(V), np.int32(words)], defines=defines)
    if not greedy:
        launcher.launch(FILE, "sample_v3_masses", (parts, B), (PART // 4,),
                        [logits, bests, masses, np.int32(V), scalars[0]], defines=defines)
    launcher.launch(FILE, "sample_v3", (B,), (1 << BIN_BITS,),
                    [logits, bests, sums, masses, *ends, np.int32(parts), *scalars], defines=defines)


def check(logits: Any, ids: Any, logprobs: Any, temperature: float, draws: Any, used: Any, version: str) -> None:
    """The guard of `run_sample`. Shapes:  logits (B, V), ids (B,), logprobs (B,), draws (B, N), used (B,)."""
    need("sample", "logits", logits, ("B", "V"), None, stored("bfloat16"))
    need("sample", "ids", ids, ("B",), INT32)
    need("sample", "logprobs", logprobs, ("B",))
    if version not in VERSIONS:
        raise ValueError(f"sample has the versions v1, v2 and v3; got {version!r}.")
    B, V = logits.shape
    if not 1 <= V <= MOST_TOKENS or not ids.shape == logprobs.shape == (B,):
        raise ValueError(f"sample expects logits (B, V) with V from 1 to {MOST_TOKENS}, ids (B,) and logprobs (B,); "
                         f"got {logits.shape}, {ids.shape} and {logprobs.shape}.")
    if temperature > 0:
        need("sample", "draws", draws, ("B", "N"), DOUBLE)
        need("sample", "used", used, ("B",), INT32)
        if len(draws) != B or used.shape != (B,):
            raise ValueError(f"sample expects draws ({B}, N) and used ({B},); got {draws.shape} and {used.shape}.")


def mass_bits(V: int) -> int:
    """Bits of a quarter of a probability: V quarters add up to 32 bits at most."""
    return min(MASS_BITS, 32 - (V - 1).bit_length())


def floor(B: int, V: int, precision: str = "float32") -> tuple[int, int]:
    """Bytes that must move and floating-point operations: logits in, a token and its logarithm out; some 60 a logit."""
    return B * V * STORES[precision].itemsize + 8 * B, 60 * B * V
