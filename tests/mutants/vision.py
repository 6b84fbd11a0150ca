"""Classic wrong answers of a vision model, each a few lines, that the comparison with the oracle must refuse.

A mutant spoils one part of a `Sight`: the operations, the weights, the class of the model, or, in `patches`, a name in
a module of `tiny`.
"""

from dataclasses import dataclass, field

import numpy as np

import tiny.adapter
import tiny.pixtral
from tests.mutants.model import Subject
from tiny.files.weights import pairs_to_halves
from tiny.numerics import gelu, linear
from tiny.pixtral import Pixtral

ENCODER, ADAPTER = "vision_encoder.", "vision_language_adapter."
BREAK, END = 12, 13


@dataclass
class Sight(Subject):
    """A subject with more to spoil. patches: (module, name, what stands there instead)."""

    model: type = Pixtral
    patches: list = field(default_factory=list)


def turn_by(s, angles):
    """Replace the angles of a patch: angles(rows, columns, frequencies), each of the first two (N, 1)."""
    def table(positions, head_dim, theta):
        frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
        a = np.concatenate(angles(positions[:, :1], positions[:, 1:], frequencies), axis=1)
        return np.cos(a).astype(np.float32), np.sin(a).astype(np.float32)
    s.ops.rope_2d_table = table


def frequencies_split_in_halves(s):
    turn_by(s, lambda rows, columns, f: (rows * f[: len(f) // 2], columns * f[len(f) // 2 :]))


def rows_take_the_odd_frequencies(s):
    turn_by(s, lambda rows, columns, f: (rows * f[1::2], columns * f[0::2]))


def rows_and_columns_swapped(s):
    turn_by(s, lambda rows, columns, f: (columns * f[0::2], rows * f[1::2]))


def row_and_column_alternate_as_the_paper_draws_it(s):
    def angles(rows, columns, f):
        a = rows * f
        a[:, 1::2] = columns * f[1::2]
        return (a,)
    turn_by(s, angles)


def positions_in_one_dimension(s):
    table = s.ops.rope_table
    s.ops.rope_2d_table = lambda positions, head_dim, theta: table(np.arange(len(positions)), head_dim, theta)


def positions_not_restarted_per_image(s):
    """All patches are counted on as rows of the first image's width. Rows that only began further down would turn the
    queries and keys of an image alike, which no score shows; `test_rope_2d.py` compares the positions themselves.
    """
    table = s.ops.rope_2d_table

    def going_on(positions, head_dim, theta):
        width = int(np.argmax(positions[:, 0] > 0))
        return table(np.stack(np.divmod(np.arange(len(positions)), width), axis=1), head_dim, theta)
    s.ops.rope_2d_table = going_on


def encode_with(s, **changed):
    """Let the encoder, and not the decoder, use other operations: changed[name](the right one) is the wrong one."""
    for name, make in changed.items():
        right = getattr(s.ops, name)
        setattr(s.ops, name, make(right))


def mask_between_images_dropped(s):
    encode_with(s, attention=lambda right: lambda q, k, v, lengths, spans, causal=True, precision="float32": (
        right(q, k, v, lengths, spans, causal, precision) if causal else
        right(q, k, v, [len(q)], [(0, len(q))], causal, precision)))


def encoder_is_causal(s):
    encode_with(s, attention=lambda right: lambda q, k, v, lengths, spans, causal=True, precision="float32": (
        right(q, k, v, lengths, spans, True, precision)))


def of_the_encoder(s, weight):
    """Whether the first matrix of a feed-forward network is the encoder's: its width tells."""
    return weight.shape[1] == s.config.vision.hidden_size


def gelu_for_silu_in_the_encoder(s):
    def make(right):
        def feed_forward(x, w1, w2, w3, precision):
            if not of_the_encoder(s, w1):
                return right(x, w1, w2, w3, precision)
            return linear(gelu(linear(x, w1)) * linear(x, w3), w2)
        return feed_forward
    encode_with(s, feed_forward=make)


def w1_and_w3_swapped_in_the_encoder(s):
    encode_with(s, feed_forward=lambda right: lambda x, w1, w2, w3, precision: (
        right(x, w3, w2, w1, precision) if of_the_encoder(s, w1) else right(x, w1, w2, w3, precision)))


def ln_pre_left_out(s):
    weight = s.weights[f"{ENCODER}ln_pre.weight"]
    encode_with(s, rms_norm=lambda right: lambda x, w, eps, precision: (
        x if w is weight else right(x, w, eps, precision)))


def ln_pre_subtracts_the_mean(s):
    """A LayerNorm, as its name says and its weights do not."""
    weight = s.weights[f"{ENCODER}ln_pre.weight"]
    encode_with(s, rms_norm=lambda right: lambda x, w, eps, precision: (
        right(x - x.mean(axis=1, keepdims=True) if w is weight else x, w, eps, precision)))


def a_norm_after_the_encoder(s):
    encoder, norm = tiny.pixtral.vision_encoder, s.ops.rms_norm

    def wrong(*arguments):
        x = encoder(*arguments)
        return norm(x, np.ones(x.shape[1], np.float32), 1e-5, "float32")
    s.patches.append((tiny.pixtral, "vision_encoder", wrong))


def the_last_layer_but_one(s):
    """transformers' default for LLaVA models, which Pixtral's file overrides."""
    encoder = tiny.pixtral.vision_encoder

    def wrong(images, weights, vision, run):
        layer = f"vision_layer{vision.num_hidden_layers - 2:02}"
        trace = {}
        run.trace, kept = trace, run.trace
        encoder(images, weights, vision, run)
        run.trace = kept
        return trace[layer]
    s.patches.append((tiny.pixtral, "vision_encoder", wrong))


def tanh_gelu_in_the_adapter(s):
    def wrong(x):
        return x / 2 * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x**3)))
    s.patches.append((tiny.adapter, "gelu", wrong))


def silu_in_the_adapter(s):
    s.patches.append((tiny.adapter, "gelu", lambda x: x / (1 + np.exp(-x))))


def without(s, names):
    s.weights = s.weights | {name: np.zeros_like(s.weights[name]) for name in names}


def adapter_bias_dropped(s):
    without(s, [f"{ADAPTER}{part}.bias" for part in ("w_in", "w_out")])


def first_adapter_bias_dropped(s):
    without(s, [f"{ADAPTER}w_in.bias"])


def hf_rows_of_the_encoder_not_undone(s):
    s.weights = {name: pairs_to_halves(x, s.config.vision.head_dim)
                 if name.startswith(ENCODER) and name.endswith((".wq.weight", ".wk.weight")) else x
                 for name, x in s.weights.items()}


def patch_vectors(s, order):
    """Take the numbers of a patch in another order: order(squares (N, C, p, p)) -> (N, ...)."""
    def patch_embed(images, weight, precision):
        p, rows = weight.shape[-1], []
        for pixels in images:
            for row in range(0, pixels.shape[1], p):
                rows += [pixels[:, row : row + p, column : column + p] for column in range(0, pixels.shape[2], p)]
        return linear(order(np.array(rows)).reshape(len(rows), -1), weight.reshape(len(weight), -1))
    s.ops.patch_embed = patch_embed


def channels_last_in_a_patch(s):
    patch_vectors(s, lambda squares: squares.transpose(0, 2, 3, 1))


def columns_before_rows_in_a_patch(s):
    patch_vectors(s, lambda squares: squares.swapaxes(2, 3))


def blue_for_red(s):
    patch_vectors(s, lambda squares: squares[:, ::-1])


def patches_column_by_column(s):
    right = s.ops.patch_embed

    def patch_embed(images, weight, precision):
        p, parts = weight.shape[-1], []
        for pixels in images:
            x = right([pixels], weight, precision)
            parts.append(x.reshape(pixels.shape[1] // p, -1, x.shape[1]).swapaxes(0, 1).reshape(x.shape))
        return np.concatenate(parts)
    s.ops.patch_embed = patch_embed


def images_in_reverse_order(s):
    right = s.ops.patch_embed

    def patch_embed(images, weight, precision):
        parts = [right([pixels], weight, precision) for pixels in images]
        return np.concatenate(parts[::-1])
    s.ops.patch_embed = patch_embed


def embed_with(s, change):
    """Change the embeddings after the merge: change(x, ids, table)."""
    class Spoiled(s.model):
        def embed(self, ids, images, run):
            return change(super().embed(ids, images, run), ids, self.weights["tok_embeddings.weight"])
    s.model = Spoiled


def break_tokens_missing(s):
    """Their rows are empty."""
    def change(x, ids, table):
        x[ids == BREAK] = 0
        return x
    embed_with(s, change)


def break_tokens_overwritten(s):
    """By the patch in front of them."""
    def change(x, ids, table):
        at = np.flatnonzero(ids == BREAK)
        x[at] = x[at - 1]
        return x
    embed_with(s, change)


def ends_of_images_are_breaks(s):
    def change(x, ids, table):
        x[ids == END] = table[BREAK]
        return x
    embed_with(s, change)


def patches_added_to_the_embedding_of_their_token(s):
    def change(x, ids, table):
        x[ids == 10] += table[10]
        return x
    embed_with(s, change)


VISION_MUTANTS = {f.__name__: f for f in (
    frequencies_split_in_halves, rows_take_the_odd_frequencies, rows_and_columns_swapped,
    row_and_column_alternate_as_the_paper_draws_it, positions_in_one_dimension, positions_not_restarted_per_image,
    mask_between_images_dropped, encoder_is_causal, gelu_for_silu_in_the_encoder, w1_and_w3_swapped_in_the_encoder,
    ln_pre_left_out, ln_pre_subtracts_the_mean, a_norm_after_the_encoder, the_last_layer_but_one,
    tanh_gelu_in_the_adapter, silu_in_the_adapter, adapter_bias_dropped, first_adapter_bias_dropped,
    hf_rows_of_the_encoder_not_undone, channels_last_in_a_patch, columns_before_rows_in_a_patch, blue_for_red,
    patches_column_by_column, images_in_reverse_order, break_tokens_missing, break_tokens_overwritten,
    ends_of_images_are_breaks, patches_added_to_the_embedding_of_their_token)}
