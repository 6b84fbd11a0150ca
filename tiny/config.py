"""The sizes of a model, as its files state them.

Both released layouts are read: Mistral's `params.json` and Hugging Face's `config.json`. The field names are those of
`params.json`. No size has a default: a missing one is an error that names it. Read `weights.py` next.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path


class TinyError(ValueError):
    """An error that a user can act on: one line of cause, one of remedy."""

    def __init__(self, cause: str, remedy: str):
        super().__init__(f"{cause}\n{remedy}")
        self.cause, self.remedy = cause, remedy


@dataclass(frozen=True)
class MoeConfig:
    """Sizes of the mixture of experts. Source: params.json, `moe`."""

    num_experts: int
    num_experts_per_tok: int


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder. `moe` is None for a dense feed-forward; `vision` is None for a text model.

    Source: params.json of the release; mistral-inference args.py, TransformerArgs.
    """

    dim: int
    n_layers: int
    head_dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    norm_eps: float
    vocab_size: int
    rope_theta: float
    max_seq_len: int
    moe: MoeConfig | None = None
    vision: None = None


SIZES = ("dim", "n_layers", "hidden_dim", "n_heads", "n_kv_heads", "vocab_size")
OPTIONAL = {"head_dim", "rope_theta", "max_seq_len", "max_position_embeddings", "moe", "sliding_window", "model_type"}
# Keys of an HF config that change what the model computes, with the only values that this code computes.
HF_FIXED = {"hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
            "rope_scaling": None, "quantization_config": None}
HF_NAMES = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "hidden_dim": "intermediate_size",
            "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "vocab_size": "vocab_size",
            "norm_eps": "rms_norm_eps", "head_dim": "head_dim", "max_seq_len": "max_position_embeddings"}


def read_json(path: Path) -> dict:
    """Read one JSON object. Raises TinyError for a missing file, broken JSON, or JSON that is not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TinyError(f"{path} does not exist.", "Point at the folder that holds the released files.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
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
    unknown = sorted(set(params) - OPTIONAL - set(SIZES) - {"norm_eps"})
    if unknown:
        warnings.warn(f"{path.name}: keys that are not read: {', '.join(unknown)}", stacklevel=2)
    fields = {name: require(params, name, path) for name in (*SIZES, "norm_eps")}
    moe = params.get("moe")
    if moe is not None:
        moe = MoeConfig(require(moe, "num_experts", path), require(moe, "num_experts_per_tok", path))
    theta = params.get("rope_theta")
    length = params.get("max_seq_len") or params.get("max_position_embeddings")
    return checked(path, fields, params.get("head_dim"), 1e6 if theta is None else theta, length, moe,
                   params.get("sliding_window"))


def read_hf_config(path: Path) -> Config:
    """Read Hugging Face's `config.json` of a Mixtral or Mistral model.

    Raises:  TinyError for a missing size, no RoPE theta, or a setting that changes what is computed
    Source:  transformers configuration_mixtral.py; theta lies in `rope_theta`, since version 5 in `rope_parameters`
    Differs: transformers falls back on class defaults that are not the released model's; nothing is assumed here
    """
    config = read_json(path)
    family = config.get("model_type")
    if family not in ("mixtral", "mistral"):
        raise TinyError(f"{path} describes a model of type {family!r}.", "Only mixtral and mistral are read here.")
    for key, value in HF_FIXED.items():
        if key in config and config[key] not in (value, None):
            raise TinyError(f"{path} sets {key} = {config[key]!r}; this code computes {value!r} only.",
                            "Use a checkpoint of the released architecture.")
    fields = {name: require(config, HF_NAMES[name], path) for name in (*SIZES, "norm_eps")}
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise TinyError(f"{path} asks for RoPE of type {rope['rope_type']!r}.", "Only 'default' is computed here.")
    theta = config.get("rope_theta", rope.get("rope_theta"))
    if theta is None:
        raise TinyError(f"{path} gives no rope_theta, at the top or in rope_parameters.",
                        "Add it: 1000000.0 for Mixtral 8x7B. A wrong value gives fluent nonsense.")
    moe = None
    if family == "mixtral":
        moe = MoeConfig(require(config, "num_local_experts", path), require(config, "num_experts_per_tok", path))
    return checked(path, fields, config.get("head_dim"), theta, config.get("max_position_embeddings"), moe,
                   config.get("sliding_window"))


def require(mapping: dict, key: str, path: Path):
    """Return mapping[key], or raise a TinyError that names the key and the file."""
    if not isinstance(mapping, dict) or mapping.get(key) is None:
        raise TinyError(f"{path} has no {key!r}.", "Sizes are never assumed: use the file of the release.")
    return mapping[key]


def checked(path: Path, fields: dict, head_dim, rope_theta, max_seq_len, moe, window) -> Config:
    """Check every size and build the Config.

    A missing head_dim is dim / n_heads. A missing context length is 32,768 tokens for a mixture of experts (paper,
    section 2) and 131,072 otherwise. Mixtral's `sliding_window` is stale in old configs and ignored: its attention is
    dense (paper, section 2). In a dense model the window is real, and this code does not slide: the context ends there.
    """
    if head_dim is None and fields["n_heads"] and not isinstance(fields["n_heads"], str):
        head_dim = fields["dim"] // fields["n_heads"]
    if max_seq_len is None:
        max_seq_len = 32768 if moe else 131072
    if moe is None and window is not None:
        max_seq_len = min(max_seq_len, int(window))
    numbers = dict(fields, head_dim=head_dim, rope_theta=rope_theta, max_seq_len=max_seq_len)
    if moe is not None:
        numbers |= {"num_experts": moe.num_experts, "num_experts_per_tok": moe.num_experts_per_tok}
    for name, value in numbers.items():
        whole = name not in ("norm_eps", "rope_theta")
        good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not good or not 0 < value < 2**40:
            raise TinyError(f"{path}: {name} is {value!r}.", f"It must be a positive {'whole ' * whole}number.")
    if fields["n_heads"] % fields["n_kv_heads"] or head_dim % 2:
        raise TinyError(f"{path}: {fields['n_heads']} heads, {fields['n_kv_heads']} KV heads of {head_dim}.",
                        "The KV heads must divide the heads, and head_dim must be even for RoPE.")
    if moe is not None and moe.num_experts_per_tok > moe.num_experts:
        raise TinyError(f"{path}: {moe.num_experts_per_tok} experts per token, but only {moe.num_experts} experts.",
                        "num_experts_per_tok can be num_experts at most.")
    return Config(**fields, head_dim=head_dim, rope_theta=float(rope_theta), max_seq_len=max_seq_len, moe=moe)
