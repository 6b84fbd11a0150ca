"""The sizes of a model, as Hugging Face's `config.json` states them, under other names and in other places.

Read `safetensors.py` next.
"""

from dataclasses import replace
from pathlib import Path

from tiny.config import Config, MoeConfig, TinyError, VisionConfig
from tiny.files.packed.quantised import read_method
from tiny.files.params import KEYS, REMEDY, context_length, smallest_window
from tiny.system.diagnosis import checked
from tiny.system.keys import check_keys, not_computed
from tiny.system.reading import Note, number, read_json, section, short, warn

HF_NAMES = {"dim": "hidden_size", "n_layers": "num_hidden_layers", "hidden_dim": "intermediate_size",
            "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "vocab_size": "vocab_size"}
# What the released config.json of Pixtral 12B leaves out, because it is the default of transformers' classes.
LLAVA_TEXT_DEFAULTS = {"num_attention_heads": 32}
LLAVA_VISION_DEFAULTS = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                         "num_attention_heads": 16, "num_channels": 3, "image_size": None, "patch_size": None}
WINDOW = 4096  # of a mistral whose file has no key for it. Source: transformers configuration_mistral.py


def read_hf_config(path: Path, note: Note = warn) -> Config:
    """Read Hugging Face's `config.json` of a Mixtral or Mistral model, or of Pixtral, which is a LLaVA model there.

    Raises:  TinyError for a missing size, no RoPE theta, or a setting that changes what is computed
    Source:  transformers configuration_mixtral.py and configuration_llava.py
    Differs: transformers falls back on class defaults that are not the released model's; nothing is assumed here but
             those that the released file of Pixtral 12B itself leaves out
    """
    config = read_json(path)
    read_method(config, path, note)
    llava = config.get("model_type") == "llava"
    vision = read_llava(config, path, note) if llava else None
    text = section(config, "text_config", path) if llava else config
    family = text.get("model_type")
    if family not in ("mixtral", "mistral"):
        raise TinyError(f"{path} describes a model of type {family!r}.",
                        "Only mixtral, mistral, and llava around mistral and pixtral are read here.")
    place = f"{path}, text_config" if llava else str(path)
    check_keys(text, KEYS["text"], place, REMEDY, note)
    defaults = LLAVA_TEXT_DEFAULTS if llava else {}
    sizes = {name: number(text, key, path, default=defaults.get(key)) for name, key in HF_NAMES.items()}
    moe, window = None, text.get("sliding_window", WINDOW if family == "mistral" else None)
    if family == "mixtral":
        moe = MoeConfig(number(text, "num_local_experts", path), number(text, "num_experts_per_tok", path))
    return checked(path, Config(
        **sizes, moe=moe, vision=vision, norm_eps=number(text, "rms_norm_eps", path, float),
        head_dim=number(text, "head_dim", path, default=sizes["dim"] // sizes["n_heads"]),
        rope_theta=rope_theta(text, ("default",), place, note), end_ids=end_ids(text, path) | end_ids(config, path),
        max_seq_len=context_length(text, "max_position_embeddings", moe, smallest_window([window], path), path, note)))


def read_llava(config: dict, path: Path, note: Note = warn) -> VisionConfig:
    """Read what the `config.json` of a LLaVA model says of images.

    Raises:  TinyError for an encoder that is not Pixtral's, a missing size, or a setting that changes what is computed
    Source:  transformers configuration_llava.py, configuration_pixtral.py
    Differs: the activation of the encoder is SiLU. Until October 2024 the released file said "gelu" by mistake, as
             the class still does by default; copies of it are around, and read with a warning
    """
    for key in ("vision_feature_layer", "vision_feature_select_strategy"):
        if config.get(key) is None:
            raise TinyError(f"{path} has no {key!r}.", "The default of transformers is not what Pixtral computes.")
    check_keys(config, KEYS["llava"], path, REMEDY, note)
    vision, place = section(config, "vision_config", path), f"{path}, vision_config"
    check_keys(vision, KEYS["vision"], place, REMEDY, note)
    if vision.get("hidden_act") != "silu":
        note(f"{path.name}: the encoder's hidden_act is missing or 'gelu', published by mistake until October 2024; "
             "the released weights want SiLU, which is used. A model that was trained with GELU comes out wrong")
    sizes = {key: number(vision, key, f"{path}, vision_config", default=default)
             for key, default in LLAVA_VISION_DEFAULTS.items()}
    width = sizes["hidden_size"] // sizes["num_attention_heads"]
    if vision.get("head_dim") not in (width, None):
        raise TinyError(f"{place} sets head_dim = {short(vision['head_dim'])}; this code computes {width} "
                        "only.", "The heads of the encoder share its width.")
    token = "image_token_index" if config.get("image_token_id") is None else "image_token_id"
    return VisionConfig(**sizes, rope_theta=rope_theta(vision, ("default", "axial"), place, note),
                        image_token_id=number(config, token, path), max_image_size=sizes["image_size"])


def rope_theta(config: dict, kinds: tuple[str, ...], place: str, note: Note = warn) -> float:
    """Theta from where it lies: in `rope_theta`, or since version 5 of transformers in `rope_parameters`.

    Raises:  TinyError if it is missing, or said twice and not the same, or the positions are of another kind
    """
    thetas = {"rope_theta": config.get("rope_theta")}
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name) or {}
        kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else rope
        if kind not in (*kinds, None) or name == "rope_scaling" and rope and kind is None:
            raise TinyError(f"{place} sets {name} = {short(rope)}; this code computes rope_type 'default' only.",
                            REMEDY)
        check_keys(rope, KEYS["rope"], f"{place}, {name}", REMEDY, note)
        thetas[f"{name}.rope_theta"] = rope.get("rope_theta")
    found = {key: number({key: value}, key, place, float) for key, value in thetas.items() if value is not None}
    if len(set(found.values())) > 1:
        raise TinyError(f"{place} has several thetas: {', '.join(f'{key} = {found[key]:g}' for key in found)}.",
                        "Keep the right one; transformers 5 takes that of rope_parameters, older versions the other.")
    return next(iter(found.values())) if found else number(config, "rope_theta", place, float)


def end_ids(mapping: dict, path: Path) -> frozenset[int]:
    """The tokens that end a text: `eos_token_id`, a number or a list. Raises TinyError for anything else."""
    value = mapping.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int and token >= 0 for token in ids):
        raise TinyError(f"{path}: eos_token_id is {short(value)}.", "It must be the id of a token, or a list of ids.")
    return frozenset(ids)


def read_generation(path: Path, config: Config, note: Note = warn) -> Config:
    """Add the end tokens of a `generation_config.json` to a configuration. Raises TinyError if the file is broken.

    Differs: of what else it says about writing, nothing is done here; what would change greedy texts is noted
    """
    values = read_json(path)
    for key in not_computed(values, KEYS["generation"]):
        note(f"{path.name} sets {key} = {short(values[key])}, which is not done here")
    return replace(config, end_ids=config.end_ids | end_ids(values, path))
