"""Hugging Face's names of the tensors, made from Mistral's: those of the released files, and others that people have.

Read `weights.py` next.
"""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from tiny.config import Config

HF_PARTS = {"feed_forward.experts": "block_sparse_moe.experts", "feed_forward.gate": "block_sparse_moe.gate",
            "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
            "attention.wo": "self_attn.o_proj", "attention_norm": "input_layernorm", "norm": "norm",
            "ffn_norm": "post_attention_layernorm", "feed_forward.w1": "mlp.gate_proj",
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
HF_LLAVA = Prefixes("language_model.model.", "language_model.lm_head.", "vision_tower.", "multi_modal_projector.")

# What each part's names may begin with when they are read: the forms above, what versions 5.4 to 5.5 of transformers
# wrote, and names without their first word. Each part is settled alone, as transformers does.
TEXT_FORMS = {"language": ("model.", ""), "output": ("lm_head.",), "encoder": ("",), "adapter": ("",)}
LLAVA_FORMS = {"language": ("language_model.model.", "model.language_model.", "model.language_model.model.",
                            "language_model."),
               "output": ("language_model.lm_head.", "lm_head."),
               "encoder": ("vision_tower.", "model.vision_tower."),
               "adapter": ("multi_modal_projector.", "model.multi_modal_projector.")}
SIGNS = {"language": ("embed_tokens.weight", "norm.weight", "layers.0.input_layernorm.weight"), "output": ("weight",),
         "encoder": ("patch_conv.weight", "ln_pre.weight"), "adapter": ("linear_1.weight", "linear_2.weight")}
BLOCKS = ("block_sparse_moe.", "mlp.")  # around router and experts: in released files, and in transformers 5


class Naming(NamedTuple):
    """How the tensors of a file are named: the prefixes, the blocks of router and experts, and whether the experts of a
    layer are stacked into two tensors.
    """

    prefixes: Prefixes
    router: str = BLOCKS[0]
    experts: str = BLOCKS[0]
    stacked: bool = False


class Place(NamedTuple):
    """Where a tensor is: its name in the file; of a stack of experts also the part, and the shape of the stack."""

    name: str
    part: tuple[int, slice] | None = None
    whole: tuple[int, ...] = ()


def hf_prefixes(config: Config) -> Prefixes:
    """The prefixes of the released files."""
    return HF_LLAVA if config.vision else HF_TEXT


def find_naming(config: Config, names: Container[str]) -> Naming:
    """Settle by some names in a file how all its tensors are named; what is not there counts as in released files."""
    def first(options: Sequence[str], signs: Iterable[str]) -> str:
        return next((option for option in options if any(option + sign in names for sign in signs)), options[0])

    forms = LLAVA_FORMS if config.vision else TEXT_FORMS
    prefixes = Prefixes(**{part: first(options, SIGNS[part]) for part, options in forms.items()})
    layer, stacks = prefixes.language + "layers.0.", ("experts.gate_up_proj", "experts.down_proj")
    router, experts = (first([layer + block for block in BLOCKS], signs).removeprefix(layer) for signs in (
        ("gate.weight",), ("experts.0.w1.weight", "experts.0.w2.weight", *stacks)))
    return Naming(prefixes, router, experts, any(layer + experts + stack in names for stack in stacks))


def find_places(layout: str, config: Config, shapes: Mapping[str, tuple[int, ...]],
                names: Container[str]) -> dict[str, Place]:
    """Where every tensor of a model is, by Mistral's names; `names` are those in the files.

    Source:  transformers 5 conversion_mapping.py: gate_up_proj holds w1, then w3, of each expert
    """
    if layout == "mistral":
        return {name: Place(name) for name in shapes}
    naming = find_naming(config, names)
    return {name: find_place(name, naming, shape, config) for name, shape in shapes.items()}


def find_place(name: str, naming: Naming, shape: tuple[int, ...], config: Config) -> Place:
    """Where one tensor is in Hugging Face's layout."""
    stored = hf_name(name, naming.prefixes)
    layer, block, rest = stored.partition(BLOCKS[0])
    if not block:
        return Place(stored)
    if rest == "gate.weight" or not naming.stacked:
        return Place(layer + (naming.router if rest == "gate.weight" else naming.experts) + rest)
    _, expert, matrix, _ = rest.split(".")  # experts.3.w1.weight
    rows, columns = shape
    E = config.moe.num_experts if config.moe else 0
    stack = f"{layer}{naming.experts}experts."
    if matrix == "w2":
        return Place(f"{stack}down_proj", (int(expert), slice(None)), (E, rows, columns))
    half = slice(rows) if matrix == "w1" else slice(rows, 2 * rows)
    return Place(f"{stack}gate_up_proj", (int(expert), half), (E, 2 * rows, columns))


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
    kind = part.rpartition(".")[0]
    old = kind if kind in parts else next((old for old in parts if part.startswith(old + ".")), "")
    return layer + parts.get(old, "") + part.removeprefix(old)
