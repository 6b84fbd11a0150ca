"""Targets: safetensors, configurations, the index of shards, whole checkpoints, files of torch.save."""

import contextlib
import io
import json
import math
import random
import struct
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from oracles import GOLDEN
from torch_files import archive as torch_archive
from torch_files import dictionary, tensor

import tiny
from tests.fuzz import mutate
from tests.fuzz.engine import ROOT, Target, Wrong
from tiny.config import Config
from tiny.files.checkpoint import indexed_files
from tiny.files.hf_config import read_hf_config
from tiny.files.params import read_params
from tiny.files.safetensors import read_safetensors
from tiny.files.weights import expected_shapes
from tiny.tools.convert.torch_file import read_torch_file

# ---- safetensors: what is accepted covers the file, and is what the safetensors library reads

HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c.weight": {"dtype": "F16", "shape": [1, 2, 2, 1], "data_offsets": [32, 40]},
    "s": {"dtype": "F32", "shape": [], "data_offsets": [40, 44]}}
DATA = bytes(range(44))
SHAPES = (*mutate.ODD, "F32", "BF16", "F64", "I8", [0, 24], [24, 24], [2, 2**47], [2**24, 2**24, 2**16], [0], [1] * 5,
          [44, 44], [0, 44])


def tensor_file(header: bytes, data: bytes, off: int = 0) -> bytes:
    """A safetensors file; off: by how much its length of the header is wrong."""
    return struct.pack("<Q", (len(header) + off) % 2**64) + header + data


def make_safetensors(rng: random.Random) -> bytes:
    whole = tensor_file(json.dumps(HEADER).encode(), DATA)
    if rng.random() < 0.25:
        return mutate.bytes_of(rng, whole)
    header = mutate.text_of(rng, mutate.json_of(rng, HEADER, SHAPES))
    if rng.random() < 0.1:
        header = header.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
    data = DATA + bytes(rng.choice((0, 0, 0, 1, 8))) if rng.random() < 0.8 else DATA[: rng.randrange(45)]
    return tensor_file(header, data, rng.choice((0, 0, 0, 0, 1, -1, 7, 2**40)))


def run_safetensors(data: bytes, folder: Path) -> str:
    path = folder / "a.safetensors"
    path.write_bytes(data)
    read = {name: (array.shape, array.tobytes()) for name, array in read_safetensors(path).items()}
    if 8 + int.from_bytes(data[:8], "little") + sum(len(own) for _, own in read.values()) != len(data):
        raise Wrong("bytes of the file that no tensor covers")
    theirs = library(data)
    if theirs is not None and read != theirs:
        raise Wrong("accepted, and the safetensors library refuses it or reads something else")
    return "read"


def library(data: bytes) -> dict | None:
    """What the safetensors library reads, {} if it refuses; None where it is not installed."""
    try:
        from safetensors import SafetensorError, deserialize
    except ImportError:
        return None
    try:
        return {name: (tuple(found["shape"]), bytes(found["data"])) for name, found in deserialize(data)}
    except (SafetensorError, ValueError, OverflowError):
        return {}


# ---- configurations: a configuration is finite and small enough to be built, and says the numbers of its file

@cache
def configurations() -> list[tuple[str, dict]]:
    """File names and contents of small and real configurations."""
    found = [path for name in ("mixtral-b", "pixtral-a") for path in (GOLDEN / name).rglob("*.json")
             if path.name in ("params.json", "config.json")]
    found += sorted((ROOT / "tiny/checkpoints").glob("*/params.json"))
    return [(path.name, json.loads(path.read_text())) for path in sorted(found)]


def make_configuration(rng: random.Random) -> bytes:
    name, value = rng.choice(configurations())
    extra = rng.choice(("rope_scaling", "rope_parameters", "sliding_window", "quantization_config", "yarn", "lora",
                        "eos_token_id", "tie_word_embeddings", "use_biases", "attn_logit_softcapping"))
    if rng.random() < 0.2:
        value = value | {extra: rng.choice((*mutate.ODD, {"type": "linear", "factor": 2.0}, {"rope_theta": 1e4}))}
    odd = (*mutate.ODD, "silu", "gelu", "mixtral", "mistral", "llava", "pixtral", 10**9, {"rope_type": "yarn"})
    return name.encode() + b"\n" + mutate.text_of(rng, mutate.json_of(rng, value, odd))


def run_configuration(data: bytes, folder: Path) -> str:
    name, _, text = data.partition(b"\n")
    path = folder / ("params.json" if name == b"params.json" else "config.json")
    path.write_bytes(text)
    config = (read_params if name == b"params.json" else read_hf_config)(path, lambda note: None)
    check_configuration(config, json.loads(text))
    return "read"


def check_configuration(config: Config, said: dict) -> None:
    """Hold a configuration against the plain numbers of its file."""
    for name, value in expected_shapes(config).items():
        if any(not 1 <= size < 2**40 for size in value):
            raise Wrong(f"{name} gets the shape {value}")
    for value in (config.norm_eps, config.rope_theta):
        if not (math.isfinite(value) and value > 0):
            raise Wrong("an epsilon or theta that is not positive")
    pairs = {"dim": "dim", "n_layers": "n_layers", "hidden_dim": "hidden_dim", "vocab_size": "vocab_size",
             "norm_eps": "norm_eps"}
    for key, name in pairs.items() if "dim" in said else ():
        if key in said and said[key] != getattr(config, name):
            raise Wrong(f"{key} is {said[key]!r} in the file and {getattr(config, name)!r} as read")


# ---- the index of shards: nothing outside of its folder

def make_index(rng: random.Random) -> bytes:
    value = {"metadata": {"total_size": 5}, "weight_map": {"a": "model-00001-of-00002.safetensors",
                                                           "b": "model-00002-of-00002.safetensors"}}
    names = ("../x.safetensors", "/etc/x.safetensors", "model.safetensors\n", "..safetensors", "x\0.safetensors",
             "é.safetensors", "a/b.safetensors", "..\\x.safetensors", ".safetensors", "x" * 300 + ".safetensors")
    return mutate.text_of(rng, mutate.json_of(rng, value, mutate.ODD + names))


def run_index(data: bytes, folder: Path) -> str:
    path = folder / "model.safetensors.index.json"
    path.write_bytes(data)
    for n in (1, 2):
        (folder / f"model-0000{n}-of-00002.safetensors").write_bytes(b"")
    for file in indexed_files(path):
        if file.resolve().parent != folder.resolve():
            raise Wrong("a file outside of the folder")
    return "read"


# ---- whole checkpoints: a changed number changes what is read of its tensor and of no other; NaN is said

@cache
def checkpoints() -> tuple[dict[str, bytes], ...]:
    """The files of small checkpoints in both layouts."""
    folders = (GOLDEN / "mixtral-b/mistral", GOLDEN / "mixtral-b/hf")
    return tuple({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)


@cache
def originals(which: int) -> dict[str, bytes]:
    """The tensors of a checkpoint, by name, as they are in its file."""
    data = next(data for name, data in checkpoints()[which].items() if name.endswith(".safetensors"))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {name: data[start + found["data_offsets"][0] : start + found["data_offsets"][1]]
            for name, found in header.items() if name != "__metadata__"}


def make_checkpoint(rng: random.Random) -> bytes:
    """A JSON object of which checkpoint, which file, and what replaces it, in Latin-1."""
    which = rng.randrange(2)
    files = checkpoints()[which]
    weights = next(name for name in files if name.endswith(".safetensors"))
    config = "params.json" if which == 0 else "config.json"
    data, kind = files[weights], rng.randrange(5)
    start = 8 + int.from_bytes(data[:8], "little")
    if kind == 0:
        name, new = config, mutate.text_of(rng, mutate.json_of(rng, json.loads(files[config])))
    elif kind == 1:
        header = json.dumps(mutate.json_of(rng, json.loads(data[8:start]))).encode("utf-8", "surrogatepass")
        return json.dumps([which, weights, -1, (struct.pack("<Q", len(header)) + header).decode("latin1")]).encode()
    elif kind == 2:
        name, new = "tokenizer.model", mutate.bytes_of(rng, files["tokenizer.model"])
    else:  # numbers: NaN, infinity, the largest, or any bit
        place = start + 2 * rng.randrange((len(data) - start) // 2)
        old = struct.unpack_from("<H", data, place)[0]
        number = rng.choice((0x7F80, 0x7FC0, 0x7F7F, 0xFF80, old ^ 1 << rng.randrange(16)))
        return json.dumps([which, weights, place, struct.pack("<H", number).decode("latin1")]).encode()
    return json.dumps([which, name, -1, new.decode("latin1")]).encode()


def run_checkpoint(data: bytes, folder: Path) -> str:
    which, changed, place, text = json.loads(data)
    new = text.encode("latin1")
    for path in folder.iterdir():
        path.unlink()
    for name, old in checkpoints()[which].items():
        start = 8 + int.from_bytes(old[:8], "little")
        whole = old if name != changed else old[:place] + new + old[place + len(new) :] if place >= 0 else \
            new + old[start:] if name.endswith(".safetensors") else new
        (folder / name).write_bytes(whole)
    model = tiny.load(folder, weights="mapped")
    logits = model([1, 5, 9, 100])
    if logits.shape != (4, model.config.vocab_size) or logits.dtype != np.float32:
        raise Wrong("logits of another shape or dtype")
    for token in tiny.generate(model, [1, 5, 9, 100], max_tokens=2):
        if not math.isfinite(token.logprob):
            raise Wrong("a log-probability that is not finite")
    if place >= 0:
        check_one_tensor_changed(which, folder)
    return "run"


def check_one_tensor_changed(which: int, folder: Path) -> None:
    """One number was changed in the file: exactly one tensor is read otherwise."""
    read = read_safetensors(next(folder.glob("*.safetensors")))
    other = [name for name, old in originals(which).items() if read[name].tobytes() != old]
    same = [name for name, old in originals(which).items() if read[name].tobytes() == old]
    if len(other) > 1 or len(other) + len(same) != len(read):
        raise Wrong("one number was changed, and other tensors were read otherwise")


# ---- torch.save: nothing is run, and what is accepted is what torch reads

@cache
def torch_records() -> dict[str, bytes]:
    """The records of a small file of torch.save."""
    with zipfile.ZipFile(GOLDEN / "torch_save.pt") as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


GLOBALS = (b"collections\nOrderedDict\n", b"torch._utils\n_rebuild_tensor_v2\n", b"torch\nFloatStorage\n",
           b"torch\nBFloat16Storage\n", b"torch._utils\n_rebuild_parameter\n", b"os\nsystem\n", b"builtins\neval\n",
           b"torch\nLongStorage\n", b"posix\nsystem\n")
PLAIN = [bytes([code]) for code in b"()01234NQRabdeilopstu}]\x81\x85\x86\x87\x88\x89\x8e\x8f\x90\x91\x93\x94."]


def opcode(rng: random.Random) -> bytes:
    """One instruction of a pickle, with an argument."""
    code = rng.choice((*PLAIN, b"c", b"J", b"K", b"M", b"X", b"\x8a", b"\x80", b"q", b"h", b"r", b"j", b"\x8c",
                       b"\x95"))
    text = rng.choice((b"a", b"storage", b"0", b"cpu", b"\xff", b"", b"x" * 5000))
    size = struct.pack("<I", rng.choice((len(text), len(text), 2**32 - 1)))
    argument = {b"c": rng.choice(GLOBALS), b"J": struct.pack("<i", rng.choice((0, 1, -1, 2**31 - 1))),
                b"K": bytes([rng.randrange(6)]), b"q": bytes([rng.randrange(6)]), b"h": bytes([rng.randrange(6)]),
                b"M": rng.randbytes(2), b"r": size, b"j": size, b"X": size + text, b"\x80": bytes([rng.randrange(6)]),
                b"\x8a": bytes([rng.choice((1, 8, 9))]) + rng.randbytes(8), b"\x8c": b"\x01a", b"\x95": bytes(8)}
    return code + argument.get(code, b"")


def random_tensor(rng: random.Random) -> bytes:
    """The pickle of a tensor, mostly of sizes that do not fit."""
    axes = rng.randrange(6)
    sizes, strides = ([rng.choice((0, 1, 2, 3, 4, 8, -1, 2**31, 2**47, 2**62)) if rng.random() < 0.3 else
                       rng.choice((1, 2, 3)) for _ in range(n)] for n in (axes, axes + (rng.random() < 0.1)))
    return tensor(rng.choice("019"), sizes, strides, rng.choice((4, 8, 16, 32, 2**40, 0)),
                  rng.choice(("FloatStorage", "BFloat16Storage", "HalfStorage", "LongStorage")),
                  rng.choice((0, 0, 1, 3, 2**40)))


def make_torch(rng: random.Random) -> bytes:
    records, kind = torch_records(), rng.randrange(8)
    pickled = records["data.pkl"]
    if kind == 0:
        return mutate.bytes_of(rng, (GOLDEN / "torch_save.pt").read_bytes())
    if kind == 1:
        return mutate.bytes_of(rng, torch_archive(records, wide=True))
    if kind in (2, 3):
        records = records | {"data.pkl": mutate.bytes_of(rng, pickled)}
    elif kind in (4, 5):
        many = dictionary(**{f"t{n}": random_tensor(rng) for n in range(rng.randrange(1, 4))})
        records = {"data.pkl": many, "data/0": bytes(range(rng.choice((16, 32, 64)))), "data/1": bytes(32),
                   "byteorder": rng.choice((b"little", b"little", b"big", b"")), "version": b"3\n"}
    elif kind == 6:
        at, program = rng.randrange(len(pickled)), b"".join(opcode(rng) for _ in range(rng.choice((1, 2, 5))))
        records = records | {"data.pkl": pickled[:at] + program + pickled[at + rng.randrange(4) :]}
    else:
        program = b"".join(opcode(rng) for _ in range(rng.choice((3, 10, 40))))
        records = {"data.pkl": b"\x80\x02" + program + b".", "data/0": bytes(16)}
    return torch_archive(records, wide=rng.random() < 0.3, top=rng.choice(("archive", "a", "..", "")))


def run_torch(data: bytes, folder: Path) -> str:
    path = folder / "a.pt"
    path.write_bytes(data)
    read = {name: (array.shape, array.nbytes, array.tobytes()) for name, array in read_torch_file(path).items()}
    if sum(size for _, size, _ in read.values()) > 64 * len(data) + 10**6:
        raise Wrong("tensors far larger than the file")
    with contextlib.suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(io.BytesIO(data)) as file:
        used = [name for name in file.namelist() if name.endswith("/data.pkl") or "/data/" in name]
        if any(name in used for name in [file.testzip()]):
            raise Wrong("accepted although the checksum of a record is wrong")
    theirs = torch_library(path)
    if theirs is not None and {name: (shape, own) for name, (shape, _, own) in read.items()} != theirs:
        raise Wrong("torch reads something else")
    return "read"


def torch_library(path: Path) -> dict | None:
    """What torch reads; None where it is not installed, or refuses."""
    try:
        import torch
    except ImportError:
        return None
    try:
        found = torch.load(path, weights_only=True, mmap=False)
    except Exception:
        return None
    return {name: (tuple(each.shape), each.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                   if each.numel() else b"") for name, each in found.items()}


TARGETS = [Target("safetensors", make_safetensors, run_safetensors),
           Target("configuration", make_configuration, run_configuration),
           Target("index", make_index, run_index), Target("checkpoint", make_checkpoint, run_checkpoint, 0.14),
           Target("torch", make_torch, run_torch)]
