"""The whole Pixtral model against a float64 forward pass written in loops, and what a call refuses."""

import numpy as np
import pytest
import reference
from compare import assert_close
from PIL import Image
from small import (
    BREAK,
    END,
    IMAGE,
    image_tokens,
    random_images,
    random_tensors,
    sizes,
    vision_sizes,
    write_hf,
    write_mistral,
)
from tolerances import MODEL

import tiny
from tiny.config import TinyError
from tiny.mixtral import Mixtral
from tiny.pixtral import Pixtral, find_runs

GRIDS = [(3, 2), (1, 1), (2, 4)]
IMAGES = random_images(*GRIDS)
CONFIG = sizes(None, vision=vision_sizes())
# Text, an image, text, two images one after the other, text.
IDS = [1, 3, *image_tokens(3, 2), 20, 21, *image_tokens(1, 1), *image_tokens(2, 4), 4]


def small(config=CONFIG, **fields):
    return Pixtral(config, random_tensors(config), **fields)


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.mark.parametrize("moe", [None, (4, 2)], ids=["dense", "experts"])
def test_against_the_loops(tmp_path, moe):
    config = sizes(moe, vision=vision_sizes())
    tensors = random_tensors(config)
    expected = reference.forward(config, tensors, IDS, IMAGES)
    assert expected.std() > 0.5
    for folder in (write_mistral(tmp_path / "mistral", config, tensors),
                   write_hf(tmp_path / "hf", config, tensors, shards=3),
                   write_hf(tmp_path / "recent", config, tensors, shards=2, recent=True)):
        for mode in ("mapped", "resident"):
            model = tiny.load(folder, weights=mode)
            assert type(model) is Pixtral and model.config.vision == config.vision
            logits = model(IDS, IMAGES)
            assert logits.dtype == np.float32
            assert_close(logits, expected, MODEL["logits"], name=f"{folder.name} {mode}")


def test_without_images_it_is_the_decoder(model):
    text = [id for id in IDS if id != IMAGE]
    assert BREAK in text and END in text
    assert_close(model(text), Mixtral(CONFIG, model.weights)(text), 0.0)


def test_patches_take_the_rows_of_their_tokens_and_no_others(model):
    trace = {}
    model(IDS, IMAGES, trace=trace)
    ids, table = np.array(IDS), model.weights["tok_embeddings.weight"]
    others = ids != IMAGE
    assert_close(trace["embed"][others], table[ids[others]], 0.0, name="text, breaks and ends")
    assert_close(trace["embed"][~others], trace["projector"], 0.0, name="patches")
    assert_close(table[ids], model.weights["tok_embeddings.weight"][ids], 0.0)
    before = random_tensors(CONFIG)["tok_embeddings.weight"]
    assert_close(table, before, 0.0, name="the table itself is left alone")


def test_packed_prompts_and_prompts_alone(model):
    pieces = [IDS[:11], [5, 6], IDS[11:]]
    images = [IMAGES[:1], [], IMAGES[1:]]
    apart = np.concatenate([model(piece, some) for piece, some in zip(pieces, images)])
    packed = model(sum(pieces, []), IMAGES, lengths=[len(piece) for piece in pieces])
    assert_close(packed, apart, MODEL["logits"], name="packed")


def test_a_cache_goes_on_after_images(model):
    more = [20, 33, 2]
    whole = model(IDS + more, IMAGES)
    cache = model.new_cache(len(IDS) + len(more))
    parts = [model(IDS, IMAGES, cache=cache), *(model([id], cache=cache) for id in more)]
    assert_close(np.concatenate(parts), whole, MODEL["logits"], name="token by token")
    # A conversation: the next image comes later.
    cache = model.new_cache(len(IDS))
    parts = [model(IDS[:12], IMAGES[:1], cache=cache), model(IDS[12:], IMAGES[1:], cache=cache)]
    assert_close(np.concatenate(parts), model(IDS, IMAGES), MODEL["logits"], name="in two turns")


def test_generation(model):
    prompts = [IDS, [1, 5, 9], [1, *image_tokens(2, 4)], [1, *image_tokens(3, 2), 9]]
    images = [IMAGES, [], IMAGES[2:], IMAGES[:1]]
    flat = sum(images, [])
    for temperature in (0.0, 1.0):
        alone = [list(tiny.generate(model, ids, some, 8, temperature, seed=3)) for ids, some in zip(prompts, images)]
        together = tiny.generate_batch(model, prompts, flat, 8, temperature, seed=3)
        for one, other in zip(alone, together):
            assert [token.id for token in one] == [token.id for token in other]
            assert_close([t.logprob for t in one], [t.logprob for t in other], MODEL["logits"])
    # Each token is what the whole text predicts, without a cache.
    text = list(prompts[0])
    for token in tiny.generate(model, text, IMAGES, 8):
        written = [id for id in text[len(IDS):] if id == IMAGE]
        assert written or token.id == int(model(text, IMAGES)[-1].argmax())
        text.append(token.id)


def test_an_image_token_that_the_model_writes_is_a_word(model):
    """No image belongs to it, so its row is that of the table, as in both references."""
    cache = model.new_cache(40)
    model(IDS, IMAGES, cache=cache)
    trace = {}
    model([IMAGE], cache=cache, trace=trace)
    assert_close(trace["embed"][0], model.weights["tok_embeddings.weight"][IMAGE], 0.0)

    class Stubborn(Pixtral):
        def __call__(self, *arguments, **keywords):
            logits = super().__call__(*arguments, **keywords)
            logits[:, IMAGE] = 9
            return logits

    assert [token.id for token in tiny.generate(Stubborn(CONFIG, model.weights), IDS, IMAGES, 4)] == [IMAGE] * 4


def test_paths_pictures_and_pixels(model, tmp_path):
    pictures = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (height, width, 3), dtype=np.uint8))
                for n, (width, height) in enumerate([(12, 8), (3, 2), (7, 15)])]
    for n, picture in enumerate(pictures):
        picture.save(tmp_path / f"{n}.png")
    pixels = [tiny.preprocess(picture, 4, 32) for picture in pictures]
    assert [(x.shape[2] // 4, x.shape[1] // 4) for x in pixels] == GRIDS
    expected = model(IDS, pixels)
    assert_close(model(IDS, pictures), expected, 0.0, name="pictures")
    assert_close(model(IDS, [tmp_path / f"{n}.png" for n in range(3)]), expected, 0.0, name="paths")
    assert_close(model(IDS, [str(tmp_path / "0.png"), pictures[1], pixels[2]]), expected, 0.0, name="one of each")
    assert_close(model(IDS, tuple(x.astype(np.float64) for x in pixels)), expected, 0.0, name="float64")


@pytest.mark.parametrize("ids, widths, followers", [
    ([5], [], []), ([7], [1], [-1]), ([7, 7, 8, 7], [2, 1], [8, -1]), ([1, 7, 7, 7], [3], [-1]),
    ([7, 8, 7, 9, 9, 7, 7, 7, 9], [1, 1, 3], [8, 9, 9])])
def test_rows(ids, widths, followers):
    found = find_runs(np.array(ids), IMAGE)
    assert found[0] == widths and found[1].tolist() == followers


def refused(call, *words):
    with pytest.raises(TinyError) as caught:
        call()
    assert caught.value.cause and caught.value.remedy and "\n" not in caught.value.cause + caught.value.remedy
    for word in words:
        assert word in str(caught.value), str(caught.value)


def poisoned(value):
    pixels = IMAGES[0].copy()
    pixels[1, 3, 5] = value
    return [pixels, *IMAGES[1:]]


@pytest.mark.parametrize("images, words", [
    ([], ("15 [IMG] tokens in 7 rows", "0 patches (none)")),
    (IMAGES[:2], ("15 [IMG] tokens", "7 patches (3 x 2, 1 x 1)")),
    (IMAGES + IMAGES[:1], ("15 [IMG] tokens", "21 patches")),
    (IMAGES[::-1], ("2 x 4, 1 x 1, 3 x 2, in this order", "order of their [IMG] tokens")),
    ([IMAGES[0], IMAGES[2], IMAGES[1]], ("3 x 2, 2 x 4, 1 x 1",)),
    (random_images((2, 3), (1, 1), (2, 4)), ("2 x 3, 1 x 1, 2 x 4",)),
    (random_images((3, 2), (1, 1), (4, 2)), ("3 x 2, 1 x 1, 4 x 2",)),
    (random_images((3, 1), (3, 1), (1, 1), (2, 4)), ("3 x 1, 3 x 1, 1 x 1, 2 x 4",)),
    (random_images((3, 2), (1, 1), (2, 3), (2, 1)), ("2 x 3, 2 x 1",)),
    ([np.zeros((3, 8, 11), np.float32), *IMAGES[1:]], ("Image 1 is an array (3, 8, 11) of float32", "multiples of 4")),
    ([*IMAGES[:2], np.zeros((3, 16, 0), np.float32)], ("Image 3", "(3, 16, 0)")),
    ([np.zeros((8, 12, 3), np.float32), *IMAGES[1:]], ("Image 1", "(3, H, W)")),
    ([np.zeros((8, 12), np.float32), *IMAGES[1:]], ("Image 1", "(8, 12)")),
    ([np.zeros((1, 3, 8, 12), np.float32), *IMAGES[1:]], ("Image 1",)),
    ([np.zeros((3, 8, 36), np.float32), *IMAGES[1:]], ("36 x 8 pixels", "sides of 32", "shrink")),
    ([np.zeros((3, 8, 12), np.uint8), *IMAGES[1:]], ("Image 1", "uint8", "normalised")),
    ([np.zeros((3, 8, 12), bool), *IMAGES[1:]], ("Image 1", "bool")),
    ([np.zeros((3, 8, 12), object), *IMAGES[1:]], ("Image 1", "object")),
    (poisoned(np.nan), ("Image 1", "finite")),
    (poisoned(np.inf), ("Image 1", "finite")),
    (np.stack([IMAGES[0]] * 2), ("15 [IMG] tokens", "12 patches")),
    (IMAGES[0], ("Image 1 is an array (8, 12)",)),
    ("photo.png", ("list",)),
    (Image.new("RGB", (12, 8)), ("list",)),
    (iter(IMAGES), ("list",)),
    ([b"bytes", *IMAGES[1:]], ("bytes",)),
    ([None, *IMAGES[1:]], ("NoneType",)),
    (["nowhere.png", *IMAGES[1:]], ("nowhere.png does not exist",))])
def test_images_that_are_refused(model, images, words):
    refused(lambda: model(IDS, images), *words)


@pytest.mark.parametrize("ids", [
    [1, *[IMAGE] * 6, *IDS[11:]],  # no breaks
    [1, *[*[IMAGE] * 2, BREAK] * 2, *[IMAGE] * 2, END, *IDS[11:]],  # columns for rows
    [1, *image_tokens(6, 1), *IDS[11:]],
    [1, *[*[IMAGE] * 3, END] * 2, *IDS[11:]],  # two images
    [1, *[*[IMAGE] * 3, BREAK] * 2, *IDS[11:]]])  # no end
def test_rows_of_other_images(model, ids):
    assert ids.count(IMAGE) == 15
    refused(lambda: model(ids, IMAGES), "The rows of [IMG] tokens are not those of the images: 3 x 2, 1 x 1, 2 x 4")


def test_images_of_equal_width_and_other_height():
    """Only the ends of images tell them apart."""
    ids, images = [*image_tokens(3, 1), 5, *image_tokens(3, 2), 6], random_images((3, 1), (3, 2))
    small()(ids, images)
    refused(lambda: small()(ids, images[::-1]), "3 x 2, 3 x 1, in this order")


def test_images_for_a_text_model():
    text = sizes(None)
    refused(lambda: Mixtral(text, random_tensors(text))(IDS, IMAGES), "reads text only; 3 images came")
    refused(lambda: next(tiny.generate(Mixtral(text, random_tensors(text)), IDS, IMAGES)), "reads text only")
    with pytest.raises(ValueError, match="configuration with a vision encoder"):
        Pixtral(text, random_tensors(text))(IDS, IMAGES)


def test_the_context_is_counted_before_anything_is_computed():
    """Weights that cannot even be looked up are never asked for; nor is an image opened."""
    config = sizes(None, vision=vision_sizes(), max_seq_len=20)
    blind = Pixtral(config, {})
    refused(lambda: blind(IDS, IMAGES), f"{len(IDS)} tokens is longer than the context of 20")
    refused(lambda: blind(IDS, ["nowhere.png"]), "longer than the context")
    refused(lambda: next(tiny.generate(blind, IDS, IMAGES)), f"{len(IDS)} tokens, the context 20")
    # So are counts and pixels.
    blind = Pixtral(CONFIG, {})
    for images in ([], IMAGES[:1], IMAGES[::-1], poisoned(np.nan)):
        refused(lambda images=images: blind(IDS, images))
    refused(lambda: blind([1, 40], IMAGES), "Token id 40")


@pytest.mark.parametrize("name, place", [
    ("vision_encoder.patch_conv.weight", "patch_conv"), ("vision_encoder.ln_pre.weight", "vision_ln_pre"),
    ("vision_encoder.transformer.layers.1.attention.wo.weight", "vision_layer01"),
    ("vision_language_adapter.w_out.bias", "projector"), ("layers.1.attention.wo.weight", "layer01"),
    ("output.weight", "logits")])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damage_is_named(name, place):
    tensors = {key: x.astype(np.float32) for key, x in random_tensors(CONFIG).items()}
    tensors[name].reshape(-1)[3] = np.nan
    broken = Pixtral(CONFIG, tensors)
    with pytest.raises(TinyError, match=f"NaN or infinity; it first appears in '{place}'"):
        next(tiny.generate(broken, IDS, IMAGES))
    with pytest.raises(TinyError, match=place):
        tiny.generate_batch(broken, [[1, 5], IDS], IMAGES)
