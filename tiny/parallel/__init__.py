"""One model over several processes, by MPI: whole experts on ranks, or heads and hidden rows.

    mpiexec -n 2 python -m mpi4py script.py

    import tiny.parallel
    ranks = tiny.parallel.Ranks()
    model = tiny.parallel.load("tiny-mixtral", ranks)

Every rank runs the same program: the same calls of the model in the same order. `python -m tiny.parallel --ranks 2
generate` starts the processes itself, and only rank 0 writes. Read `ranks.py` first.
"""

import socket
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import tiny
from tiny.config import TinyError
from tiny.files.streamed import Streamed, hold
from tiny.mixtral import Mixtral
from tiny.parallel import ops as parallel_ops
from tiny.parallel.model import build, fingerprint
from tiny.parallel.ranks import Group, Ranks
from tiny.parallel.shards import Shard, check_split, cut
from tiny.system.free_memory import choose_mode, free_memory

__all__ = ["Group", "Ranks", "load"]

MODES = ("resident", "mapped", "streamed")  # of ranks with several, all take the last
ALIKE = "Give every rank the same files, versions and kind of processor."


def load(folder: str | Path, ranks: Group, split: str = "experts", ops: ModuleType = tiny.ops,
         precision: str = "float32", weights: str = "auto", cache: str | None = None) -> Mixtral:
    """One rank's part of a checkpoint: a model that is called as ever, by all ranks at once.

    split: "experts" puts whole experts on ranks and repeats the rest: the numbers are those of one process, to the bit;
    "all" splits heads and hidden rows, and a rank has 1 / size of nearly all weights: sums of several parts differ in
    the last bits
    weights: as in tiny.load, for this rank's part; "auto" counts all ranks of a machine, and all ranks hold them alike
    ops, precision, cache: as in tiny.load

    Raises:  TinyError on every rank if one cannot open the model, if ranks differ, or if the sizes cannot be shared
    """
    if not isinstance(ranks, Group):
        raise TinyError(f"The ranks are {ranks!r}, not a group that can talk.",
                        "Give tiny.parallel.Ranks(), and start the program by mpiexec with as many as you want.")

    def opened() -> Mixtral:
        model = tiny.load(folder, ops, precision, "mapped", cache)
        check_split(model.config, ranks.size, split)
        if split == "all" and precision != "float32":
            raise TinyError("split='all' adds parts of sums, and bfloat16 has no place where each part is rounded.",
                            "Use precision='float32', or split='experts'.")
        return model

    model: Mixtral = ranks.together(opened)
    ranks.agree(fingerprint(model, split) | {"the way to hold weights": weights}, ALIKE)
    tensors, kinds = cut(model.checkpoint.tensors, model.config, ranks, split)
    hosts = ranks.tell(socket.gethostname())
    neighbours = hosts.count(hosts[ranks.rank])
    mode = ranks.together(lambda: mode_here(tensors, model.checkpoint.tensors, neighbours, split, weights))
    # A matrix that is read in blocks can give other bits than one that is read at once, so no two ranks may differ.
    mode = max(ranks.tell(mode), key=MODES.index)
    held, base = ranks.together(lambda: hold(tensors, mode, ops))
    if isinstance(held, Streamed):
        held.allow(max(held.least, free_memory() // 2 // neighbours))
    return build(model, Shard(held, kinds) if kinds else held, parallel_ops.choose(ranks, split, base), ranks, split)


def mode_here(tensors: Mapping[str, Any], whole: Mapping[str, Any], neighbours: int, split: str, weights: str) -> str:
    """How this machine allows its ranks to hold their weights; pages of mapped files are there once for all of them.

    Raises:  TinyError for weights that cannot be held so
    """
    if split == "all" and weights == "streamed":
        raise TinyError("Columns of matrices cannot be streamed: they are no plain parts of a file.",
                        "Use --weights mapped, or --split experts.")
    found = choose_mode(weights, {f"{n} {name}": tensor for n in range(neighbours) for name, tensor in tensors.items()})
    shared = weights == "auto" and found == "streamed" and (split == "all" or choose_mode(weights, whole) != "streamed")
    return "mapped" if shared else found
