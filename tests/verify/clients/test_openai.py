"""The openai package, as it is today and as it was in 2024, against a served tiny-pixtral: every call is answered."""

import importlib.metadata
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from client_runs import needs_extras, python_of, run, served
from compare import assert_close
from PIL import Image

import tiny

pytestmark = [pytest.mark.verify, needs_extras()]
TYPES = {"models": "SyncPage[Model]", "model": "Model", "chat": "ChatCompletion", "image": "ChatCompletion",
         "logprobs": "ChatCompletion", "two": "ChatCompletion", "two again": "ChatCompletion",
         "stream": "ChatCompletionChunk", "stream with usage": "ChatCompletionChunk", "echo": "Completion",
         "text": "Completion", "left early": "ChatCompletionChunk"}
REFUSED = {"no route": ("NotFoundError", 404), "too long": ("BadRequestError", 400),
           "wrong type": ("BadRequestError", 400)}


@cache
def model():
    return tiny.load("tiny-pixtral", weights="resident")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with served("tiny-pixtral", tmp_path_factory.mktemp("serve")) as address:
        yield address


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "red.png"
    Image.new("RGB", (32, 32), "red").save(path)
    return path


@pytest.fixture(scope="module", params=["OPENAI_PYTHON", "OPENAI_OLD_PYTHON"])
def called(request, url, picture, tmp_path_factory):
    """What each call came to, by its name, and the version of the package."""
    out = tmp_path_factory.mktemp("openai") / "calls.json"
    run([python_of(request.param), Path(__file__).with_name("openai_driver.py"), url, picture, out], out.parent)
    kept = json.loads(out.read_text(encoding="utf-8"))
    return {entry["call"]: entry for entry in kept["calls"]}, kept["version"]


def generated(content, tokens: int) -> list:
    """What the model of this process writes to one user turn."""
    ids, images = model().tokenizer.encode_chat([{"role": "user", "content": content}])
    return list(tiny.generate(model(), ids, images=images, max_tokens=tokens))


def text_of(tokens: list) -> str:
    return "".join(token.text for token in tokens)


def test_every_call_is_answered_with_its_type(called, record_property):
    calls, version = called
    for name, kind in TYPES.items():
        assert calls[name]["type"] == kind, calls[name]
        assert calls[name]["faults"] == [], calls[name]
    for name, (kind, status) in REFUSED.items():
        assert (calls[name]["type"], calls[name]["status"]) == (kind, status), calls[name]
        assert {"message", "type", "param", "code"} <= set(calls[name]["body"]), calls[name]["body"]
    assert "2048" in calls["too long"]["body"]["message"].replace(",", ""), calls["too long"]
    for package in ("starlette", "uvicorn"):
        record_property(f"version {package}", importlib.metadata.version(package))
    record_property(f"version openai{' of 2024' * version.startswith('1.')}", version)
    record_property(f"openai {version}, calls answered as typed objects", f"{len(calls)} of {len(calls)}")


def test_a_field_that_is_not_known_is_refused_or_named(called):
    entry = called[0]["unknown field"]
    if entry["type"] == "BadRequestError":
        assert "prompt_logprobs" in entry["body"]["message"]
    else:
        assert "prompt_logprobs" in json.dumps(entry["replies"][0]["warnings"])


def test_greedy_replies_are_those_of_this_process(called, picture):
    calls = called[0]
    seeing = [{"type": "image", "image": picture}, {"type": "text", "text": "what color is this?"}]
    for name, tokens in (("chat", generated("how many?", 8)), ("image", generated(seeing, 8))):
        reply = calls[name]["replies"][0]
        assert reply["choices"][0]["message"]["content"] == text_of(tokens)
        assert reply["usage"]["completion_tokens"] in (len(tokens), len(tokens) + 1)  # with or without the EOS


def test_streams_add_up_to_the_reply(called):
    calls, whole = called[0], text_of(generated("how many?", 2048))
    for name in ("stream", "stream with usage"):
        pieces = [piece["choices"][0] for piece in calls[name]["replies"] if piece["choices"]]
        assert pieces[0]["delta"]["role"] == "assistant"
        assert "".join(piece["delta"]["content"] or "" for piece in pieces) == whole
        assert [piece["finish_reason"] for piece in pieces if piece["finish_reason"]] == ["stop"]
    last = calls["stream with usage"]["replies"][-1]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0
    assert not any(piece.get("usage") for piece in calls["stream with usage"]["replies"][:-1])


def test_log_probabilities_are_those_of_this_process(called):
    for choice, ids in zip(called[0]["echo"]["replies"][0]["choices"], ([1, 20, 30], [40, 50])):
        logits = model()(ids).astype(np.float64)
        scores = logits - logits.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        best = int(scores[-1].argmax())
        expected = [scores[n, token] for n, token in enumerate([*ids[1:], best])]
        found = choice["logprobs"]
        assert found["token_logprobs"][0] is None and len(found["tokens"]) == len(found["text_offset"]) == len(ids) + 1
        assert_close(found["token_logprobs"][1:], expected, atol=1e-9, name="log-probabilities of a prompt")


def test_sampling_repeats_with_a_seed_and_tells_its_tokens(called):
    calls = called[0]
    two, again = ([choice["message"]["content"] for choice in calls[name]["replies"][0]["choices"]]
                  for name in ("two", "two again"))
    assert len(two) == 2 and two == again and not any("\n" in text for text in two)
    choice = calls["logprobs"]["replies"][0]["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert tokens and all(len(token["top_logprobs"]) == 2 for token in tokens)
    told = b"".join(bytes(token["bytes"]) for token in tokens).decode("utf-8", "replace")
    assert told.startswith(choice["message"]["content"]) or choice["message"]["content"].startswith(told)
