"""The sizes of a model, as Hugging Face's `config.json` states them, under other names and in other places.

Read `whole.py` next.
"""

import warnings
from pathlib import Path

from tiny.config import Config, MoeConfig, TinyError, VisionConfig
from tiny.files.params import checked, context_length, number, read_json, refuse_others

HF_NAMES = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "hidden_dim": "intermediate_size",
            "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "vocab_size": "vocab_size"}
# Keys that change what the model computes, with the only values that this code computes.
HF_FIXED = {"hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
            "rope_scaling": None, "quantization_config": None}
LLAVA_FIXED = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", "projector_hidden_act": "gelu",
               "multimodal_projector_bias": True, "quantization_config": None, "tie_word_embeddings": False}
# What the released config.json of Pixtral 12B leaves out, because it is the default of transformers' classes.
LLAVA_TEXT_DEFAULTS = {"num_attention_heads": 32}
LLAVA_VISION_DEFAULTS = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                         "num_attention_heads": 16, "num_channels": 3, "image_size": None, "patch_size": None}
REMEDY = "Use a checkpoint of the released architecture."


def read_hf_config(path: Path) -> Config:
    """Read Hugging Face's `config.json` of a Mixtral or Mistral model, or of Pixtral, which is a LLaVA model there.

    Raises:  TinyError for a missing size, no RoPE theta, or a setting that changes what is computed
    Source:  transformers configuration_mixtral.py and configuration_llava.py
    Differs: transformers falls back on class defaults that are not the released model's; nothing is assumed here but
             those that the released file of Pixtral 12B itself leaves out
    """
    config = read_json(path)
    llava = config.get("model_type") == "llava"
    vision = read_llava(config, path) if llava else None
    text = section(config, "text_config", path) if llava else config
    family = text.get("model_type")
    if family not in ("mixtral", "mistral"):
        raise TinyError(f"{path} describes a model of type {family!r}.",
                        "Only mixtral, mistral, and llava around mistral and pixtral are read here.")
    refuse_others(text, HF_FIXED, path, REMEDY)
    defaults = LLAVA_TEXT_DEFAULTS if llava else {}
    sizes = {name: number(text, key, path, default=defaults.get(key)) for name, key in HF_NAMES.items()}
    moe = None
    if family == "mixtral":
        moe = MoeConfig(number(text, "num_local_experts", path), number(text, "num_experts_per_tok", path))
    return checked(path, Config(
        **sizes, moe=moe, vision=vision, norm_eps=number(text, "rms_norm_eps", path, float),
        head_dim=number(text, "head_dim", path, default=sizes["dim"] // sizes["n_heads"]),
        rope_theta=rope_theta(text, "default", path),
        max_seq_len=context_length(text, "max_position_embeddings", moe, path)))


def read_llava(config: dict, path: Path) -> VisionConfig:
    """Read what the `config.json` of a LLaVA model says of images.

    Raises:  TinyError for an encoder that is not Pixtral's, a missing size, or a setting that changes what is computed
    Source:  transformers configuration_llava.py, configuration_pixtral.py
    Differs: the activation of the encoder is SiLU. Until October 2024 the released file said "gelu" by mistake, as
             the class still does by default; copies of it are around, and read with a warning
    """
    for key in ("vision_feature_layer", "vision_feature_select_strategy"):
        if config.get(key) is None:
            raise TinyError(f"{path} has no {key!r}.", "The default of transformers is not what Pixtral computes.")
    refuse_others(config, LLAVA_FIXED, path, REMEDY)
    vision = section(config, "vision_config", path)
    refuse_others(vision, {"model_type": "pixtral", "hidden_act": ("silu", "gelu")}, f"{path}, vision_config", REMEDY)
    if vision.get("hidden_act") != "silu":
        warnings.warn(f"{path.name}: the encoder's hidden_act is missing or 'gelu', published by mistake until October "
                      "2024; the released weights want SiLU, which is used", stacklevel=3)
    sizes = {key: number(vision, key, f"{path}, vision_config", default=default)
             for key, default in LLAVA_VISION_DEFAULTS.items()}
    refuse_others(vision, {"head_dim": sizes["hidden_size"] // sizes["num_attention_heads"]}, f"{path}, vision_config",
                  "The heads of the encoder share its width.")
    token = "image_token_index" if config.get("image_token_id") is None else "image_token_id"
    return VisionConfig(**sizes, rope_theta=rope_theta(vision, ("default", "axial"), f"{path}, vision_config"),
                        image_token_id=number(config, token, path), max_image_size=sizes["image_size"])


def section(config: dict, key: str, path: Path) -> dict:
    """Return an object inside a configuration. Raises TinyError if it is missing, or something else."""
    if not isinstance(config.get(key), dict):
        raise TinyError(f"{path} has no object {key!r}.", "Use the file of the release.")
    return config[key]


def rope_theta(config: dict, kind: str | tuple[str, ...], path: Path | str) -> float:
    """Theta from where it lies: in `rope_theta`, or since version 5 of transformers in `rope_parameters`.

    Raises:  TinyError if it is missing, or the positions are of another kind
    """
    rope = config.get("rope_parameters") or {}
    refuse_others({"rope_type": rope.get("rope_type") if isinstance(rope, dict) else rope}, {"rope_type": kind}, path,
                  REMEDY)
    return number(rope if config.get("rope_theta") is None else config, "rope_theta", path, float)
