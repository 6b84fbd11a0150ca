"""tiny/chat.py, Pixtral's format, against stored ids, and with a tokenizer that shows what it is given."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close
from PIL import Image

import tiny
from tests.mutants import chat_v3 as mutants
from tests.mutants import tekken
from tiny import chat_v3
from tiny.chat import normalise
from tiny.config import TinyError
from tiny.files.tokenizer_files import load_tokenizer
from tiny.tekken import TekkenTokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
STORED = json.loads((GOLDEN / "tokenizers_tekken.json").read_text(encoding="utf-8"))
CHATS = [chat for chat in STORED["chats"] if chat["small"] is not None]
REFUSED = json.loads((GOLDEN / "tokenizers_spm.json").read_text(encoding="utf-8"))["refused_chats"]


class Shown:
    """A tokenizer whose ids are the texts themselves, so that a test reads what is encoded together."""

    bos_id, eos_id = "<s>", "</s>"

    def special_id(self, name):
        return name

    def encode(self, text):
        return [f"-{text}-"]

    def encode_image(self, image):
        return [image], f"pixels of {image}"


def system(content):
    return {"role": "system", "content": content}


def user(*content):
    """A user message: a string, or chunks, where a name with a point is an image's."""
    if len(content) == 1 and "." not in content[0]:
        return {"role": "user", "content": content[0]}
    kinds = ["image" if "." in part else "text" for part in content]
    return {"role": "user", "content": [{"type": kind, kind: part} for kind, part in zip(kinds, content)]}


def answer(content, **keys):
    return {"role": "assistant", "content": content, **keys}


# Messages, what is encoded, and what is encoded in the older style where that is something else.
TABLE = [
    ([user("a")], "[INST] -a- [/INST]"), ([user("")], "[INST] [/INST]"), ([user(" a\n")], "[INST] - a\n- [/INST]"),
    ([user("a"), user("b")], "[INST] -a\n\nb- [/INST]"),
    ([user("a"), answer(" b  "), user("c")], "[INST] -a- [/INST] - b- </s> [INST] -c- [/INST]",
     "[INST] -a- [/INST] - b  - </s> [INST] -c- [/INST]"),
    ([user("a"), answer("b \n "), user("c")], "[INST] -a- [/INST] -b \n- </s> [INST] -c- [/INST]",
     "[INST] -a- [/INST] -b \n - </s> [INST] -c- [/INST]"),
    ([user("a"), answer("b ", prefix=True)], "[INST] -a- [/INST] -b-", "[INST] -a- [/INST] -b -"),
    ([system("s"), user("a"), answer("b"), user("c")], "[INST] -a- [/INST] -b- </s> [INST] -s\n\nc- [/INST]"),
    ([system("s"), user("a"), answer("b", prefix=True)], "[INST] -s\n\na- [/INST] -b-"),
    ([system("s"), system("t"), user("")], "[INST] -s\n\nt\n\n- [/INST]"),
    ([system("s")], "[INST] -s\n\n- [/INST]"), ([system(""), user("a")], "[INST] -a- [/INST]"),
    ([system("s"), answer("b"), user("c")], "[INST] [/INST] -b- </s> [INST] -s\n\nc- [/INST]"),
    ([user("1.png")], "[INST] 1.png [/INST]"), ([user("a", "1.png")], "[INST] 1.png -a- [/INST]"),
    ([user("1.png", "a")], "[INST] 1.png -a- [/INST]"), ([user("a", "b", "1.png")], "[INST] 1.png -a\n\nb- [/INST]"),
    ([user("a"), user("1.png")], "[INST] 1.png -a- [/INST]"), ([user("", "1.png")], "[INST] 1.png [/INST]"),
    ([user("a", "1.png", "2.png")], "[INST] -a- 1.png 2.png [/INST]"),
    ([user("1.png", "a", "2.png")], "[INST] 1.png -a- 2.png [/INST]"),
    ([user("a", "1.png", "b", "", "c")], "[INST] -a- 1.png -b\n\nc- [/INST]"),
    ([user("a", "1.png", "", "2.png")], "[INST] -a- 1.png 2.png [/INST]"),
    ([user("1.png"), answer("b"), user("c", "2.png")], "[INST] 1.png [/INST] -b- </s> [INST] 2.png -c- [/INST]"),
    ([system("s"), user("1.png"), answer("b"), user("c")], "[INST] 1.png [/INST] -b- </s> [INST] -s\n\nc- [/INST]"),
    ([system("s"), user("a", "1.png", "b")], "[INST] -s\n\n- -a- 1.png -b- [/INST]",
     "[INST] -s\n\na- 1.png -b- [/INST]"),
    ([system("s"), user("a", "1.png", "2.png")], "[INST] -s\n\n- -a- 1.png 2.png [/INST]",
     "[INST] -s\n\na- 1.png 2.png [/INST]"),
    ([system("s"), user("a", "1.png")], "[INST] -s\n\n- 1.png -a- [/INST]"),
    ([system("s"), user("1.png", "a")], "[INST] -s\n\n- 1.png -a- [/INST]"),
]


def encode(messages, tokenizer, style="mistral"):
    return chat_v3.encode_v3(normalise(messages), tokenizer, style)


def check_shown(style):
    for messages, *expected in TABLE:
        ids, images = encode(messages, Shown(), style)
        assert " ".join(ids) == "<s> " + expected[-1 if style == "mistral-1.4" else 0], messages
        assert images == [f"pixels of {id}" for id in ids if ".png" in id]


@pytest.fixture(scope="session")
def small():
    return load_tokenizer(GOLDEN / "pixtral-a" / "mistral")


def with_pictures(messages):
    """The messages, with pictures in the place of their sizes."""
    result = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = [chunk if chunk["type"] == "text" else chunk | {"image": Image.new("RGB", chunk["image"])}
                       for chunk in content]
        result.append(message | {"content": content})
    return result


def check_chat(chat, key, encode):
    """Compare ids; of a long list the length and the checksum are stored."""
    ids, images = encode(with_pictures(chat["messages"]))
    stored = chat[key]
    if isinstance(stored, dict):
        assert len(ids) == stored["length"]
        assert hashlib.sha256(json.dumps(ids).encode()).hexdigest() == stored["sha256"]
    else:
        assert ids == stored, chat["messages"]
    assert sum(pixels.shape[1] * pixels.shape[2] // 256 for pixels in images) == ids.count(10)
    assert len(images) == ids.count(13)


def check_small(small):
    for chat in CHATS:
        check_chat(chat, "small", lambda messages: encode(messages, small))


def check_older(small):
    for chat in STORED["older_chats"]:
        check_chat(chat, "small", lambda messages: encode(messages, small, "mistral-1.4"))


# ---------------------------------------------------------------- stored chats


@pytest.mark.parametrize("chat", STORED["chats"], ids=range(len(STORED["chats"])))
def test_released_chats(released_tekken, chat):
    check_chat(chat, "ids", released_tekken.encode_chat)


@pytest.mark.parametrize("chat", STORED["older_chats"], ids=range(len(STORED["older_chats"])))
def test_released_chats_of_the_older_style(released_tekken, chat):
    check_chat(chat, "ids", lambda messages: released_tekken.encode_chat(messages, style="mistral-1.4"))


@pytest.mark.parametrize("chat", CHATS, ids=range(len(CHATS)))
def test_small_chats(small, chat):
    check_chat(chat, "small", small.encode_chat)


@pytest.mark.parametrize("chat", STORED["older_chats"], ids=range(len(STORED["older_chats"])))
def test_small_chats_of_the_older_style(small, chat):
    check_chat(chat, "small", lambda messages: small.encode_chat(messages, style="mistral-1.4"))


@pytest.mark.parametrize("messages", REFUSED, ids=range(len(REFUSED)))
def test_chats_that_the_reference_refuses(small, messages):
    with pytest.raises(TinyError):
        small.encode_chat(messages)


# ---------------------------------------------------------------- what is encoded together


@pytest.mark.parametrize("style", ["mistral", "mistral-1.4"])
def test_what_is_encoded(style):
    check_shown(style)


# ---------------------------------------------------------------- images


def test_images_come_in_the_order_of_their_ids(small, tmp_path):
    rng = np.random.default_rng(1)
    pictures = [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
                for height, width in ((17, 33), (16, 16), (200, 90))]
    pictures[2].save(tmp_path / "last.png")
    chunks = [{"type": "image", "image": picture} for picture in (*pictures[:2], pictures[0], tmp_path / "last.png")]
    text = {"type": "text", "text": "and"}
    messages = [{"role": "user", "content": [text, *chunks[:2]]}, answer("x"),
                {"role": "user", "content": [*chunks[2:], text]}]
    ids, images = small.encode_chat(messages)
    for pixels, picture in zip(images, (*pictures[:2], pictures[0], pictures[2]), strict=True):
        assert_close(pixels, tiny.preprocess(picture, 16, 160), atol=0.0, name="pixels")
    runs = [small.image_tokens(*grid) for grid in ((3, 2), (1, 1), (3, 2), (5, 10))]
    inst, end, also = small.special_id("[INST]"), small.special_id("[/INST]"), small.encode("and")
    assert ids == [1, inst, *also, *runs[0], *runs[1], end, *small.encode("x"), 2, inst, *runs[2], *runs[3], *also, end]


def test_an_image_that_cannot_be_read(small, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    for path in (tmp_path / "text.png", str(tmp_path / "missing.png")):
        with pytest.raises(TinyError) as caught:
            small.encode_chat([{"role": "user", "content": [{"type": "image", "image": path}]}])
        assert Path(path).name in caught.value.cause and caught.value.remedy


def test_a_tokenizer_without_an_image_section(small):
    blind = TekkenTokenizer(small._special, small._bytes)
    assert (blind.patch_size, blind.max_image_size) == (None, None)
    assert blind.encode_chat([user("a")]) == small.encode_chat([user("a")])
    with pytest.raises(TinyError, match="reads text only"):
        blind.encode_chat([user("a", "1.png")])


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("messages, cause", [
    ([], "an empty list"), ([user("a"), {"role": "tool", "content": "4"}], "Message 2 is about tools"),
    ([user("a"), answer("", tool_calls=[{"id": "1"}])], "Message 2 is about tools"),
    ([{"role": "system", "content": [{"type": "image", "image": "1.png"}]}], "of the system, holds an image"),
    ([user("a"), answer([{"type": "image", "image": "1.png"}], prefix=True)], "of the assistant, holds an image"),
    ([user("a"), answer("b")], "nothing asks for an answer")])
def test_refused(small, messages, cause):
    with pytest.raises(TinyError) as caught:
        small.encode_chat(messages)
    assert cause in caught.value.cause and caught.value.remedy


def test_styles(small):
    with pytest.raises(TinyError) as caught:
        small.encode_chat([user("a")], style="hf")
    assert "'hf'" in caught.value.cause and "mistral or mistral-1.4" in caught.value.remedy
    assert small.encode_chat([user("a")], style="mistral") == small.encode_chat([user("a")])


@pytest.mark.parametrize("version", ["v7", "v11", "v1", ""])
def test_other_formats(small, version):
    other = TekkenTokenizer(small._special, small._bytes, version, (16, 160))
    assert other.encode("a") == small.encode("a")
    with pytest.raises(TinyError, match=f"chat format '{version}'"):
        other.encode_chat([user("a")])


def test_halves_of_surrogate_pairs(small):
    assert small.encode_chat([user("\ud800")]) == small.encode_chat([user("\ufffd")])


# ---------------------------------------------------------------- wrong variants, to be told apart


def name_of(mutant):
    return mutant.__name__


@pytest.mark.parametrize("mutant", mutants.CHAT, ids=name_of)
def test_wrong_chats_are_told_apart(small, mutant, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check_small(small)
        check_shown("mistral")


@pytest.mark.parametrize("mutant", mutants.OLD_CHAT, ids=name_of)
def test_wrong_chats_of_the_older_style_are_told_apart(small, mutant, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check_older(small)
        check_shown("mistral-1.4")


def test_turns_one_by_one_are_the_chat(small, monkeypatch):
    """What the mutants of the system prompt spoil: here the prompt goes where it belongs, to a single question."""
    mutants.prompt_before(monkeypatch, lambda number: True)
    for messages in ([user("a")], [system("s"), user("a", "b")], [system("s"), user("a"), answer("b", prefix=True)]):
        assert encode(messages, small) == small.encode_chat(messages)


@pytest.mark.parametrize("mutant", tekken.IMAGE, ids=name_of)
def test_wrong_images_are_told_apart(small, mutant, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check_small(small)


def test_the_order_of_chunks_decides(small):
    rng, pictures = random.Random(3), [Image.new("RGB", size) for size in ((16, 16), (32, 16), (16, 32))]
    chunks = [{"type": "image", "image": picture} for picture in pictures] + [
        {"type": "text", "text": text} for text in "ab"]
    seen = set()
    for _ in range(40):
        rng.shuffle(chunks)
        seen.add(tuple(small.encode_chat([{"role": "user", "content": chunks}])[0]))
    assert len(seen) > 30
