"""Checkpoints as views: tensors of safetensors files, mapped into memory and found by Mistral's names.

Nothing is copied when a checkpoint is opened. Hugging Face's names, and its order of the rows of wq and wk, are undone
here and nowhere else, as views too. Read `tokenizer.py` next.
"""

import json
import math
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from tiny.config import Config, TinyError, read_json

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
MAX_HEADER = 100 << 20  # bytes; the safetensors library has the same limit
HF_TOP = {"tok_embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight",
          "output.weight": "lm_head.weight"}
HF_PARTS = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
            "attention.wo": "self_attn.o_proj", "attention_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm", "feed_forward.gate": "block_sparse_moe.gate",
            "feed_forward.experts": "block_sparse_moe.experts", "feed_forward.w1": "mlp.gate_proj",
            "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj"}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Map one file and return its tensors as read-only views.

    Dtypes:  BF16, F16, F32 -> ml_dtypes.bfloat16, float16, float32
    Raises:  TinyError if the header is larger than the file or broken, a dtype is unknown, or the tensors do not lie
             end to end over exactly the rest of the file (truncated, overlapping, out of range)
    Source:  the safetensors format: u64 little-endian header length, JSON header, data
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = 8 + int.from_bytes(file.read(8), "little")
            if size < 8 or start > size or start > MAX_HEADER:
                raise broken(path, f"it has {size:,} bytes, its header would end at byte {start:,}")
            header = parse_header(path, file.read(start - 8))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise TinyError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from None
    tensors, position = {}, 0
    for name, (dtype, shape, begin, end) in sorted(header.items(), key=lambda item: item[1][2:]):
        count = math.prod(shape)
        if begin != position or end - begin != count * dtype.itemsize or start + end > size:
            raise broken(path, f"tensor {name} {tuple(shape)} claims bytes {begin:,} to {end:,}, where it needs "
                               f"{count * dtype.itemsize:,} bytes from {position:,} on, of {size - start:,}")
        tensors[name] = np.frombuffer(data, dtype, count, start + begin).reshape(shape)
        position = end
    if start + position != size:
        raise broken(path, f"its tensors end at byte {start + position:,}, the file at {size:,}")
    return tensors


def parse_header(path: Path, text: bytes) -> dict[str, tuple[np.dtype, list[int], int, int]]:
    """Check a header's JSON: name -> dtype, shape, begin, end. A name that stands twice is an error."""
    def unique(pairs):
        if len(dict(pairs)) != len(pairs):
            raise broken(path, "a name stands twice in its header")
        return dict(pairs)

    def whole(values, least):
        return isinstance(values, list) and len(values) <= 4 and all(type(v) is int and least <= v < 2**48 for v in values)

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except TinyError:
        raise
    except (ValueError, RecursionError):
        raise broken(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise broken(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    entries = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or not whole(entry.get("shape"), 1) or not whole(
                entry.get("data_offsets"), 0) or len(entry["data_offsets"]) != 2:
            raise broken(path, f"the entry of tensor {name} has no proper shape and data_offsets")
        if str(entry.get("dtype")) not in DTYPES:
            raise TinyError(f"{path}: tensor {name} has dtype {entry.get('dtype')!r}.",
                            f"Only {', '.join(DTYPES)} are read; quantised checkpoints are not.")
        entries[name] = (DTYPES[entry["dtype"]], entry["shape"], *entry["data_offsets"])
    return entries


def broken(path: Path, reason: str) -> TinyError:
    """The error for a file that is not a whole safetensors file."""
    return TinyError(f"{path} is not a whole safetensors file: {reason}.", "Fetch the file again; it may be cut short.")


def save_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors in the safetensors format, in the order of their names; a crash leaves no half-written file."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header, position = {}, 0
    for name in sorted(tensors):
        x = tensors[name]
        header[name] = {"dtype": codes[x.dtype], "shape": list(x.shape), "data_offsets": [position, position + x.nbytes]}
        position += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model by Mistral's name, with its shape (out, in)."""
    D, F, d, V = config.dim, config.hidden_dim, config.head_dim, config.vocab_size
    query, kv = config.n_heads * d, config.n_kv_heads * d
    mlp = {"w1.weight": (F, D), "w2.weight": (D, F), "w3.weight": (F, D)}
    layer = {"attention.wq.weight": (query, D), "attention.wk.weight": (kv, D), "attention.wv.weight": (kv, D),
             "attention.wo.weight": (D, query), "attention_norm.weight": (D,), "ffn_norm.weight": (D,)}
    if config.moe is None:
        layer |= {f"feed_forward.{name}": shape for name, shape in mlp.items()}
    else:
        layer["feed_forward.gate.weight"] = (config.moe.num_experts, D)
        for e in range(config.moe.num_experts):
            layer |= {f"feed_forward.experts.{e}.{name}": shape for name, shape in mlp.items()}
    shapes = {"tok_embeddings.weight": (V, D), "norm.weight": (D,), "output.weight": (V, D)}
    for n in range(config.n_layers):
        shapes |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    return shapes


def hf_name(name: str) -> str:
    """Hugging Face's name of a tensor, from Mistral's. Source: transformers convert_mixtral_weights_to_hf.py."""
    if name in HF_TOP:
        return HF_TOP[name]
    layer, part = name.split(".", 2)[1:]
    old = next(old for old in HF_PARTS if part.startswith(old + "."))
    return f"model.layers.{layer}.{HF_PARTS[old]}{part.removeprefix(old)}"


def halves_to_pairs(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """View wq or wk of an HF file in the order of rows that interleaved RoPE pairs want.

    HF keeps row i of a head's first half and row i of its second half as a pair; Mistral keeps rows 2i and 2i + 1.

    Shapes:  weight (n * d, D) -> a view (n, d / 2, 2, D), which `linear` reads as (n * d, D)
    """
    return weight.reshape(-1, 2, head_dim // 2, weight.shape[1]).swapaxes(1, 2)


def pairs_to_halves(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """The inverse, as an array (n * d, D): rows of wq or wk in the order of HF's files."""
    return weight.reshape(-1, head_dim // 2, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def find_files(folder: Path) -> tuple[str, list[Path]]:
    """Say which released layout a folder holds, "mistral" or "hf", and list its weight files. Mistral's comes first."""
    if not folder.is_dir():
        raise TinyError(f"{folder} is not a folder.", "Give the folder that holds the released files.")
    index = folder / "model.safetensors.index.json"
    for layout, config, pattern in (("mistral", "params.json", "consolidated*.safetensors"),
                                    ("hf", "config.json", "model*.safetensors")):
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        if (folder / config).is_file() and layout == "hf" and index.is_file():
            return layout, indexed_files(index)
        if (folder / config).is_file() and files:
            return layout, files
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise TinyError(f"{folder} holds neither params.json with consolidated*.safetensors nor config.json with "
                    f"model*.safetensors; found: {found}.", "Point at a folder in one of the two released layouts.")


def indexed_files(index: Path) -> list[Path]:
    """The shards that an HF index lists. Raises TinyError if one is missing, or is not a plain name of a file."""
    shards = read_json(index).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    if not names or not all(re.fullmatch(r"[\w.-]{1,200}\.safetensors", name) for name in names):
        raise TinyError(f"{index} has no weight_map from tensors to names of files.", "Fetch the file again.")
    files = sorted(index.parent / name for name in names)
    missing = ", ".join(path.name for path in files if not path.is_file())
    if missing:
        raise TinyError(f"{index.parent} lacks {missing}, which {index.name} lists.", "Fetch the missing files.")
    return files


def open_tensors(layout: str, files: list[Path], config: Config) -> dict[str, np.ndarray]:
    """Map all files and return exactly the tensors of the model, by Mistral's names, as views.

    Raises:  TinyError that names a tensor which is missing, unexpected, misshapen, or in two files
    """
    found: dict[str, np.ndarray] = {}
    for path in files:
        for name, tensor in read_safetensors(path).items():
            if name in found:
                raise TinyError(f"{path} holds {name} once more.", "Remove the file that does not belong here.")
            if not name.endswith("rotary_emb.inv_freq"):  # a constant that some HF files carry along
                found[name] = tensor
    tensors = {}
    for name, shape in expected_shapes(config).items():
        stored = name if layout == "mistral" else hf_name(name)
        if stored not in found:
            raise TinyError(f"{files[0].parent} lacks the tensor {stored}.", "Fetch the files again, all of one model.")
        tensor = found.pop(stored)
        if tensor.shape != shape:
            raise TinyError(f"{files[0].parent}: tensor {stored} is {tensor.shape}, the configuration says {shape}.",
                            "The weights and the configuration are of two models.")
        rotated = layout == "hf" and name.endswith((".wq.weight", ".wk.weight"))
        tensors[name] = halves_to_pairs(tensor, config.head_dim) if rotated else tensor
    if found:
        raise TinyError(f"{files[0].parent} holds {len(found)} tensors that the model has not: {min(found)}.",
                        "The weights and the configuration are of two models.")
    return tensors


class Weights(Mapping):
    """The tensors of a model by name, in the form in which operations take them.

    mode "mapped" hands out views of the files: operations convert what they use, block by block, and keep nothing.
    mode "resident" converts a tensor to float32 at its first use and keeps it: faster, at 4 bytes a parameter. Rows of
    the embedding table are only looked up, so it stays as it is.
    """

    def __init__(self, tensors: dict[str, np.ndarray], mode: str):
        self.tensors, self.mode = tensors, mode

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        if self.mode == "resident" and name != "tok_embeddings.weight" and (
                tensor.dtype != np.float32 or tensor.ndim > 2):
            width = tensor.shape[-1]
            tensor = np.ascontiguousarray(tensor, np.float32)
            self.tensors[name] = tensor = tensor.reshape(-1, width) if tensor.ndim > 2 else tensor
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def choose_mode(weights: str, tensors: Mapping[str, np.ndarray]) -> str:
    """Settle "auto": resident if 4 bytes a parameter fit in half of the free memory, else mapped."""
    if weights not in ("auto", "mapped", "resident"):
        raise TinyError(f"weights={weights!r} is unknown.", "Use 'auto', 'mapped' or 'resident'.")
    needed = 4 * sum(tensor.size for tensor in tensors.values())
    return weights if weights != "auto" else "resident" if needed <= free_memory() / 2 else "mapped"


def free_memory() -> int:
    """Bytes that this process can still take: what Linux says is available, within its control group's limit."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        return min(free, max(0, limit - used))
    except (OSError, ValueError):
        return free
