"""Faults with images: each is named through bfloat16 and 8-bit rounding, in a chat about four pictures."""

import dataclasses

import numpy as np
import pytest
from compare import assert_close
from PIL import Image

import tiny
from tiny.config import TinyError
from tiny.tools.verify.compare import log_softmax
from tiny.tools.verify.server import faults, pictures
from tiny.tools.verify.server.decide import deviation, name_of, seen_of, weigh
from tiny.tools.verify.server.rounding import rounded


def picture(width, height, seed):
    """Stripes and blocks, so that two ways to shrink them give two pictures."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 12 + 1, width // 5 + 1, 3), np.uint8)
    return Image.fromarray(blocks.repeat(12, 0).repeat(5, 1)[:height, :width])


@pytest.fixture(scope="module")
def scene():
    """The model, a prompt with four pictures of which two have the same size, and the reference with every fault."""
    model = tiny.load("tiny-pixtral", weights="resident")
    images = [picture(300, 200, 0), picture(300, 200, 1), picture(48, 90, 2), picture(200, 120, 3)]
    messages = []
    for two in (images[:2], images[2:]):
        parts = [{"type": "image", "image": image} for image in two]
        messages += [{"role": "user", "content": [*parts, {"type": "text", "text": "what does the image show ?"}]},
                     {"role": "assistant", "content": "a blue star left of a pink ring"}]
    messages.append({"role": "user", "content": "what color is the star"})
    ids = np.array(model.tokenizer.encode_chat(messages)[0])
    assert len(ids) > 400
    plain = pictures.logprobs(model, None, ids, images)
    assert_close(plain, log_softmax(model(ids, images).astype(np.float64)), 1e-6)
    found = pictures.hypotheses(model.config, images)
    return model, ids, images, plain, {fault.name: (fault, pictures.logprobs(model, fault, ids, images))
                                       for fault in found}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["bfloat16", "q8_0"])
def test_every_fault_is_named_and_a_healthy_server_is_not(scene, kind):
    model, ids, images, plain, known = scene
    server = rounded(model, kind)
    rounding = np.nanmean(deviation(seen_of(ids, pictures.logprobs(rounded(model, "bfloat16"), None, ids, images)),
                                    plain))
    assert {fault.kind for fault, _ in known.values()} >= {"rows_and_columns", "no_breaks", "images_swapped",
                                                           "hf_resize", "no_mask"}
    for name in [None, *known]:
        fault = known[name][0] if name else None
        seen = seen_of(ids, pictures.logprobs(server, fault, ids, images))
        weighed = {one: weigh([seen], [plain], [changed]) for one, (_, changed) in known.items()}
        assert name_of(weighed, rounding) == name, weighed


def test_faults_are_what_they_say(scene):
    model, ids, images, _, known = scene
    by_kind = {fault.kind: changed for fault, changed in known.values()}
    pixels = [tiny.preprocess(image, 8, 96) for image in images]
    vision = model.config.vision
    run = lambda pixels: log_softmax(model.forward(ids, np.arange(len(ids)), [len(ids)], pixels, None, None, False)
                                     .astype(np.float64))
    assert_close(by_kind["images_swapped"], run(pixels[::-1]), 1e-6)
    assert_close(by_kind["hf_resize"], run([tiny.preprocess(image, 8, 96, "hf") for image in images]), 1e-6)
    assert_close(by_kind["colours"], run([tiny.preprocess(Image.fromarray(np.asarray(image)[..., ::-1]), 8, 96)
                                          for image in images]), 1e-4)
    assert_close(pictures.levels(pixels[2])[:, :1, :1], np.asarray(images[2].resize((48, 96)), float).transpose(
        2, 0, 1)[:, :1, :1] / 255, 0.02)
    ends = model.tokenizer.special_id("[IMG_BREAK]")
    assert (np.isnan(by_kind["no_breaks"]).all(axis=1) == (ids == ends)).all()
    assert vision.image_token_id in ids


def test_a_prompt_without_several_images_has_no_faults_of_several(scene):
    model = scene[0]
    one = [picture(300, 200, 0)]
    same = next(fault for fault in pictures.hypotheses(model.config, scene[2][:2]) if fault.kind == "first_image")
    first, second = same.pixels(scene[2][:2], model.config.vision)
    assert first is second and np.array_equal(first, tiny.preprocess(one[0], 8, 96))
    kinds = {fault.kind for fault in pictures.hypotheses(model.config, one)}
    assert kinds.isdisjoint({"images_swapped", "first_image", "no_mask"}) and "hf_resize" in kinds
    arrays = [tiny.preprocess(image, 8, 96) for image in one]
    assert "hf_resize" not in {fault.kind for fault in pictures.hypotheses(model.config, arrays)}
    flat = [np.zeros((3, 8, 40), np.float32)]
    assert "no_breaks" not in {fault.kind for fault in pictures.hypotheses(model.config, flat)}


def test_faults_of_texts_and_wrong_images(scene):
    model, ids, images, plain, _ = scene
    found = pictures.logprobs(model, faults.made("theta", 1e5), ids, images)
    assert_close(found, faults.logprobs(model, faults.made("theta", 1e5), ids, images), 1e-6)
    assert np.abs(found - plain).max() > 0.1
    with pytest.raises(TinyError, match="rows of"):
        pictures.logprobs(model, None, ids, images[::-1])
    with pytest.raises(ValueError, match="vision encoder"):
        pictures.hypotheses(dataclasses.replace(model.config, vision=None), images)
