"""tiny/tekken.py against stored ids of the released tokenizer and of a small one."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close
from PIL import Image

import tiny
from tests.mutants import tekken as mutants
from tiny import tekken
from tiny.config import TinyError
from tiny.files.tokenizer_files import load_tokenizer
from tiny.tekken import SPECIAL_TOKENS, TekkenTokenizer, merge

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = GOLDEN / "pixtral-a" / "mistral" / "tekken.json"
STORED = json.loads((GOLDEN / "tokenizers_tekken.json").read_text(encoding="utf-8"))
BYTES = [bytes([value]) for value in range(256)]


@pytest.fixture(scope="session")
def small():
    return load_tokenizer(SMALL)


def repaired(text):
    """The text with whole surrogate pairs joined and halves replaced, character by character."""
    result = []
    for character in text:
        if result and "\ud800" <= result[-1] <= "\udbff" and "\udc00" <= character <= "\udfff":
            high, low = ord(result.pop()) - 0xD800, ord(character) - 0xDC00
            character = chr(0x10000 + 1024 * high + low)
        result.append(character)
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in result)


def streamed(tokenizer, ids):
    stream = tokenizer.stream()
    return "".join([stream.push(id) for id in ids]) + stream.finish()


def check_strings(tokenizer, key):
    for case in STORED["strings"]:
        ids = tokenizer.encode(case["text"])
        assert ids == case[key], case["text"]
        assert tokenizer.decode(ids) == streamed(tokenizer, ids) == repaired(case["text"])
    # JSON joins the two halves of a pair, so the stored strings hold none.
    assert tokenizer.encode("a\ud83d\ude42\ud83d") == tokenizer.encode("a\U0001f642\ufffd")


SPLITS = [
    ["Hello", ",", " world", "!", " It", "'s", " ", "2", "0", "2", "4", ":", " naïve", " HTTPServer", "\n\n", " ", " x",
     "//", "y", "\n"],
    ["don", "'t", " DON", "'T", " camel", "Case", " XYab"],
    ["a", "\n", "b", " \n \n", "  ", " c", "  "],
    ["(a", "?\n\n", "(b", " ...\r\n/", "c", " \n", "\td"], ["\u00bd", "\u0663", " ", "\u0663"],
    ["e\u0301e", " n\u0303", "\u3000ab", "\u2009\u2009", "\u2028", "1"],
    ["\u02b0A\u02b0", "A"], ["\ufffd\u200d🙂", "a"], ["it", "'tis"]]


def check_splits(tokenizer):
    for pieces in SPLITS:
        assert tokenizer._pattern.findall("".join(pieces)) == pieces


def check_decodes(tokenizer, key):
    for case in STORED[key]:
        assert tokenizer.decode(case["ids"]) == case["text"], case


def check_streams(tokenizer, key):
    for case in STORED[key]:
        assert streamed(tokenizer, case["ids"]) == case["text"], case


def slow_merge(data, ids):
    """The definition of `merge`, as it is written."""
    parts = [data[place:place + 1] for place in range(len(data))]
    while True:
        found = [(ids[a + b], place) for place, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ids]
        if not found:
            return [ids[part] for part in parts]
        place = min(found)[1]
        parts[place:place + 2] = [parts[place] + parts[place + 1]]


def random_vocabulary(rng, letters=b"abc"):
    tokens = {bytes(rng.choices(letters, k=rng.randrange(2, 6))) for _ in range(rng.randrange(2, 40))}
    return {token: id for id, token in enumerate([*BYTES, *rng.sample(sorted(tokens), len(tokens))])}


class Counting(dict):
    """A vocabulary that counts how often something is looked up."""

    lookups = 0

    def get(self, key):
        self.lookups += 1
        return super().get(key)

    def __contains__(self, key):
        self.lookups += 1
        return super().__contains__(key)

    def __getitem__(self, key):
        self.lookups += 1
        return super().__getitem__(key)


# ---------------------------------------------------------------- the released tokenizer, when it is here


def test_released_numbers(released_tekken):
    assert (released_tekken.vocab_size, released_tekken.bos_id, released_tekken.eos_id) == (131072, 1, 2)
    assert (released_tekken.patch_size, released_tekken.max_image_size) == (16, 1024)
    names = ["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<SPECIAL_20>", "<SPECIAL_999>"]
    assert [released_tekken.special_id(name) for name in names] == [3, 4, 10, 12, 13, 20, 999]
    assert released_tekken.pieces([131071, 1000, 1255]) == ["后汉书", "<0x00>", "<0xFF>"]


def test_released_strings(released_tekken):
    check_strings(released_tekken, "ids")


def test_released_decodes(released_tekken):
    check_decodes(released_tekken, "decode")
    check_streams(released_tekken, "decode")


def test_released_long_runs(released_tekken):
    for text, count in ((" " * 3000, 47), ("a" * 100_000, 50_000), (" x" * 3000, 3000), ("\n" * 3000, 750)):
        ids = released_tekken.encode(text)
        assert len(ids) == count and released_tekken.decode(ids) == text


# ---------------------------------------------------------------- what always runs


def test_small_numbers(small):
    assert (small.vocab_size, small.bos_id, small.eos_id) == (1391, 1, 2)
    assert (small.patch_size, small.max_image_size) == (16, 160)


def test_small_strings(small):
    check_strings(small, "small")


def test_small_decodes(small):
    check_decodes(small, "small_decode")
    check_streams(small, "small_decode")


def test_splits(small):
    check_splits(small)


def test_fuzz_of_streams(small):
    rng = random.Random(1)
    heads = [1000 + value for value in (0xC3, 0xE2, 0xED, 0xF0, 0xF4, 0x80, 0x9F, 0xA0, 0xC0, 0x41)]
    for _ in range(3000):
        ids = [rng.choice([rng.randrange(1391), rng.randrange(20), *rng.choices(heads, k=3)])
               for _ in range(rng.randrange(12))]
        stream, texts = small.stream(), []
        for id in ids:
            texts.append(stream.push(id))
            assert len(stream._decoder.getstate()[0]) <= 3
        assert "".join(texts) + stream.finish() == small.decode(ids), ids


def test_half_a_character_is_never_printed(small):
    stream = small.stream()
    assert [stream.push(id) for id in small.encode("é🦉")] == ["", "é", "", "", "", "🦉"]
    assert stream.finish() == ""
    # A stream can go on after its end.
    assert [stream.push(1240), stream.finish(), stream.finish(), stream.push(1097)] == ["", "\ufffd", "", "a"]


def test_special_tokens_are_text(small):
    for name in SPECIAL_TOKENS:
        ids = small.encode(name)
        assert min(ids) >= 1000 and small.decode(ids) == name
        assert small.decode([small.special_id(name), *small.encode("ab"), small.special_id(name)]) == "ab"


def test_pieces(small):
    ids = [1, 10, *small.encode(" \n\té"), 1240, *small.encode(" the"), 999]
    assert small.pieces(ids) == ["<s>", "[IMG]", "\u2581", "<0x0A>", "<0x09>", "<0xC3>", "<0xA9>", "<0xF0>",
                                 "\u2581the",
                                 "<SPECIAL_999>"]
    assert TekkenTokenizer(list(SPECIAL_TOKENS), [*BYTES, " é€\n".encode(), b"a\xe2\x82"]).pieces([276, 277]) == [
        "\u2581é€<0x0A>", "a<0xE2><0x82>"]


def test_numpy_ids(small):
    ids = small.encode("The answer")
    assert small.decode(np.array(ids)) == streamed(small, np.array(ids, np.int32)) == "The answer"
    assert small.pieces(np.array(ids)) == small.pieces(ids)


@pytest.mark.parametrize("bad", [-1, 1391, 10**6, 2**70, 1.0, "1", None])
def test_bad_ids(small, bad):
    for call, argument in ((small.decode, [5, bad]), (small.pieces, [bad]), (small.stream().push, bad)):
        with pytest.raises(TinyError) as caught:
            call(argument)
        assert repr(bad) in caught.value.cause


@pytest.mark.parametrize("text", [b"bytes", None, 3, ["a"]])
def test_text_must_be_a_string(small, text):
    with pytest.raises(TinyError, match=type(text).__name__):
        small.encode(text)


def test_no_such_special_token(small):
    with pytest.raises(TinyError, match=r"no special token \[AUDIO\]") as caught:
        small.special_id("[AUDIO]")
    assert caught.value.remedy


def test_regex_is_imported_when_needed():
    code = "import sys, tiny; sys.exit('regex' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ---------------------------------------------------------------- merging


def test_merge_does_what_its_definition_says():
    rng = random.Random(2)
    for _ in range(3000):
        ids = random_vocabulary(rng)
        data = bytes(rng.choices(b"abc", k=rng.randrange(30)))
        assert merge(data, ids) == slow_merge(data, ids), (data, ids)


def test_merge_by_hand():
    ids = {token: id for id, token in enumerate([*BYTES, b"aa", b"ab", b"aaa", b"abc"])}
    spelt = {id: token.decode("latin-1") for token, id in ids.items()}
    for data, parts in ((b"", ""), (b"a", "a"), (b"aaaaa", "aa aaa"), (b"aab", "aa b"), (b"abcab", "abc ab"),
                        (b"bcab", "b c ab"), (b"aaabc", "aa abc")):
        assert " ".join(spelt[id] for id in merge(data, ids)) == parts


def test_a_piece_of_the_list_is_one_token_though_merges_do_not_lead_there():
    tokenizer = TekkenTokenizer(list(SPECIAL_TOKENS), [*BYTES, b"bc", b"abcd"])
    assert tokenizer.pieces(tokenizer.encode("abcd")) == ["abcd"]
    assert tokenizer.pieces(tokenizer.encode("xabcd")) == ["x", "a", "bc", "d"]
    assert tokenizer.pieces(tokenizer.encode("1abcd1")) == ["1", "abcd", "1"]


def test_lookups_grow_with_the_length_of_a_piece(monkeypatch):
    vocabulary = {token: id for id, token in enumerate([*BYTES, b"aa", b"aaaa", b"ab", b"abab", b"  "])}
    pops, pop = [], tekken.heappop
    monkeypatch.setattr(tekken, "heappop", lambda heap: pops.append(len(heap)) or pop(heap))
    for data in (b"a" * 20_000, b"ab" * 10_000, b" " * 20_000, b"abb" * 7_000):
        ids, n = Counting(vocabulary), len(data)
        pops.clear()
        merge(data, ids)
        # One for each pair of bytes, at most two for each join, one for each token.
        assert ids.lookups <= 4 * n and len(pops) <= 3 * n
    ids = Counting(vocabulary)
    slow_merge(b"a" * 500, ids)
    assert ids.lookups > 50 * 500


def test_a_piece_is_merged_once_within_a_text(small, monkeypatch):
    merged = []
    monkeypatch.setattr(tekken, "merge", lambda data, ids: merged.append(data) or merge(data, ids))
    small.encode("xqz xqz xqz xqz\n" * 100)
    assert sorted(merged) == [b" xqz", b"xqz"]
    # Nothing is kept for the next text.
    small.encode("xqz")
    assert len(merged) == 3


# ---------------------------------------------------------------- images


def test_image_tokens(small):
    assert small.image_tokens(3, 2) == [10, 10, 10, 12, 10, 10, 10, 13]
    assert small.image_tokens(1, 1) == [10, 13]
    assert small.image_tokens(2, 3) == [10, 10, 12, 10, 10, 12, 10, 10, 13]
    assert len(small.image_tokens(64, 64)) == 4160


def test_encode_image(small, tmp_path):
    picture = Image.new("RGB", (33, 17), "red")
    picture.save(tmp_path / "red.png")
    ids, pixels = small.encode_image(picture)
    assert ids == small.image_tokens(3, 2) and pixels.shape == (3, 32, 48) and pixels.dtype == np.float32
    assert_close(pixels, tiny.preprocess(picture, 16, 160), atol=0.0, name="pixels")
    assert_close(small.encode_image(tmp_path / "red.png")[1], pixels, atol=0.0, name="pixels of a file")


# ---------------------------------------------------------------- wrong variants, to be told apart


def made_anew(tokenizer):
    """A tokenizer of the same file, made after a mutant has spoilt what makes it."""
    image = (tokenizer.patch_size, tokenizer.max_image_size)
    return TekkenTokenizer(tokenizer._special, tokenizer._bytes, tokenizer._version, image)


def name_of(mutant):
    return mutant.__name__


@pytest.mark.parametrize("mutant", mutants.ENCODE, ids=name_of)
def test_wrong_encoders_are_told_apart(small, mutant, monkeypatch):
    mutant(monkeypatch)
    if mutant is mutants.pieces_in_the_list_are_merged_all_the_same:  # The small file has no piece that shows it.
        wrong = TekkenTokenizer(list(SPECIAL_TOKENS), [*BYTES, b"bc", b"abcd"])
        assert wrong.pieces(wrong.encode("abcd")) == ["a", "bc", "d"]
        return
    with pytest.raises(AssertionError):
        check_strings(made_anew(small), "small")


@pytest.mark.parametrize("mutant", mutants.SPLIT_AT, ids=name_of)
def test_wrong_splits_are_told_apart(small, mutant, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check_splits(made_anew(small))


@pytest.mark.parametrize("mutant", mutants.DECODE, ids=name_of)
def test_wrong_decoders_are_told_apart(small, mutant, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check_decodes(small, "small_decode")


@pytest.mark.parametrize("mutant", mutants.STREAM, ids=name_of)
def test_wrong_streams_are_told_apart(small, mutant, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check_streams(small, "small_decode")


def test_what_mutants_spoil_is_right_without_a_mistake(small, monkeypatch):
    rng = random.Random(4)
    for _ in range(300):
        ids = random_vocabulary(rng)
        data = bytes(rng.choices(b"abc", k=rng.randrange(30)))
        assert mutants.merging()(data, ids) == slow_merge(data, ids), (data, ids)
    mutants.split_with(monkeypatch, {})
    mutants.read_with(monkeypatch, mutants.read_bytes)
    copy = made_anew(small)
    check_strings(copy, "small")
    check_decodes(copy, "small_decode")
    check_splits(copy)
