"""Mistral's `params.json`: the sizes of a model, read and checked.

No size has a default: a missing one is an error that names it. Read `hf_config.py` next, the same for the other
released layout.
"""

from pathlib import Path

from tiny.config import Config, MoeConfig, VisionConfig
from tiny.files.packed.quantised import read_method
from tiny.system.diagnosis import checked
from tiny.system.keys import check_keys, read_keys
from tiny.system.reading import Note, number, read_json, warn

KEYS = read_keys(Path(__file__).with_name("keys.toml"))
SIZES = ("dim", "n_layers", "hidden_dim", "n_heads", "n_kv_heads", "vocab_size")
VISION_SIZES = ("hidden_size", "num_channels", "image_size", "patch_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "image_token_id")
ENDS = ("image_break_token_id", "image_end_token_id")
LONGEST = 1 << 40  # tokens of a context
REMEDY = "Use a checkpoint of the released architecture; if the key changes nothing in this one, delete it."


def read_params(path: Path, note: Note = warn) -> Config:
    """Read Mistral's `params.json`.

    Raises:  TinyError for a missing or senseless size, or a setting that changes what is computed
    Source:  mistral-inference args.py; released files without `rope_theta` mean 1e6 (transformer.py). The first
             Mistral 7B, which has a window, means 10000 (the code of its time)
    Differs: unknown keys cost a note; mistral-inference refuses them
    """
    params = read_json(path)
    read_method(params, path, note)
    check_keys(params, KEYS["params"], path, REMEDY, note)
    sizes = {name: number(params, name, path) for name in SIZES}
    moe = params.get("moe")
    if moe is not None:
        moe = MoeConfig(number(moe, "num_experts", path), number(moe, "num_experts_per_tok", path))
        check_keys(params["moe"], KEYS["params_moe"], f"{path}, moe", REMEDY, note)
    window = smallest_window([params.get("sliding_window"), params.get("_sliding_window")], path)
    theta = 1e4 if window and not moe else 1e6
    if window and not moe and params.get("rope_theta") is None:
        note(f"{path.name} has a window and no rope_theta, as the first Mistral 7B: theta is {theta:,.0f}")
    length = "max_position_embeddings" if params.get("max_seq_len") is None else "max_seq_len"
    return checked(path, Config(
        **sizes, moe=moe, norm_eps=number(params, "norm_eps", path, float),
        head_dim=number(params, "head_dim", path, default=sizes["dim"] // sizes["n_heads"]),
        rope_theta=number(params, "rope_theta", path, float, default=theta),
        max_seq_len=context_length(params, length, moe, window, path, note),
        vision=None if params.get("vision_encoder") is None else read_vision(params["vision_encoder"], path, note)))


def read_vision(encoder: dict, path: Path, note: Note = warn) -> VisionConfig:
    """Read the part `vision_encoder` of `params.json`.

    Raises:  TinyError for a missing or senseless size, or a later model that computes something else
    Source:  mistral-inference args.py, VisionEncoderArgs
    """
    place = f"{path}, vision_encoder"
    sizes = {name: number(encoder, name, place) for name in VISION_SIZES}
    check_keys(encoder, KEYS["params_vision"], place,
               "Use a checkpoint of Pixtral 12B: Pixtral Large has no biases in its adapter, and Mistral Small 3.1 "
               "merges patches in front of it.", note)
    ends = {name: number(encoder, name, place) for name in ENDS if encoder.get(name) is not None}
    return VisionConfig(**sizes, **ends, rope_theta=number(encoder, "rope_theta", place, float),
                        max_image_size=number(encoder, "max_image_size", path, default=sizes["image_size"]))


def smallest_window(values: list, path: Path) -> int | None:
    """The smallest sliding window that is stated: a number, or a list with one for each kind of layer; None if none is.

    Raises:  TinyError for anything else
    """
    listed = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    windows = [number({"sliding_window": entry}, "sliding_window", path, most=LONGEST)
               for entry in listed if entry is not None]
    return min(windows, default=None)


def context_length(mapping: dict, key: str, moe: MoeConfig | None, window: int | None, path: Path,
                   note: Note = warn) -> int:
    """The longest sequence that the model is for, in tokens.

    Where the file says nothing it is 32,768 for a mixture of experts (paper, section 2) and 131,072 otherwise. The
    window of old Mixtral configs is stale and ignored: the attention is dense (paper, section 2). In a dense model the
    window is real, and this code does not slide it: the context ends there.
    """
    length = number(mapping, key, path, default=32768 if moe else 131072, most=LONGEST)
    if window is None or window >= length:
        return length
    if moe:
        note(f"{path.name}: a sliding window of {window:,} tokens, which transformers applies. It is not applied here: "
             "the attention of Mixtral is dense. The first released configs stated a window by mistake, and texts past "
             "it became nonsense (vllm#2064, transformers#28115)")
        return length
    note(f"{path.name}: a sliding window of {window:,} tokens. It is not slid here: the context ends there")
    return window
