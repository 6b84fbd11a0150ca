"""tiny/files/tokenizer_files.py: files by every name, folders with both kinds, and files that are broken."""

import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from fetch_tokenizer import train_small

from tiny.config import TinyError
from tiny.files.tokenizer_files import find_tokenizer, load_tokenizer
from tiny.tekken import SPECIAL_TOKENS

PIXTRAL_A = Path(__file__).parents[1] / "golden" / "pixtral-a" / "mistral"
TEKKEN = (PIXTRAL_A / "tekken.json").read_bytes()


@pytest.fixture(scope="session")
def small_bytes():
    return train_small()


def streamed(tokenizer, ids):
    stream = tokenizer.stream()
    return "".join([stream.push(id) for id in ids]) + stream.finish()


def test_names(small_bytes, tmp_path):
    for name in ("tokenizer.model", "tokenizer.model.v1", "other"):
        (tmp_path / name).write_bytes(small_bytes)
        assert load_tokenizer(str(tmp_path / name)).vocab_size == 379
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tokenizer.model.v1").write_bytes(small_bytes)
    assert load_tokenizer(folder).vocab_size == 379
    for name in ("tekken.json", "tekken_240911.json", "other.json", "other"):
        (tmp_path / name).write_bytes(TEKKEN)
        assert load_tokenizer(tmp_path / name).vocab_size == 1391


@pytest.mark.parametrize("name, data, cause", [
    ("tokenizer.model", None, "does not exist"), ("tokenizer.model", b"", "is empty"),
    ("tokenizer.model", b"hello" * 100, "not a SentencePiece"),
    ("tokenizer.model", bytes(1000), "not a SentencePiece"),
    ("tokenizer.json", b'{"model": {"vocab": {}}}', "not a Tekken file"),
    ("tekken.json", b"{}", "not a Tekken file"), ("tekken.json", b"[]", "not a JSON object"),
    ("tekken.json", b"\n\x0ehello", "not valid JSON"), ("tekken.json", b"[" * 100_000, "not valid JSON"),
    ("tekken.json", b"\xff{}", "not valid JSON"), ("tekken.json", b"1" * 10_000, "not valid JSON"),
    ("tekken.json", b"", "is empty")])
def test_files_that_are_no_tokenizer(name, data, cause, tmp_path):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(TinyError, match=cause) as caught:
        load_tokenizer(tmp_path / name)
    assert caught.value.remedy


def test_folders_without_a_tokenizer(tmp_path):
    with pytest.raises(TinyError, match=r"holds no tokenizer.model and no tekken.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer.model").mkdir()
    with pytest.raises(TinyError, match="holds no"):
        load_tokenizer(tmp_path)
    (tmp_path / "tekken.json").write_bytes(TEKKEN)
    assert find_tokenizer(tmp_path) == tmp_path / "tekken.json"


@pytest.mark.parametrize("files, found", [
    ({}, "tokenizer.model"), ({"params.json": "{}"}, "tokenizer.model"),
    ({"params.json": '{"vision_encoder": {"hidden_size": 1}}'}, "tekken.json"),
    ({"params.json": '{"vision_encoder": null}', "config.json": '{"vision_config": {"a": 1}}'}, "tokenizer.model"),
    ({"config.json": '{"vision_config": {"a": 1}}'}, "tekken.json"), ({"config.json": "{}"}, "tokenizer.model")])
def test_folders_with_both(small_bytes, files, found, tmp_path):
    for name, data in {"tokenizer.model": small_bytes, "tokenizer.model.v1": b"", "tekken.json": TEKKEN,
                       "tekken_240911.json": b""}.items():
        (tmp_path / name).write_bytes(data)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert find_tokenizer(tmp_path).name == found
    assert load_tokenizer(tmp_path).vocab_size == {"tokenizer.model": 379, "tekken.json": 1391}[found]


def test_a_broken_configuration_is_said(tmp_path):
    (tmp_path / "params.json").write_text("{")
    with pytest.raises(TinyError, match=r"params.json is not valid JSON"):
        find_tokenizer(tmp_path)


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "tokenizer.model"
    with path.open("wb") as file:
        file.truncate(33 * 2**20)
    with pytest.raises(TinyError, match="too many"):
        load_tokenizer(path)


def test_files_cut_short(small_bytes, tmp_path):
    rng = random.Random(6)
    path = tmp_path / "tokenizer.model"
    # The last 400 bytes hold the settings; a cut between two of them leaves a file that the library loads.
    length = len(small_bytes)
    for cut in [*range(length - 400, length), *(rng.randrange(1, length) for _ in range(200))]:
        path.write_bytes(small_bytes[:cut])
        with pytest.raises(TinyError, match="damaged|cut short|no ids"):
            load_tokenizer(path)


def test_damaged_files_give_a_tokenizer_or_an_error(small_bytes, tmp_path):
    rng = random.Random(7)
    path = tmp_path / "tokenizer.model"
    refused = 0
    for _ in range(600):
        data = bytearray(small_bytes)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            tokenizer = load_tokenizer(path)
        except TinyError:
            refused += 1
            continue
        everything = range(tokenizer.vocab_size)
        assert isinstance(tokenizer.decode(everything) + streamed(tokenizer, everything), str)
    assert refused > 100


def test_models_of_another_kind(tmp_path):
    path = tmp_path / "tokenizer.model"
    cases = [({"remove_extra_whitespaces": True}, "keep spaces"), ({"bos_id": -1}, "no ids for BOS")]
    for options, cause in cases:
        path.write_bytes(train_small(**options))
        with pytest.raises(TinyError, match=cause):
            load_tokenizer(path)


def test_text_never_becomes_a_control_token(small_bytes, tmp_path, monkeypatch):
    """A second piece "<s>", as users define it, in a model of single characters: sentencepiece 0.2.2 makes BOS of the
    text "<s>".
    """
    import sentencepiece

    path = tmp_path / "tokenizer.model"
    piece = b"\x0a\x03<s>" + b"\x15" + struct.pack("<f", 0.0) + b"\x18\x04"  # text, score, kind of a piece
    characters = b"\x18\x04"  # kind of a model
    path.write_bytes(small_bytes + b"\x0a" + bytes([len(piece)]) + piece + b"\x12\x02" + characters)
    tokenizer = load_tokenizer(path)
    assert not {tokenizer.bos_id, tokenizer.eos_id} & {*tokenizer.encode("<s>"), *tokenizer.encode("a</s>")}

    class Old(sentencepiece.SentencePieceProcessor):
        def encode(self, text):
            return [self.bos_id()] if text == "<s>" else super().encode(text)
    monkeypatch.setattr(sentencepiece, "SentencePieceProcessor", Old)
    with pytest.raises(TinyError, match="turns the text '<s>' into the control token") as caught:
        load_tokenizer(path)
    assert caught.value.remedy


def test_sentencepiece_is_imported_when_needed():
    code = "import sys, tiny; sys.exit('sentencepiece' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


# ---------------------------------------------------------------- Tekken files


def edited(**changes):
    """The small Tekken file with other parts; of the configuration with `config_` in front, None takes a part out."""
    content = json.loads(TEKKEN)
    for name, value in changes.items():
        part = content["config"] if name.startswith("config_") else content
        name = name.removeprefix("config_")
        if value is None:
            del part[name]
        else:
            part[name] = value
    return json.dumps(content).encode()


def vocabulary(**changes):
    """The vocabulary of the small file with changed entries: their numbers with `n` in front."""
    entries = json.loads(TEKKEN)["vocab"]
    for name, change in changes.items():
        entries[int(name[1:])] = entries[int(name[1:])] | change if isinstance(change, dict) else change
    return entries


def opened(data, tmp_path):
    (tmp_path / "tekken.json").write_bytes(data)
    return load_tokenizer(tmp_path)


def listed(*names):
    return [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)]


def size(special, others=391):
    return {"config_default_num_special_tokens": special, "config_default_vocab_size": special + others}


CHAT = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]


@pytest.mark.parametrize("special", [20, 21, 32, 1000, 2000])
def test_number_of_special_tokens(special, tmp_path):
    tokenizer = opened(edited(**size(special)), tmp_path)
    assert tokenizer.vocab_size == special + 391 and tokenizer.encode("\x00\x01") == [special, special + 1]
    assert tokenizer.pieces(range(20)) == list(SPECIAL_TOKENS)
    assert tokenizer.pieces(range(20, special)) == [f"<SPECIAL_{id}>" for id in range(20, special)]


def test_listed_special_tokens(tmp_path):
    tokenizer = opened(edited(special_tokens=listed(*CHAT), **size(9)), tmp_path)
    assert tokenizer.pieces(range(10)) == [*CHAT, "<SPECIAL_8>", "<0x00>"]
    assert [tokenizer.special_id(name) for name in CHAT] == list(range(8))
    assert tokenizer.image_tokens(2, 2) == [5, 5, 6, 5, 5, 7]
    tokenizer = opened(edited(special_tokens=listed("</s>", "<s>"), **size(2)), tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 0)


def test_image_sections(tmp_path):
    sizes = {"image_patch_size": 8, "max_image_size": 96}
    for changes, expected in (
            ({"image": sizes}, (8, 96)), ({"image": None, "multimodal": sizes}, (8, 96)),
            ({"multimodal": sizes}, (8, 96)), ({"image": sizes | {"spatial_merge_size": 1}}, (8, 96)),
            ({"image": None}, (None, None)), ({"image": {}}, (None, None))):
        tokenizer = opened(edited(**changes), tmp_path)
        assert (tokenizer.patch_size, tokenizer.max_image_size) == expected


def test_what_is_not_used_is_not_read(tmp_path):
    """Entries beyond the vocabulary, token_str, and whatever later files add."""
    entries = vocabulary(n391={"token_bytes": "*", "rank": 0}, n392=7, n10={"token_str": 7})
    expected = load_tokenizer(PIXTRAL_A).encode("Hello there")
    data = edited(vocab=entries, audio={"a": 1}, config_num_vocab_tokens=None, type="x", version=3)
    assert opened(data, tmp_path).encode("Hello there") == expected


def entry(**changes):
    """A vocabulary whose entry 300 is changed."""
    return {"vocab": vocabulary(n300=changes)}


def names(*more):
    """A list of special tokens with more of them."""
    return {"special_tokens": listed(*CHAT, *more)}


OF_BYTE = {"token_bytes": "Lw=="}
LONG = {"token_bytes": "YWJjYWJjYWJj"}


@pytest.mark.parametrize("changes, cause", [
    ({"config": None}, "no config"), ({"config": []}, "no config"), ({"config_version": None}, "no config"),
    ({"config_version": 3}, "no config"), ({"config_pattern": None}, "pattern"), ({"config_pattern": ["a"]}, "pattern"),
    ({"config_pattern": "(a+)+$"}, "pattern"), ({"config_pattern": r"\p{N}{1,3}"}, "pattern"),
    ({"config_pattern": "(?:(?:a{9999}){9999}){9999}"}, "pattern"),
    ({"config_default_vocab_size": None}, "no 'default_vocab_size'"),
    ({"config_default_vocab_size": "1391"}, "default_vocab_size is '1391'"),
    ({"config_default_vocab_size": 1391.0}, "is 1391.0"), ({"config_default_vocab_size": True}, "is True"),
    ({"config_default_vocab_size": -1}, "is -1"), ({"config_default_vocab_size": 10**40}, "is 1000"),
    ({"config_default_vocab_size": 1000}, "do not go with this vocab"),
    ({"config_default_vocab_size": 1255}, "do not go with this vocab"),
    ({"config_default_vocab_size": 1432}, "do not go with this vocab"),
    (size(2**39), "do not go with this vocab"), (size(2**20), "do not go with this vocab"),
    ({"config_default_num_special_tokens": None}, "no 'default_num"), (size(0), "default_num_special_tokens is 0"),
    (size(19), "are not 19 different names"),
    ({"vocab": None}, "vocab"), ({"vocab": {}}, "vocab"), ({"vocab": []}, "vocab"), ({"vocab": "abc" * 200}, "vocab"),
    ({"vocab": [1] * 400}, "entry 0"), ({"vocab": vocabulary(n300=None)}, "entry 300"),
    (entry(rank=299), "entry 300"), (entry(rank="300"), "entry 300"), (entry(rank=None), "entry 300"),
    (entry(token_bytes="*"), "entry 300"), (entry(token_bytes="Lw"), "entry 300"), (entry(token_bytes=5), "entry 300"),
    (entry(token_bytes="YWJj\nYWJj"), "entry 300"), (entry(token_bytes="\u00e9"), "entry 300"),
    (entry(token_bytes=""), "entry 300"), (entry(**OF_BYTE), "entry 300"),
    ({"vocab": vocabulary(n300=LONG, n301=LONG)}, "entry 301"),
    ({"vocab": vocabulary(n46=OF_BYTE, n47={"token_bytes": "Lg=="})}, "entry 46"),
    ({"special_tokens": {}}, "no special token <s>"), ({"special_tokens": []}, "no special token <s>"),
    ({"special_tokens": listed(*CHAT[:2])}, "no special token </s>"), (names() | size(7), "are not 7 different names"),
    ({"special_tokens": 5}, "special tokens"), ({"special_tokens": ["<s>"]}, "special tokens"),
    ({"special_tokens": listed(*CHAT)[::-1]}, "special tokens"), (names("<s>"), "special tokens"),
    (names("<SPECIAL_9>"), "special tokens"), (names(5), "special tokens"), (names(["a"]), "special tokens"),
    (names("\ud800"), "special tokens"),
    ({"image": 5}, "image_patch_size"), ({"image": {"image_patch_size": 16}}, "no 'max_image_size'"),
    ({"image": {"image_patch_size": 0, "max_image_size": 5}}, "image_patch_size is 0"),
    ({"image": {"image_patch_size": 16, "max_image_size": 5.5}}, "max_image_size is 5.5"),
    ({"image": {"image_patch_size": 16, "max_image_size": 1024, "spatial_merge_size": 2}}, "merges patches"),
], ids=lambda value: str(value)[:40])
def test_bad_tekken_files(changes, cause, tmp_path):
    with pytest.raises(TinyError) as caught:
        opened(edited(**changes), tmp_path)
    assert cause in caught.value.cause and caught.value.remedy
    assert len(caught.value.cause) < 300


def test_tekken_files_cut_short(tmp_path):
    rng = random.Random(8)
    for cut in [1, 2, len(TEKKEN.rstrip()) - 1, *(rng.randrange(1, len(TEKKEN.rstrip())) for _ in range(100))]:
        with pytest.raises(TinyError, match="not valid JSON"):
            opened(TEKKEN[:cut], tmp_path)


def test_damaged_tekken_files_give_a_tokenizer_or_an_error(tmp_path):
    rng = random.Random(9)
    refused = 0
    for _ in range(400):
        data = bytearray(TEKKEN)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            tokenizer = opened(bytes(data), tmp_path)
        except TinyError:
            refused += 1
            continue
        ids = range(tokenizer.vocab_size)
        stream = tokenizer.stream()
        assert tokenizer.decode(ids) == "".join(map(stream.push, ids)) + stream.finish()
        assert tokenizer.decode(tokenizer.encode("Hello, world! \n\t123 é🦉")) == "Hello, world! \n\t123 é🦉"
    assert 100 < refused < 400
