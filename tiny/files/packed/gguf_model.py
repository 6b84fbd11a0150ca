"""A model in GGUF files: all parts of a split, its configuration, its tensors by Mistral's names, and its encoder.

llama.cpp calls Mistral, Mixtral and the text half of Pixtral "llama"; the other half is a file of its own, mmproj. Read
`gguf_names.py` next.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tiny.config import Config, MoeConfig, TinyError, VisionConfig
from tiny.files.hf_names import Place
from tiny.files.packed.gguf import AGAIN, read_gguf
from tiny.files.packed.gguf_names import find_places
from tiny.files.params import KEYS, LONGEST, REMEDY
from tiny.files.weights import take_tensors
from tiny.image import MEAN, STD
from tiny.system.diagnosis import checked, require
from tiny.system.keys import check_keys
from tiny.system.reading import Note, number, short

SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.I)
TOKENS = {"image_token_id": "[IMG]", "image_break_token_id": "[IMG_BREAK]", "image_end_token_id": "[IMG_END]"}
IMG_BREAK = "v.token_embd.img_break"  # a row of the embedding table, once more
LLAMA_THETA = 1e4  # where no file says it. Source: llama.cpp, llama-model.cpp and clip.cpp


class Model(NamedTuple):
    """What GGUF files say of a model; its fields are those of a `Checkpoint`."""

    config_file: Path
    config: Config
    files: list[Path]
    tensors: dict[str, Any]
    places: dict[str, Place]
    metadata: dict[str, Any]


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a GGUF file by its name; it may be missing."""
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def only_gguf(folder: Path) -> Path | None:
    """The model in a folder that holds GGUF files and no others with weights; None in any other.

    Raises:  TinyError if there are several models
    """
    named = [] if any(folder.glob("*.safetensors")) else sorted(filter(is_gguf, folder.glob("*.*")))
    firsts = {split[1] if (split := SPLIT.fullmatch(path.name)) else path.name: path
              for path in reversed(named) if "mmproj" not in path.name.lower()}
    if len(firsts) > 1:
        raise TinyError(f"{folder} holds {len(firsts)} models in GGUF files.",
                        f"Give one of them: {', '.join(sorted(path.name for path in firsts.values()))[:300]}.")
    return next(iter(firsts.values()), named[0] if named else None)


def open_gguf(path: Path, note: Note) -> Model:
    """Map all files of the model of which `path` is one. Only headers are read.

    Raises:  TinyError for a file, key or tensor that is missing, broken, or of another model
    """
    files = split_files(path)
    tensors: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for n, file in enumerate(files):
        keys, found = read_gguf(file)
        metadata = metadata or keys
        if twice := sorted(found.keys() & tensors.keys()):
            raise TinyError(f"{file} holds {twice[0]} once more.", "Each file of a split must be there once.")
        if (keys.get("split.no", 0), keys.get("split.count") or 1) != (n, len(files)):
            raise TinyError(f"{file} says that it is file {short(keys.get('split.no', 0))} of "
                            f"{short(keys.get('split.count'))}, counted from 0; its name says {n} of {len(files)}.",
                            "Fetch the files again, and keep their names: NAME-00001-of-00003.gguf.")
        tensors |= found
    if metadata.get("split.tensors.count", len(tensors)) != len(tensors):
        raise TinyError(f"{path} belongs to a split of {short(metadata['split.tensors.count'])} tensors; the files "
                        f"hold {len(tensors)}.", "Fetch the files again, all of one model.")
    config = read_text_config(metadata, files[0], note)
    mmproj = find_mmproj(files[0], config.dim, note) if "[IMG]" in token_list(metadata) else None
    if mmproj:
        keys, found = read_gguf(mmproj)
        files, tensors = [*files, mmproj], tensors | found
        config = checked(mmproj, replace(config, vision=read_encoder(keys, mmproj, metadata, note)))
    if "rope_freqs.weight" in tensors:
        raise TinyError(f"{path} scales RoPE: it holds rope_freqs.weight.", REMEDY)
    tensors.pop(IMG_BREAK, None)
    return Model(files[0], config, files, *take_tensors("gguf", tensors, config, path, find_places), metadata)


def split_files(path: Path) -> list[Path]:
    """All files of a split, by the name of one of them, or the one file. Raises TinyError if one is not there."""
    split = SPLIT.fullmatch(path.name)
    if not split:
        return [path]
    names = [f"{split[1]}-{n:05}-of-{split[3]}{path.suffix}" for n in range(1, min(int(split[3]), 9999) + 1)]
    return require([path.with_name(name) for name in names], f"of which there are {int(split[3])}")


def read_text_config(metadata: Mapping[str, Any], path: Path, note: Note) -> Config:
    """The sizes of a Mistral or Mixtral, from the keys of its file.

    Raises:  TinyError for another architecture, a missing size, or a setting that changes what is computed
    Source:  the package gguf, constants.py; llama.cpp, llama-model.cpp
    Differs: llama.cpp takes theta for 10,000 where the file has none. Mixtral's is 1,000,000: a missing one is refused
    """
    kind, architecture = metadata.get("general.type", "model"), metadata.get("general.architecture")
    if architecture == "clip" or kind == "mmproj":
        raise TinyError(f"{path} is the encoder of a model, an mmproj file.",
                        "Give the file of the language model; an mmproj file beside it is found.")
    if architecture != "llama" or kind != "model":
        raise TinyError(f"{path} holds a {short(kind)} of the architecture {short(architecture)}.",
                        "Only models are read that llama.cpp calls 'llama': Mistral, Mixtral and Pixtral.")
    if (version := metadata.get("general.quantization_version", 2)) != 2:
        raise TinyError(f"{path} is of version {short(version)} of the types of blocks; 2 is read.", AGAIN)
    keys = section(metadata, "llama.")
    check_keys(keys, KEYS["gguf"], path, REMEDY, note)
    names = {"dim": "embedding_length", "n_layers": "block_count", "hidden_dim": "feed_forward_length",
             "n_heads": "attention.head_count"}
    sizes = {name: number(keys, key, path) for name, key in names.items()}
    width, moe = number(keys, "attention.key_length", path, default=sizes["dim"] // sizes["n_heads"]), None
    if keys.get("expert_count"):
        moe = MoeConfig(number(keys, "expert_count", path), number(keys, "expert_used_count", path))
    elif keys.get("rope.freq_base") is None:
        note(f"{path.name} has no rope.freq_base: theta is {LLAMA_THETA:,.0f}, as in llama.cpp")
    for key, right in (("attention.value_length", width), ("rope.dimension_count", width),
                       ("expert_feed_forward_length", sizes["hidden_dim"])):
        if keys.get(key) not in (right, None):
            raise TinyError(f"{path} sets {key} = {short(keys[key])}; this code computes {right} only.", REMEDY)
    return checked(path, Config(
        **sizes, moe=moe, head_dim=width, norm_eps=decimal(keys, "attention.layer_norm_rms_epsilon", path),
        n_kv_heads=number(keys, "attention.head_count_kv", path, default=sizes["n_heads"]),
        vocab_size=number(keys, "vocab_size", path, default=len(token_list(metadata)) or None),
        rope_theta=decimal(keys, "rope.freq_base", path, None if moe else LLAMA_THETA),
        max_seq_len=number(keys, "context_length", path, most=LONGEST), end_ids=frozenset(
            id for name in ("eos", "eot") if type(id := metadata.get(f"tokenizer.ggml.{name}_token_id")) is int)))


def read_encoder(metadata: Mapping[str, Any], path: Path, text: Mapping[str, Any], note: Note) -> VisionConfig:
    """The sizes of the encoder, from an mmproj file; the ids of the tokens that stand for images are the text's.

    Raises:  TinyError for a missing size, or a setting that changes what is computed
    Source:  llama.cpp conversion/llava.py and pixtral.py; clip.cpp, PROJECTOR_TYPE_PIXTRAL
    """
    keys, ids = section(metadata, "clip."), token_list(text)
    check_keys(keys, KEYS["gguf_clip"], path, REMEDY, note)
    names = {"hidden_size": "embedding_length", "image_size": "image_size", "patch_size": "patch_size",
             "intermediate_size": "feed_forward_length", "num_hidden_layers": "block_count",
             "num_attention_heads": "attention.head_count"}
    sizes: dict[str, Any] = {name: number(keys, f"vision.{key}", path) for name, key in names.items()}
    for key, right in (("vision.image_mean", MEAN), ("vision.image_std", STD)):
        if keys.get(key) != np.array(right, np.float32).tolist():
            raise TinyError(f"{path} sets {key} = {short(keys.get(key))}; this code computes {right} only.", REMEDY)
    if not keys.get("use_silu"):
        note(f"{path.name}: the encoder is said to have GELU, a mistake in the config.json of Pixtral that was "
             "published first; the released weights want SiLU, which is used")
    sizes |= {key: ids.index(name) for key, name in TOKENS.items() if name in ids}
    return VisionConfig(**sizes, num_channels=3, max_image_size=sizes["image_size"],
                        rope_theta=decimal(keys, "rope.freq_base", path, LLAMA_THETA),
                        norm_eps=decimal(keys, "vision.attention.layer_norm_epsilon", path))


def find_mmproj(path: Path, dim: int, note: Note) -> Path | None:
    """The file beside a model that holds Pixtral's encoder for a decoder of this width, or None.

    Raises:  TinyError if there are several, or one is broken
    """
    fitting = []
    for file in sorted(file for file in path.parent.glob("*.*") if "mmproj" in file.name.lower() and is_gguf(file)):
        keys, _ = read_gguf(file)
        kind = keys.get("clip.projector_type"), keys.get("clip.vision.projection_dim")
        if kind == ("pixtral", dim):
            fitting.append(file)
        else:
            note(f"{file.name} is not read: it is an encoder of type {short(kind[0])} for a width of {short(kind[1])}")
    if len(fitting) > 1:
        raise TinyError(f"{path.parent} holds {len(fitting)} encoders for this model: "
                        f"{', '.join(file.name for file in fitting)[:300]}.", "Leave one of them there.")
    return fitting[0] if fitting else None


def section(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The keys that begin with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}


def token_list(metadata: Mapping[str, Any]) -> list[str]:
    """The tokens of a file, in the order of their ids; none if it has none."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    return tokens if isinstance(tokens, list) else []


def decimal(keys: Mapping[str, Any], key: str, path: Path, default: float | None = None) -> float:
    """A float32 number of a file as it was written down: 1e-05 and not 9.99999975e-06. Raises TinyError as `number`."""
    return float(str(np.float32(number(dict(keys), key, path, float, default))))
