"""Exercise 8.2, who sees whom in the encoder: one test for each idea, on numbers that can be checked by hand.

The images of a test are unequal, so that nothing can be right by chance.
"""

import numpy as np
from compare import assert_close, assert_dtype
from small import random_images, random_tensors, sizes, vision_sizes
from tolerances import OPS

import tiny.ops
from tiny.decoder import ForwardPass
from tiny.tools import looking as book
from tiny.vision import vision_encoder

RNG = np.random.default_rng(82)
ROUGH = 1e-2  # Coarse numbers have a test of their own.


def weights(q, k, lengths):
    return book.image_weights(np.array(q, np.float32), np.array(k, np.float32), lengths)


def equal(*lengths):
    """The weights if all queries and keys are equal: a patch that sees n patches gives each of them 1 / n."""
    return weights(np.zeros((sum(lengths), 4)), np.zeros((sum(lengths), 4)), list(lengths))


def test_weights_are_numbers():
    y = weights(*(RNG.standard_normal(shape) for shape in ((5, 4), (5, 4))), [3, 2])
    assert_close(int(np.isnan(y).sum()), 0, 0.0, name="NaN among the weights of 3 and 2 patches")


def test_weights_of_a_patch_add_up_to_one():
    shapes = ((5, 4), (5, 4))
    sums = weights(*(RNG.standard_normal(shape) for shape in shapes), [3, 2]).sum(axis=1)
    assert_close(sums, np.ones(5), ROUGH, name="sum of the weights of each patch")


def test_other_images_are_not_seen():
    """Not even where the keys of the other image match far better."""
    far = np.zeros((5, 4))
    far[3:, 0] = 40
    y = weights(np.full((5, 4), 1), far, [3, 2])
    assert_close(y[:3, 3:], np.zeros((3, 2)), 0.0, name="weights of the first image's patches for those of the second")
    assert_close(y[3:, :3], np.zeros((2, 3)), 0.0, name="weights of the second image's patches for those of the first")


def test_all_of_the_own_image_is_seen():
    """Also the patches behind: order in the row of patches is no order in time."""
    block = equal(3, 2)[:3, :3]
    assert_close(block > ROUGH, np.ones((3, 3), bool), 0.0, name="which patches of the first image see which")


def test_images_have_their_own_lengths():
    expected = np.zeros((6, 6))
    for first, last in ((0, 1), (1, 4), (4, 6)):
        expected[first:last, first:last] = 1 / (last - first)
    assert_close(equal(1, 3, 2), expected, ROUGH, name="weights of equal patches, images of 1, 3 and 2 patches")


def test_a_row_is_who_looks():
    """The query of patch 0 fits the key of patch 1, and no other pair fits."""
    y = weights([[8, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [8, 0, 0, 0]], [2])
    assert_close(y, [[0, 1], [0.5, 0.5]], ROUGH, name="weights where patch 0 looks at patch 1")


def test_scores_are_scaled():
    """d = 4: the product 2 becomes a score of 1, so the weights stand as e to 1."""
    y = weights([[2, 0, 0, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 0]], [2])
    assert_close(y[0], [np.e / (np.e + 1), 1 / (np.e + 1)], ROUGH, name="weights for scores 1 and 0")


def test_large_scores_stay_numbers():
    """The exponential of 500 is no float32."""
    y = weights([[50, 0, 0, 0]] * 2, [[20, 0, 0, 0], [0, 0, 0, 0]], [2])
    assert_close(y, [[1, 0], [1, 0]], ROUGH, name="weights for scores 500 and 0")


def test_answers_are_float32():
    assert_dtype(equal(2, 1), np.float32, "type of the weights")


def test_arguments_are_left_alone():
    q, k = np.ones((3, 4), np.float32), np.ones((3, 4), np.float32)
    book.image_weights(q, k, [2, 1])
    for name, array in (("q", q), ("k", k)):
        assert_close(array, np.ones((3, 4)), 0.0, name=f"{name} afterwards")


def test_these_are_the_weights_of_the_encoder():
    """Times the values, and through wo, they give what every layer of the encoder computed of two images."""
    config, trace = vision_sizes(), {}
    tensors = random_tensors(sizes(None, vision=config))
    run = ForwardPass([1], None, None, None, trace, tiny.ops, "float32")
    vision_encoder(random_images((3, 2), (2, 5)), tensors, config, run)
    for layer in range(config.num_hidden_layers):
        q, k, v = (trace[f"vision_{name}{layer:02}"] for name in "qkv")
        heads = [book.image_weights(q[:, h], k[:, h], [6, 10]) @ v[:, h] for h in range(q.shape[1])]
        wo = tensors[f"vision_encoder.transformer.layers.{layer}.attention.wo.weight"]
        assert_close(np.concatenate(heads, axis=1) @ wo.T, trace[f"vision_attn{layer:02}"], OPS["vision"],
                     name=f"attention of layer {layer}")
