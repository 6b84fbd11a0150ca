"""Small random checkpoints in both released layouts, written by the tests themselves."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

from tiny.config import Config, MoeConfig, VisionConfig
from tiny.files.weights import expected_shapes

CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "int8": "I8",
         "int32": "I32", "int64": "I64"}
HF = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
      "attention.wo": "self_attn.o_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
      "feed_forward.gate": "block_sparse_moe.gate", "feed_forward.experts": "block_sparse_moe.experts",
      "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj",
      "tok_embeddings": "embed_tokens", "layers": "model.layers", "output": "lm_head", "norm": "model.norm"}
HF_VISION = {"attention.wq": "attention.q_proj", "attention.wk": "attention.k_proj", "attention.wv": "attention.v_proj",
             "attention.wo": "attention.o_proj", "feed_forward.w1": "feed_forward.gate_proj",
             "feed_forward.w2": "feed_forward.down_proj", "feed_forward.w3": "feed_forward.up_proj",
             "vision_encoder": "vision_tower", "vision_language_adapter.w_in": "multi_modal_projector.linear_1",
             "vision_language_adapter.w_out": "multi_modal_projector.linear_2"}
IMAGE, BREAK, END = 7, 8, 9  # tokens of the small vision models


def vision_sizes(**changed) -> VisionConfig:
    """The sizes of an encoder for tests; again nothing equals anything else by chance."""
    standard = {"hidden_size": 40, "num_channels": 3, "image_size": 32, "patch_size": 4, "rope_theta": 1e3,
                "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 5, "image_token_id": IMAGE,
                "max_image_size": 32}
    return VisionConfig(**(standard | changed))


def random_images(*grids: tuple[int, int], patch_size: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Pixels of preprocessed images, each of (columns, rows) patches."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((3, rows * patch_size, columns * patch_size)).astype(np.float32)
            for columns, rows in grids]


def image_tokens(columns: int, rows: int) -> list[int]:
    """The tokens that stand for an image of this many patches."""
    return (([IMAGE] * columns + [BREAK]) * rows)[:-1] + [END]


def sizes(moe: tuple[int, int] | None = (4, 2), **changed) -> Config:
    """A configuration for tests; head_dim is not dim / n_heads, and nothing equals anything else by chance."""
    standard = {"dim": 24, "n_layers": 2, "head_dim": 10, "hidden_dim": 28, "n_heads": 6, "n_kv_heads": 2,
                "norm_eps": 1e-5, "vocab_size": 40, "rope_theta": 1e4, "max_seq_len": 64}
    return Config(**(standard | changed), moe=MoeConfig(*moe) if moe else None)


def random_tensors(config: Config, seed: int = 0, dtype=ml_dtypes.bfloat16) -> dict[str, np.ndarray]:
    """Weights that keep every activation near 1, by Mistral's names."""
    rng, tensors = np.random.default_rng(seed), {}
    for name, shape in expected_shapes(config).items():
        scale = 0.2 if len(shape) == 1 else 1.0 if "embed" in name else 1.5 * shape[-1] ** -0.5
        tensors[name] = (rng.standard_normal(shape) * scale + (len(shape) == 1)).astype(dtype)
    return tensors


def params(config: Config, **changed) -> dict:
    """What params.json says of a configuration."""
    fields = {name: getattr(config, name) for name in (
        "dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads", "norm_eps", "vocab_size", "rope_theta")}
    if config.moe:
        fields["moe"] = {"num_experts": config.moe.num_experts, "num_experts_per_tok": config.moe.num_experts_per_tok}
    if config.vision:
        fields["vision_encoder"] = {name: getattr(config.vision, name) for name in (
            "hidden_size", "num_channels", "image_size", "patch_size", "rope_theta", "intermediate_size",
            "num_hidden_layers", "num_attention_heads", "image_token_id")}
    return fields | changed


def hf_config(config: Config, **changed) -> dict:
    """What config.json says of a configuration."""
    fields = {"model_type": "mixtral" if config.moe else "mistral", "hidden_size": config.dim,
              "num_hidden_layers": config.n_layers, "head_dim": config.head_dim, "intermediate_size": config.hidden_dim,
              "num_attention_heads": config.n_heads, "num_key_value_heads": config.n_kv_heads,
              "rms_norm_eps": config.norm_eps, "vocab_size": config.vocab_size, "rope_theta": config.rope_theta,
              "sliding_window": None}
    if config.moe:
        fields |= {"num_local_experts": config.moe.num_experts, "num_experts_per_tok": config.moe.num_experts_per_tok}
    if config.vision:
        vision = {name: getattr(config.vision, name) for name in (
            "hidden_size", "num_channels", "image_size", "patch_size", "rope_theta", "intermediate_size",
            "num_hidden_layers", "num_attention_heads", "head_dim")}
        fields = {"model_type": "llava", "image_token_index": config.vision.image_token_id, "text_config": fields,
                  "projector_hidden_act": "gelu", "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
                  "vision_config": vision | {"model_type": "pixtral", "hidden_act": "silu"}}
    return fields | changed


def hf_tensors(config: Config, tensors: dict[str, np.ndarray], recent: bool = False) -> dict[str, np.ndarray]:
    """The same weights by HF's names, with the rows of each head of wq and wk as even ones, then odd ones.

    Those of a vision model are named as in the released file, or as in the memory of recent transformers.
    """
    out = {}
    for name, x in tensors.items():
        language = not name.startswith("vision_")
        if name.endswith((".wq.weight", ".wk.weight")):
            heads = x.reshape(-1, config.head_dim if language else config.vision.head_dim, x.shape[1])
            x = np.concatenate([np.concatenate([head[0::2], head[1::2]]) for head in heads])
        for old, new in (HF if language else HF_VISION).items():
            if f".{old}." in f".{name}":
                name = f".{name}".replace(f".{old}.", f".{new}.", 1)[1:]
        name = "model.embed_tokens.weight" if name == "embed_tokens.weight" else name
        if config.vision and not recent:
            name = f"language_model.{name}" if language else name
        elif config.vision and not name.startswith("lm_head"):
            name = f"model.language_model.{name.removeprefix('model.')}" if language else f"model.{name}"
        out[name] = x
    return out


def raw_file(header, data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a safetensors file with any header: an object, or bytes as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def file_bytes(tensors: dict[str, np.ndarray]) -> bytes:
    """A good file, written without the code under test."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, x in tensors.items():
        header[name] = {"dtype": CODES[x.dtype.name], "shape": list(x.shape),
                        "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.tobytes()
    return raw_file(header, data)


def write_mistral(folder: Path, config: Config, tensors: dict[str, np.ndarray], **changed) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params(config, **changed)))
    (folder / "consolidated.safetensors").write_bytes(file_bytes(tensors))
    return folder


def write_hf(folder: Path, config: Config, tensors: dict[str, np.ndarray], shards: int = 1, recent: bool = False,
             **changed) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(config, **changed)))
    stored = hf_tensors(config, tensors, recent)
    if shards == 1:
        (folder / "model.safetensors").write_bytes(file_bytes(stored))
        return folder
    weight_map = {}
    for n in range(shards):
        file, part = f"model-{n + 1:05}-of-{shards:05}.safetensors", dict(list(stored.items())[n::shards])
        (folder / file).write_bytes(file_bytes(part))
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder
