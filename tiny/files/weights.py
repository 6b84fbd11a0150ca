"""Checkpoints as views: the tensors of all files, found by Mistral's names in either released layout.

Nothing is copied when a checkpoint is opened. Hugging Face's names, and its order of the rows of wq and wk, are undone
here and nowhere else, as views too. Read `tokenizer_files.py` next.
"""

import mmap
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tiny.config import Config, TinyError, VisionConfig
from tiny.files.hf_names import Place, find_places
from tiny.files.packed.array import Packed
from tiny.files.safetensors import DTYPES, read_safetensors
from tiny.system.diagnosis import lacking, misshapen, unexpected
from tiny.system.free_memory import choose_mode

CONSTANTS = (".inv_freq", ".cos_cached", ".sin_cached")  # of rotary positions, which some HF files carry along
EMBEDDINGS = "tok_embeddings.weight"  # the one table: rows are looked up, and nothing is multiplied with it
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


def head_dim_of(name: str, config: Config) -> int:
    """The width of the heads that a tensor makes: those of the encoder, or of the decoder."""
    return config.vision.head_dim if config.vision and name.startswith("vision_encoder.") else config.head_dim


def halves_to_pairs(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """View wq or wk of an HF file in the order of rows that interleaved RoPE pairs want.

    HF keeps row i of a head's first half and row i of its second half as a pair; Mistral keeps rows 2i and 2i + 1.
    An array (n * d, D) would do as well: it costs a copy.

    Shapes:  weight (n * d, D) -> a view (n, d / 2, 2, D), which `linear` reads as (n * d, D)
    """
    # (1) an axis for the heads and one for their halves; the two rows of a pair become neighbours
    return weight.reshape(-1, 2, head_dim // 2, weight.shape[1]).swapaxes(1, 2)


def pairs_to_halves(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """The inverse, as an array: rows of wq or wk in the order of HF's files. Shapes:  (n * d, D) -> (n * d, D)."""
    return weight.reshape(-1, head_dim // 2, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def open_tensors(layout: str, files: list[Path], config: Config) -> dict[str, np.ndarray]:
    """Map all files and return exactly the tensors of the model, by Mistral's names, as views.

    Raises:  TinyError that names a tensor which is missing, unexpected, misshapen, or in two files
    """
    return take_tensors(layout, read_tensors(files), config, files[0].parent)[0]


def read_tensors(files: list[Path], dtypes: Mapping[str, np.dtype] = DTYPES) -> dict[str, np.ndarray]:
    """Map all files and return their tensors by their names there. Raises TinyError for one in two files."""
    found: dict[str, np.ndarray] = {}
    for path in files:
        for name, tensor in read_safetensors(path, dtypes).items():
            if name in found:
                raise TinyError(f"{path} holds {name} once more.", "Remove the file that does not belong here.")
            if not name.endswith(CONSTANTS):
                found[name] = tensor
    return found


def take_tensors(layout: str, found: Mapping[str, np.ndarray], config: Config, folder: Path,
                 find: Callable[..., dict[str, Place]] = find_places) -> tuple[dict[str, np.ndarray], dict[str, Place]]:
    """Of the tensors of all files exactly those of the model, by Mistral's names, and where each one is.

    Raises:  TinyError that names a tensor which is missing, unexpected or misshapen; folder is for messages
    """
    tensors, shapes = {}, expected_shapes(config)
    places = find(layout, config, shapes, found)
    for name, place in places.items():
        if place.name not in found:
            raise lacking(folder, layout, place.name, found)
        tensor, shape = found[place.name], place.whole or shapes[name]
        if tensor.shape != shape:
            raise misshapen(folder, place.name, tensor.shape, shape)
        if place.part is not None:  # of what is packed, a part that still is
            tensor = getattr(tensor, "part", tensor.__getitem__)(place.part)
        rotated = layout == "hf" and name.endswith(ROTATED)
        tensors[name] = halves_to_pairs(tensor, head_dim_of(name, config)) if rotated else tensor
    if extra := found.keys() - {place.name for place in places.values()}:
        raise unexpected(folder, extra)
    return tensors, places


class Tensors(Mapping):
    """Tensors by name, each found or made when it is looked up. A subclass says how, in `__getitem__`."""

    def __init__(self, names: Collection[str]):
        self.names = names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Weights(Tensors):
    """The tensors of a model by name, in the form in which operations take them.

    mode "auto" is "resident" if that fits in half of the free memory, else "mapped" if the files fit in all of
    it, else "streamed" (the folder `streamed`).
    mode "mapped" hands out views of the files: operations convert what they use, block by block, and keep nothing.
    mode "resident" converts a tensor to float32 at its first use and keeps it: faster, at 4 bytes a parameter. Rows of
    the embedding table are only looked up, so it stays as it is.
    """

    def __init__(self, tensors: dict[str, np.ndarray], mode: str):
        super().__init__(tensors)
        self.tensors, self.mode = tensors, choose_mode(mode, tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        # Most are float32 already ("f"), which this sees at once: it is asked for every matrix of every token.
        plain = tensor.dtype.char == "f" and tensor.ndim < 4 and not isinstance(tensor, Packed)
        if self.mode == "resident" and not plain and converted(name, tensor):
            shape = (-1, tensor.shape[-1]) if in_pairs(name, tensor) else tensor.shape
            self.tensors[name] = np.ascontiguousarray(tensor, np.float32).reshape(shape)
            release_pages(tensor)
            tensor = self.tensors[name]
        return tensor


def converted(name: str, tensor: np.ndarray) -> bool:
    """Whether operations need another form of a stored tensor: float32, and its rows in Mistral's order.

    Shapes:  any
    """
    other = tensor.dtype != np.float32 or isinstance(tensor, Packed) or in_pairs(name, tensor)
    return name != EMBEDDINGS and other


def in_pairs(name: str, tensor: np.ndarray) -> bool:
    """Whether a tensor is the view that `halves_to_pairs` makes of wq or wk in an HF file. Shapes:  any."""
    return name.endswith(ROTATED) and tensor.ndim == 4


def release_pages(tensor: Any) -> None:
    """Give the pages of a mapped file back, which otherwise count as this process's memory; they can be read again.

    Shapes:  any
    """
    for base in tensor.parts if isinstance(tensor, Packed) else (tensor,):
        while isinstance(base, (np.ndarray, memoryview)):
            base = base.obj if isinstance(base, memoryview) else base.base
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)
