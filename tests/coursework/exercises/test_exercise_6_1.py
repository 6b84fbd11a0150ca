"""Exercise 6.1, one decoder layer: one test for each idea. Weights of 0 silence a part, to see the other."""

import numpy as np
import reference
from compare import assert_close, assert_dtype
from small import random_tensors, sizes
from tolerances import MODEL

import tiny.ops
from tiny import decoder as book
from tiny.decoder import ForwardPass
from tiny.rope import rope_table

RNG = np.random.default_rng(61)
T, LAYER, ROUGH = 3, 1, 1e-3  # Coarse numbers have a test of their own.


def weights_of(config, attention=True, network=True):
    """Random weights; a part that is not wanted answers 0, for the matrix that leads back is 0."""
    tensors = {name: w.astype(np.float32) for name, w in random_tensors(config, int(RNG.integers(1000))).items()}
    for name, w in tensors.items():
        if (not attention and ".wo." in name) or (not network and ".w2." in name):
            w[...] = 0
    return tensors


def through(x, tensors, config):
    """One layer on a stream of T tokens."""
    cos, sin = rope_table(np.arange(T), config.head_dim, config.rope_theta)
    return book.decoder_layer(x, LAYER, tensors, config, ForwardPass([T], cos, sin, None, None, tiny.ops, "float32"))


def stream(config, size=1):
    return (size * RNG.standard_normal((T, config.dim))).astype(np.float32)


def halves(x, tensors, config):
    """The stream after attention and at the end, by loops in float64. Shapes:  x (T, D) -> 2 x (T, D)."""
    wide = {name: w.astype(np.float64) for name, w in tensors.items()}
    silent = wide | {name: 0 * w for name, w in wide.items() if ".w2." in name}
    return [np.array(reference.layer(list(x.astype(np.float64)), LAYER, w, config)) for w in (silent, wide)]


def test_the_stream_goes_through():
    config = sizes()
    x = stream(config)
    y = through(x, weights_of(config, attention=False, network=False), config)
    assert_close(y, x, ROUGH, name="the stream, where attention and experts answer 0")


def test_attention_reads_the_normalised_stream():
    config = sizes()
    x, tensors = stream(config, 20), weights_of(config, network=False)
    assert_close(through(x, tensors, config) - x, halves(x, tensors, config)[0] - x, ROUGH,
                 name="what attention adds to a stream of large numbers")


def test_the_experts_read_the_normalised_stream():
    config = sizes()
    x, tensors = stream(config, 20), weights_of(config, attention=False)
    assert_close(through(x, tensors, config) - x, halves(x, tensors, config)[1] - x, ROUGH,
                 name="what the experts add to a stream of large numbers")


def test_the_experts_see_what_attention_added():
    config = sizes()
    x, tensors = stream(config), weights_of(config)
    assert_close(through(x, tensors, config), halves(x, tensors, config)[1], ROUGH, name="the stream after the layer")


def test_without_experts_there_is_one_network():
    config = sizes(None)
    x, tensors = stream(config), weights_of(config)
    assert_close(through(x, tensors, config), halves(x, tensors, config)[1], ROUGH,
                 name="the stream after a layer without experts")


def test_answers_are_float32():
    config = sizes()
    assert_dtype(through(stream(config), weights_of(config), config), np.float32, "type of the result")


def test_the_stream_that_came_is_left_alone():
    config = sizes()
    x = stream(config)
    before = x.copy()
    through(x, weights_of(config), config)
    assert_close(x, before, 0.0, name="x afterwards")


def test_digits_are_kept():
    for moe in ((4, 2), (3, 3), None):
        config = sizes(moe)
        x, tensors = stream(config), weights_of(config)
        assert_close(through(x, tensors, config), halves(x, tensors, config)[1], MODEL["layer"],
                     name="the stream after the layer")
