"""GGUF files for the tests, as llama.cpp's tools write them, from any model that `tiny.load` opens.

The writer is by hand and small, so that tests can damage what it writes and need no package. That its files are those
of the package gguf, byte for byte, is a test of its own.
"""

import struct

import numpy as np

import tiny
from tiny.files.packed.blocks import KINDS, NAMES, PLAIN
from tiny.files.weights import expected_shapes
from tiny.image import MEAN, STD

FORMS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "str": "s",
         "array": "a", "u64": "Q", "i64": "q", "f64": "d"}
CODES = {name: code for code, name in enumerate(FORMS)}
TOP = {"tok_embeddings.weight": "token_embd.weight", "norm.weight": "output_norm.weight",
       "output.weight": "output.weight"}
LAYER = {"attention_norm": "attn_norm", "attention.wq": "attn_q", "attention.wk": "attn_k", "attention.wv": "attn_v",
         "attention.wo": "attn_output", "ffn_norm": "ffn_norm"}
FEED_FORWARD = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}
ENCODER_LAYER = {"attention_norm": "ln1", "attention.wq": "attn_q", "attention.wk": "attn_k", "attention.wv": "attn_v",
                 "attention.wo": "attn_out", "ffn_norm": "ln2", "feed_forward.w1": "ffn_gate",
                 "feed_forward.w2": "ffn_down", "feed_forward.w3": "ffn_up"}
SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that GPT-2 writes as the character of that number
CHARACTERS = {byte: chr(byte) for byte in SHOWN} | {
    byte: chr(256 + n) for n, byte in enumerate(byte for byte in range(256) if byte not in SHOWN)}
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2),
          "Q6_K": (208,)}  # where a block has float16 numbers


def text(value):
    """A text as the format has it."""
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, content):
    """A value with the code of its type; kind is "u32", "str", or "[u32]" for an array."""
    if kind.startswith("["):
        inner = kind[1:-1]
        packed = b"".join(map(text, content)) if inner == "str" else struct.pack(
            f"<{len(content)}{FORMS[inner]}", *content)
        return struct.pack("<IIQ", CODES["array"], CODES[inner], len(content)) + packed
    body = text(content) if kind == "str" else struct.pack("<" + FORMS[kind], content)
    return struct.pack("<I", CODES[kind]) + body


def gguf_bytes(keys, tensors, version=3, align=32, count=None, key_count=None):
    """A file: keys are {name: (kind, content)}, tensors {name: (kind, shape, bytes)}."""
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors) if count is None else count,
                                  len(keys) if key_count is None else key_count)]
    parts += [text(name) + value(*content) for name, content in keys.items()]
    offset = 0
    for name, (kind, shape, data) in tensors.items():
        code = NAMES.index(kind) if isinstance(kind, str) else kind
        parts.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], code, offset))
        offset += -(-len(data) // align) * align
    head = b"".join(parts)
    return b"".join(part + b"\0" * (-len(part) % align) for part in (head, *(data for *_, data in tensors.values())))


def stored(x, kind):
    """A tensor as an entry of `gguf_bytes`: rounded to a plain type, or to Q8_0; others get random blocks."""
    x = np.asarray(x, np.float32)
    if kind in PLAIN:
        return kind, x.shape, x.astype(PLAIN[kind]).tobytes()
    return kind, x.shape, (q8_0(x) if kind == "Q8_0" else random_blocks(kind, x.shape)).tobytes()


def q8_0(x):
    """Blocks of 32 numbers as signed bytes with one float16 scale."""
    blocks = x.reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    q = np.rint(np.divide(blocks, scale, where=scale > 0, out=np.zeros_like(blocks))).astype(np.int8)
    return np.concatenate([scale.astype(np.float16).view(np.uint8), q.view(np.uint8)], axis=1)


def random_blocks(kind, shape, seed=0, scale=0.01):
    """Random bytes with scales of a plausible size: as bytes, (rows, bytes of a row)."""
    rng, (numbers, size, _) = np.random.default_rng(seed), KINDS[kind]
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // numbers, size), dtype=np.uint8)
    for at in SCALES[kind]:
        drawn = scale * rng.standard_normal(len(blocks)) / (32 if kind in ("Q4_K", "Q5_K", "Q6_K") else 1)
        blocks[:, at : at + 2] = drawn.astype(np.float16)[:, None].view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def model_keys(config, tokenizer):
    """The keys of a text model, as convert_hf_to_gguf.py writes them; tokenizer: more keys."""
    sizes = {"context_length": config.max_seq_len, "embedding_length": config.dim, "block_count": config.n_layers,
             "feed_forward_length": config.hidden_dim, "attention.head_count": config.n_heads,
             "attention.head_count_kv": config.n_kv_heads, "rope.dimension_count": config.head_dim,
             "vocab_size": config.vocab_size, "attention.key_length": config.head_dim,
             "attention.value_length": config.head_dim}
    if config.moe:
        sizes |= {"expert_count": config.moe.num_experts, "expert_used_count": config.moe.num_experts_per_tok}
    return {"general.architecture": ("str", "llama"), "general.type": ("str", "model"),
            "general.name": ("str", "tiny"), **{f"llama.{name}": ("u32", size) for name, size in sizes.items()},
            "llama.rope.freq_base": ("f32", config.rope_theta),
            "llama.attention.layer_norm_rms_epsilon": ("f32", config.norm_eps),
            "general.quantization_version": ("u32", 2)} | tokenizer


def special(bos, eos, unknown):
    return {f"tokenizer.ggml.{name}_token_id": ("u32", id) for name, id in
            (("bos", bos), ("eos", eos), ("unknown", unknown))}


def sentencepiece_keys(model, extra=()):
    """The keys of a SentencePiece model; extra: (token, type) that were added behind it."""
    ids = range(model.vocab_size())
    kinds = [2 if model.is_unknown(id) else 3 if model.is_control(id) else 6 if model.is_byte(id) else 1 for id in ids]
    return {"tokenizer.ggml.model": ("str", "llama"), "tokenizer.ggml.pre": ("str", "default"),
            "tokenizer.ggml.tokens": ("[str]", [model.id_to_piece(id) for id in ids] + [name for name, _ in extra]),
            "tokenizer.ggml.scores": ("[f32]", [model.get_score(id) for id in ids] + [-1000.0] * len(extra)),
            "tokenizer.ggml.token_type": ("[i32]", kinds + [kind for _, kind in extra])} | special(1, 2, 0)


def tekken_keys(tokenizer):
    """The keys of a Tekken tokenizer, as `MistralVocab` of the package gguf gives them, without the merges."""
    tokens = tokenizer._special + ["".join(CHARACTERS[byte] for byte in token) for token in tokenizer._bytes]
    kinds = [3] * len(tokenizer._special) + [1] * len(tokenizer._bytes)
    return {"tokenizer.ggml.model": ("str", "gpt2"), "tokenizer.ggml.pre": ("str", "tekken"),
            "tokenizer.ggml.tokens": ("[str]", tokens),
            "tokenizer.ggml.token_type": ("[i32]", kinds)} | special(1, 2, 0)


def model_tensors(model, kind, merged=True):
    """The tensors of a text model: vectors and the router in float32, experts in stacks or, as in 2023, one by one."""
    weights, config = numbers_of(model), model.config
    found = {theirs: weights[ours] for ours, theirs in TOP.items()}
    for n in range(config.n_layers):
        found |= {f"blk.{n}.{theirs}.weight": weights[f"layers.{n}.{ours}.weight"] for ours, theirs in LAYER.items()}
        for ours, theirs in FEED_FORWARD.items():
            if not config.moe:
                found[f"blk.{n}.{theirs}.weight"] = weights[f"layers.{n}.feed_forward.{ours}.weight"]
                continue
            experts = f"layers.{n}.feed_forward.experts"
            each = [weights[f"{experts}.{e}.{ours}.weight"] for e in range(config.moe.num_experts)]
            found |= {f"blk.{n}.{theirs}_exps.weight": np.stack(each)} if merged else {
                f"blk.{n}.{theirs}.{e}.weight": x for e, x in enumerate(each)}
        if config.moe:
            found[f"blk.{n}.ffn_gate_inp.weight"] = weights[f"layers.{n}.feed_forward.gate.weight"]
    return {name: stored(x, "F32" if x.ndim == 1 else ("F32" if merged else "F16") if "gate_inp" in name else kind)
            for name, x in found.items()}


def numbers_of(model):
    """The weights of a model as float32, in Mistral's order of rows."""
    weights, shapes = getattr(model.weights, "tensors", model.weights), expected_shapes(model.config)
    return {name: np.asarray(weights[name], np.float32).reshape(shape) for name, shape in shapes.items()}


def write_model(path, name, kind="F32", merged=True, changes=None, **options):
    """Write a model, by its name or itself, as a GGUF file; changes: keys to set, or with None to leave out."""
    model = tiny.load(name) if isinstance(name, str) else name
    own = model._tokenizer
    keys = model_keys(model.config, {} if own is None else tekken_keys(own) if hasattr(own, "_bytes") else
                      sentencepiece_keys(own._model))
    keys = {key: content for key, content in (keys | (changes or {})).items() if content is not None}
    path.write_bytes(gguf_bytes(keys, model_tensors(model, kind, merged), **options))
    return path


def write_mmproj(path, model, kind="F32", changes=None):
    """Write the encoder and the adapter of a Pixtral model as an mmproj file."""
    vision, config = model.config.vision, model.config
    sizes = {"projection_dim": config.dim, "image_size": vision.image_size, "patch_size": vision.patch_size,
             "embedding_length": vision.hidden_size, "feed_forward_length": vision.intermediate_size,
             "block_count": vision.num_hidden_layers, "attention.head_count": vision.num_attention_heads}
    keys = {"general.architecture": ("str", "clip"), "general.type": ("str", "mmproj"),
            "clip.has_vision_encoder": ("bool", True), **{f"clip.vision.{key}": ("u32", n) for key, n in sizes.items()},
            "clip.vision.image_mean": ("[f32]", MEAN), "clip.vision.image_std": ("[f32]", STD),
            "clip.projector_type": ("str", "pixtral"), "clip.use_silu": ("bool", True),
            "clip.vision.attention.layer_norm_epsilon": ("f32", vision.norm_eps),
            "clip.rope.freq_base": ("f32", vision.rope_theta)} | (changes or {})
    weights, found = numbers_of(model), {"v.patch_embd.weight": "vision_encoder.patch_conv.weight",
                                         "v.pre_ln.weight": "vision_encoder.ln_pre.weight"}
    for n in range(vision.num_hidden_layers):
        found |= {f"v.blk.{n}.{theirs}.weight": f"vision_encoder.transformer.layers.{n}.{ours}.weight"
                  for ours, theirs in ENCODER_LAYER.items()}
    for ours, theirs in (("w_in", "mm.1"), ("w_out", "mm.2")):
        found |= {f"{theirs}.{end}": f"vision_language_adapter.{ours}.{end}" for end in ("weight", "bias")}
    tensors = {theirs: stored(weights[ours], "F32" if weights[ours].ndim == 1 or "patch" in ours else kind)
               for theirs, ours in found.items()}
    row = model.tokenizer.special_id("[IMG_BREAK]")
    tensors["v.token_embd.img_break"] = stored(weights["tok_embeddings.weight"][row], "F32")
    path.write_bytes(gguf_bytes({key: content for key, content in keys.items() if content is not None}, tensors))
    return path
