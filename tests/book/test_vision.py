"""The vision encoder: printed values of a small one, loops in float64, and packed images."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from compare import assert_close
from small import random_images, random_tensors, sizes, vision_sizes
from tolerances import FIXTURE, OPS

import tiny.ops
from tiny.decoder import ForwardPass
from tiny.tools.synthetic import RandomTensors
from tiny.vision import vision_encoder

GRIDS = [(3, 2), (1, 1), (64, 1), (2, 3), (1, 5), (3, 2)]
CONFIG = vision_sizes()
TENSORS = random_tensors(sizes(None, vision=CONFIG))
# A small encoder whose weights and images are sines and cosines, and what it gives: six numbers of the first and the
# last patch, the sum of all, the sum of their sizes, and the sum that belongs to no mask between the two images.
PRINTED = {0: (-0.35604747, 1.76331703, 2.09142555, 0.6942785, -0.7508563, -0.92442858),
           8: (-0.5030514, -1.81741209, -1.31967813, 0.06107576, 0.74530758, 0.27977925)}
SUM, SIZE, SUM_WITHOUT_MASK = 31.13946782, 293.87468874, 32.91945412


def encode(images, config=CONFIG, tensors=TENSORS, **fields):
    standard = {"lengths": [1], "cos": None, "sin": None, "cache": None, "trace": None, "ops": tiny.ops,
                "precision": "float32"}
    return vision_encoder(images, tensors, config, ForwardPass(**(standard | fields)))


def one_sequence(q, keys, values, lengths, spans, **more):
    """Attention that drops the mask between images."""
    return tiny.ops.attention(q, keys, values, [len(q)], [(0, len(q))], **more)


def sines():
    """The small encoder of the printed values."""
    config = vision_sizes(hidden_size=32, num_attention_heads=2, intermediate_size=48, rope_theta=1e4)
    shapes = {"patch_conv": (32, 3, 4, 4), "ln_pre": (32,)}
    for n in range(2):
        layer = f"transformer.layers.{n}."
        shapes |= {f"{layer}attention_norm": (32,)}
        shapes |= {f"{layer}attention.{name}": (32, 32) for name in ("wq", "wk", "wv", "wo")}
        shapes |= {f"{layer}ffn_norm": (32,)}
        shapes |= {f"{layer}feed_forward.{name}": shape
                   for name, shape in (("w1", (48, 32)), ("w2", (32, 48)), ("w3", (48, 32)))}
    tensors = {}
    for t, (name, shape) in enumerate(shapes.items()):
        v = np.sin(1 + 0.61 * t + 0.37 * np.arange(np.prod(shape)).reshape(shape))
        tensors[f"vision_encoder.{name}.weight"] = (1 + 0.1 * v if len(shape) == 1 else 0.3 * v).astype(np.float32)
    waves = [np.cos(start + 0.11 * np.arange(np.prod(shape)).reshape(shape)).astype(np.float32)
             for start, shape in ((0, (3, 8, 12)), (0.5, (3, 12, 4)))]
    return config, tensors, waves


def test_printed_values():
    config, tensors, images = sines()
    x = encode(images, config, tensors)
    assert x.shape == (9, 32) and x.dtype == np.float32
    for row, printed in PRINTED.items():
        assert_close(x[row, :6], printed, FIXTURE["encoder"], name=f"row {row}")
    assert_close(x.sum(dtype=float), SUM, FIXTURE["sum of the encoder"], name="sum")
    assert_close(np.abs(x).sum(dtype=float), SIZE, FIXTURE["sum of the encoder"], name="sum of sizes")


def test_printed_values_without_the_mask_between_images():
    """What mistral-inference gives, and what no test here may take for right."""
    config, tensors, images = sines()
    right = encode(images, config, tensors)
    ops = SimpleNamespace(**{name: getattr(tiny.ops, name) for name in tiny.ops.__all__} | {"attention": one_sequence})
    wrong = encode(images, config, tensors, ops=ops)
    assert_close(wrong.sum(dtype=float), SUM_WITHOUT_MASK, FIXTURE["sum of the encoder"], name="sum")
    assert_close(np.abs(wrong - right).max(), 0.57466, FIXTURE["printed"], name="largest difference")
    # A single image is the same either way.
    assert_close(encode(images[:1], config, tensors, ops=ops), encode(images[:1], config, tensors), 0.0)


@pytest.mark.parametrize("changed", [{}, {"num_attention_heads": 1}, {"num_attention_heads": 10}, {"patch_size": 7},
                                     {"num_hidden_layers": 1}, {"rope_theta": 1e4}], ids=str)
def test_against_the_loops(changed):
    config = vision_sizes(**changed)
    tensors = random_tensors(sizes(None, vision=config), seed=1)
    images = random_images(*GRIDS, patch_size=config.patch_size)
    trace = {}
    x = encode(images, config, tensors, trace=trace)
    expected = reference.encode(config, tensors, images)
    assert 0.5 < expected.std() < 6
    assert_close(x, expected, OPS["vision"], name="encoder")
    N, heads = len(expected), (config.num_attention_heads, config.head_dim)
    shapes = {"patch_conv": (N, 40), "vision_ln_pre": (N, 40)}
    for n in range(config.num_hidden_layers):
        shapes |= {f"vision_{name}{n:02}": (N, *heads) for name in "qkv"}
        shapes |= {f"vision_{name}{n:02}": (N, 40) for name in ("attn", "layer")}
    assert {name: array.shape for name, array in trace.items()} == shapes
    assert trace[f"vision_layer{n:02}"] is x, "nothing follows the last layer"


def test_packed_images_give_what_each_gives_alone():
    images = random_images(*GRIDS)
    alone = [encode([pixels]) for pixels in images]
    assert_close(encode(images), np.concatenate(alone), OPS["vision"], name="packed")
    order = [3, 0, 5, 2, 1, 4]
    assert_close(encode([images[n] for n in order]), np.concatenate([alone[n] for n in order]), OPS["vision"],
                 name="in another order")


def test_the_same_image_twice():
    (pixels,) = random_images((3, 2))
    twice = encode([pixels, pixels])
    assert_close(twice[:6], encode([pixels]), OPS["vision"])
    assert_close(twice[6:], twice[:6], OPS["vision"])


def test_every_patch_sees_all_of_its_own_image_and_none_of_others():
    images = random_images((3, 2), (2, 2))
    before = encode(images)
    for n in range(4):  # A patch of the second image is changed.
        changed = [pixels.copy() for pixels in images]
        row, column = divmod(n, 2)
        changed[1][:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] *= -1
        moved = np.abs(encode(changed) - before).max(axis=1)
        assert (moved[:6] == 0).all() and (moved[6:] > 1e-3).all()


def test_where_a_patch_stands_counts():
    """Three grids of the same six patches, and the same grid with its columns in reverse."""
    (pixels,) = random_images((6, 1))
    stacked = np.concatenate(np.split(pixels, 2, axis=2), axis=1)  # the same patches as two rows of three
    tall = np.concatenate(np.split(pixels, 6, axis=2), axis=1)
    mirrored = np.concatenate(np.split(pixels, 6, axis=2)[::-1], axis=2)
    rows = [encode([pixels]), encode([stacked]), encode([tall]), encode([mirrored])[::-1]]
    for n, one in enumerate(rows):
        for other in rows[:n]:
            assert np.abs(one - other).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_memory_is_linear_in_the_patches(count):
    """Images of 64 x 64 patches: the scores of all pairs of one would take 67 MB for each head."""
    config = vision_sizes(hidden_size=16, num_attention_heads=2, intermediate_size=24, num_hidden_layers=1,
                          image_size=256)
    tensors = dict(RandomTensors(sizes(None, vision=config), 0))
    images = random_images(*[(64, 64)] * count)
    tracemalloc.start()
    x = encode(images, config, tensors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert x.shape == (4096 * count, 16) and np.isfinite(x).all()
    assert peak <= 8e6 + 4e6 * count, f"{peak / 1e6:.1f} MB"
    print(f"{count} images: {peak / 1e6:.1f} MB")
