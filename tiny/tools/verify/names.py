"""The names of the arrays in a file: their order in the model, the shape of each, and what makes it, in words."""

import re

from tiny.config import Config

NUMBER = "(?:[0-9]{2}|[1-9][0-9]{2,3})"  # of a layer: two digits at least
TOKENS = "embed|norm|logits|" + "|".join(f"{name}{NUMBER}" for name in (
    "q", "k", "v", "attn", "layer", "router_logits", "experts", "expert_weights", "attention_norm", "ffn_norm", "mix"))
PATCHES = "patch_conv|vision_ln_pre|projector|" + "|".join(f"vision_{name}{NUMBER}" for name in (
    "q", "k", "v", "attn", "layer", "attention_norm", "ffn_norm", "mix"))
ARRAY = re.compile(f"(?:{TOKENS}|{PATCHES})")
INPUT = re.compile("ids|positions|grids|(?:pixels|image)(?:0|[1-9][0-9]{0,3})|greedy_(?:tokens|gaps)")

# What makes each array, in words; and the arrays of a layer and of the model in the order in which they are computed.
MADE_BY = {"patch_conv": "the patch embedding", "vision_ln_pre": "the norm in front of the encoder",
           "projector": "the projector", "embed": "the embedding of the tokens", "norm": "the last norm",
           "logits": "the output matrix", "attention_norm": "norm before attention",
           "q": "queries: wq or their rotation", "k": "keys: wk or their rotation", "v": "values: wv",
           "mix": "scores, mask, softmax or average of the values", "attn": "output matrix wo",
           "ffn_norm": "norm before the feed-forward", "router_logits": "router", "experts": "choice of the experts",
           "expert_weights": "weights of the chosen experts", "layer": "feed-forward"}
ATTENTION = ("attention_norm", "q", "k", "v", "mix", "attn")
IN_A_LAYER = (*ATTENTION, "ffn_norm", "router_logits", "experts", "expert_weights", "layer")
IN_THE_MODEL = ("patch_conv", "vision_ln_pre", "vision", "projector", "embed", "layers", "norm", "logits")


def kind(name: str) -> str:
    """The name of an array without the number of its layer."""
    return re.sub("[0-9]+$", "", name)


def layer_of(name: str) -> int | None:
    """The number of the layer that an array belongs to; None for an array outside the layers."""
    digits = name[len(kind(name)):]
    return int(digits) if digits else None


def of_patches(name: str) -> bool:
    """Whether the rows of an array are patches, not tokens."""
    return name.startswith("vision_") or kind(name) in ("patch_conv", "projector")


def has_every_row(name: str) -> bool:
    """Whether a file keeps all rows of an array whatever its `positions` are: those of patches, and keys and values."""
    return of_patches(name) or kind(name) in ("k", "v")


def order(name: str) -> tuple:
    """The key that sorts arrays by the order in which a model computes them."""
    base, layer = kind(name), layer_of(name)
    if layer is None:
        return IN_THE_MODEL.index(base), 0, 0
    part = base.removeprefix("vision_")
    return IN_THE_MODEL.index("vision" if base != part else "layers"), layer, IN_A_LAYER.index(part)


def operation(name: str, mixture: bool, has_mix: bool = True) -> str:
    """The operation that makes an array, in words; mixture: whether the feed-forward of the model is experts.

    has_mix: whether the averages were judged by themselves; if not, they too may be to blame for "attn"
    """
    base, layer = kind(name), layer_of(name)
    if layer is None:
        return MADE_BY[base]
    part = base.removeprefix("vision_")
    half = "attention" if part in ATTENTION else "experts" if mixture else "feed-forward"
    made_by = "experts" if part == "layer" and mixture else MADE_BY[part]
    if part == "attn" and not has_mix:
        made_by = f"from the scores to the {made_by}"
    words = f"{half} of layer {layer}" + " of the vision encoder" * (base != part)
    return words if made_by == half else f"{words} ({made_by})"


def shape_of(name: str, tokens: int, rows: int, patches: int, config: Config) -> tuple[int, ...] | None:
    """The shape of an array of the trace, or None if the model has none of this name.

    tokens: of the prompt; rows: how many of them the file keeps; patches: of all images together
    """
    layer = layer_of(name) or 0
    if of_patches(name):
        return patch_shape(kind(name).removeprefix("vision_"), layer, patches, config)
    base, moe = kind(name), config.moe
    if layer >= config.n_layers or (moe is None and base.startswith(("router", "expert"))):
        return None
    if base in ("k", "v"):
        return tokens, config.n_kv_heads, config.head_dim
    if base == "q":
        return rows, config.n_heads, config.head_dim
    experts, chosen = (moe.num_experts, moe.num_experts_per_tok) if moe else (0, 0)
    return rows, {"logits": config.vocab_size, "mix": config.n_heads * config.head_dim, "router_logits": experts,
                  "experts": chosen, "expert_weights": chosen}.get(base, config.dim)


def patch_shape(part: str, layer: int, patches: int, config: Config) -> tuple[int, ...] | None:
    """The shape of an array of the vision encoder or the projector; None if the model has no such array."""
    vision = config.vision
    if vision is None or layer >= vision.num_hidden_layers:
        return None
    if part in ("q", "k", "v"):
        return patches, vision.num_attention_heads, vision.head_dim
    return patches, config.dim if part == "projector" else vision.hidden_size
