"""tiny/chat.py, Mixtral's format, against stored ids, and with a tokenizer that shows what it is given."""

import json
from pathlib import Path

import pytest
from fetch_tokenizer import MIXTRAL, find_released, train_small

from tiny.chat import Turn, encode_v1, normalise
from tiny.config import TinyError
from tiny.files.tokenizer_files import load_tokenizer

STORED = json.loads((Path(__file__).parents[1] / "golden" / "tokenizers_spm.json").read_text(encoding="utf-8"))


class Shown:
    """A tokenizer whose ids are the texts themselves, so that a test reads what is encoded together."""

    bos_id, eos_id = "<s>", "</s>"

    def encode(self, text):
        return [text]


def shown(messages):
    return encode_v1(normalise(messages), Shown())


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def answer(content, **keys):
    return {"role": "assistant", "content": content, **keys}


def texts(*strings):
    return [{"type": "text", "text": string} for string in strings]


IMAGE = {"type": "image", "image": "owl.png"}


@pytest.fixture(scope="session")
def released():
    path = find_released(MIXTRAL)
    if path is None:
        pytest.skip("The released tokenizer is not here; `make dev-data` fetches it.")
    return load_tokenizer(path)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "tokenizer.model"
    path.write_bytes(train_small())
    return load_tokenizer(path)


@pytest.mark.parametrize("chat", STORED["chats"], ids=range(len(STORED["chats"])))
def test_released_chats(released, chat):
    assert released.encode_chat(chat["messages"]) == (chat["ids"], [])


@pytest.mark.parametrize("messages", STORED["refused_chats"], ids=range(len(STORED["refused_chats"])))
def test_chats_that_the_reference_refuses(small, messages):
    with pytest.raises(TinyError):
        small.encode_chat(messages)


@pytest.mark.parametrize("messages, expected", [
    ([user("a")], ["[INST] a [/INST]"]),
    ([user("")], ["[INST]  [/INST]"]),
    ([user([])], ["[INST]  [/INST]"]),
    ([user(" a\n")], ["[INST]  a\n [/INST]"]),
    ([user("a"), answer(" b "), user("c")], ["[INST] a [/INST]", " b ", "</s>", "[INST] c [/INST]"]),
    ([system("s"), user("a"), answer("b"), user("c")],
     ["[INST] s\n\na [/INST]", "b", "</s>", "[INST] c [/INST]"]),
    ([system("s"), system("t"), user("a")], ["[INST] s\n\nt\n\na [/INST]"]),
    ([system(""), user("a")], ["[INST] a [/INST]"]),
    ([system(texts("")), system("t"), user("a")], ["[INST] \n\nt\n\na [/INST]"]),
    ([system("s")], ["[INST] s\n\n [/INST]"]),
    ([system("")], ["[INST]  [/INST]"]),
    ([user("a"), user(""), user("b")], ["[INST] a\n\nb [/INST]"]),
    ([user("a"), system("s"), user("b")], ["[INST] s\n\na [/INST]", "[INST] b [/INST]"]),
    ([user("a"), system("s")], ["[INST] s\n\na [/INST]"]),
    ([user(texts("a", "", "b")), user(texts("c"))], ["[INST] a\n\nb\n\nc [/INST]"]),
    ([user(texts("", "a"))], ["[INST] a [/INST]"]),
    ([system(""), system("t"), user("a")], ["[INST] t\n\na [/INST]"]),
    ([user(tuple(texts("a")))], ["[INST] a [/INST]"]),
    ([user("a"), answer("b"), answer("c"), user("d")],
     ["[INST] a [/INST]", "b\n\nc", "</s>", "[INST] d [/INST]"]),
    ([user("a"), answer("b", prefix=True)], ["[INST] a [/INST]", "b"]),
    ([user("a"), answer("b", prefix=False), answer("c", prefix=True)], ["[INST] a [/INST]", "b\n\nc"]),
])
def test_what_is_encoded(messages, expected):
    assert shown(messages) == ["<s>", *expected]


def test_turns():
    messages = [system("s"), user(["not looked at"]), user("b")]
    messages[1]["content"] = [*texts("a", "b"), IMAGE, *texts("c")]
    before = json.dumps(messages)
    assert normalise(messages) == [Turn("system", ["s"]), Turn("user", ["a\n\nb", IMAGE, "c\n\nb"])]
    assert json.dumps(messages) == before


@pytest.mark.parametrize("nothing", [None, []])
def test_a_client_that_writes_out_that_no_tools_were_called(nothing):
    """The OpenAI client does. Oracle: mistral-common 1.13.1 takes both and gives the ids of the plain messages."""
    messages = [user("a"), answer("b"), user("c")]
    assert shown([messages[0], messages[1] | {"tool_calls": nothing}, messages[2]]) == shown(messages)


@pytest.mark.parametrize("messages, cause", [
    ([], "an empty list"), (None, "a NoneType"), ("hello", "a str"), (user("a"), "a dict"),
    (["hello"], "Message 1 is a str"),
    ([{"content": "a"}], "Message 1 has no 'role'"),
    ([user("a"), {"role": "user"}], "Message 2 has no 'content'"),
    ([{"role": "bot", "content": "a"}], "the role 'bot'"), ([{"role": ["user"], "content": "a"}], "the role"),
    ([user("a"), {"role": "tool", "content": "4"}], "Message 2 is about tools"),
    ([user("a"), answer("", tool_calls=[{"id": "1"}])], "Message 2 is about tools"),
    ([user("a") | {"prefix": True}], "key 'prefix'"), ([user("a") | {"name": "x"}], "key 'name'"),
    ([user("a") | {3: "x"}], "key '3'"),
    ([user("a"), answer("b", prefix=1)], "the prefix 1"),
    ([user(None)], "content of type NoneType"), ([user(b"a")], "content of type bytes"),
    ([user(["a"])], "neither text nor image"), ([user([{"text": "a"}])], "neither text nor image"),
    ([user([{"type": "audio"}])], "neither text nor image"),
    ([user([{"type": "text"}])], "text chunk of the wrong form"),
    ([user([{"type": "text", "text": 3}])], "text chunk of the wrong form"),
    ([user([{"type": "text", "text": "a", "more": 1}])], "text chunk of the wrong form"),
    ([user([{"type": "image"}])], "image chunk of the wrong form"),
    ([system([IMAGE]), user("a")], "of the system, holds an image"),
    ([user([*texts("a"), IMAGE])], "reads text only"),
    ([user("a"), answer(""), user("b")], "Message 2 is an answer without text"),
    ([user("a"), answer([]), user("b")], "answer without text"),
    ([user("a"), answer(texts("")), user("b")], "answer without text"),
    ([answer("a")], "only message is the assistant's"), ([answer("a", prefix=True)], "only message is the assistant's"),
    ([user("a"), answer("b"), system("s"), user("c")], "Message 3 is a system prompt"),
    ([user("a"), answer("b")], "nothing asks for an answer"),
    ([user("a"), answer("b", prefix=True), user("c")], "Message 2 is a prefix"),
    ([user("a"), answer("b", prefix=True), answer("c")], "Message 2 is a prefix"),
])
def test_refused(messages, cause):
    with pytest.raises(TinyError) as caught:
        shown(messages)
    assert cause in caught.value.cause
    assert caught.value.remedy


def test_surrogates_in_a_chat(small):
    with pytest.raises(TinyError, match=r"U\+D800"):
        small.encode_chat([user("\ud800")])


def test_style(small):
    for style in ("chatml", "mistral-1.4"):
        with pytest.raises(TinyError) as caught:
            small.encode_chat([user("a")], style=style)
        assert repr(style) in caught.value.cause and caught.value.remedy == "Use: mistral."
    assert small.encode_chat([user("a")], style="mistral") == small.encode_chat([user("a")])


def test_a_tokenizer_of_a_later_format(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_small(control_symbols="[INST],[/INST]"))
    with pytest.raises(TinyError, match="later chat format"):
        load_tokenizer(path).encode_chat([user("a")])


# ---------------------------------------------------------------- wrong variants, to be told apart

TALK = [system("Be brief."), user("What is 1 + 1?"), answer("The answer is 2."), user("Thank you.")]


def as_one_string(messages, tokenizer):
    """All turns in one string: no space in front of the answer, and "</s>" becomes text."""
    parts = shown(messages)[1:]
    return [tokenizer.bos_id, *tokenizer.encode("".join(parts))]


def as_one_string_with_eos(messages, tokenizer):
    """As one string between two EOS: the answer loses its leading space."""
    ids, text = [tokenizer.bos_id], ""
    for part in shown(messages)[1:]:
        if part == "</s>":
            ids, text = [*ids, *tokenizer.encode(text), tokenizer.eos_id], ""
        else:
            text += part
    return ids + tokenizer.encode(text)


def system_in_the_last_question(messages, tokenizer):
    turns = normalise(messages)
    turns[-1] = Turn("user", ["\n\n".join([*turns[0].content, *turns[-1].content])])
    return encode_v1(turns[1:], tokenizer)


def without_eos(messages, tokenizer):
    return [id for id in encode_v1(normalise(messages), tokenizer) if id != tokenizer.eos_id]


def without_bos(messages, tokenizer):
    return encode_v1(normalise(messages), tokenizer)[1:]


def with_spaced_brackets(messages, tokenizer):
    """A space in front of every turn, as some published templates have it."""
    turns = [turn._replace(content=[" " + "".join(turn.content)]) for turn in normalise(messages)]
    return encode_v1(turns, tokenizer)


@pytest.mark.parametrize("wrong", [as_one_string, as_one_string_with_eos, system_in_the_last_question,
                                   without_eos, without_bos, with_spaced_brackets])
def test_wrong_encoders_are_told_apart(small, wrong):
    ids, _ = small.encode_chat(TALK)
    question = small.encode("[INST] Be brief.\n\nWhat is 1 + 1? [/INST]")
    reply = small.encode("The answer is 2.")
    assert ids == [1, *question, *reply, 2, *small.encode("[INST] Thank you. [/INST]")]
    assert wrong(TALK, small) != ids
