"""tiny/tokenizer.py against the SentencePiece library, and against stored ids of the released tokenizer."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from fetch_tokenizer import MIXTRAL, find_released, train_small

from tiny.config import TinyError
from tiny.files.tokenizer_files import load_tokenizer
from tiny.tokenizer import SentencePieceTokenizer, TextStream, read_bytes

GOLDEN = Path(__file__).parents[1] / "golden"
STORED = json.loads((GOLDEN / "tokenizers_spm.json").read_text(encoding="utf-8"))
FUZZ_SEQUENCES = 3000


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "tokenizer.model"
    path.write_bytes(train_small())
    return load_tokenizer(path)


@pytest.fixture(scope="session")
def released():
    path = find_released(MIXTRAL)
    if path is None:
        pytest.skip("The released tokenizer is not here; `make dev-data` fetches it.")
    return load_tokenizer(path)


def streamed(tokenizer, ids):
    stream = tokenizer.stream()
    return "".join([stream.push(id) for id in ids]) + stream.finish()


def random_ids(tokenizer, rng):
    """Ids with many bytes, lone spaces, control and unknown ids, and whole and broken characters."""
    library = sentencepiece.SentencePieceProcessor(model_proto=tokenizer._model.serialized_model_proto())
    byte = [id for id in range(tokenizer.vocab_size) if library.is_byte(id)] or [0]
    everything = range(tokenizer.vocab_size)
    spaces = [id for id in everything if tokenizer.pieces([id])[0].strip("\u2581") == ""]
    characters = [[byte[value % len(byte)] for value in text.encode()] for text in ("\u2581", "é", "€", "🙂")]
    while True:
        ids = []
        for _ in range(rng.randrange(12)):
            runs = [[rng.choice(everything)], [rng.choice(byte)], [rng.choice(spaces)], [rng.randrange(3)],
                    rng.choice(characters), rng.choice(characters)[:rng.randrange(1, 4)]]
            ids += rng.choice(runs)
        yield ids


def check_stream(tokenizer, seed):
    """stream == decode == the library's own decode, and never more than three bytes held."""
    rng = random.Random(seed)
    library = tokenizer._model
    for ids, _ in zip(random_ids(tokenizer, rng), range(FUZZ_SEQUENCES)):
        stream, texts = TextStream(tokenizer), []
        for id in ids:
            texts.append(stream.push(id))
            assert len(stream._held) <= 3
        text = "".join(texts) + stream.finish()
        assert text == library.decode(ids) == tokenizer.decode(ids), ids


# ---------------------------------------------------------------- the released tokenizer, when it is here


def test_released_numbers(released):
    assert (released.vocab_size, released.bos_id, released.eos_id) == (32000, 1, 2)


@pytest.mark.parametrize("case", STORED["strings"], ids=range(len(STORED["strings"])))
def test_released_strings(released, case):
    if case["ids"] is None:
        with pytest.raises(TinyError, match="surrogate"):
            released.encode(case["text"])
        return
    assert released.encode(case["text"]) == case["ids"]
    text = case.get("decoded", case["text"])
    assert released.decode(case["ids"]) == streamed(released, case["ids"]) == text


@pytest.mark.parametrize("case", STORED["decode"], ids=range(len(STORED["decode"])))
def test_released_decodes(released, case):
    assert released.decode(case["ids"]) == streamed(released, case["ids"]) == case["text"]


def test_released_stream_fuzz(released):
    check_stream(released, seed=1)


# ---------------------------------------------------------------- what always runs


def test_small_stream_fuzz(small):
    check_stream(small, seed=2)


def test_oracle_model_stream_fuzz():
    check_stream(load_tokenizer(GOLDEN / "mixtral-a" / "mistral"), seed=3)


@pytest.mark.parametrize("options", [
    {"add_dummy_prefix": False}, {"byte_fallback": False}, {"unk_surface": "\u2581?"},
    {"user_defined_symbols": "\u2581mine,\u2581\u2581two"}, {"control_symbols": "[INST],[/INST]"}],
    ids=["no_dummy_prefix", "no_bytes", "unk_surface", "user_defined", "control"])
def test_stream_of_other_models(options, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(train_small(**options))
    check_stream(load_tokenizer(tmp_path), seed=4)


def test_round_trips(small):
    for text in [case["text"] for case in STORED["strings"] if case["ids"] is not None]:
        ids = small.encode(text)
        assert ids == small._model.encode(text)
        assert not {small.bos_id, small.eos_id} & set(ids)
        # U+2581 is the mark of a space: it comes back as one, unless it was spelt in bytes.
        assert streamed(small, ids) == small.decode(ids) == text.replace("\u2581", " ")


def test_control_strings_are_text(small):
    assert small.decode(small.encode("<s>a</s><unk>")) == "<s>a</s><unk>"
    assert small.decode([small.bos_id, *small.encode("ab"), small.eos_id]) == "ab"


def test_pieces(small):
    ids = [small.bos_id, *small.encode("a\n")]
    assert small.pieces(ids) == ["<s>", "\u2581a", "<0x0A>"]


def test_numpy_ids(small):
    ids = small.encode("The answer")
    assert small.decode(np.array(ids)) == streamed(small, np.array(ids, np.int32)) == "The answer"


def test_half_a_character_is_never_printed(small):
    ids = small.encode("a🦉é\u2581€z")
    stream = small.stream()
    texts = [stream.push(id) for id in ids]
    assert "\ufffd" not in "".join(texts)
    # Every character comes with the token that completes it, so nothing is left for the end.
    assert stream.finish() == ""
    assert "🦉" in texts


def test_bytes_that_fit_nowhere_come_at_once():
    # E2 may begin a character; E2 41, C0 (overlong) and ED A0 80 (a surrogate) may not.
    assert read_bytes(b"\xe2", final=False) == ("", b"\xe2")
    assert read_bytes(b"\xe2\x41", final=False) == ("\ufffdA", b"")
    assert read_bytes(b"\xed\xa0\x80", final=False) == ("\ufffd" * 3, b"")
    assert read_bytes(b"\xc0", final=False) == ("\ufffd", b"")
    assert read_bytes(b"\xf0\x9f\x98", final=False) == ("", b"\xf0\x9f\x98")
    assert read_bytes(b"\xf0\x9f\x98", final=True) == ("\ufffd" * 3, b"")


def test_stream_decodes_nothing_twice(small):
    class Counting:
        lengths: list[int] = []

        def __getattr__(self, name):
            return getattr(small._model, name)

        def decode(self, ids):
            self.lengths.append(len(ids))
            return small._model.decode(ids)

    rng = random.Random(5)
    ids = [rng.randrange(small.vocab_size) for _ in range(2000)]
    assert streamed(SentencePieceTokenizer(Counting()), ids) == small.decode(ids)
    assert max(Counting.lengths) == 1
    assert sum(Counting.lengths) < 100


# ---------------------------------------------------------------- wrong variants, to be told apart


def space_not_stripped(tokenizer, ids):
    return " " * (tokenizer.pieces(ids[:1])[0][0] == "\u2581") + tokenizer.decode(ids)


def each_token_alone(tokenizer, ids):
    return "".join(tokenizer.decode([id]) for id in ids)


def controls_taken_out_first(tokenizer, ids):
    return tokenizer.decode([id for id in ids if not tokenizer._model.is_control(id)])


def space_stripped_from_the_text(tokenizer, ids):
    unk = [0, *ids]
    return tokenizer.decode(unk)[len(tokenizer.decode([0])):].removeprefix(" ")


def mark_replaced_last(tokenizer, ids):
    return tokenizer.decode(ids).replace("\u2581", " ")


def python_replaces_bytes(tokenizer, ids):
    text, run = "", b""
    for id in [*ids, None]:
        if id is not None and tokenizer._model.is_byte(id):
            run += bytes([id - 3])
            continue
        text, run = text + run.decode("utf-8", "replace"), b""
        text += "" if id is None else tokenizer.pieces([id])[0].replace("\u2581", " ")
    return text


def spelt(tokenizer, *parts):
    """Ids of pieces (str), of bytes, or as they are."""
    ids = []
    for part in parts:
        if isinstance(part, bytes):
            ids += [3 + value for value in part]
        else:
            ids.append(part if isinstance(part, int) else tokenizer._model.piece_to_id(part))
    return ids


@pytest.mark.parametrize("wrong, parts, text", [
    (space_not_stripped, ("\u2581a",), "a"),
    (each_token_alone, ("\u2581a", "\u2581a"), "a a"),
    (each_token_alone, ("\u2581a", "é".encode()), "aé"),
    (controls_taken_out_first, (b"\xc3", 1, b"\xa9"), "\ufffd\ufffd"),
    (space_stripped_from_the_text, (b" ", "\u2581a"), "  a"),
    (mark_replaced_last, ("\u2581a", "\u2581".encode()), "a\u2581"),
    (python_replaces_bytes, (b"\xe2\x82",), "\ufffd\ufffd"),
    (python_replaces_bytes, (b"\xf0\x9f\x98A",), "\ufffd\ufffd\ufffdA"),
])
def test_wrong_decoders_are_told_apart(small, wrong, parts, text):
    ids = spelt(small, *parts)
    assert 0 not in ids
    assert streamed(small, ids) == small.decode(ids) == text
    assert wrong(small, ids) != text


@pytest.mark.parametrize("parts, text", [
    ((1, "\u2581a"), "a"), (("\u2581", "\u2581a"), " a"), (("\u2581", 1, "\u2581a"), " a"),
    ((1, "\u2581", "\u2581a"), " a"),
    (("\u2581", "\u2581"), " "), ((0,), " \u2047 "), ((0, "\u2581a"), " \u2047  a"), ((), ""), ((1, 2), ""),
    ((b"\x00",), "\x00"), ((b"\x80", "\u2581a"), "\ufffd a"), ((b"\xf4\x90\x80\x80",), "\ufffd" * 4)])
def test_facts_about_the_library(small, parts, text):
    ids = spelt(small, *parts)
    assert streamed(small, ids) == small._model.decode(ids) == text


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("bad", [-1, 379, 10**6, 2**70, 1.0, "1", None])
def test_bad_ids(small, bad):
    for call, argument in ((small.decode, [5, bad]), (small.pieces, [bad]), (small.stream().push, bad)):
        with pytest.raises(TinyError) as caught:
            call(argument)
        assert repr(bad) in caught.value.cause


@pytest.mark.parametrize("text, at", [
    ("\ud800", "Character 0 of the text is U+D800"), ("a\udc00", "Character 1"),
    ("ab\ud83d\ude00", "Character 2 of the text is U+D83D")])
def test_lone_surrogates(small, text, at):
    with pytest.raises(TinyError) as caught:
        small.encode(text)
    assert caught.value.cause.startswith(at)
    # The remedy is code that works.
    assert "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')" in caught.value.remedy
    small.encode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


@pytest.mark.parametrize("text", [b"bytes", None, 3, ["a"]])
def test_text_must_be_a_string(small, text):
    with pytest.raises(TinyError, match=type(text).__name__):
        small.encode(text)
