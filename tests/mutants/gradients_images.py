"""Classic mistakes in the gradients of a whole model with pictures, which finite differences must refuse.

A mutant puts a wrong function or class in the place of one that `tiny.training.images.gradients` uses.
"""

import numpy as np

import tiny.ops
from tests.mutants.backward_images import spoil as spoil_in
from tiny.training.images import gradients


def spoil(patch, name, make):
    """Replace a function or class of the module: make(the right one) is the wrong one."""
    spoil_in(patch, name, make, gradients)


# ---- the encoder


def row_and_column_angles_swapped_on_the_way_back(patch):
    spoil(patch, "patch_positions", lambda right: lambda grids: right(grids)[:, ::-1])


def columns_and_rows_of_the_grid_swapped_on_the_way_back(patch):
    spoil(patch, "patch_positions", lambda right: lambda grids: right([(rows, columns) for columns, rows in grids]))


def images_order_swapped_on_the_way_back(patch):
    spoil(patch, "patch_embed_backward", lambda right: lambda dout, images, dw: right(dout, images[::-1], dw))


def layers_differentiated_first_to_last(patch):
    """Each half of a layer gets the weights, gradients and input of the layer at the other end."""
    def make(right):
        def wrong(dout, x, layer, stack, states):
            other = stack.config.num_hidden_layers - 1 - layer
            return right(dout, stack.input(other, "vision_ln_pre"), other, stack, states)
        return wrong
    spoil(patch, "mixture_backward", make)
    spoil(patch, "self_attention_backward", make)


def the_layers_own_inputs_forgotten(patch):
    class Wrong(gradients.Stack):
        def input(self, layer, first):
            return self.trace[first]
    patch.setattr(gradients, "Stack", Wrong)


def the_first_norm_forgotten(patch):
    def make(right):
        def wrong(dout, x, weight, eps, dw):
            right(dout, x, weight, eps, dw)
            return dout
        return wrong
    spoil(patch, "rms_norm_backward", make)


def the_first_norm_of_what_it_gave(patch):
    spoil(patch, "rms_norm_backward", lambda right: lambda dout, x, weight, eps, dw: (
        right(dout, tiny.ops.rms_norm(x, weight, eps), weight, eps, dw)))


# ---- the whole model


def keep_with(patch, change):
    """Give the forward pass another mask and other positions: change(mask, positions) -> mask, positions."""
    class Wrong(gradients.ForwardStates):
        def __init__(self, mask, positions):
            super().__init__(*change(mask, positions))
    patch.setattr(gradients, "ForwardStates", Wrong)


def positions_count_on_through_all_questions(patch):
    keep_with(patch, lambda mask, positions: (mask, np.arange(len(positions))))


def every_question_sees_those_before_it(patch):
    keep_with(patch, lambda mask, positions: (np.tril(np.full_like(mask, -np.inf), -1), positions))


def positions_of_the_way_back_count_on(patch):
    def make(right):
        def wrong(config, weights, grads, trace, angles, attention_backward, **names):
            if not names:  # the decoder's stack; the encoder's has a scope
                angles = tiny.ops.rope_table(np.arange(len(angles[0])), config.head_dim, config.rope_theta)
            return right(config, weights, grads, trace, angles, attention_backward, **names)
        return wrong
    spoil(patch, "Stack", make)


def questions_count_as_answers(patch):
    spoil(patch, "answer_loss", lambda right: lambda model, batch, *rest: (
        right(model, batch._replace(weights=np.ones_like(batch.weights)), *rest)))


def with_labels(patch, change):
    """The gradient that the labels give to the encoder is changed."""
    def make(right):
        def wrong(*arguments):
            result, dfeatures = right(*arguments)
            return result, change(dfeatures)
        return wrong
    spoil(patch, "label_loss", make)


def the_labels_do_not_reach_the_encoder(patch):
    with_labels(patch, np.zeros_like)


def the_gradient_of_the_labels_for_another_patch(patch):
    with_labels(patch, lambda dfeatures: dfeatures[::-1])


def the_labels_with_their_whole_weight(patch):
    spoil(patch, "label_loss", lambda right: lambda features, labels, heads, weights, grads, scale=1.0: (
        right(features, labels, heads, weights, grads)))


def the_answers_do_not_reach_the_encoder(patch):
    spoil(patch, "adapter_backward", lambda right: lambda *arguments: np.zeros_like(right(*arguments)))


def images_order_swapped_in_the_merge(patch):
    spoil(patch, "adapter_backward", lambda right: lambda dout, *arguments: right(dout[::-1], *arguments))


def the_adapter_of_the_input_of_the_encoder(patch):
    traces = []

    def remember(right):
        def stack(config, weights, grads, trace, *rest, **names):
            traces.append(trace)
            return right(config, weights, grads, trace, *rest, **names)
        return stack
    spoil(patch, "Stack", remember)
    spoil(patch, "adapter_backward", lambda right: lambda dout, x, *rest: (
        right(dout, traces[-1]["vision_ln_pre"], *rest)))


def the_last_norm_of_its_own_output(patch):
    def make(right):
        calls = []

        def wrong(dout, x, weight, eps, dw):
            calls.append(weight)
            first = len(calls) == 1  # the way back begins with the last norm
            return right(dout, tiny.ops.rms_norm(x, weight, eps) if first else x, weight, eps, dw)
        return wrong
    spoil(patch, "rms_norm_backward", make)


# Every mutant, and the check that must refuse it.
MUTANTS = {
    row_and_column_angles_swapped_on_the_way_back: "encoder",
    columns_and_rows_of_the_grid_swapped_on_the_way_back: "encoder", images_order_swapped_on_the_way_back: "encoder",
    layers_differentiated_first_to_last: "encoder", the_layers_own_inputs_forgotten: "encoder",
    the_first_norm_forgotten: "encoder", the_first_norm_of_what_it_gave: "encoder",
    positions_count_on_through_all_questions: "answers", positions_of_the_way_back_count_on: "answers",
    every_question_sees_those_before_it: "answers", questions_count_as_answers: "answers",
    the_labels_do_not_reach_the_encoder: "answers", the_answers_do_not_reach_the_encoder: "answers",
    the_labels_with_their_whole_weight: "answers", the_adapter_of_the_input_of_the_encoder: "answers",
    images_order_swapped_in_the_merge: "answers", the_gradient_of_the_labels_for_another_patch: "answers",
    the_last_norm_of_its_own_output: "answers"}
