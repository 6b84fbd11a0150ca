"""Classic mistakes in backward passes, which finite differences must refuse.

A mutant puts a wrong function in the place of one of `backward` or `experts_backward` of `tiny.training`; most call
the right one and spoil what it is given or what it gives.
"""

import numpy as np

from tiny.numerics import softmax
from tiny.training import backward, experts_backward


def spoil(patch, name, make):
    """Replace a function where it is held: make(the right one) is the wrong one."""
    holders = [module for module in (backward, experts_backward) if hasattr(module, name)]
    wrong = make(getattr(holders[0], name))
    for module in holders:
        patch.setattr(module, name, wrong)


# ---- linear maps, embeddings, norms, positions


def weight_times_the_rows_of_other_tokens(patch):
    spoil(patch, "linear_backward", lambda right: lambda dout, x, weight, dw: right(dout, x[::-1], weight, dw))


def a_token_that_occurs_twice_counts_once(patch):
    def wrong(dout, ids, dw):
        dw[...] = 0
        dw[ids] = dout
    patch.setattr(backward, "embedding_backward", wrong)


def absent_tokens_keep_old_gradients(patch):
    def make(right):
        def wrong(dout, ids, dw):
            old, absent = dw.copy(), np.setdiff1d(np.arange(len(dw)), ids)
            right(dout, ids, dw)
            dw[absent] = old[absent]
        return wrong
    spoil(patch, "embedding_backward", make)


def the_root_is_taken_for_a_constant(patch):
    """The second term of the gradient is forgotten."""
    def make(right):
        def wrong(dout, x, weight, eps, dw):
            right(dout, x, weight, eps, dw)
            return dout * weight / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps)
        return wrong
    spoil(patch, "rms_norm_backward", make)


def norm_weight_times_the_plain_row(patch):
    def make(right):
        def wrong(dout, x, weight, eps, dw):
            dx = right(dout, x, weight, eps, dw)
            dw[...] = np.sum(dout * x, axis=0)
            return dx
        return wrong
    spoil(patch, "rms_norm_backward", make)


def rotated_by_the_same_sign(patch):
    spoil(patch, "rope_backward", lambda right: lambda dout, cos, sin: right(dout, cos, -sin))


# ---- attention


def softmax_of_the_scores_without_the_row_sum(patch):
    spoil(patch, "attend_backward", lambda right: lambda dout, q, keys, values, state: (
        right(dout, q, keys, values, (*state[:2], np.zeros_like(state[2])))))


def not_summed_over_heads(patch, place):
    """One result of attend_backward, of every second query head only: two heads share keys and values here."""
    def make(right):
        def wrong(dout, q, keys, values, state):
            e, inverse, out = state
            half = right(dout[:, ::2], q[:, ::2], keys, values, (e[..., ::2], inverse[:, ::2], out[:, ::2]))
            results = list(right(dout, q, keys, values, state))
            results[place] = half[place]
            return results
        return wrong
    spoil(patch, "attend_backward", make)


def keys_not_summed_over_the_heads_that_share_them(patch):
    not_summed_over_heads(patch, 1)


def values_not_summed_over_the_heads_that_share_them(patch):
    not_summed_over_heads(patch, 2)


def keys_not_summed_over_blocks_of_queries(patch):
    """The last block of each sequence overwrites what the others gave."""
    def make(right):
        def wrong(dout, q, keys, values, lengths, states=None):
            block = backward.QUERIES
            last = np.concatenate([np.arange(length) // block == (length - 1) // block for length in lengths])
            dq, _, dvalues, out = right(dout, q, keys, values, lengths, states)
            return dq, right(dout * last[:, None, None], q, keys, values, lengths)[1], dvalues, out
        return wrong
    spoil(patch, "attention_backward", make)


def the_scale_forgotten_for_the_queries(patch):
    def make(right):
        def wrong(dout, q, keys, values, state):
            dq, dkeys, dvalues = right(dout, q, keys, values, state)
            return dq * np.sqrt(q.shape[-1]), dkeys, dvalues
        return wrong
    spoil(patch, "attend_backward", make)


def the_causal_mask_dropped(patch):
    spoil(patch, "attend", lambda right: lambda q, keys, values, mask: right(q, keys, values, None))


def sequences_see_each_other(patch):
    spoil(patch, "blocks", lambda right: lambda lengths, R: (
        (t, rows, slice(0, seen.stop)) for t, rows, seen in right(lengths, R)))


# ---- routing and experts


def softmax_of_the_choices_without_the_row_sum(patch):
    def make(right):
        def wrong(dweights, logits, expert_ids, expert_weights, coefficient=0.0):
            dlogits = right(dweights, logits, expert_ids, expert_weights, coefficient)
            row_sum = np.sum(expert_weights * dweights, axis=1, keepdims=True)
            dlogits[np.arange(len(logits))[:, None], expert_ids] += expert_weights * row_sum
            return dlogits
        return wrong
    spoil(patch, "route_backward", make)


def the_load_balancing_loss_forgotten(patch):
    spoil(patch, "route_backward", lambda right: lambda dweights, logits, expert_ids, expert_weights, coefficient=0.0: (
        right(dweights, logits, expert_ids, expert_weights)))


def the_load_balancing_softmax_without_the_row_sum(patch):
    def make(right):
        def wrong(dweights, logits, expert_ids, expert_weights, coefficient=0.0):
            T, E = logits.shape
            probabilities = softmax(logits)
            slope = coefficient * E / T**2 * np.bincount(expert_ids.reshape(-1), minlength=E)
            return right(dweights, logits, expert_ids, expert_weights, coefficient) + probabilities * (
                probabilities @ slope)[:, None]
        return wrong
    spoil(patch, "route_backward", make)


def the_load_balancing_gradient_not_averaged_over_tokens(patch):
    spoil(patch, "route_backward", lambda right: lambda dweights, logits, expert_ids, expert_weights, coefficient=0.0: (
        right(dweights, logits, expert_ids, expert_weights, coefficient * len(logits))))


def spare(dw):
    """Arrays of the same shapes, for gradients that a mutant does not want."""
    return [np.empty_like(gradient) for gradient in dw]


def the_router_weights_gradient_forgotten(patch):
    def make(right):
        def wrong(*arguments):
            dx, dscale = right(*arguments)
            return dx, np.zeros_like(dscale)
        return wrong
    spoil(patch, "swiglu_backward", make)


def the_router_weight_applied_to_w2_only(patch):
    def make(right):
        def wrong(dout, x, scale, w1, w2, w3, dw, states=None):
            unwanted = spare(dw)
            right(dout, x, scale, w1, w2, w3, [unwanted[0], dw[1], unwanted[2]])
            return right(dout, x, np.ones_like(scale), w1, w2, w3, [dw[0], unwanted[1], dw[2]], states)
        return wrong
    spoil(patch, "swiglu_backward", make)


def w2_without_the_router_weight(patch):
    def make(right):
        def wrong(dout, x, scale, w1, w2, w3, dw, states=None):
            unwanted = spare(dw)
            right(dout, x, np.ones_like(scale), w1, w2, w3, [unwanted[0], dw[1], unwanted[2]])
            return right(dout, x, scale, w1, w2, w3, [dw[0], unwanted[1], dw[2]], states)
        return wrong
    spoil(patch, "swiglu_backward", make)


def only_the_last_expert_of_a_token(patch):
    def make(right):
        def wrong(dout, x, expert_ids, expert_weights, w1, w2, w3, dw, states=None):
            _, dweights = right(dout, x, expert_ids, expert_weights, w1, w2, w3, dw, states)
            last = expert_weights * (expert_ids == expert_ids.max(axis=1, keepdims=True))
            return right(dout, x, expert_ids, last, w1, w2, w3, [spare(each) for each in dw])[0], dweights
        return wrong
    spoil(patch, "experts_backward", make)


def no_zeros_for_an_expert_without_tokens(patch):
    def make(right):
        def wrong(dout, x, expert_ids, expert_weights, w1, w2, w3, dw, states=None):
            idle = sorted(set(range(len(dw))) - set(expert_ids.reshape(-1).tolist()))
            given = [spare(each) if e in idle else each for e, each in enumerate(dw)]
            return right(dout, x, expert_ids, expert_weights, w1, w2, w3, given, states)
        return wrong
    spoil(patch, "experts_backward", make)


def the_second_term_of_the_slope_of_silu_forgotten(patch):
    """silu'(a) = s + a s (1 - s), with s = sigmoid(a): what the second term gives is taken away again."""
    def make(right):
        def wrong(dout, x, scale, w1, w2, w3, dw, states=None):
            dx, dscale = right(dout, x, scale, w1, w2, w3, dw, states)
            a = x @ w1.T
            s = 1 / (1 + np.exp(-a))
            second = scale * (dout @ w2) * (x @ w3.T) * a * s * (1 - s)
            dw[0][...] -= second.T @ x
            return dx - second @ w1, dscale
        return wrong
    spoil(patch, "swiglu_backward", make)


def the_gradients_of_w1_and_w3_swapped(patch):
    spoil(patch, "swiglu_backward", lambda right: lambda dout, x, scale, w1, w2, w3, dw, states=None: (
        right(dout, x, scale, w1, w2, w3, dw[::-1], states)))


# ---- the loss


def the_one_at_the_target_forgotten(patch):
    def make(right):
        def wrong(logits, targets, weights):
            loss, dlogits = right(logits, targets, weights)
            dlogits[np.arange(len(logits)), targets] += weights / weights.sum()
            return loss, dlogits
        return wrong
    spoil(patch, "cross_entropy", make)


def the_mean_over_all_tokens(patch):
    def make(right):
        def wrong(logits, targets, weights):
            share = weights.sum() / len(weights)
            loss, dlogits = right(logits, targets, weights)
            return loss * share, dlogits * share
        return wrong
    spoil(patch, "cross_entropy", make)


# Every mutant, and the operation whose check must refuse it.
MUTANTS = {
    weight_times_the_rows_of_other_tokens: "linear", a_token_that_occurs_twice_counts_once: "embedding",
    absent_tokens_keep_old_gradients: "embedding", the_root_is_taken_for_a_constant: "rms_norm",
    norm_weight_times_the_plain_row: "rms_norm", rotated_by_the_same_sign: "rope",
    softmax_of_the_scores_without_the_row_sum: "attention",
    keys_not_summed_over_the_heads_that_share_them: "attention",
    values_not_summed_over_the_heads_that_share_them: "attention",
    keys_not_summed_over_blocks_of_queries: "attention", the_scale_forgotten_for_the_queries: "attention",
    the_causal_mask_dropped: "attention", sequences_see_each_other: "attention",
    softmax_of_the_choices_without_the_row_sum: "route", the_load_balancing_loss_forgotten: "route",
    the_load_balancing_softmax_without_the_row_sum: "route",
    the_load_balancing_gradient_not_averaged_over_tokens: "route", the_router_weights_gradient_forgotten: "experts",
    the_router_weight_applied_to_w2_only: "experts", w2_without_the_router_weight: "experts",
    only_the_last_expert_of_a_token: "experts", no_zeros_for_an_expert_without_tokens: "experts",
    the_second_term_of_the_slope_of_silu_forgotten: "feed_forward",
    the_gradients_of_w1_and_w3_swapped: "feed_forward", the_one_at_the_target_forgotten: "cross_entropy",
    the_mean_over_all_tokens: "cross_entropy"}
