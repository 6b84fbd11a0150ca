"""Targets: quantised checkpoints, their configurations and tensors; what is accepted unpacks to what was stored."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from small import file_bytes, hf_config, random_tensors, sizes
from small_quantised import KINDS, quantised_tensors
from small_quantised import quantization_config as said_of

from tests.fuzz import mutate
from tests.fuzz.engine import Target, Wrong
from tiny.files.checkpoint import open_checkpoint
from tiny.files.packed.array import Packed
from tiny.files.weights import halves_to_pairs

CONFIG = sizes((2, 1), dim=32, head_dim=8, hidden_dim=16, n_heads=4, n_layers=1, vocab_size=16)
ODD: tuple[Any, ...] = (
    *mutate.ODD, "tensor", "channel", "group", "block", "int", "float", "pack-quantized", "float-quantized", "awq",
    "gptq", "int-quantized", "naive-quantized", "compressed-tensors", "re:.*", "re:(a+)+$", "re:.*.*.*a", "re:[",
    "Linear", "model.layers.0.self_attn.q_proj", ["re:.*proj"], ["Linear"], 4, 16, 32, 128)
SHAPES = (*mutate.ODD, "F32", "BF16", "I8", "I32", "I64", "F8_E4M3", [0], [1], [32, 4], [4, 32], [2, 2**47], [32, 2])


@cache
def checkpoint(name: str) -> tuple[bytes, dict[str, np.ndarray]]:
    """The file of a small checkpoint in one form, and the numbers of its matrices by their names there."""
    stored, exact = quantised_tensors(CONFIG, random_tensors(CONFIG), name)
    return file_bytes(stored), exact


def make(rng: random.Random) -> bytes:
    """A JSON object: the form, quantization_config, and the file in Latin-1; one of the last two is damaged."""
    name = rng.choice(list(KINDS))
    data, config, kind = checkpoint(name)[0], said_of(name), rng.randrange(4)
    if kind < 2:
        config = mutate.json_of(rng, config, ODD)
    elif kind == 2:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.dumps(mutate.json_of(rng, json.loads(data[8:start]), SHAPES)).encode("utf-8", "surrogatepass")
        data = len(header).to_bytes(8, "little") + header + data[start:]
    else:  # numbers: shapes, groups, scales, words
        start = 8 + int.from_bytes(data[:8], "little")
        place = rng.randrange(start, len(data))
        data = data[:place] + bytes([rng.choice((0, 1, 127, 128, 255))]) + data[place + 1 :]
    return json.dumps([name, config, data.decode("latin1")]).encode("utf-8", "surrogatepass")


def run(data: bytes, folder: Path) -> str:
    name, config, text = json.loads(data)
    # One key of GPTQ, and no other, can change what the same tensors mean.
    same = text.encode("latin1") == checkpoint(name)[0] and "checkpoint_format" not in json.dumps(config)
    value = hf_config(CONFIG, quantization_config=config)
    (folder / "config.json").write_bytes(json.dumps(value).encode("utf-8", "surrogatepass"))
    (folder / "model.safetensors").write_bytes(text.encode("latin1"))
    found = open_checkpoint(folder)
    stored = 0
    for ours, place in found.places.items():
        tensor: Any = found.tensors[ours]
        stored += tensor.nbytes
        if not isinstance(tensor, Packed):
            continue
        numbers = np.asarray(tensor)
        if numbers.dtype != np.float32 or numbers.shape != tensor.shape:
            raise Wrong("numbers of another shape or dtype")
        rows = slice(1, None, 2)
        if tensor[rows].tobytes() != numbers[rows].tobytes():
            raise Wrong("some rows are not those of the whole")
        if same:
            exact = checkpoint(name)[1][place.name]
            exact = halves_to_pairs(exact, CONFIG.head_dim) if tensor.ndim == 4 else exact
            if numbers.tobytes() != np.ascontiguousarray(exact).tobytes():
                raise Wrong("numbers that were not stored")
    if stored > len(text):
        raise Wrong("more stored bytes than the file has")
    return "read"


TARGETS = [Target("quantised", make, run, 0.3)]
