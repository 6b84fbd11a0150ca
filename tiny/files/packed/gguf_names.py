"""The names of tensors in GGUF files, from Mistral's: of the decoder, and of encoder and adapter in an mmproj file.

Rows of q and k are in Mistral's order of pairs: whatever layout a file was made from, its writer has turned them.
Nothing in a file says so if one forgot it. Read `gguf_tokenizer.py` next.

Source: the package gguf, constants.py; for Pixtral llama.cpp conversion/llava.py and pixtral.py
"""

import re
from collections.abc import Collection, Mapping

from tiny.config import Config
from tiny.files.hf_names import Place

SPELT = re.compile(r"(vision_encoder\.(?:transformer\.)?)?(?:layers\.(\d+)\.)?(.*)")
EXPERT = re.compile(r"feed_forward\.experts\.(\d+)\.(w\d)")
LAYER = {"attention.wq": "attn_q", "attention.wk": "attn_k", "attention.wv": "attn_v", "feed_forward.w1": "ffn_gate",
         "feed_forward.w2": "ffn_down", "feed_forward.w3": "ffn_up"}
NAMES = LAYER | {"attention.wo": "attn_output", "attention_norm": "attn_norm", "ffn_norm": "ffn_norm",
                 "feed_forward.gate": "ffn_gate_inp", "tok_embeddings": "token_embd", "norm": "output_norm",
                 "output": "output"}
ENCODER_NAMES = LAYER | {"attention.wo": "attn_out", "attention_norm": "ln1", "ffn_norm": "ln2",
                         "patch_conv": "patch_embd", "ln_pre": "pre_ln"}
ADAPTER_NAMES = {"w_in": "mm.1", "w_out": "mm.2"}


def find_places(layout: str, config: Config, shapes: Mapping[str, tuple[int, ...]],
                names: Collection[str]) -> dict[str, Place]:
    """Where every tensor of a model is, by Mistral's names: experts lie in stacks, or in files of 2023 one by one."""
    stacked = any("_exps." in name for name in names)
    E = config.moe.num_experts if config.moe else 0

    def find(name: str, shape: tuple[int, ...]) -> Place:
        stem, _, kind = name.rpartition(".")
        if stem.startswith("vision_language_adapter."):
            return Place(f"{ADAPTER_NAMES[stem.partition('.')[2]]}.{kind}")
        encoder, layer, part = SPELT.fullmatch(stem).groups()  # type: ignore[union-attr]
        prefix = "v." * bool(encoder) + (f"blk.{layer}." if layer else "")
        if not (expert := EXPERT.fullmatch(part)):
            return Place(f"{prefix}{(ENCODER_NAMES if encoder else NAMES)[part]}.{kind}")
        e, stack = int(expert[1]), prefix + NAMES[f"feed_forward.{expert[2]}"]
        return Place(f"{stack}_exps.{kind}", (e, slice(None)), (E, *shape)) if stacked else Place(f"{stack}.{e}.{kind}")

    return {name: find(name, shape) for name, shape in shapes.items()}
