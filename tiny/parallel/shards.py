"""A rank's part of the weights, as views of the files: whole experts, or some heads and some hidden rows of all.

Weights are cut before `Weights` converts them, so a rank that keeps float32 keeps only its part. Read `ops.py` next.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tiny.config import Config, TinyError
from tiny.files.packed.array import Packed
from tiny.files.weights import Tensors
from tiny.parallel.ranks import Group

SPLITS = ("experts", "all")
EXPERT = re.compile(r"feed_forward\.experts\.(\d+)\.")
# Matrices that are cut, of the decoder and of the vision encoder: by rows a rank makes some of the numbers, by columns
# it reads some of them, and its answer is one of the parts that are added up.
BY_ROWS = re.compile(r"layers\.\d+\.(attention\.w[qkv]|feed_forward\.(experts\.\d+\.)?w[13])\.weight$")
BY_COLUMNS = re.compile(r"layers\.\d+\.(attention\.wo|feed_forward\.(experts\.\d+\.)?w2)\.weight$")
OUTPUT = "output.weight"


class Columns(np.ndarray):
    """A matrix of which this rank has some columns: a product with it is one of the parts of a sum."""


class Rows(np.ndarray):
    """A matrix of which this rank has some rows, and whose product is wanted whole."""


class Shard(Tensors):
    """The weights of one rank, some of which are Columns or Rows, so that `linear` knows."""

    def __init__(self, held: Any, kinds: Mapping[str, type]) -> None:
        super().__init__(held)
        self.held, self.kinds, self.tensors, self.mode = held, kinds, held.tensors, held.mode

    def __getitem__(self, name: str) -> Any:
        tensor, kind = self.held[name], self.kinds.get(name)
        return tensor.view(kind) if kind and isinstance(tensor, np.ndarray) else tensor


def share_of(weight: Any) -> type:
    """Columns or Rows, for a matrix of which this rank has these; another type for a whole one."""
    return getattr(weight, "share", type(weight))


def owner_of(expert: Any, num_experts: int, size: int) -> Any:
    """The rank that has an expert, or those of an array of experts: the first rank has the first few, and so on."""
    return expert // (num_experts // size)


def check_split(config: Config, size: int, split: str) -> None:
    """Raise TinyError unless a model can be cut for this many ranks."""
    if split not in SPLITS:
        raise TinyError(f"split={split!r} is unknown.", "Use 'experts' or 'all'.")
    if split == "experts" and config.moe is None:
        raise TinyError("This model is dense: it has no experts that ranks could share.", "Use --split all.")
    for number, what in sizes_of(config, split):
        if number % size:
            raise TinyError(f"{size} ranks cannot share {number} {what}: each would get as many.",
                            f"Use {fitting(config, split)} for the number of ranks"
                            f"{', or --split experts' if split == 'all' and config.moe else ''}.")


def sizes_of(config: Config, split: str) -> list[tuple[int, str]]:
    """The numbers that the number of ranks must divide, with what each counts."""
    if split == "experts":
        return [(config.moe.num_experts, "experts")] if config.moe else []
    counts = [(config.n_kv_heads, "KV heads"), (config.n_heads, "heads"), (config.hidden_dim, "hidden numbers")]
    if vision := config.vision:
        counts += [(vision.num_attention_heads, "heads of the vision encoder"),
                   (vision.intermediate_size, "hidden numbers of the vision encoder")]
    return counts


def fitting(config: Config, split: str) -> str:
    """The numbers of ranks that a model can be cut for, in words."""
    counts = [number for number, _ in sizes_of(config, split)]
    found = [str(size) for size in range(1, min(counts) + 1) if not any(number % size for number in counts)]
    return " or ".join(filter(None, [", ".join(found[:-1]), found[-1]]))


def part(n: int, group: Group) -> slice:
    """The range of n rows, columns or heads that a rank has."""
    each = n // group.size
    return slice(each * group.rank, each * (group.rank + 1))


def rows_of(tensor: Any, group: Group) -> Any:
    """A rank's rows of a matrix, packed if that is. Shapes:  (out, ..., in) -> (out / size, ..., in)."""
    own = part(len(tensor), group)
    return tensor.part(own) if isinstance(tensor, Packed) else tensor[own]


def cut(tensors: Mapping[str, np.ndarray], config: Config, group: Group,
        split: str) -> tuple[dict[str, np.ndarray], dict[str, type]]:
    """The tensors of one rank, as views, and which of them are Columns or Rows."""
    kept: dict[str, np.ndarray] = {}
    kinds: dict[str, type] = {}
    for name, tensor in tensors.items():
        expert = EXPERT.search(name)
        if split == "experts":
            # (1) an expert is here or it is not; everything else is on every rank
            if expert and config.moe and owner_of(int(expert[1]), config.moe.num_experts, group.size) != group.rank:
                continue
        elif BY_ROWS.search(name):
            # (2) the rows of some heads, or some of the hidden rows
            tensor = rows_of(tensor, group)
        elif BY_COLUMNS.search(name):
            # (3) the columns that read those
            own = part(tensor.shape[1], group)
            tensor = tensor.columns(own) if isinstance(tensor, Packed) else tensor[:, own]
            if not expert and ".wo." in name:
                kinds[name] = Columns
        elif name == OUTPUT and not len(tensor) % group.size:
            # (4) the logits of some words; all get all of them
            tensor, kinds[name] = rows_of(tensor, group), Rows
        if name in kinds and isinstance(tensor, Packed):
            tensor.share = kinds[name]
        kept[name] = tensor
    return kept, kinds
