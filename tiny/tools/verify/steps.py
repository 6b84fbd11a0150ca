"""Each operation of this code on the other implementation's own inputs: an error in layer 2 shows in layer 2 alone.

The input of an operation is taken from the file and its output is compared with the file; nothing is carried on.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tiny.decoder import ExpertMatrices
from tiny.numerics import round_to
from tiny.patch_embed import grid_of
from tiny.rope_2d import patch_positions
from tiny.tools.verify.file import Dump
from tiny.tools.verify.names import kind


class Step(NamedTuple):
    """One comparison: the name of the array, ours and theirs, and the rows that errors are judged by if not theirs.

    again(**changed) computes ours with something changed, to try out what the other implementation may do.
    """

    name: str
    ours: np.ndarray
    theirs: np.ndarray
    scale: np.ndarray | None = None
    again: Callable[..., np.ndarray] | None = None


class Stage(NamedTuple):
    """One half of the model: the encoder's layers, or the decoder's.

    label: how names of its arrays begin; scope: how names of its weights begin; heads: queries, keys; lengths: of the
    sequences or images; positions: (T,) of all tokens or (N, 2) of all patches; held: the rows that the file holds
    """

    label: str
    scope: str
    config: Any
    layers: int
    heads: tuple[int, int]
    lengths: list[int]
    positions: np.ndarray
    held: np.ndarray


def stages(model, dump: Dump) -> Iterator[Stage]:
    """The encoder, if there are images, then the decoder."""
    config, vision = model.config, model.config.vision
    grids = [grid_of(x, vision.patch_size) for x in dump.numbered("pixels")]
    if grids:
        count = sum(columns * rows for columns, rows in grids)
        yield Stage("vision_", "vision_encoder.transformer.", vision, vision.num_hidden_layers,
                    (vision.num_attention_heads,) * 2, [columns * rows for columns, rows in grids],
                    patch_positions(grids), np.arange(count))
    yield Stage("", "", config, config.n_layers, (config.n_heads, config.n_kv_heads), [len(dump.ids)],
                np.arange(len(dump.ids)), dump.positions)


def steps(model, dump: Dump) -> Iterator[Step]:
    """Every operation whose inputs and output the file has, in the order in which the model computes them."""
    for stage in stages(model, dump):
        yield from (vision_inputs if stage.label else text_inputs)(model, dump)
        for n in range(stage.layers):
            yield from layer_steps(model, dump, stage, n)
    yield from outputs(model, dump)


def vision_inputs(model, dump: Dump) -> Iterator[Step]:
    """The patch embedding, and the norm in front of the encoder."""
    ops, precision, arrays, images = model.ops, model.precision, dump.arrays, dump.numbered("pixels")

    def embedded(images=images):
        pixels = [image.astype(np.float32) for image in images]
        return ops.patch_embed(pixels, model.weights["vision_encoder.patch_conv.weight"], precision)

    if "patch_conv" in arrays:
        yield Step("patch_conv", embedded(), arrays["patch_conv"], again=embedded)
    if "vision_ln_pre" in arrays and "patch_conv" in arrays:
        yield from norm_step(model, "vision_ln_pre", arrays["patch_conv"], "vision_encoder.ln_pre.weight",
                             model.config.vision.norm_eps, arrays)


def text_inputs(model, dump: Dump) -> Iterator[Step]:
    """The projector, and the vectors of the tokens with those of the patches in their places."""
    arrays, vision = dump.arrays, model.config.vision
    ids = dump.ids[dump.positions]
    last = f"vision_layer{vision.num_hidden_layers - 1:02}" if vision else ""
    if "projector" in arrays and last in arrays:
        def projected(gelu=None):
            if gelu is None:
                return model.ops.adapter(f32(arrays[last]), model.weights, model.precision)
            return adapter_with(f32(arrays[last]), model.weights, gelu, model.precision)
        yield Step("projector", projected(), arrays["projector"], again=projected)
    if "embed" in arrays:
        x = model.weights["tok_embeddings.weight"][ids].astype(np.float32)
        seen = np.zeros(len(ids), bool) if vision is None or not dump.numbered("pixels") else (
            ids == vision.image_token_id)
        if seen.any():
            which = (np.cumsum(dump.ids == vision.image_token_id) - 1)[dump.positions][seen]
            x[seen] = arrays["projector"][which] if "projector" in arrays else arrays["embed"][seen]
        yield Step("embed", x, arrays["embed"])


def layer_steps(model, dump: Dump, stage: Stage, n: int) -> Iterator[Step]:
    """All operations of one layer."""
    arrays = {kind(name).removeprefix(stage.label): f32(x) for name, x in dump.arrays.items()
              if name.startswith(stage.label) and name == f"{kind(name)}{n:02}"}
    before = f"layer{n - 1:02}" if n else "ln_pre" if stage.label else "embed"
    if stage.label + before in dump.arrays:
        arrays["x"] = f32(dump.arrays[stage.label + before])
    for half in (attention_steps, feed_forward_steps):
        for step in half(model, arrays, stage, n):
            yield step._replace(name=f"{stage.label}{step.name}{n:02}")


def attention_steps(model, arrays: dict, stage: Stage, n: int) -> Iterator[Step]:
    """The norm; queries, keys and values, turned by their positions; the averages; the output matrix."""
    ops, precision, config = model.ops, model.precision, stage.config
    if "x" in arrays:
        name = f"{stage.scope}layers.{n}.attention_norm.weight"
        normed = ops.rms_norm(arrays["x"], model.weights[name], config.norm_eps, precision)
        if "attention_norm" in arrays:
            yield from norm_step(model, "attention_norm", arrays["x"], name, config.norm_eps, arrays)
        normed = arrays.get("attention_norm", normed)
        for what in (key for key in "qkv" if key in arrays):
            yield projection(model, arrays, stage, n, what, normed)
    if {"q", "k", "v"} <= arrays.keys():
        def mixed(**changed):
            return average(model, stage, arrays["q"], arrays["k"], arrays["v"], **changed)

        mix = mixed()
        if "mix" in arrays:
            yield Step("mix", mix, arrays["mix"], again=mixed)
        if "attn" in arrays:
            wo = model.weights[f"{stage.scope}layers.{n}.attention.wo.weight"]
            yield Step("attn", ops.linear(arrays.get("mix", mix), wo, precision), arrays["attn"],
                       again=None if "mix" in arrays else lambda **c: ops.linear(mixed(**c), wo, precision))


def projection(model, arrays: dict, stage: Stage, n: int, what: str, normed: np.ndarray) -> Step:
    """Queries, keys or values from the normalised stream, in those rows that the file has."""
    ops, config, matrix = model.ops, stage.config, model.weights[f"{stage.scope}layers.{n}.attention.w{what}.weight"]

    def projected(order=lambda weight: weight, theta=config.rope_theta, positions=stage.positions[stage.held]):
        x = ops.linear(normed, order(matrix), model.precision).reshape(len(normed), -1, config.head_dim)
        if what == "v":
            return x
        table = ops.rope_2d_table if stage.label else ops.rope_table
        return ops.rope(x, *table(positions, config.head_dim, theta), model.precision)

    theirs = arrays[what] if what == "q" else arrays[what][stage.held]
    return Step(what, projected(), theirs, again=projected)


def average(model, stage: Stage, q, k, v, lengths=None, tiled: bool = False, window: int = 0) -> np.ndarray:
    """Attention of the rows that the file holds; if it does not hold all, each row is a sequence with its own keys.

    window: how many tokens each sees at most, itself included; 0 is all
    """
    every = len(stage.held) == sum(stage.lengths) and not window
    lengths = (lengths or stage.lengths) if every else [1] * len(stage.held)
    stops = np.cumsum(lengths).tolist()
    first = np.maximum(0, stage.held + 1 - window) if window else np.zeros_like(stage.held)
    spans = list(zip([0, *stops], stops)) if every else list(zip(first.tolist(), (stage.held + 1).tolist()))
    heads = np.argsort(np.arange(q.shape[1]) % k.shape[1], kind="stable") if tiled else np.arange(q.shape[1])
    out = np.empty_like(q)
    out[:, heads] = model.ops.attention(np.ascontiguousarray(q[:, heads]), k, v, lengths, spans, causal=not stage.label,
                                        precision=model.precision)
    return out.reshape(len(q), -1)


def feed_forward_steps(model, arrays: dict, stage: Stage, n: int) -> Iterator[Step]:
    """The second norm; router, choice and weights of the experts; the experts, or the one network of a dense layer."""
    config, prefix, precision = stage.config, f"{stage.scope}layers.{n}.", model.precision
    if not {"x", "attn"} <= arrays.keys():
        return
    h = round_to(arrays["x"] + arrays["attn"], precision)
    name = f"{prefix}ffn_norm.weight"
    if "ffn_norm" in arrays:
        yield from norm_step(model, "ffn_norm", h, name, config.norm_eps, arrays)
    y = arrays.get("ffn_norm", model.ops.rms_norm(h, model.weights[name], config.norm_eps, precision))
    if config.moe is not None:
        yield from router_steps(model, arrays, n, y)
        if not {"experts", "expert_weights"} <= arrays.keys():
            return
    if "layer" in arrays:
        def added(names=("w1", "w2", "w3"), activation=None):
            if config.moe is not None and activation is not None:
                raise TypeError("Only the one network of a dense layer is tried with another activation.")
            if config.moe is not None:
                matrices = [ExpertMatrices(model.weights, n, key, config.moe.num_experts) for key in names]
                return model.ops.experts(y, arrays["experts"].astype(np.int64), arrays["expert_weights"], *matrices,
                                         precision)
            w1, w2, w3 = (model.weights[f"{prefix}feed_forward.{key}.weight"] for key in names)
            if activation is None:
                return model.ops.feed_forward(y, w1, w2, w3, precision)
            return model.ops.linear(activation(model.ops.linear(y, w1)) * model.ops.linear(y, w3), w2)

        more = added()
        yield Step("layer", round_to(h + more, precision), arrays["layer"], scale=more,
                   again=lambda **changed: round_to(h + added(**changed), precision))


def router_steps(model, arrays: dict, n: int, y: np.ndarray) -> Iterator[Step]:
    """The logits from the stream; then the choice from their logits, and the weights of their choice."""
    gate, K = model.weights[f"layers.{n}.feed_forward.gate.weight"], model.config.moe.num_experts_per_tok
    if "router_logits" not in arrays:
        return
    logits = arrays["router_logits"]
    yield Step("router_logits", model.ops.route(y, gate, K, model.precision)[0], logits)
    if "experts" in arrays:
        chosen = arrays["experts"].astype(np.int64) % logits.shape[1]
        # What is compared are the logits of the chosen: of equal logits any choice is right.
        best = -np.sort(-logits, axis=1)[:, :K]
        yield Step("experts", best, np.take_along_axis(logits, chosen, axis=1))
        if "expert_weights" in arrays:
            def weights(over=None):
                shares = np.exp(logits - logits.max(axis=1, keepdims=True))
                shares /= shares.sum(axis=1, keepdims=True)
                shares = np.take_along_axis(shares, chosen, axis=1)
                return shares if over == "all" else shares / shares.sum(axis=1, keepdims=True)
            yield Step("expert_weights", weights(), arrays["expert_weights"], again=weights)


def outputs(model, dump: Dump) -> Iterator[Step]:
    """The last norm, and the output matrix."""
    arrays, last = dump.arrays, f"layer{model.config.n_layers - 1:02}"
    if "norm" in arrays and last in arrays:
        yield from norm_step(model, "norm", arrays[last], "norm.weight", model.config.norm_eps, arrays)
    if "logits" in arrays and "norm" in arrays:
        yield Step("logits", model.ops.linear(f32(arrays["norm"]), model.weights["output.weight"], model.precision),
                   arrays["logits"])


def norm_step(model, name: str, x: np.ndarray, weight: str, eps: float, arrays: Mapping) -> Iterator[Step]:
    """One norm."""
    def normed(plus=0.0, eps=eps):
        scale = model.weights[weight].astype(np.float32) + np.float32(plus)
        return model.ops.rms_norm(f32(x), scale, eps, model.precision)

    yield Step(name, normed(), arrays[name], again=normed)


def adapter_with(x: np.ndarray, weights: Mapping, gelu: Callable, precision: str) -> np.ndarray:
    """The projector with another activation."""
    for name in ("w_in", "w_out"):
        matrix, bias = (weights[f"vision_language_adapter.{name}.{part}"] for part in ("weight", "bias"))
        x = round_to(x @ matrix.astype(np.float32).T + bias.astype(np.float32), precision)
        x = round_to(gelu(x), precision) if name == "w_in" else x
    return x


def f32(x: np.ndarray) -> np.ndarray:
    """An array as float32, and whole numbers as they are."""
    return x if x.dtype == np.float32 or x.dtype.kind in "iu" else x.astype(np.float32)
