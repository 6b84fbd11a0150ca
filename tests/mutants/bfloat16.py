"""Mistakes in rounding points and in orders of addition, which the stored bits of PyTorch must refuse.

A mutant puts a wrong function in the place of one that models in bfloat16 use. A rounding point is known by its
operation and by its place among the points of that operation, in the order in which they round.
"""

from contextlib import contextmanager
from itertools import count

import numpy as np
import pytest

import tiny.rope
from tiny.numerics import gelu, round_to
from tiny.patch_embed import patches
from tiny.tools.verify import torch_cpu, torch_sums


def spoil(patch, name, make):
    """Replace an operation: make(the right one) is the wrong one."""
    patch.setattr(torch_cpu, name, make(getattr(torch_cpu, name)))


def spoil_sums(patch, name, wrong):
    """Replace an order of addition, in its module and where operations have it from."""
    patch.setattr(torch_sums, name, wrong)
    if hasattr(torch_cpu, name):
        patch.setattr(torch_cpu, name, wrong)


@contextmanager
def roundings(points, of, module=torch_cpu, mark="rounded"):
    """Within one call, points[n](x, precision) stands at rounding point n, 1 to `of`; they may come around again."""
    right, calls = getattr(module, mark), count()

    def rounded(x, precision):
        return points.get(next(calls) % of + 1, right)(x, precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, mark, rounded)
        yield
    assert next(calls) % of == 0, f"{module.__name__}: not {of} rounding points"


def exact(x, precision):
    """No rounding."""
    return x


def without_rounding(patch, name, *points, of, module=torch_cpu, mark="rounded"):
    """Let an operation with this number of rounding points leave out some of them."""
    def make(right):
        def wrong(*arguments, **words):
            with roundings(dict.fromkeys(points, exact), of, module, mark):
                return right(*arguments, **words)
        return wrong
    spoil(patch, name, make)


# ---- rounding points


def norm_rounded_once(patch):
    without_rounding(patch, "rms_norm", 1, of=2)


def rope_rounded_once(patch):
    """The four products are not rounded, only the cosines, the sines and the sums."""
    without_rounding(patch, "rope", 3, 4, 5, 6, of=7, module=tiny.rope, mark="round_to")


def cosines_not_rounded(patch):
    without_rounding(patch, "rope", 1, 2, of=7, module=tiny.rope, mark="round_to")


def scale_rounded(patch):
    def make(right):
        def attend(q, keys, values, seen, precision):
            scale = np.full(1, q.shape[-1] ** -0.5, np.float32)
            ratio = round_to(scale, precision) / scale
            with roundings({2: lambda x, precision: round_to(x * ratio, precision)}, of=4):
                return right(q, keys, values, seen, precision)
        return attend
    spoil(patch, "attend", make)


def scale_before_the_first_rounding(patch):
    without_rounding(patch, "attend", 1, of=4)


def scaled_scores_not_rounded(patch):
    without_rounding(patch, "attend", 2, of=4)


def probabilities_not_rounded(patch):
    without_rounding(patch, "attend", 3, of=4)


def residual_not_rounded(patch):
    patch.setattr(torch_cpu, "add", lambda x, y, precision: x + y)


def router_logits_not_rounded(patch):
    without_rounding(patch, "route", 1, of=1)


def router_weights_rounded(patch):
    def make(right):
        def route(*arguments):
            logits, expert_ids, expert_weights = right(*arguments)
            return logits, expert_ids, round_to(expert_weights, "bfloat16")
        return route
    spoil(patch, "route", make)


def expert_term_not_rounded_before_adding(patch):
    without_rounding(patch, "experts", 5, of=6)


def experts_in_falling_order(patch):
    """The experts are numbered from the other end."""
    def make(right):
        def experts(x, expert_ids, expert_weights, *matrices_and_precision):
            *matrices, precision = matrices_and_precision
            last = len(matrices[0]) - 1
            turned = [[matrix[last - e] for e in range(last + 1)] for matrix in matrices]
            return right(x, last - expert_ids, expert_weights, *turned, precision)
        return experts
    spoil(patch, "experts", make)


def silu_not_rounded(patch):
    without_rounding(patch, "experts", 2, of=6)
    without_rounding(patch, "feed_forward", 2, of=5)


def pixels_not_rounded(patch):
    without_rounding(patch, "patch_embed", 1, of=2)


def bias_after_rounding(patch):
    def make(right):
        def adapter(x, weights, precision):
            product = torch_cpu.product
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(torch_cpu, "product", lambda a, b: round_to(product(a, b), precision))
                return right(x, weights, precision)
        return adapter
    spoil(patch, "adapter", make)


def gelu_not_rounded(patch):
    spoil(patch, "gelu", lambda right: lambda x, precision: gelu(x))


# ---- choices, and orders of addition


def gelu_without_the_entries(patch):
    patch.setattr(torch_cpu, "GELU", {})


def stable_top_k(patch):
    spoil(patch, "top_k", lambda right: lambda row, k: np.argsort(-row, kind="stable")[:k])


def pairs_of_q_and_k_side_by_side(patch):
    def make(right):
        def attend(q, keys, values, seen, precision):
            first_and_second = np.arange(q.shape[-1]).reshape(2, -1).T.reshape(-1)
            return right(q[..., first_and_second], keys[..., first_and_second], values, seen, precision)
        return attend
    spoil(patch, "attend", make)


def numpy_softmax(patch):
    patch.setattr(torch_sums, "exp", np.exp)


def in_turn(e):
    """The sum of the last axis, one number after the other."""
    return np.add.accumulate(e, axis=-1)[..., -1]


def in_lanes(e):
    """The sum of the last axis as `torch_sums.softmax` forms it."""
    n = e.shape[-1]
    if n < 16:
        return in_turn(e)
    lanes = np.concatenate([e, np.zeros((*e.shape[:-1], -n % 16), np.float32)], axis=-1).reshape(*e.shape[:-1], -1, 16)
    return torch_sums.fold(np.add.accumulate(lanes, axis=-2)[..., -1, :])


def softmax_by(total, share):
    """A softmax: total(exponentials) adds them up, share(exponentials, sums) divides."""
    def softmax(x):
        # exp gives 0 below -104
        e = torch_sums.exp(np.maximum(x - x.max(axis=-1, keepdims=True), np.float32(-200)))
        return share(e, total(e)[..., None])
    return softmax


def times_the_inverse(e, total):
    return e * (np.float32(1) / total)


def softmax_divides(patch):
    spoil_sums(patch, "softmax", softmax_by(in_lanes, np.divide))


def softmax_in_turn(patch):
    spoil_sums(patch, "softmax", softmax_by(in_turn, times_the_inverse))


def sums_in_float64(patch):
    spoil_sums(patch, "row_sums", lambda x: x.sum(axis=1, dtype=np.float64).astype(np.float32))


def sums_in_numpys_order(patch):
    spoil_sums(patch, "row_sums", lambda x: x.sum(axis=1))


def float64_dots(patch):
    spoil_sums(patch, "product", lambda a, b, by_columns=False: (
        (a.astype(np.float64) @ b.swapaxes(-1, -2)).astype(np.float32)))


def float32_dots_of_blas(patch):
    spoil_sums(patch, "product", lambda a, b, by_columns=False: a @ b.swapaxes(-1, -2))


def lower_of_a_pair_first(patch):
    patch.setattr(torch_sums, "pairs", lambda start, stop: list(range(start, stop)))


def small_products_through_onednn(patch):
    patch.setattr(torch_sums, "OWN", 0)


def no_plain_order_in_a_batch(patch):
    patch.setattr(torch_sums, "PLAIN", 0)


def four_sums_never(patch):
    patch.setattr(torch_sums, "four_sums", torch_sums.eight_lanes)


def convolution_in_blocks(patch):
    spoil(patch, "in_blocks", lambda right: lambda a, b, block: torch_cpu.product(a, b))


def convolve(patch, order):
    """Embed patches with another order of the numbers of a patch: order(squares (N, C, p, p)) -> (N, ...)."""
    def patch_embed(images, weight, precision):
        _, C, p, _ = weight.shape
        x = round_to(np.concatenate([patches(pixels, p) for pixels in images]), precision)
        x, kernel = (order(np.asarray(squares, np.float32).reshape(-1, C, p, p)).reshape(len(squares), -1)
                     for squares in (x, weight))
        return round_to(torch_sums.in_blocks(x, kernel, block=x.shape[1]), precision)
    patch.setattr(torch_cpu, "patch_embed", patch_embed)


def convolution_with_channels_first(patch):
    convolve(patch, lambda squares: squares)


def convolution_of_three_channels(patch):
    convolve(patch, lambda squares: squares.transpose(0, 2, 3, 1))


def gate_and_up_apart(patch):
    """Two products where there is one of twice the width; the halves of a small one count as small sooner."""
    def make(right):
        def experts(x, expert_ids, expert_weights, w1, w2, w3, precision):
            linear, (F, D) = torch_cpu.linear, w1[0].shape

            def apart(x, weight, precision):
                parts = np.split(weight, 2) if weight.shape == (2 * F, D) else [weight]
                return np.hstack([linear(x, part, precision) for part in parts])
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(torch_cpu, "linear", apart)
                return right(x, expert_ids, expert_weights, w1, w2, w3, precision)
        return experts
    spoil(patch, "experts", make)


def frequencies_in_float64(patch):
    patch.setattr(torch_cpu, "frequencies", lambda head_dim, theta: (
        theta ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32))


def power_and_reciprocal_rounded_once(patch):
    """The exponents are rounded to float32, but 1 / theta^x is rounded only at the end."""
    patch.setattr(torch_cpu, "frequencies", lambda head_dim, theta: (
        np.float64(theta) ** -(np.arange(0, head_dim, 2).astype(np.float32) / np.float32(head_dim)).astype(np.float64)
    ).astype(np.float32))


def images_by_themselves(patch):
    """Each image of a prompt is a call, not a part of one row of patches with a mask."""
    def make(right):
        def attention(q, keys, values, lengths, spans, causal=True, precision="float32"):
            if causal:
                return right(q, keys, values, lengths, spans, causal, precision)
            stops = np.cumsum(lengths)
            return np.concatenate([
                right(q[stop - length : stop], keys[low:high], values[low:high], [length], [(0, high - low)], causal,
                      precision) for length, stop, (low, high) in zip(lengths, stops, spans)])
        return attention
    spoil(patch, "attention", make)


def by_name(*mutants):
    return {mutant.__name__: mutant for mutant in mutants}


ROUNDING_MUTANTS = by_name(
    norm_rounded_once, rope_rounded_once, cosines_not_rounded, scale_rounded, scale_before_the_first_rounding,
    scaled_scores_not_rounded, probabilities_not_rounded, residual_not_rounded, router_logits_not_rounded,
    router_weights_rounded, expert_term_not_rounded_before_adding, experts_in_falling_order, silu_not_rounded,
    pixels_not_rounded, bias_after_rounding, gelu_not_rounded)
ORDER_MUTANTS = by_name(
    gelu_without_the_entries, stable_top_k, pairs_of_q_and_k_side_by_side, numpy_softmax, softmax_divides,
    softmax_in_turn, sums_in_float64, sums_in_numpys_order, float64_dots, float32_dots_of_blas, lower_of_a_pair_first,
    small_products_through_onednn, no_plain_order_in_a_batch, four_sums_never, convolution_in_blocks,
    convolution_with_channels_first, convolution_of_three_channels, gate_and_up_apart, frequencies_in_float64,
    power_and_reciprocal_rounded_once, images_by_themselves)
