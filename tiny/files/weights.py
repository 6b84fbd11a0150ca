"""Checkpoints as views: the tensors of all files, found by Mistral's names in either released layout.

Nothing is copied when a checkpoint is opened. Hugging Face's names, and its order of the rows of wq and wk, are undone
here and nowhere else, as views too. Read `tokenizer_files.py` next.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from tiny.config import Config, TinyError, VisionConfig
from tiny.files.params import read_json
from tiny.files.safetensors import read_safetensors

# Hugging Face's names begin with these: of the language model, its output, the vision encoder, and the adapter. First
# those of a model of text; then those of the released LLaVA file; then those that a LLaVA model has in the memory of
# recent versions of transformers, and that files written from there may have.
HF_TEXT = ("model.", "lm_head.", "", "")
HF_LLAVA = ("language_model.model.", "language_model.lm_head.", "vision_tower.", "multi_modal_projector.")
HF_RECENT = ("model.language_model.", "lm_head.", "model.vision_tower.", "model.multi_modal_projector.")
HF_PARTS = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
            "attention.wo": "self_attn.o_proj", "attention_norm": "input_layernorm", "norm": "norm",
            "ffn_norm": "post_attention_layernorm", "feed_forward.gate": "block_sparse_moe.gate",
            "feed_forward.experts": "block_sparse_moe.experts", "feed_forward.w1": "mlp.gate_proj",
            "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj", "tok_embeddings": "embed_tokens"}
HF_VISION = {"attention.wq": "attention.q_proj", "attention.wk": "attention.k_proj", "attention.wv": "attention.v_proj",
             "attention.wo": "attention.o_proj", "feed_forward.w1": "feed_forward.gate_proj",
             "feed_forward.w2": "feed_forward.down_proj", "feed_forward.w3": "feed_forward.up_proj",
             "w_in": "linear_1", "w_out": "linear_2"}
ROTATED = (".wq.weight", ".wk.weight")  # Rows in pairs that RoPE turns.


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
    return shapes | (vision_shapes(config.vision, D) if config.vision else {})


def vision_shapes(vision: VisionConfig, dim: int) -> dict[str, tuple[int, ...]]:
    """The tensors of the vision encoder and the adapter, the only part with biases."""
    W, F, p = vision.hidden_size, vision.intermediate_size, vision.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "vision_encoder.patch_conv.weight": (W, vision.num_channels, p, p), "vision_encoder.ln_pre.weight": (W,)}
    for n in range(vision.num_hidden_layers):
        layer = f"vision_encoder.transformer.layers.{n}."
        shapes |= {f"{layer}attention.{name}.weight": (W, W) for name in ("wq", "wk", "wv", "wo")}
        shapes |= {f"{layer}feed_forward.{name}.weight": shape
                   for name, shape in (("w1", (F, W)), ("w2", (W, F)), ("w3", (F, W)))}
        shapes |= {f"{layer}{name}.weight": (W,) for name in ("attention_norm", "ffn_norm")}
    for name, inner in (("w_in", W), ("w_out", dim)):
        adapter = f"vision_language_adapter.{name}."
        shapes |= {f"{adapter}weight": (dim, inner), f"{adapter}bias": (dim,)}
    return shapes


def hf_prefixes(config: Config, names: Iterable[str] = ()) -> tuple[str, str, str, str]:
    """With which prefixes a model's tensors are named: of the three forms above, the one that `names` have."""
    if config.vision is None:
        return HF_TEXT
    return HF_RECENT if any(name.startswith(HF_RECENT[0]) for name in names) else HF_LLAVA


def hf_name(name: str, prefixes: tuple[str, str, str, str] = HF_TEXT) -> str:
    """Hugging Face's name of a tensor, from Mistral's.

    Source: transformers convert_mixtral_weights_to_hf.py, convert_pixtral_weights_to_hf.py
    """
    language, output, encoder, adapter = prefixes
    for ours, theirs in (("output.", output), ("vision_encoder.", encoder), ("vision_language_adapter.", adapter)):
        if name.startswith(ours):
            return theirs + renamed(name.removeprefix(ours), HF_VISION)
    return language + renamed(name, HF_PARTS)


def renamed(name: str, parts: Mapping[str, str]) -> str:
    """Replace the part of a name that follows the number of its layer, if it has one."""
    layer, part = re.match(r"((?:transformer\.)?(?:layers\.\d+\.)?)(.*)", name).groups()  # type: ignore[union-attr]
    old = next((old for old in parts if part.startswith(old + ".")), "")
    return layer + parts.get(old, "") + part.removeprefix(old)


def head_dim_of(name: str, config: Config) -> int:
    """The width of the heads that a tensor makes: those of the encoder, or of the decoder."""
    return config.vision.head_dim if config.vision and name.startswith("vision_encoder.") else config.head_dim


def halves_to_pairs(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """View wq or wk of an HF file in the order of rows that interleaved RoPE pairs want.

    HF keeps row i of a head's first half and row i of its second half as a pair; Mistral keeps rows 2i and 2i + 1.

    Shapes:  weight (n * d, D) -> a view (n, d / 2, 2, D), which `linear` reads as (n * d, D)
    """
    return weight.reshape(-1, 2, head_dim // 2, weight.shape[1]).swapaxes(1, 2)


def pairs_to_halves(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """The inverse, as an array: rows of wq or wk in the order of HF's files. Shapes:  (n * d, D) -> (n * d, D)."""
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
            if not name.endswith(".inv_freq"):  # a constant that some HF files carry along
                found[name] = tensor
    tensors, prefixes = {}, hf_prefixes(config, found)
    for name, shape in expected_shapes(config).items():
        stored = name if layout == "mistral" else hf_name(name, prefixes)
        if stored not in found:
            raise TinyError(f"{files[0].parent} lacks the tensor {stored}.", "Fetch the files again, all of one model.")
        tensor = found.pop(stored)
        if tensor.shape != shape:
            raise TinyError(f"{files[0].parent}: tensor {stored} is {tensor.shape}, the configuration says {shape}.",
                            "The weights and the configuration are of two models.")
        rotated = layout == "hf" and name.endswith(ROTATED)
        tensors[name] = halves_to_pairs(tensor, head_dim_of(name, config)) if rotated else tensor
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
        rows = name.endswith(ROTATED) and tensor.ndim > 2  # a view of HF's order of rows
        if self.mode == "resident" and name != "tok_embeddings.weight" and (tensor.dtype != np.float32 or rows):
            width = tensor.shape[-1]
            tensor = np.ascontiguousarray(tensor, np.float32)
            self.tensors[name] = tensor = tensor.reshape(-1, width) if rows else tensor
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
