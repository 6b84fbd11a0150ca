"""Write a model in either released layout: names, order of rows, sizes, and files of a limited size.

Tensors are asked for one at a time, converted if they must be, and written; nothing is kept, so that a model of any
size needs the memory of its largest tensor. This is the inverse of `tiny/files/weights.py`, and the only one.
"""

import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tiny.config import Config, TinyError, VisionConfig
from tiny.files.hf_config import HF_NAMES
from tiny.files.hf_names import hf_name, hf_prefixes
from tiny.files.packed.quantised import DTYPES as STORED
from tiny.files.params import VISION_SIZES
from tiny.files.safetensors import DTYPES
from tiny.files.weights import ROTATED, Tensors, expected_shapes, head_dim_of, pairs_to_halves, release_pages
from tiny.system.whole import write_whole

SHARD = 5 * 10**9  # bytes of one file of Hugging Face's layout, as in the released ones


class HFTensors(Tensors):
    """A model's tensors by Hugging Face's names, the rows of wq and wk in the order of HF's files.

    tensors hold Mistral's names and order; one is converted when it is looked up, and nothing is kept.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], config: Config):
        self.tensors, self.config, prefixes = tensors, config, hf_prefixes(config)
        self.ours = {hf_name(name, prefixes): name for name in tensors}
        super().__init__(self.ours)

    def __getitem__(self, name: str) -> np.ndarray:
        ours = self.ours[name]
        tensor = self.tensors[ours]
        if not ours.endswith(ROTATED):
            return tensor
        halves = pairs_to_halves(tensor, head_dim_of(ours, self.config))
        release_pages(tensor)
        return halves


def params_json(config: Config) -> dict:
    """What `params.json` says of a model. Source: the released files, which leave out theta or context length."""
    values = {name: getattr(config, name) for name in (*HF_NAMES, "head_dim", "norm_eps", "rope_theta", "max_seq_len")}
    if config.moe is not None:
        values["moe"] = {"num_experts_per_tok": config.moe.num_experts_per_tok,
                         "num_experts": config.moe.num_experts}
    if config.vision is not None:
        values["vision_encoder"] = {name: getattr(config.vision, name) for name in (*VISION_SIZES, "rope_theta")}
        if config.vision.max_image_size != config.vision.image_size:
            values["vision_encoder"]["max_image_size"] = config.vision.max_image_size
    return values


def hf_config_json(config: Config, dtype: str = "bfloat16") -> dict:
    """What Hugging Face's `config.json` says of a model.

    Source:  transformers configuration_mixtral.py; the released file of Pixtral 12B, which leaves some sizes out that
             are written here
    """
    values = {hf: getattr(config, name) for name, hf in HF_NAMES.items()}
    family: dict[str, object] = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    if config.moe is not None:
        family = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
                  "num_local_experts": config.moe.num_experts,
                  "num_experts_per_tok": config.moe.num_experts_per_tok}
    text = family | values | {"head_dim": config.head_dim, "rms_norm_eps": config.norm_eps,
                              "rope_theta": config.rope_theta, "max_position_embeddings": config.max_seq_len,
                              "sliding_window": None, "hidden_act": "silu", "tie_word_embeddings": False,
                              "torch_dtype": dtype, "bos_token_id": 1, "eos_token_id": end_token(config)}
    return text if config.vision is None else llava_json(config.vision, text)


def end_token(config: Config) -> int | list[int]:
    """The end tokens as config.json has them: one number, or a list."""
    ids = sorted(config.end_ids) or [2]
    return ids[0] if len(ids) == 1 else ids


def llava_json(vision: VisionConfig, text: dict) -> dict:
    """The `config.json` of a LLaVA model around a text model.

    Raises:  TinyError for images larger than image_size, which that file cannot express
    """
    if vision.max_image_size != vision.image_size:
        raise TinyError(f"Images may have {vision.max_image_size} pixels, the encoder is for {vision.image_size}; "
                        "config.json has one number for both.", "Keep Mistral's layout.")
    sizes = {name: getattr(vision, name) for name in VISION_SIZES if name != "image_token_id"}
    return {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100,
            "image_seq_length": 1, "image_token_index": vision.image_token_id, "projector_hidden_act": "gelu",
            "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "tie_word_embeddings": False,
            "torch_dtype": text.pop("torch_dtype"), "text_config": text,
            "vision_config": {"model_type": "pixtral", "hidden_act": "silu", "head_dim": vision.head_dim,
                              "rope_theta": vision.rope_theta, "tie_word_embeddings": False} | sizes}


def save_checkpoint(folder: Path, layout: str, config: Config, tensors: Mapping[str, np.ndarray], shard: int = SHARD,
                    watch: Callable[[int], None] = lambda size: None) -> None:
    """Write a model to a folder in one of the released layouts, "mistral" or "hf", without a tokenizer.

    tensors have Mistral's names and Mistral's order of rows, as `open_tensors` views a file in Mistral's
    layout; such a checkpoint is converted to Hugging Face's layout tensor by tensor, into files of at most `shard`
    bytes. watch is told the bytes of each tensor when it has been written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    heads = {name: Head.of(tensors[name]) for name in expected_shapes(config)}
    if layout == "hf":
        write_json(folder / "config.json", hf_config_json(config, main_dtype(heads)))
        prefixes = hf_prefixes(config)
        heads = {hf_name(name, prefixes): head for name, head in heads.items()}
        write_shards(folder, heads, HFTensors(tensors, config), shard, watch)
    else:
        write_json(folder / "params.json", params_json(config))
        write_tensors(folder / "consolidated.safetensors", heads, tensors, watch)


class Head(NamedTuple):
    """What a file says of a tensor before its numbers."""

    dtype: np.dtype
    shape: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, x: np.ndarray) -> "Head":
        return cls(x.dtype, x.shape, math.prod(x.shape) * x.dtype.itemsize)


def main_dtype(heads: Mapping[str, Head]) -> str:
    """The type that most of a model's bytes have. Source: `torch_dtype` of the released config.json."""
    sizes: Counter[str] = Counter()
    for head in heads.values():
        sizes[head.dtype.name] += head.size
    return sizes.most_common(1)[0][0]


def write_json(path: Path, value: dict) -> None:
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_shards(folder: Path, heads: dict[str, Head], tensors: Mapping[str, np.ndarray], shard: int,
                 watch: Callable[[int], None]) -> None:
    """Write tensors in their order to files of at most `shard` bytes, and if these are several, an index.

    A larger tensor gets its own file.

    Source: transformers save_pretrained; before version 5 transformers reads no file without this metadata
    """
    shards: list[dict[str, Head]] = [{}]
    for name, head in heads.items():
        if shards[-1] and sum(other.size for other in shards[-1].values()) + head.size > shard:
            shards.append({})
        shards[-1][name] = head
    weight_map: dict[str, str] = {}
    for n, part in enumerate(shards, 1):
        file = f"model-{n:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        write_tensors(folder / file, part, tensors, watch, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if len(shards) > 1:
        write_json(folder / "model.safetensors.index.json",
                   {"metadata": {"total_size": sum(head.size for head in heads.values())},
                    "weight_map": dict(sorted(weight_map.items()))})


def write_tensors(path: Path, heads: Mapping[str, Head], tensors: Mapping[str, np.ndarray],
                  watch: Callable[[int], None], metadata: dict[str, str] | None = None) -> None:
    """Write one safetensors file, tensors in the order of their names; pages of mapped files are let go after use.

    Source:  the safetensors library, which writes tensors of one type in the same order, and the same bytes
    """
    codes = {dtype: code for code, dtype in (DTYPES | STORED).items()}
    header: dict[str, dict] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name in sorted(heads):
        dtype, shape, size = heads[name]
        header[name] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(heads):
            x = tensors[name]
            file.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8))
            release_pages(x)
            watch(heads[name].size)

    write_whole(path, write)
