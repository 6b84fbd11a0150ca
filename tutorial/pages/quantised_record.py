"""Measure what int8 costs tiny-mixtral on held-out text, and how long a product takes with each form of weights.

    python -m tutorial.pages.quantised_record       writes records/int8.json; about 3 minutes
"""

import datetime
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import tiny
from tiny.files.packed.array import Packed
from tiny.files.packed.columns import ORDER
from tiny.files.packed.compressed import Scheme, unpack
from tiny.files.packed.int8 import MATRICES, dequantise_rows, quantise_rows
from tiny.files.packed.unpack import across_rows, scaled
from tiny.numerics import linear
from tiny.tools.machine import blas_kernel, machine
from tiny.tools.quantize import compare_ids
from tiny.tools.terminal import Parser, program
from tiny.training.text import data
from tutorial.pages.records import keep

WINDOWS = 4  # of 256 tokens, of each kind of text
VARIANTS: dict[str, Callable[[str], bool]] = {
    "all matrices": lambda name: bool(MATRICES.search(name)),
    "`--keep output`": lambda name: bool(MATRICES.search(name)) and name != "output.weight",
    "the router too": lambda name: bool(MATRICES.search(name)) or ".gate." in name}
OUT, IN, GROUP = 3584, 1024, 128  # a quarter of the rows and columns of an expert of Mixtral
ROUNDS = 15


def held_out() -> list[list[int]]:
    """Windows of text that tiny-mixtral has not seen."""
    pieces = data.open_tokenizer((tiny.model_folder("tiny-mixtral") / "tokenizer.model").read_bytes())
    windows = []
    for found in data.held_out(data.build_streams(pieces, data.texts(), dict.fromkeys(data.SHARES, 60_000), True),
                               pieces).values():
        batch = found.batches[0]
        starts = np.concatenate([[0], np.cumsum(batch.lengths)])
        windows += [batch.ids[a:b].tolist() for a, b in zip(starts[:WINDOWS], starts[1:])]
    return windows


def costs() -> list[dict]:
    """What each choice of matrices costs."""
    plain, windows = tiny.load("tiny-mixtral", weights="resident"), held_out()
    weights = {name: plain.weights[name] for name in plain.weights}
    rows = []
    for variant, chosen in VARIANTS.items():
        other = {name: dequantise_rows(*quantise_rows(x)) if chosen(name) else x for name, x in weights.items()}
        found = [compare_ids(plain, tiny.Mixtral(plain.config, other), ids) for ids in windows]
        tokens = np.array([one.tokens for one in found])
        mean = {key: float(np.average([getattr(one, key) for one in found], weights=tokens))
                for key in ("before", "after", "divergence", "likeliest", "experts")}
        rows.append({"what": variant, "tokens": int(tokens.sum())} | mean)
        print(rows[-1], flush=True)
    return rows


def forms() -> dict[str, Any]:
    """One matrix in each form, of random numbers."""
    rng = np.random.default_rng(0)
    weight, rows = rng.standard_normal((OUT, IN), np.float32), np.arange(OUT, dtype=np.int32)[:, None]
    words, scale = rng.integers(-2**31, 2**31, (OUT, IN // 8), np.int32), np.ones((OUT, IN // GROUP), np.float16)
    across, zeros = rng.integers(-2**31, 2**31, (IN, OUT // 8), np.int32).T, words[: OUT // 8, : IN // GROUP]
    found: dict[str, Any] = {"float32": weight, "bfloat16": weight.astype(ml_dtypes.bfloat16)}
    for kind, stored, scales, scheme in (
            ("fp8", weight.astype(ml_dtypes.float8_e4m3fn), scale[:, :1],
             Scheme("float-quantized", True, 8, True, None, [])),
            ("int8", words.view(np.int8).repeat(2, 1).view(np.int32), scale[:, :1],
             Scheme("pack-quantized", False, 8, True, None, [])),
            ("int4/128", words, scale, Scheme("pack-quantized", False, 4, True, GROUP, []))):
        found[kind] = Packed(kind, (OUT, IN), (stored, scales, rows),
                             lambda *parts, scheme=scheme: unpack(scheme, IN, None, None, *parts),
                             (stored.nbytes + scales.nbytes) / OUT)
    found["awq4/128"] = Packed("awq4/128", (OUT, IN), (scale, rows), lambda scales, rows: scaled(
        across_rows(across, 4, rows, ORDER), scales, across_rows(zeros, 4, rows, ORDER)),
        (across.nbytes + scale.nbytes + zeros.nbytes) / OUT)
    return found


def speeds() -> list[dict]:
    """Processor time of one token's product with each form, beside bfloat16; the forms take turns."""
    x, matrices = np.random.default_rng(1).standard_normal((1, IN), np.float32), forms()
    times: dict[str, list[float]] = {kind: [] for kind in matrices}
    for _ in range(ROUNDS):
        for kind, weight in matrices.items():
            start = time.thread_time()
            linear(x, weight)
            times[kind].append(time.thread_time() - start)
    least = {kind: min(found) for kind, found in times.items()}
    return [{"what": kind, "milliseconds": 1e3 * least[kind], "of bfloat16": least[kind] / least["bfloat16"],
             "bytes": matrices[kind].nbytes} for kind in matrices]


def main() -> None:
    """Measure, and keep the record."""
    Parser(prog="python -m tutorial.pages.quantised_record", description=(__doc__ or "").splitlines()[0]).parse_args()
    keep("int8.json", {"date": datetime.date.today().isoformat(), "machine": machine(), "kernel": blas_kernel(),
                       "versions": {"numpy": np.__version__}, "costs": costs(), "speeds": speeds()})


if __name__ == "__main__":
    program(main)
