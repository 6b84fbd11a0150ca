"""What others have published of the real weights, if they are here: TINY_WEIGHTS names a folder that holds

    Pixtral-12B-2409/   params.json, consolidated.safetensors, tekken.json
    Mixtral-tiny/       config.json, model.safetensors: hf-internal-testing/Mixtral-tiny
    images/             237_400x300.jpg 231_200x300.jpg 27_500x500.jpg 17_150x600.jpg: https://picsum.photos/id/237/400/300
                        and so on; whoever runs this first notes their checksums in published.json

    TINY_WEIGHTS=DIR python -m pytest tests/book/test_published.py

Sources: vLLM tests/models/fixtures/pixtral_chat.json; transformers tests/models/llava/test_modeling_llava.py and
tests/models/mixtral/test_modeling_mixtral.py. Of Mixtral 8x7B nobody has published logits or a greedy text.
Answers are given to the model as they were published, and every token is judged after those before it.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close
from PIL import Image

import tiny
from tiny.patch_embed import grid_of

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
WEIGHTS = os.environ.get("TINY_WEIGHTS")
# The fixtures are bfloat16 on a GPU, whose logits are multiples of 1/8 there; two runs of theirs differ by 0.03.
LOGPROB = 0.15
MIXTRAL_TINY = 0.025  # The same test has a table for each generation of GPU; they differ by 0.02.


def folder(name: str) -> Path:
    """A folder of TINY_WEIGHTS, or a skip that says how to run this."""
    if WEIGHTS is None:
        pytest.skip("The real weights are not here: `TINY_WEIGHTS=DIR python -m pytest tests/book/test_published.py` "
                    "runs this.")
    path = Path(WEIGHTS) / name
    if not path.is_dir():
        pytest.skip(f"TINY_WEIGHTS has no folder {name}; the head of tests/book/test_published.py says what "
                    "belongs there.")
    return path


def image(name: str, record_property) -> Path:
    """One picture, whose checksum is compared if it is known and recorded if it is not."""
    path = folder("images") / f"{name}.jpg"
    found, known = hashlib.sha256(path.read_bytes()).hexdigest(), PUBLISHED["images"][name]
    record_property(f"sha256 of {path.name}", found)
    assert known in (None, found), f"{path.name} is another file than the one that was used before: {found}"
    with Image.open(path) as picture:
        assert "x".join(map(str, picture.size)) == name.partition("_")[2]
    return path


def after(model, ids: list[int], answer: list[int], pixels) -> np.ndarray:
    """Log-probabilities (tokens, V) at the places of an answer."""
    logits = model(np.array(ids + answer[:-1]), images=pixels)[len(ids) - 1 :].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def follows(logprobs: np.ndarray, answer: list[int]) -> list[int]:
    """Places where another token leads by more than rounding in bfloat16 can turn."""
    own = np.take_along_axis(logprobs, np.array(answer)[:, None], axis=1)[:, 0]
    return np.flatnonzero(logprobs.max(axis=1) - own > LOGPROB).tolist()


@pytest.fixture(scope="module")
def pixtral():
    return tiny.load(folder("Pixtral-12B-2409"), weights="mapped")


@pytest.mark.parametrize("case", PUBLISHED["vllm"], ids=lambda case: f"{len(case['images'])} images")
def test_vllm_pixtral_chat(pixtral, case, record_property):
    chunks = [{"type": "text", "text": PUBLISHED["question"]}]
    chunks += [{"type": "image", "image": image(name, record_property)} for name in case["images"]]
    ids, pixels = pixtral.tokenizer.encode_chat([{"role": "user", "content": chunks}])
    assert len(ids) == case["prompt_tokens"]
    logprobs = after(pixtral, ids, case["ids"], pixels)
    assert not follows(logprobs, case["ids"])
    own = np.take_along_axis(logprobs, np.array(case["ids"])[:, None], axis=1)[:, 0]
    used = assert_close(own, np.array(case["logprobs"]), LOGPROB, name="log-probabilities")
    record_property(f"vLLM's answer about {len(case['images'])} images, largest error", f"{used * LOGPROB:.3f} nats")


def test_transformers_pixtral(pixtral, record_property):
    """The prompt of their test has the images after the text, without spaces, in the style of HF's processor."""
    case, vision = PUBLISHED["transformers"], pixtral.config.vision
    pixels = [tiny.preprocess(image(name, record_property), vision.patch_size, vision.max_image_size, style="hf")
              for name in case["images"]]
    ids = [1, 3, *case["text_ids"]]
    for x in pixels:
        columns, rows = grid_of(x, vision.patch_size)
        ids += (([vision.image_token_id] * columns + [12]) * rows)[:-1] + [13]
    answer = pixtral.tokenizer.encode(case["answer"])
    assert not follows(after(pixtral, [*ids, 4], answer, pixels), answer)


def test_mixtral_tiny():
    """Three rows of three logits, on a GPU of class 8."""
    model = tiny.load(folder("Mixtral-tiny"))
    logits = model(np.array([0, 1, 0]))[:3, :3]
    assert_close(logits, np.array(PUBLISHED["mixtral-tiny"], np.float32), MIXTRAL_TINY, name="logits")


def test_what_is_published_is_whole():
    """The numbers above go together; this needs no weights."""
    for case in PUBLISHED["vllm"]:
        assert len(case["ids"]) == len(case["logprobs"]) and case["ids"][-1] == 2
        assert max(case["logprobs"]) < 0 and set(case["images"]) <= PUBLISHED["images"].keys()
        tokens = sum(columns * rows + rows for columns, rows in (
            tiny.image_grid(*map(int, name.partition("_")[2].split("x"))) for name in case["images"]))
        assert case["prompt_tokens"] == tokens + 3 + len(PUBLISHED["question_ids"])


def test_answers_are_judged_token_by_token():
    """On an embedded model: its own greedy answer follows, with the numbers that `generate` gives; another does not."""
    model = tiny.load("tiny-mixtral")
    ids = [1, *model.tokenizer.encode("Once upon a time")]
    tokens = list(tiny.generate(model, ids, max_tokens=6, stop_at_eos=False))
    answer = [token.id for token in tokens]
    logprobs = after(model, ids, answer, ())
    assert not follows(logprobs, answer)
    assert_close(logprobs[np.arange(6), answer], np.array([token.logprob for token in tokens]), 1e-4, name="logprobs")
    assert 3 in follows(logprobs, [*answer[:3], int(logprobs[3].argmin()), *answer[4:]])


def test_without_weights_the_command_is_named(monkeypatch):
    monkeypatch.setattr("tests.book.test_published.WEIGHTS", None)
    with pytest.raises(pytest.skip.Exception, match="TINY_WEIGHTS=DIR python -m pytest tests/book/test_published.py"):
        folder("Pixtral-12B-2409")
