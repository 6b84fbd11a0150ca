"""The arrays of `verify check` in the order in which a model makes them, and what makes each of them, in words."""

from tiny.tools.verify_file import kind

# What an operation is called, and in which part of a layer it is.
WHAT = {"patch_conv": "the patch embedding", "vision_ln_pre": "the norm in front of the encoder",
        "projector": "the projector", "embed": "the embedding of the tokens", "norm": "the last norm",
        "logits": "the output matrix", "attention_norm": "norm before attention", "q": "queries: wq or their rotation",
        "k": "keys: wk or their rotation", "v": "values: wv", "mix": "scores, mask, softmax or average of the values",
        "attn": "output matrix wo", "ffn_norm": "norm before the feed-forward", "router_logits": "router",
        "experts": "choice of the experts", "expert_weights": "weights of the chosen experts", "layer": "feed-forward"}
ATTENTION = ("attention_norm", "q", "k", "v", "mix", "attn")
PARTS = [*ATTENTION, "ffn_norm", "router_logits", "experts", "expert_weights", "layer"]
OUTSIDE = ["patch_conv", "vision_ln_pre", "vision", "projector", "embed", "layers", "norm", "logits"]


def place(name: str, mixture: bool) -> dict:
    """Where an array is made: the layer, and the operation in words."""
    base, number = kind(name), name[len(kind(name)):]
    if not number:
        return {"array": name, "layer": None, "encoder": False, "operation": WHAT.get(base, base)}
    encoder, part = base.startswith("vision_"), base.removeprefix("vision_")
    half = "attention" if part in ATTENTION else "experts" if mixture else "feed-forward"
    what = "experts" if part == "layer" and mixture else WHAT.get(part, part)
    words = f"{half} of layer {int(number)}" + " of the vision encoder" * encoder
    return {"array": name, "layer": int(number), "encoder": encoder,
            "operation": words if what == half else f"{words} ({what})"}


def order(name: str) -> tuple:
    """The order in which a model computes its arrays."""
    base, number = kind(name), name[len(kind(name)):]
    if not number:
        return OUTSIDE.index(base), 0, 0
    part = base.removeprefix("vision_")
    return OUTSIDE.index("vision" if base != part else "layers"), int(number), PARTS.index(part)


def whole(name: str) -> bool:
    """Whether a file keeps all rows of an array: those of patches, and keys and values."""
    return name.startswith("vision_") or kind(name) in ("patch_conv", "projector", "k", "v")
