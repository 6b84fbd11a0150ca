"""The sizes of a model, as its files state them.

Both released layouts are read: Mistral's `params.json` and Hugging Face's `config.json`. The field names are those of
`params.json`. No size has a default: a missing one is an error that names it. Read `safetensors.py` next.
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
            "rope_scaling": None, "rope_type": "default", "quantization_config": None}
HF_NAMES = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "hidden_dim": "intermediate_size",
            "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "vocab_size": "vocab_size"}


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
    unknown = sorted(set(params) - OPTIONAL - set(SIZES) - {"norm_eps"})
    if unknown:
        warnings.warn(f"{path.name}: keys that are not read: {', '.join(unknown)}", stacklevel=2)
    sizes = {name: number(params, name, path) for name in SIZES}
    moe = params.get("moe")
    if moe is not None:
        moe = MoeConfig(number(moe, "num_experts", path), number(moe, "num_experts_per_tok", path))
    length = "max_position_embeddings" if params.get("max_seq_len") is None else "max_seq_len"
    return checked(path, Config(
        **sizes, moe=moe, norm_eps=number(params, "norm_eps", path, float),
        head_dim=number(params, "head_dim", path, default=sizes["dim"] // sizes["n_heads"]),
        rope_theta=number(params, "rope_theta", path, float, default=1e6),
        max_seq_len=context_length(params, length, moe, path)))


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
    rope = config.get("rope_parameters") or {}
    fixed = dict(config, rope_type=rope.get("rope_type") if isinstance(rope, dict) else rope)
    for key, value in HF_FIXED.items():
        if fixed.get(key) not in (value, None):
            raise TinyError(f"{path} sets {key} = {fixed[key]!r}; this code computes {value!r} only.",
                            "Use a checkpoint of the released architecture.")
    sizes = {name: number(config, HF_NAMES[name], path) for name in SIZES}
    moe = None
    if family == "mixtral":
        moe = MoeConfig(number(config, "num_local_experts", path), number(config, "num_experts_per_tok", path))
    return checked(path, Config(
        **sizes, moe=moe, norm_eps=number(config, "rms_norm_eps", path, float),
        head_dim=number(config, "head_dim", path, default=sizes["dim"] // sizes["n_heads"]),
        rope_theta=number(rope if config.get("rope_theta") is None else config, "rope_theta", path, float),
        max_seq_len=context_length(config, "max_position_embeddings", moe, path)))


def number(mapping: dict, key: str, path: Path, kind: type[int] | type[float] = int, default: float | None = None):
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
    return config
