"""Hugging Face's names of the tensors, made from Mistral's.

Read `weights.py` next.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tiny.config import Config

HF_PARTS = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
            "attention.wo": "self_attn.o_proj", "attention_norm": "input_layernorm", "norm": "norm",
            "ffn_norm": "post_attention_layernorm", "feed_forward.gate": "block_sparse_moe.gate",
            "feed_forward.experts": "block_sparse_moe.experts", "feed_forward.w1": "mlp.gate_proj",
            "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj", "tok_embeddings": "embed_tokens"}
HF_VISION = {"attention.wq": "attention.q_proj", "attention.wk": "attention.k_proj", "attention.wv": "attention.v_proj",
             "attention.wo": "attention.o_proj", "feed_forward.w1": "feed_forward.gate_proj",
             "feed_forward.w2": "feed_forward.down_proj", "feed_forward.w3": "feed_forward.up_proj",
             "w_in": "linear_1", "w_out": "linear_2"}


class Prefixes(NamedTuple):
    """What the names of each part of a model begin with."""

    language: str
    output: str
    encoder: str
    adapter: str


HF_TEXT = Prefixes("model.", "lm_head.", "", "")
# The released LLaVA file; and a LLaVA model in the memory of recent versions of transformers, as files written from
# there may have it.
HF_LLAVA = Prefixes("language_model.model.", "language_model.lm_head.", "vision_tower.", "multi_modal_projector.")
HF_RECENT = Prefixes("model.language_model.", "lm_head.", "model.vision_tower.", "model.multi_modal_projector.")


def hf_prefixes(config: Config, names: Iterable[str] = ()) -> Prefixes:
    """With which prefixes a model's tensors are named: of the three forms above, the one that `names` have."""
    if config.vision is None:
        return HF_TEXT
    return HF_RECENT if any(name.startswith(HF_RECENT.language) for name in names) else HF_LLAVA


def hf_name(name: str, prefixes: Prefixes = HF_TEXT) -> str:
    """Hugging Face's name of a tensor, from Mistral's.

    Source: transformers convert_mixtral_weights_to_hf.py, convert_pixtral_weights_to_hf.py
    """
    for ours, theirs in (("output.", prefixes.output), ("vision_encoder.", prefixes.encoder),
                         ("vision_language_adapter.", prefixes.adapter)):
        if name.startswith(ours):
            return theirs + renamed(name.removeprefix(ours), HF_VISION)
    return prefixes.language + renamed(name, HF_PARTS)


def renamed(name: str, parts: Mapping[str, str]) -> str:
    """Replace the part of a name that follows the number of its layer, if it has one."""
    layer, part = re.match(r"((?:transformer\.)?(?:layers\.\d+\.)?)(.*)", name).groups()  # type: ignore[union-attr]
    old = next((old for old in parts if part.startswith(old + ".")), "")
    return layer + parts.get(old, "") + part.removeprefix(old)
