"""/v1/chat/completions, field by field, against `tiny.generate` on the same messages."""

import base64
import io

import numpy as np
import pytest
from compare import assert_close
from PIL import Image
from tolerances import PIXTRAL

import tiny
from tests.serve.served import data_url, picture, user
from tiny.sampling import log_softmax
from tiny.serve import ask, writing


@pytest.fixture(scope="module")
def seeing():
    return tiny.load("tiny-pixtral")


def scene(seed, size=(64, 48)):
    """A picture with a coloured square somewhere."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(rng.integers(0, 255, 3).tolist()))
    left, top = rng.integers(0, 30, 2).tolist()
    image.paste(tuple(rng.integers(0, 255, 3).tolist()), (left, top, left + 16, top + 12))
    return image


def alone(model, messages, **options):
    ids, images = model.tokenizer.encode_chat(messages)
    return list(tiny.generate(model, ids, images=images, **options)), ids


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp"])
@pytest.mark.parametrize("options", [{"max_tokens": 30}, {"max_tokens": 30, "temperature": 1.0, "seed": 4}])
def test_pictures_are_seen_as_generate_sees_them(pixtral, seeing, kind, options):
    url = data_url(scene(3), kind)
    decoded = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    wanted, ids = alone(seeing, user([{"type": "image", "image": decoded}, {"type": "text", "text": "what is it?"}]),
                        **options)
    reply = pixtral.chat([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}],
                         **options)
    (choice,) = reply["choices"]
    assert choice["message"] == {"role": "assistant", "content": "".join(token.text for token in wanted)}
    assert reply["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize("head", ["data:;base64,", "DATA:IMAGE/PNG;BASE64,", "data:image/png;name=a.png;base64,"])
def test_data_urls_as_rfc_2397_has_them(pixtral, head):
    url = data_url(scene(3))
    found = [pixtral.chat([{"type": "image_url", "image_url": {"url": one}}], max_tokens=9, logprobs=True)["choices"]
             for one in (url, head + url.partition(",")[2])]
    assert found[0] == found[1]


def test_several_pictures_and_turns(pixtral, seeing):
    images = [scene(number, (40 + 20 * number, 60)) for number in range(3)]
    ours, theirs = [], []
    for number, image in enumerate(images):
        text = {"type": "text", "text": f"question {number}"}
        ours.append({"role": "user", "content": [{"type": "image", "image": image}, text]})
        theirs.append({"role": "user", "content": [{"type": "image_url", "image_url": data_url(image)}, text]})
        ours.append({"role": "assistant", "content": "red"})
        theirs.append({"role": "assistant", "content": [{"type": "text", "text": "red"}]})
    system = {"role": "system", "content": "be short"}
    wanted, ids = alone(seeing, [system, *ours[:-1]], max_tokens=20)
    status, reply = pixtral.ask("/v1/chat/completions", {"messages": [system, *theirs[:-1]], "max_tokens": 20,
                                                         "temperature": 0})
    assert status == 200 and reply["usage"]["prompt_tokens"] == len(ids)
    assert reply["choices"][0]["message"]["content"] == "".join(token.text for token in wanted)
    developer = [system | {"role": "developer"}, *theirs[:-1]]
    assert pixtral.ask("/v1/chat/completions", {"messages": developer, "max_tokens": 20, "temperature": 0})[1][
        "choices"] == reply["choices"]


def test_a_prefix_is_continued(mixtral):
    model = tiny.load("tiny-mixtral")
    messages = [*user("Hello"), {"role": "assistant", "content": "One", "prefix": True}]
    wanted, _ = alone(model, messages, max_tokens=8)
    _, reply = mixtral.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 8, "temperature": 0})
    assert reply["choices"][0]["message"]["content"] == "".join(token.text for token in wanted)


def test_logprobs(mixtral):
    model = tiny.load("tiny-mixtral")
    wanted, ids = alone(model, user("Tell me of a cat"), max_tokens=10)
    (choice,) = mixtral.chat("Tell me of a cat", max_tokens=10, logprobs=True, top_logprobs=4)["choices"]
    entries = choice["logprobs"]["content"]
    assert [entry["token"] for entry in entries][: len(wanted)] == [token.text for token in wanted]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == choice["message"]["content"]
    row = log_softmax(model(ids)[-1])
    found = [one["logprob"] for one in entries[0]["top_logprobs"]]
    assert len(found) == 4 and float(np.abs(np.subtract(found, np.sort(row)[::-1][:4])).max()) < 1e-5
    assert all(abs(entry["logprob"] - token.logprob) < 1e-9 for entry, token in zip(entries, wanted))
    (choice,) = mixtral.chat("Tell me of a cat", max_tokens=10)["choices"]
    assert choice["logprobs"] is None


def test_max_completion_tokens_is_the_newer_name(mixtral):
    for fields in ({"max_completion_tokens": 3}, {"max_tokens": 3}, {"max_tokens": 9, "max_completion_tokens": 3}):
        assert mixtral.chat("Tell me of a cat", **fields)["usage"]["completion_tokens"] == 3


def test_a_stream_says_what_a_body_says(pixtral):
    chunks = [picture(), {"type": "text", "text": "describe it"}]
    options = {"max_tokens": 25, "n": 3, "temperature": 1.2, "seed": 9, "logprobs": True, "top_logprobs": 2}
    body = pixtral.chat(chunks, **options)
    events = pixtral.chat(chunks, stream=True, stream_options={"include_usage": True}, **options)
    assert events[-1]["choices"] == [] and events[-1]["usage"] == body["usage"]
    assert {event["object"] for event in events} == {"chat.completion.chunk"} and len({e["id"] for e in events}) == 1
    for choice in body["choices"]:
        parts = [event["choices"][0] for event in events[:-1] if event["choices"][0]["index"] == choice["index"]]
        assert parts[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"]["content"] for part in parts) == choice["message"]["content"]
        assert [one for part in parts[1:] for one in part["logprobs"]["content"]] == choice["logprobs"]["content"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
    assert "usage" not in pixtral.chat(chunks, stream=True, **options)[0]


def test_what_is_ignored_is_named(pixtral):
    messages = user([{"type": "image_url", "image_url": {"url": data_url(scene(1)), "detail": "low"}}])
    messages[0]["name"] = "ada"
    fields = {"messages": messages, "max_tokens": 1, "store": False, "metadata": {}, "prompt_logprobs": 1, "tools": []}
    named = ["store: ignored", "metadata: ignored", "prompt_logprobs: ignored",
             "messages[0].name: ignored", "messages[0].content[0].image_url.detail: ignored"]
    _, reply = pixtral.ask("/v1/chat/completions", fields)
    assert reply["warnings"] == named
    _, events = pixtral.ask("/v1/chat/completions", fields | {"stream": True})
    assert events[0]["warnings"] == named and "warnings" not in events[1]
    animated = io.BytesIO()
    scene(1).save(animated, "GIF", save_all=True, append_images=[scene(2)])
    url = "data:image/gif;base64," + base64.b64encode(animated.getvalue()).decode()
    reply = pixtral.chat([{"type": "image_url", "image_url": {"url": url}}], max_tokens=1)
    assert "several frames" in reply["warnings"][0] and reply["warnings"][0].startswith("messages[0].content[0] has")


def test_a_context_that_is_too_small(pixtral):
    status, reply = pixtral.ask("/v1/chat/completions", {"messages": user("word " * 3000)})
    assert status == 400 and "2048 tokens" in reply["error"]["message"] and reply["error"]["param"] == "messages"


def test_a_picture_that_two_passes_share(seeing, monkeypatch):
    """The server reads long prompts in passes too: the tokens are those of `generate`, which has one here."""
    ids, images = seeing.tokenizer.encode_chat(user([{"type": "image", "image": scene(n)} for n in (1, 2)]))
    wanted = list(tiny.generate(seeing, ids, images=images, max_tokens=5, stop_at_eos=False))
    monkeypatch.setattr(writing, "PREFILL", 20)
    asked = ask.read({"temperature": 0, "logprobs": True}, chat=True, model="tiny-pixtral")
    steps = list(writing.write(seeing, ids, images, 5, asked, None, True, {}))
    wanted = wanted[: len(steps)]
    assert len(ids) > 60 and [step.id for step in steps] == [token.id for token in wanted]
    assert_close([step.logprob for step in steps], [token.logprob for token in wanted], PIXTRAL["logprobs"])
