"""Small random checkpoints in both released layouts, written by the tests themselves."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

from tiny.config import Config, MoeConfig
from tiny.weights import expected_shapes

CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
HF = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
      "attention.wo": "self_attn.o_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
      "feed_forward.gate": "block_sparse_moe.gate", "feed_forward.experts": "block_sparse_moe.experts",
      "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj",
      "tok_embeddings": "embed_tokens", "layers": "model.layers", "output": "lm_head", "norm": "model.norm"}


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
    return fields | changed


def hf_config(config: Config, **changed) -> dict:
    """What config.json says of a configuration."""
    fields = {"model_type": "mixtral" if config.moe else "mistral", "hidden_size": config.dim,
              "num_hidden_layers": config.n_layers, "head_dim": config.head_dim, "intermediate_size": config.hidden_dim,
              "num_attention_heads": config.n_heads, "num_key_value_heads": config.n_kv_heads,
              "rms_norm_eps": config.norm_eps, "vocab_size": config.vocab_size, "rope_theta": config.rope_theta}
    if config.moe:
        fields |= {"num_local_experts": config.moe.num_experts, "num_experts_per_tok": config.moe.num_experts_per_tok}
    return fields | changed


def hf_tensors(config: Config, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights by HF's names, with the rows of each head of wq and wk as even ones, then odd ones."""
    out = {}
    for name, x in tensors.items():
        if name.endswith((".wq.weight", ".wk.weight")):
            heads = x.reshape(-1, config.head_dim, config.dim)
            x = np.concatenate([np.concatenate([head[0::2], head[1::2]]) for head in heads])
        for old, new in HF.items():
            if f".{old}." in f".{name}":
                name = f".{name}".replace(f".{old}.", f".{new}.", 1)[1:]
        out["model.embed_tokens.weight" if name == "embed_tokens.weight" else name] = x
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


def write_hf(folder: Path, config: Config, tensors: dict[str, np.ndarray], shards: int = 1, **changed) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(config, **changed)))
    stored = hf_tensors(config, tensors)
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
