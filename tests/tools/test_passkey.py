"""The passkey task: prompts of exact length, the judge, and models that are known to find or to miss."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from compare import assert_close

import tiny
from tests.tools.test_cli import call, fails
from tiny.tools import passkey

TOKENIZERS = ("tiny-mixtral", "tiny-pixtral")
DEPTHS = (0, 25, 50, 75, 100)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return tiny.load(request.param).tokenizer


def parts(text, key="86556"):
    """What stands around the sentence with the key: the filler before it, and behind it."""
    needle = passkey.KEY.format(key=key)
    assert text.startswith(passkey.TASK + "\n") and text.endswith(passkey.QUESTION) and text.count(needle) == 1
    before, _, after = text.partition(needle)
    return before[len(passkey.TASK) :].strip("\n"), after[: -len(passkey.QUESTION)].strip("\n")


@pytest.mark.parametrize("depth", [*DEPTHS, 33.3])
def test_every_length_is_exact_and_the_key_is_where_it_should_be(tokenizer, depth):
    """The oracle is the text itself, decoded: filler sentences in order, of which the first may lack its beginning."""
    endless = " ".join(passkey.FILLER * 400)
    for tokens in (*range(300, 330), 1000, 1777):
        ids = passkey.make_prompt(tokenizer, tokens, depth, "86556")
        assert len(ids) == tokens and ids[0] == tokenizer.bos_id
        before, after = parts(tokenizer.decode(ids))
        assert before in endless and after in endless and len(before + after) > 100
        share = 100 * len(before) / len(before + after)
        assert abs(share - depth) < 100 * 60 / len(before + after), "within three sentences"


def test_filler_is_cut_and_nothing_else(tokenizer):
    """One token less is one token less of filler, where the longer stretch begins."""
    for depth in (0, 100):
        longer, shorter = (passkey.make_prompt(tokenizer, tokens, depth, "86556") for tokens in (301, 300))
        at = next(n for n, (a, b) in enumerate(zip(longer, shorter)) if a != b)
        start = tokenizer.decode(longer[:at])
        assert start.rstrip("\n").endswith("there." if depth else "is the pass key.")


@pytest.mark.parametrize("depth", [0, 60])
def test_less_than_a_sentence_is_cut(tokenizer, depth):
    """Also of long prompts, whose number of sentences is estimated first: one sentence less would be too short."""
    for tokens in (3000, 9001):
        text = tokenizer.decode(passkey.make_prompt(tokenizer, tokens, depth, "86556"))
        longer = parts(text)[0 if depth > 50 else 1]
        rest, _, _ = longer.partition(passkey.FILLER[1])
        assert passkey.FILLER[0].endswith(rest.rstrip()), rest


def test_different_keys_have_one_length(tokenizer):
    rng = np.random.default_rng(1)
    lengths = {len(tokenizer.encode(str(key))) for key in rng.integers(passkey.LEAST, passkey.MOST + 1, 50)}
    assert len(lengths) == 1


@pytest.mark.parametrize("answer, found, digits", [
    (" 86556.", True, 1), ("86556", True, 1), (" 86556 is the pass key", True, 1), ("... the key 86556", True, 1),
    (" 8655", False, 0.8), (" 865567", False, 1), (" 86 556", False, 0.4), (" 65568", False, 0.2), ("", False, 0),
    (" twelve", False, 0), (" 12345 or 86556", False, 0)])
def test_the_judge(answer, found, digits):
    judged = passkey.judge("86556", answer)
    assert judged[0] == found
    assert_close(judged[1], digits, 1e-12)


def test_chance_is_what_random_numbers_get():
    """Of all pairs of five-digit numbers: from how often each digit stands at each place."""
    keys = np.arange(10_000, 100_000)
    places = [np.bincount(keys // 10**n % 10, minlength=10) / len(keys) for n in range(5)]
    assert_close(passkey.CHANCE_OF_DIGITS, np.mean([share @ share for share in places]), 1e-12)
    assert 1 / len(keys) == passkey.CHANCE


def reader(window=None):
    """A model that finds the key if it is among the last tokens that it sees."""
    def generate(model, ids, max_tokens):
        text = model.tokenizer.decode(ids[-window:] if window else ids)
        seen = re.search(r"The pass key is (\d{5})\.", text)
        yield SimpleNamespace(text=f" {seen[1]}." if seen else " I do not know.")
    return generate


def test_one_that_reads_all_and_one_with_a_window(capsys, monkeypatch, tmp_path):
    """A window of 100 tokens finds keys near the end and no others: the classic mistake that the task shows."""
    ask = ["passkey", "--tokens", "300,500", "--trials", "2", "--depths", "0,50,100"]
    monkeypatch.setattr(passkey.tiny, "generate", reader())
    out, _, _ = call(capsys, *ask, "--figure", tmp_path / "p.png")
    assert "12 of 12 keys, 100.0 per cent; a guess finds 0.001" in out and (tmp_path / "p.png").stat().st_size > 5000
    monkeypatch.setattr(passkey.tiny, "generate", reader(window=100))
    out, _, _ = call(capsys, *ask)
    assert "4 of 12 keys, 33.3 per cent" in out and re.search(r"^ +100 % +2 +2$", out, re.M)
    assert re.search(r"^ +50 % +0 +0$", out, re.M) and "random digits 10.2" in out
    said = json.loads(call(capsys, *ask, "--json")[0])
    assert_close(said["found"], 1 / 3, 1e-12)
    assert said["chance"] == passkey.CHANCE
    assert {(row["tokens"], row["depth"]) for row in said["rows"]} == {(n, d) for n in (300, 500) for d in (0, 50, 100)}
    assert len({row["key"] for row in said["rows"]}) == 12, "each trial has a key of its own"


def test_the_figure_has_a_cell_for_each_length_and_depth():
    rows = [{"tokens": n, "depth": depth, "found": n < 20, "digits": 0.0} for n in (10, 20) for depth in (0, 50, 100)]
    panel = passkey.draw(rows, "a model").axes[0]
    assert [text.get_text() for text in panel.texts] == ["100", "0"] * 3
    assert "a guess finds 0.001 per cent" in panel.get_title() and panel.get_xlabel() == "tokens of the prompt"
    assert panel.images[0].get_array().tolist() == [[1, 0]] * 3, "depth downwards"


def test_the_embedded_model_says_what_it_does(capsys):
    out, notes, _ = call(capsys, "passkey", "--tokens", "250", "--depths", "50", "--trials", "2", "--cache", "bfloat16")
    assert "0 of 2 keys" in out and "No key was found, and" in out and "answers hold a digit at all" in out
    assert "250 tokens: 0% of the keys found" in notes[-1]


def test_by_default_half_three_quarters_and_all_of_the_context():
    model = tiny.load("tiny-mixtral")
    most = 512 - passkey.answer_room(model)
    assert passkey.choose_lengths(model, None) == [most // 2, 3 * most // 4, most]
    assert passkey.choose_lengths(model, [400, 300, 400]) == [300, 400]


@pytest.mark.parametrize("options, words", [
    (["--tokens", "20"], ["--tokens is 20; task, key and question alone take 92 tokens", "from 92 on"]),
    (["--tokens", "510"], ["510 tokens leaves no room for an answer", "up to 503"]),
    (["--tokens", "0"], ["--tokens is 0"]), (["--tokens", "1e3"], ["'1e3' is no list of numbers"]),
    (["--tokens", ","], ["is no list"]), (["--depths", "50,101"], ["--depths is 101"]),
    (["--depths", "nan"], ["--depths is nan"]), (["--depths", "half"], ["'half' is no list"]),
    (["--trials", "0"], ["--trials is 0"]), (["--figure", "p.gif"], ["p.gif"]), (["--seed", "-1"], ["--seed is -1"]),
    (["--cache", "float16"], ["--cache"]), (["--model", "gone"], ["gone"])])
def test_bad_use(capsys, options, words):
    err = fails(capsys, ["passkey", *options], words[0])
    assert all(word in err for word in words)
