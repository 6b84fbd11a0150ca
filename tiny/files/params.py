"""Mistral's `params.json`: the sizes of a model, read and checked.

No size has a default: a missing one is an error that names it. Read `hf_config.py` next, the same for the other
released layout.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from tiny.config import Config, MoeConfig, TinyError, VisionConfig

SIZES = ("dim", "n_layers", "hidden_dim", "n_heads", "n_kv_heads", "vocab_size")
OPTIONAL = {"head_dim", "rope_theta", "max_seq_len", "max_position_embeddings", "moe", "sliding_window", "model_type",
            "vision_encoder"}
VISION_SIZES = ("hidden_size", "num_channels", "image_size", "patch_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "image_token_id")
# Keys that came with later models, with the only values that this code computes; absence means the same. The tokens
# at the ends of rows and images are words like others, whatever their ids.
VISION_FIXED = {"adapter_bias": True, "spatial_merge_size": 1, "add_pre_mm_projector_layer_norm": False,
                "mm_projector_id": ""}
VISION_OPTIONAL = {"max_image_size", "image_break_token_id", "image_end_token_id"}


def read_json(path: Path) -> dict:
    """Read one JSON object. Raises TinyError for a missing file, broken JSON, or JSON that is not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TinyError(f"{path} does not exist.", "Point at the folder that holds the released files.") from None
    except OSError as error:
        raise TinyError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise TinyError(f"{path} is not valid JSON: {error}.", "Fetch the file again; it may be cut short.") from None
    if not isinstance(value, dict):
        raise TinyError(f"{path} holds a {type(value).__name__}, not a JSON object.", "Fetch the file again.")
    return value


def read_params(path: Path) -> Config:
    """Read Mistral's `params.json`.

    Raises:  TinyError for a missing or senseless size
    Source:  mistral-inference args.py; released files without `rope_theta` mean 1e6 (transformer.py)
    Differs: unknown keys are reported by a warning and ignored; mistral-inference refuses them
    """
    params = read_json(path)
    warn_unknown(path, set(params) - OPTIONAL - set(SIZES) - {"norm_eps"})
    sizes = {name: number(params, name, path) for name in SIZES}
    moe = params.get("moe")
    if moe is not None:
        moe = MoeConfig(number(moe, "num_experts", path), number(moe, "num_experts_per_tok", path))
    length = "max_position_embeddings" if params.get("max_seq_len") is None else "max_seq_len"
    return checked(path, Config(
        **sizes, moe=moe, norm_eps=number(params, "norm_eps", path, float),
        head_dim=number(params, "head_dim", path, default=sizes["dim"] // sizes["n_heads"]),
        rope_theta=number(params, "rope_theta", path, float, default=1e6),
        max_seq_len=context_length(params, length, moe, path),
        vision=None if params.get("vision_encoder") is None else read_vision(params["vision_encoder"], path)))


def read_vision(encoder: dict, path: Path) -> VisionConfig:
    """Read the part `vision_encoder` of `params.json`.

    Raises:  TinyError for a missing or senseless size, or a later model that computes something else
    Source:  mistral-inference args.py, VisionEncoderArgs
    """
    sizes = {name: number(encoder, name, f"{path}, vision_encoder") for name in VISION_SIZES}
    refuse_others(encoder, VISION_FIXED, f"{path}, vision_encoder",
                  "Use a checkpoint of Pixtral 12B: Pixtral Large has no biases in its adapter, and Mistral Small 3.1 "
                  "merges patches in front of it.")
    warn_unknown(path, set(encoder) - set(VISION_SIZES) - VISION_FIXED.keys() - VISION_OPTIONAL - {"rope_theta"})
    return VisionConfig(**sizes, rope_theta=number(encoder, "rope_theta", f"{path}, vision_encoder", float),
                        max_image_size=number(encoder, "max_image_size", path, default=sizes["image_size"]))


def warn_unknown(path: Path, keys: set[str]) -> None:
    """Warn of keys that are not read, if there are any."""
    if keys:
        warnings.warn(f"{path.name}: keys that are not read: {', '.join(sorted(keys))}", stacklevel=4)


def refuse_others(mapping: dict, fixed: dict, place: Path | str, remedy: str) -> None:
    """Raise TinyError if a setting is there and is not the one, or one of the tuple, that this code computes."""
    for key, value in fixed.items():
        right = value if isinstance(value, tuple) else (value,)
        if mapping.get(key) not in (*right, None):
            raise TinyError(f"{place} sets {key} = {mapping[key]!r}; this code computes {right[0]!r} only.", remedy)


def number(mapping: dict, key: str, path: Path | str, kind: type[int] | type[float] = int,
           default: float | None = None) -> Any:
    """Return mapping[key], a positive number; kind int allows whole ones only.

    Raises:  TinyError that names the key and the file, if it is missing without a default, or is anything else
    """
    value = mapping.get(key) if isinstance(mapping, dict) else None
    value = default if value is None else value
    if value is None:
        raise TinyError(f"{path} has no {key!r}.", "Sizes are never assumed: use the file of the release.")
    if not isinstance(value, (int, kind)) or isinstance(value, bool) or not 0 < value < 2**40:
        raise TinyError(f"{path}: {key} is {value!r}.", f"It must be a positive {'whole ' * (kind is int)}number.")
    return kind(value)


def context_length(mapping: dict, key: str, moe: MoeConfig | None, path: Path) -> int:
    """The longest sequence that the model is for, in tokens.

    Where the file says nothing it is 32,768 for a mixture of experts (paper, section 2) and 131,072 otherwise. The
    `sliding_window` of old Mixtral configs is stale and ignored: the attention is dense (paper, section 2). In a dense
    model the window is real, and this code does not slide it: the context ends there.
    """
    length = number(mapping, key, path, default=32768 if moe else 131072)
    return length if moe else min(length, number(mapping, "sliding_window", path, default=length))


def checked(path: Path, config: Config) -> Config:
    """Return the config if its sizes go together. Raises TinyError if not."""
    if config.n_heads % config.n_kv_heads or config.head_dim % 2 or not config.head_dim:
        raise TinyError(f"{path}: {config.n_heads} heads, {config.n_kv_heads} KV heads of {config.head_dim}.",
                        "The KV heads must divide the heads, and head_dim must be even for RoPE.")
    if config.moe and config.moe.num_experts_per_tok > config.moe.num_experts:
        raise TinyError(f"{path}: {config.moe.num_experts_per_tok} experts per token of {config.moe.num_experts}.",
                        "num_experts_per_tok can be num_experts at most.")
    if config.vision:
        check_vision(path, config.vision, config.vocab_size)
    return config


def check_vision(path: Path, vision: VisionConfig, vocab_size: int) -> None:
    """Raise TinyError if the sizes of the encoder do not go together."""
    heads, width, patch = vision.num_attention_heads, vision.hidden_size, vision.patch_size
    if width % heads or vision.head_dim % 4:
        raise TinyError(f"{path}: the encoder has {heads} heads in a width of {width}.",
                        "Heads must divide the width into multiples of 4: rows and columns turn pairs of their own.")
    if vision.image_size % patch or vision.max_image_size < patch or vision.num_channels != 3:
        raise TinyError(f"{path}: images of {vision.image_size} pixels, at most {vision.max_image_size}, and "
                        f"{vision.num_channels} channels, patches of {patch} pixels.",
                        "The image size must be a multiple of the patch size, and the channels are red, green, blue.")
    if vision.image_token_id >= vocab_size:
        raise TinyError(f"{path}: image_token_id {vision.image_token_id} is not in the vocabulary of {vocab_size}.",
                        "Use the file of the release; there it is 10.")
