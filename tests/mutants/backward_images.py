"""Classic mistakes in the backward passes of the vision half, which finite differences must refuse.

A mutant puts a wrong function in the place of one that `tiny.training.images` uses; most call the right one and spoil
what it is given or what it gives.
"""

import numpy as np

from tiny.numerics import erf
from tiny.training.images import backward, gradients

B_IN, B_OUT = (f"vision_language_adapter.{name}.bias" for name in ("w_in", "w_out"))


def spoil(patch, name, make, module=backward):
    """Replace a function of the module: make(the right one) is the wrong one."""
    patch.setattr(module, name, make(getattr(module, name)))


# ---- positions and attention


def turned_the_other_way(patch):
    spoil(patch, "complex_rope", lambda right: lambda x, cos, sin, precision="float32": right(x, cos, -sin))


def turned_by_another_patchs_angles(patch):
    spoil(patch, "complex_rope", lambda right: lambda x, cos, sin, precision="float32": right(x, cos[::-1], sin[::-1]))


def images_treated_as_causal(patch):
    def make(right):
        def keeping(images, texts, mask):
            def attention(q, keys, values, lengths, spans=(), causal=True, precision="float32"):
                return right(images, texts if causal else images, mask)(q, keys, values, lengths, spans, True)
            return attention
        return keeping
    spoil(patch, "keeping_equal_attention", make)


def with_mask(patch, change):
    """Give the attention of texts another mask [text, key, query]."""
    spoil(patch, "keeping_equal_attention", lambda right: lambda images, texts, mask: (
        right(images, texts, change(mask))))


def the_mask_between_questions_forgotten(patch):
    with_mask(patch, lambda mask: np.tril(np.full_like(mask, -np.inf), -1))


def texts_see_what_comes(patch):
    with_mask(patch, np.zeros_like)


def the_mask_by_query_and_key(patch):
    with_mask(patch, lambda mask: mask.mT)


def the_mask_of_the_wrong_text(patch):
    with_mask(patch, lambda mask: mask[::-1])


def the_mask_of_the_wrong_heads(patch):
    """The columns of the mask repeat as a whole, not each for its own heads."""
    def make(right):
        def wrong(q, keys, values, mask):
            if mask is not None:
                n, T, columns = mask.shape
                mask = mask.reshape(n, T, T, columns // T).swapaxes(2, 3).reshape(mask.shape)
            return right(q, keys, values, mask)
        return wrong
    spoil(patch, "attend", make)


def keys_and_values_swapped(patch):
    def make(right):
        def wrong(*arguments):
            dq, dkeys, dvalues, out = right(*arguments)
            return dq, dvalues, dkeys, out
        return wrong
    spoil(patch, "equal_attention_backward", make)


def images_kept_among_the_texts(patch):
    spoil(patch, "keeping_equal_attention", lambda right: lambda images, texts, mask: right(texts, texts, mask))


# ---- networks, patches, GELU


def gate_and_linear_branch_swapped(patch):
    spoil(patch, "swiglu", lambda right: lambda x, w1, w3: right(x, w3, w1))


def images_order_swapped(patch):
    spoil(patch, "patch_embed_backward", lambda right: lambda dout, images, dw: right(dout, images[::-1], dw))


def squares_read_by_columns(patch):
    def make(right):
        def wrong(pixels, side):
            vectors = right(pixels, side)
            return vectors.reshape(len(vectors), -1, side, side).mT.reshape(vectors.shape)
        return wrong
    spoil(patch, "patches", make)


def the_slope_of_the_tanh_form(patch):
    def wrong(dout, x):
        t = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))
        return dout * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (2 / np.pi) ** 0.5 * (1 + 0.134145 * x**2))
    patch.setattr(backward, "gelu_backward", wrong)


def the_slope_of_the_probability_forgotten(patch):
    patch.setattr(backward, "gelu_backward", lambda dout, x: dout * 0.5 * (1 + erf(x * 0.5**0.5)))


def the_density_of_another_spread(patch):
    patch.setattr(backward, "gelu_backward", lambda dout, x: (
        dout * (0.5 * (1 + erf(x * 0.5**0.5)) + x * np.exp(-x * x) * (2 * np.pi) ** -0.5)))


# ---- the adapter and the merge


def without_gradient(patch, name):
    """The gradient of one bias is not written."""
    spoil(patch, "adapter_backward", lambda right: lambda dout, x, weights, grads: (
        right(dout, x, weights, {**grads, name: np.empty_like(grads[name])})))


def the_first_bias_gradient_missing(patch):
    without_gradient(patch, B_IN)


def the_second_bias_gradient_missing(patch):
    without_gradient(patch, B_OUT)


def the_bias_gradient_a_mean(patch):
    def make(right):
        def wrong(dout, x, weights, grads):
            dx = right(dout, x, weights, grads)
            grads[B_IN][...] /= len(x)
            return dx
        return wrong
    spoil(patch, "adapter_backward", make)


def the_bias_forgotten_on_the_way_forward(patch):
    spoil(patch, "adapter_backward", lambda right: lambda dout, x, weights, grads: (
        right(dout, x, {**weights, B_IN: np.zeros_like(weights[B_IN])}, grads)))


def the_second_map_without_the_gelu(patch):
    spoil(patch, "gelu", lambda right: lambda x: x)


def rows_of_images_leak_into_the_gradient_of_the_embedding(patch):
    def make(right):
        def wrong(dout, ids, image_token_id, dw):
            patches = right(dout, ids, image_token_id, dw)
            backward.embedding_backward(dout, ids, dw)
            return patches
        return wrong
    spoil(patch, "merge_backward", make)


def images_order_swapped_in_the_merge(patch):
    spoil(patch, "merge_backward", lambda right: lambda *arguments: right(*arguments)[::-1])


def patches_get_the_first_rows(patch):
    spoil(patch, "merge_backward", lambda right: lambda dout, *arguments: dout[: len(right(dout, *arguments))])


# ---- the labels of patches


def with_heads(patch, **fields):
    """The loss of the labels, with other fields of every head."""
    spoil(patch, "label_loss", lambda right: lambda features, labels, heads, *rest: (
        right(features, labels, {name: head._replace(**fields) for name, head in heads.items()}, *rest)), gradients)


def the_weight_of_the_background_ignored(patch):
    with_heads(patch, background=1.0)


def the_background_left_out(patch):
    with_heads(patch, background=0.0)


def the_share_of_a_head_not_in_the_gradient(patch):
    def make(right):
        def wrong(features, labels, heads, weights, grads, scale=1.0):
            result, _ = right(features, labels, heads, weights, grads, scale)
            alike = {name: head._replace(share=1.0) for name, head in heads.items()}
            return result, right(features, labels, alike, weights, grads, scale)[1]
        return wrong
    spoil(patch, "label_loss", make, gradients)


def the_scale_forgotten(patch):
    spoil(patch, "label_loss", lambda right: lambda features, labels, heads, weights, grads, scale=1.0: (
        right(features, labels, heads, weights, grads)), gradients)


def all_heads_read_the_same_classes(patch):
    def make(right):
        def wrong(features, labels, heads, weights, grads, scale=1.0):
            rows = np.concatenate([np.arange(head.classes) for head in heads.values()])
            first = {name: weights[name][rows] for name in ("heads.weight", "heads.bias")}
            return right(features, labels, heads, {**weights, **first}, grads, scale)
        return wrong
    spoil(patch, "label_loss", make, gradients)


def the_bias_gradient_of_the_heads_missing(patch):
    spoil(patch, "label_loss", lambda right: lambda features, labels, heads, weights, grads, scale=1.0: (
        right(features, labels, heads, weights, {**grads, "heads.bias": np.empty_like(grads["heads.bias"])}, scale)),
        gradients)


def the_background_counts_as_right(patch):
    """The share of all patches that a head has right, not only of those that show something."""
    def make(right):
        def wrong(features, labels, heads, weights, grads, scale=1.0):
            result, dfeatures = right(features, labels, heads, weights, grads, scale)
            logits, first = features @ weights["heads.weight"].T + weights["heads.bias"], 0
            for (name, head), targets in zip(heads.items(), labels):
                best = logits[:, first : first + head.classes].argmax(axis=1)
                result |= {name: float((best == targets).mean())} if name in result else {}
                first += head.classes
            return result, dfeatures
        return wrong
    spoil(patch, "label_loss", make, gradients)


# Every mutant, and the operation whose check must refuse it.
MUTANTS = {
    turned_the_other_way: "rope", turned_by_another_patchs_angles: "rope", images_treated_as_causal: "images",
    the_mask_between_questions_forgotten: "texts", texts_see_what_comes: "texts", the_mask_by_query_and_key: "texts",
    the_mask_of_the_wrong_heads: "texts", the_mask_of_the_wrong_text: "texts", keys_and_values_swapped: "images",
    images_kept_among_the_texts: "images", gate_and_linear_branch_swapped: "feed_forward",
    images_order_swapped: "patch_embed", squares_read_by_columns: "patch_embed", the_slope_of_the_tanh_form: "gelu",
    the_slope_of_the_probability_forgotten: "gelu", the_density_of_another_spread: "gelu",
    the_first_bias_gradient_missing: "adapter", the_second_bias_gradient_missing: "adapter",
    the_bias_gradient_a_mean: "adapter", the_bias_forgotten_on_the_way_forward: "adapter",
    the_second_map_without_the_gelu: "adapter", rows_of_images_leak_into_the_gradient_of_the_embedding: "merge",
    images_order_swapped_in_the_merge: "merge", patches_get_the_first_rows: "merge",
    the_weight_of_the_background_ignored: "label_loss", the_background_left_out: "label_loss",
    the_share_of_a_head_not_in_the_gradient: "label_loss", the_scale_forgotten: "label_loss",
    all_heads_read_the_same_classes: "label_loss", the_bias_gradient_of_the_heads_missing: "label_loss",
    the_background_counts_as_right: "label_loss"}
