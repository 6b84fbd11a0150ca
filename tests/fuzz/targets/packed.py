"""Targets: GGUF files. What is accepted has the tensors of a second reader, and a model of it opens or is refused."""

import random
import struct
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import small
from gguf_files import gguf_bytes, model_keys, model_tensors, special, stored

import tiny
from tests.fuzz import mutate
from tests.fuzz.engine import Target, Wrong
from tiny.files.packed.array import Packed
from tiny.files.packed.gguf import read_gguf

CONFIG = small.sizes(n_layers=1, moe=(2, 1), vocab_size=259 + 6)
NUMBERS = (0, 1, 2, 7, 8, 9, 13, 31, 32, 255, 256, 1 << 16, 1 << 31, 1 << 32, 1 << 40, 1 << 48, 1 << 62, (1 << 63) - 1,
           1 << 63, (1 << 64) - 1)
PLACES = ("general.alignment", "llama.rope.scaling.type", "split.count", "split.no", "general.type")


@cache
def base() -> tuple[dict, dict]:
    """The keys and tensors of a small Mixtral with a SentencePiece tokenizer, and blocks of some types beside it."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab", "\u2581", "c", "d"]
    kinds = [2, 3, 3] + [6] * 256 + [1] * 6
    tokenizer = {"tokenizer.ggml.model": ("str", "llama"), "tokenizer.ggml.tokens": ("[str]", pieces),
                 "tokenizer.ggml.scores": ("[f32]", [-float(n) for n in range(len(pieces))]),
                 "tokenizer.ggml.token_type": ("[i32]", kinds)} | special(1, 2, 0)
    model = tiny.Mixtral(CONFIG, small.random_tensors(CONFIG))
    return model_keys(CONFIG, tokenizer), model_tensors(model, "F32")


def make_gguf(rng: random.Random) -> bytes:
    """A file with other keys, values, shapes and types, and then perhaps other bytes, most of them in the header."""
    keys, tensors = (dict(part) for part in base())
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        key = rng.choice(list(keys))
        odd = rng.choice([("u64", rng.choice(NUMBERS)), ("str", rng.choice(("", "llama", "clip", "\0", "x" * 99))),
                          ("f32", rng.choice((0.0, -1.0, 1e9, float("nan"), float("inf")))), ("bool", True), None,
                          ("[u32]", [1, 2]), ("[str]", ["<s>", "\u2581", ""]), ("[f32]", []), ("i32", -1)])
        keys[rng.choice((key, key, key, *PLACES))] = odd
    for _ in range(rng.choice((0, 0, 1, 2))):
        name = rng.choice(list(tensors))
        kind, shape, data = tensors[name]
        kind = rng.choice((kind, rng.randrange(45), rng.choice(NUMBERS) % (1 << 32), "Q8_0", "Q4_K"))
        shape = tuple(rng.choice(NUMBERS) if rng.random() < 0.3 else size for size in shape) + (1,) * rng.choice((0, 3))
        tensors[rng.choice((name, "rope_freqs.weight", "a\nb"))] = kind, shape, data
    if rng.random() < 0.3:
        tensors["blocks"] = stored(np.zeros((2, 256)), rng.choice(("Q4_0", "Q5_1", "Q6_K", "BF16")))
    align = rng.choice((32, 32, 32, 8, 64))
    keys |= {"general.alignment": ("u32", align)} if align != 32 else {}
    counts = [None if rng.random() < 0.9 else rng.choice(NUMBERS) for _ in range(2)]
    whole = gguf_bytes({key: content for key, content in keys.items() if content}, tensors, rng.choice((2, 3, 3, 3)),
                       align, *counts)
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 1, 3))):
            place, size = rng.randrange(min(len(whole), 14000)), rng.choice((4, 8))
            number = (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")
            whole = whole[:place] + number + whole[place + size :]
    return whole if rng.random() < 0.8 else mutate.bytes_of(rng, whole)


def entries(data: bytes) -> dict[str, tuple]:
    """The tensors of a header by a second reader, which trusts it: shape, code and offset by name."""
    place, values = 24, {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    tensors, keys = struct.unpack_from("<QQ", data, 8)

    def text() -> bytes:
        nonlocal place
        (size,) = struct.unpack_from("<Q", data, place)
        place += 8 + size
        return data[place - size : place]

    for _ in range(keys):
        text()
        (code,) = struct.unpack_from("<I", data, place)
        place += 4
        count = 1
        if code == 9:
            code, count = struct.unpack_from("<IQ", data, place)
            place += 12
        if code == 8:
            for _ in range(count):
                text()
        else:
            place += count * values[code]
    found = {}
    for _ in range(tensors):
        name = text().decode("utf-8", "replace")
        (axes,) = struct.unpack_from("<I", data, place)
        *shape, code, offset = struct.unpack_from(f"<{axes}QIQ", data, place + 4)
        place += 4 + axes * 8 + 12
        found[name] = tuple(shape[::-1]), code, offset
    return found


def run_gguf(data: bytes, folder: Path) -> str:
    path = folder / "model.gguf"
    path.write_bytes(data)
    metadata, tensors = read_gguf(path)
    theirs = entries(data)
    if {name: array.shape for name, array in tensors.items()} != {name: shape for name, (shape, *_) in theirs.items()}:
        raise Wrong("accepted with other tensors than a second reader finds")
    if sum(array.nbytes for array in tensors.values()) > len(data):
        raise Wrong("more bytes of tensors than the file has")
    for array in tensors.values():
        if array.size < 1 << 16 and np.asarray(array, np.float32).shape != array.shape:
            raise Wrong(f"unpacked, {array.shape} has another shape")
        if isinstance(array, Packed) and array[:1].dtype != np.float32:
            raise Wrong("a slice that is not float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny.load(path, weights="mapped")
    return "run"


TARGETS = [Target("gguf", make_gguf, run_gguf, 0.3)]
