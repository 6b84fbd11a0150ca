"""Measure what `verify server` costs on a model of 0.8 billion parameters, one thread, and what follows for Mixtral.

    python -m tutorial.pages.served_record       writes records/served_cost.json; about 3 minutes of a core

Set OPENBLAS_NUM_THREADS=1. What real servers got is recorded from a run of tests/verify/engines, by
`python -m tutorial.pages.records --served FILE`.
"""

import datetime
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import tiny
from tiny.config import Config, MoeConfig
from tiny.tools.machine import blas_kernel, machine
from tiny.tools.releases import MIXTRAL_8X7B, stand_ins
from tiny.tools.synthetic import SIZES, RandomTensors, save_checkpoint
from tiny.tools.terminal import Parser, program
from tiny.tools.verify.server.numbers import asked
from tiny.tools.verify.server.reference import cost, passes
from tutorial.pages.records import keep

TEXTS = (400, 400)  # tokens, as the command asks for by default


def plan(config: Config) -> tuple[int, int]:
    """Passes over the weights, and runs of a text, that the command makes without a search for exact values."""
    found = {"": None} | dict(asked(config, max(TEXTS), None, False))
    return passes.count(found, [[1] * length for length in TEXTS]), len(found)


def measured(folder: Path) -> dict:
    """Processor time of one pass over both texts, weights mapped."""
    sizes: dict[str, Any] = {name: value for name, value in SIZES.items() if not name.startswith("num_experts")}
    config = Config(**sizes, norm_eps=1e-5, rope_theta=1e6, max_seq_len=32768,
                    moe=MoeConfig(SIZES["num_experts"], SIZES["num_experts_per_tok"]))
    save_checkpoint(folder / "model", "mistral", config, RandomTensors(config, 0))
    model = tiny.load(folder / "model", weights="mapped")
    ids = np.random.default_rng(0).integers(3, config.vocab_size, sum(TEXTS))
    start = time.process_time()
    model(ids, lengths=list(TEXTS))
    seconds, (count, faults) = time.process_time() - start, plan(config)
    return {"parameters": int(sum(np.prod(x.shape) for x in stand_ins(config).values())), "seconds": seconds,
            "passes": count, "runs": faults, "operations": sum(cost.operations(config, length) for length in TEXTS)}


def computed(speed: float) -> list[dict]:
    """What Mixtral 8x7B takes at that speed, by how its weights are held."""
    rows, (count, faults) = [], plan(MIXTRAL_8X7B)
    for mode in ("mapped", "streamed"):
        model = SimpleNamespace(config=MIXTRAL_8X7B, weights=SimpleNamespace(mode=mode,
                                                                            tensors=stand_ins(MIXTRAL_8X7B)))
        need = cost.cost(model, list(TEXTS), count, faults)
        rows.append({"mode": mode, "passes": need.passes, "runs": faults, "seconds": need.operations / speed,
                     "memory": need.memory, "read": need.passes * need.stored})
    return rows


def main() -> None:
    """Measure, and keep the record."""
    Parser(prog="python -m tutorial.pages.served_record", description=(__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder))
    keep("served_cost.json", {"date": datetime.date.today().isoformat(), "machine": machine(),
                              "kernel": blas_kernel(), "versions": {"numpy": np.__version__}, "measured": found,
                              "computed": computed(found["operations"] / found["seconds"])})


if __name__ == "__main__":
    program(main)
