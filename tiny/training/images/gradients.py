"""Loss and gradients of pictures: the encoder with labels for every patch, and the whole model with its answers.

As in `../gradients.py`, the forward pass is the book's model with operations at the seam that keep what their backward
passes need. Read `train.py` next.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import tiny.ops
from tiny.config import VisionConfig
from tiny.decoder import ForwardPass
from tiny.patch_embed import grid_of
from tiny.pixtral import Pixtral, vision_of
from tiny.rope import rope_table
from tiny.rope_2d import patch_positions, rope_2d_table
from tiny.training.backward import cross_entropy, linear_backward, rms_norm_backward
from tiny.training.gradients import Stack, mixture_backward, self_attention_backward
from tiny.training.images.backward import (
    adapter_backward,
    complex_rope,
    equal_attention_backward,
    keeping_equal_attention,
    keeping_feed_forward,
    merge_backward,
    patch_embed_backward,
)
from tiny.training.images.batches import Batch
from tiny.vision import vision_encoder

Tensors = Mapping[str, np.ndarray]


class Head(NamedTuple):
    """One label of a patch: its classes, its share of the loss, and the weight of class 0, background or no answer."""

    classes: int
    share: float
    background: float


class ForwardStates:
    """Operations for one forward pass, and the lists of what they keep for the backward pass."""

    def __init__(self, mask: np.ndarray | None = None, positions: np.ndarray | None = None):
        self.images: list = []
        self.texts: list = []
        self.networks: list = []
        self.ops: Any = SimpleNamespace(**{name: getattr(tiny.ops, name) for name in tiny.ops.__all__})
        self.ops.rope = complex_rope
        self.ops.attention = keeping_equal_attention(self.images, self.texts, mask)
        self.ops.feed_forward = keeping_feed_forward(self.networks)
        if positions is not None:
            # all questions about a picture have positions that begin where the picture ends
            self.ops.rope_table = lambda packed, head_dim, theta: rope_table(positions, head_dim, theta)


def label_loss(features: np.ndarray, labels: np.ndarray, heads: Mapping[str, Head], weights: Tensors, grads: Tensors,
               scale: float = 1.0) -> tuple[dict[str, float], np.ndarray]:
    """The loss of linear heads that name what each patch shows, and its gradient times scale.

    Shapes:  features (N, W), labels (heads, N) int -> the share of patches that each head has right, of those that show
             something, and `loss`; dfeatures (N, W). weights and grads: "heads.weight" (all classes, W), "heads.bias"
    """
    logits = features @ weights["heads.weight"].T + weights["heads.bias"]
    dlogits = np.zeros_like(logits)
    result, first, total = {}, 0, 0.0
    for (name, head), targets in zip(heads.items(), labels, strict=True):
        part = slice(first, first + head.classes)
        counted = np.where(targets > 0, 1, head.background).astype(np.float32)
        if counted.any():
            loss, gradient = cross_entropy(logits[:, part], targets, counted)
            dlogits[:, part] = gradient * np.float32(head.share * scale)
            total += head.share * loss
            shown = targets > 0
            if shown.any():
                result[name] = float((logits[shown, part].argmax(axis=1) == targets[shown]).mean())
        first += head.classes
    dlogits.sum(axis=0, out=grads["heads.bias"])
    return result | {"loss": total}, linear_backward(dlogits, features, weights["heads.weight"], grads["heads.weight"])


def encoder_loss(images: Sequence[np.ndarray], labels: np.ndarray, vision: VisionConfig, heads: Mapping[str, Head],
                 weights: Tensors, grads: Tensors) -> dict[str, float]:
    """Loss and gradients of the encoder alone, with labels for every patch. The gradients are written into grads."""
    trace: dict[str, np.ndarray] = {}
    states = ForwardStates()
    # (1) the book's encoder
    nothing = np.empty(0, np.float32)
    run = ForwardPass([], nothing, nothing, None, trace, states.ops, "float32")
    features = vision_encoder(images, weights, vision, run)
    # (2) the labels, (3) back
    result, dfeatures = label_loss(features, labels, heads, weights, grads)
    encoder_backward(dfeatures, images, vision, weights, grads, trace, states)
    return result


def encoder_backward(dout: np.ndarray, images: Sequence[np.ndarray], vision: VisionConfig, weights: Tensors,
                     grads: Tensors, trace: Tensors, states: ForwardStates) -> None:
    """The gradients of the encoder's weights from that of its output. Shapes:  dout (N, hidden_size)."""
    grids = [grid_of(pixels, vision.patch_size) for pixels in images]
    angles = rope_2d_table(patch_positions(grids), vision.head_dim, vision.rope_theta)
    stack = Stack(vision, weights, grads, trace, angles, partial(equal_attention_backward, sequences=len(images)),
                  scope="vision_encoder.transformer.", label="vision_")
    dx = dout.copy()
    # (1) the layers, last to first
    for layer in reversed(range(vision.num_hidden_layers)):
        x = stack.input(layer, "vision_ln_pre")
        dx += mixture_backward(dx, x, layer, stack, states.networks.pop())
        dx += self_attention_backward(dx, x, layer, stack, states.images.pop())
    # (2) the first norm, (3) the patches
    norm = "vision_encoder.ln_pre.weight"
    dx = rms_norm_backward(dx, trace["patch_conv"], weights[norm], vision.norm_eps, grads[norm])
    patch_embed_backward(dx, images, grads["vision_encoder.patch_conv.weight"])


def answer_loss(model: Pixtral, batch: Batch, grads: Tensors, heads: Mapping[str, Head] | None = None,
                dense: float = 0.0) -> dict[str, float]:
    """Loss and gradients of the whole model on its answers, written into grads.

    With heads the encoder learns too, and dense times the loss of its labels is added; without, it is frozen and gets
    no gradients.
    """
    config, vision, weights = model.config, vision_of(model.config), model.weights
    trace: dict[str, np.ndarray] = {}
    states = ForwardStates(batch.mask, batch.positions)
    # (1) forward: the book's model
    sequences, length = batch.mask.shape[:2]
    Pixtral(config, weights, ops=states.ops)(batch.ids, batch.images, lengths=[length] * sequences, trace=trace)
    # (2) the loss of the answers
    loss, dlogits = cross_entropy(trace["logits"], batch.targets, batch.weights)
    counted = batch.weights > 0
    right = float((trace["logits"][counted].argmax(axis=1) == batch.targets[counted]).mean())
    # (3) the output, the last norm, the decoder's layers
    dx = linear_backward(dlogits, trace["norm"], weights["output.weight"], grads["output.weight"])
    last = trace[f"layer{config.n_layers - 1:02}"]
    dx = rms_norm_backward(dx, last, weights["norm.weight"], config.norm_eps, grads["norm.weight"])
    stack = Stack(config, weights, grads, trace, rope_table(batch.positions, config.head_dim, config.rope_theta),
                  partial(equal_attention_backward, sequences=sequences))
    for layer in reversed(range(config.n_layers)):
        x = stack.input(layer, "embed")
        dx += mixture_backward(dx, x, layer, stack, states.networks.pop())
        dx += self_attention_backward(dx, x, layer, stack, states.texts.pop())
    # (4) the merge and the adapter
    dx = merge_backward(dx, batch.ids, vision.image_token_id, grads["tok_embeddings.weight"])
    features = trace[f"vision_layer{vision.num_hidden_layers - 1:02}"]
    dx = adapter_backward(dx, features, weights, grads)
    result = {"answers": loss, "right": right}
    # (5) the encoder
    if heads:
        labels, dense_dx = label_loss(features, batch.labels, heads, weights, grads, dense)
        encoder_backward(dx + dense_dx, batch.images, vision, weights, grads, trace, states)
        result |= labels
    return result
