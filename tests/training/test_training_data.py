"""The training data: the split, the tokenizer, the streams and the batches."""
import lzma
import pathlib
from typing import NamedTuple

import numpy as np
import pytest
from compare import assert_close

from tiny.training.text import data, tasks

CORPUS = pathlib.Path(data.__file__).parents[1] / "corpus"


@pytest.fixture(scope="module")
def texts():
    return data.texts()


@pytest.fixture(scope="module")
def model(texts):
    return data.train_tokenizer(texts, characters=2_000_000)


@pytest.fixture(scope="module")
def tokenizer(model):
    return data.open_tokenizer(model)


@pytest.fixture(scope="module")
def streams(texts, tokenizer):
    """Training and held-out streams of the last part of every training text: they are built quickly."""
    short = {domain: (train[-200_000:], held) for domain, (train, held) in texts.items()}
    return tuple(data.build_streams(tokenizer, short, {"stories": 60_000, "tasks": 40_000}, side)
                 for side in (False, True))


def test_notice_names_every_file_of_the_corpus():
    notice = (CORPUS / "NOTICE.md").read_text(encoding="utf-8")
    files = sorted(path.name for path in CORPUS.iterdir() if path.name != "NOTICE.md")
    assert len(files) == 6
    for name in files:
        assert f"`{name}`" in notice
    assert "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved." in notice
    assert "World English" not in notice


def test_corpus_is_text_with_plain_line_ends():
    for path in CORPUS.glob("*.xz"):
        text = lzma.decompress(path.read_bytes()).decode("utf-8")
        assert "\r" not in text and "\u2581" not in text and text.endswith("\n") and not text.endswith("\n\n")
    assert sum(path.stat().st_size for path in CORPUS.iterdir()) < 6_000_000


def test_stored_texts_hold_out_their_last_lines(texts):
    assert set(texts) == set(data.SHARES)
    for domain, name in data.FILES.items():
        train, held = texts[domain]
        assert train + held == lzma.decompress((CORPUS / f"{name}.txt.xz").read_bytes()).decode("utf-8")
        assert train.endswith("\n") and 0.029 < len(held) / len(train + held) <= 0.03


# ---- tokenizer

def test_tokenizer_has_mixtrals_layout(tokenizer):
    assert tokenizer.vocab_size() == 2048
    assert [tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()] == [0, 1, 2, -1]
    assert [tokenizer.id_to_piece(3 + i) for i in range(256)] == [f"<0x{i:02X}>" for i in range(256)]
    assert tokenizer.encode("a\nb")[-2] == 3 + 10
    assert all(sum(c.isdigit() for c in tokenizer.id_to_piece(i)) <= 1 for i in range(259, 2048))


def test_tokenizer_training_gives_the_same_bytes_twice(texts):
    first, second = (data.train_tokenizer(texts, vocab_size=600, characters=300_000) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("domain", list(data.SHARES))
def test_texts_survive_the_tokenizer(domain, texts, tokenizer):
    for text in texts[domain]:
        for start in (0, len(text) // 2, len(text) - 3000):
            sample = text[start:start + 3000]
            ids = tokenizer.encode(sample)
            assert 0 not in ids and tokenizer.decode(ids) == sample


ODD = ["[INST] Hello [/INST]", "  two\n\n   three", "caf\u00e9 \U0001f600 \u65e5\u672c", "\t", " "]


@pytest.mark.parametrize("text", ODD)
def test_odd_strings_survive_the_tokenizer(text, tokenizer):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_encoded_in_blocks_is_the_text_encoded_whole(texts, tokenizer):
    text = texts["python"][1][:30_000]
    assert text.count("\n") > 600
    whole = tokenizer.encode("\n" + text)
    assert data.encode_text(tokenizer, text).tolist() == whole[2:]


# ---- tasks

def words(prompt):
    return prompt.split(": ", 1)[1].split()


@pytest.mark.parametrize("kind", tasks.KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_task_answers_are_right(kind, held_out):
    rng = np.random.default_rng(5)
    for _ in range(300):
        task = tasks.generate(rng, kind, held_out)
        assert task.kind == kind and tasks.is_held_out(task.prompt) == held_out
        if kind == "repeat":
            assert task.answer.split() == words(task.prompt) and 2 <= len(words(task.prompt)) <= 6
        elif kind == "reverse":
            assert task.answer.split()[::-1] == words(task.prompt) and 2 <= len(words(task.prompt)) <= 4
        elif kind == "sort":
            key = int if task.answer[0].isdigit() else str
            assert task.answer.split() == sorted(words(task.prompt), key=key)
        elif kind == "sum":
            a, b = (int(n) for n in "".join(c if c.isdigit() else " " for c in task.prompt).split())
            less = any(sign in task.prompt for sign in ("minus", "take away", "-", "less"))
            # "From 9 take away 4" and "9 - 4" name the larger number first.
            assert task.answer == str(a - b if less else a + b)
        else:
            assert_fact(task)


def assert_fact(task):
    """Hold a fact's answer to the statement it was asked from: the only one with what the question names."""
    stop = task.prompt.index(".")
    statements = task.prompt[:stop].replace(" and ", ", ").split(", ")
    asked = set(task.prompt[stop + 2:-1].replace("'s", "").split())
    if statements[0].startswith("My name"):
        named = {"name": "name", "like": "like", "live": "live", "coat": "coat"}
        source = [s for s in statements if any(word in asked and word in s for word in named)]
    else:
        common = set.intersection(*(set(s.split()) for s in statements)) | {"the", "has"}
        source = [s for s in statements if (set(s.replace("The ", "the ").split()) - common) & asked]
    assert len(source) == 1, task
    assert task.answer.lower() in source[0].lower(), task


def test_task_prompts_are_a_function_of_the_seed_and_unknown_kinds_are_refused():
    first, second = (tasks.generate(np.random.default_rng(3)) for _ in range(2))
    assert first == second
    with pytest.raises(ValueError, match="unknown kind of task 'riddle'"):
        tasks.generate(np.random.default_rng(0), "riddle")


# ---- streams and batches

class Story(NamedTuple):
    text: str


def documents(stream):
    return [stream.ids[a:b].tolist() for a, b in zip(stream.starts[:-1], stream.starts[1:], strict=True)]


def prompts(stream, tokenizer):
    """The prompts of a stream of chats, read back from its tokens."""
    found = []
    for ids in documents(stream):
        assert ids[0] == data.BOS and ids[-1] == data.EOS
        text = "".join(tokenizer.decode([i]) if i == data.EOS else tokenizer.id_to_piece(i) for i in ids[1:])
        turns = text.replace("\u2581", " ").split("[INST]")[1:]
        found += [turn.split("[/INST]")[0].strip() for turn in turns]
    return found


def test_streams_keep_the_split(streams, texts, tokenizer):
    train, held = streams
    for domain in data.FILES:
        assert tokenizer.decode(train[domain].ids.tolist()).strip() == texts[domain][0][-200_000:].strip()
        assert tokenizer.decode(held[domain].ids.tolist()).strip() == texts[domain][1].strip()
    for side, stream in enumerate((train["tasks"], held["tasks"])):
        found = prompts(stream, tokenizer)
        assert len(found) > 300 and all(tasks.is_held_out(prompt) == bool(side) for prompt in found)


def test_stories_of_each_side_come_from_that_side(texts, tokenizer, monkeypatch):
    monkeypatch.setattr(data.stories, "generate", lambda rng, held_out: Story(f"Held out: {held_out}."))
    short = {domain: (train[:1000], held[:1000]) for domain, (train, held) in texts.items()}
    for side in (False, True):
        stream = data.build_streams(tokenizer, short, {"stories": 3000, "tasks": 100}, side)["stories"]
        assert {tokenizer.decode(ids) for ids in documents(stream)} == {f"Held out: {side}."}
        assert set(data.texts()["stories"][side].split("\n\n")) == {f"Held out: {side}."}


def test_batch_is_a_pure_function_of_its_arguments(streams):
    first, second, other = (data.batch(streams[0], data.SHARES, 1, step, 1000, 128) for step in (7, 7, 8))
    for name in ("ids", "targets", "weights"):
        a, b = getattr(first, name), getattr(second, name)
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    assert first.lengths == second.lengths and first.ids.tobytes() != other.ids.tobytes()


def test_batch_is_packed_and_targets_are_the_next_tokens(streams):
    for step in range(20):
        batch = data.batch(streams[0], data.SHARES, 2, step, 1000, 128)
        assert batch.ids.shape == batch.targets.shape == batch.weights.shape == (1000,)
        assert batch.ids.dtype == batch.targets.dtype == np.int32 and batch.weights.dtype == np.float32
        assert sum(batch.lengths) == 1000 and max(batch.lengths) <= 128 and min(batch.lengths) >= 1
        starts = np.cumsum([0, *batch.lengths])
        assert (batch.ids[starts[:-1]] == data.BOS).all()
        inside = np.ones(1000, bool)
        inside[starts[1:] - 1] = False
        assert (batch.targets[:-1][inside[:-1]] == batch.ids[1:][inside[:-1]]).all()
        assert (batch.targets != data.BOS).all() and (batch.weights == 1).all()


def test_last_targets_are_the_streams_own_next_tokens(streams):
    text = streams[0]["bible"]
    ids, targets, _ = data.sequence(text, 1234, 50, False)
    assert ids.tolist() == [1, *text.ids[1234:1283]] and targets.tolist() == text.ids[1234:1284].tolist()
    story = documents(streams[0]["stories"])[3]
    ids, targets, _ = data.sequence(streams[0]["stories"], 3, 1000, False)
    assert ids.tolist() == story[:-1] and targets.tolist() == story[1:] and targets[-1] == data.EOS
    ids, targets, _ = data.sequence(streams[0]["stories"], 3, 10, False)
    assert ids.tolist() == story[:10] and targets.tolist() == story[1:11]


@pytest.mark.parametrize("tokens", [1024, 1000])
def test_shares_are_shares_of_tokens(tokens):
    """Each domain is one letter here, so that a token tells its domain."""
    marked = {}
    for k, domain in enumerate(data.SHARES):
        ids = np.full(5000, 100 + k, np.int32)
        starts = np.arange(0, 5001, 100) if domain in ("stories", "tasks") else np.zeros(0, np.int64)
        marked[domain] = data.Stream(ids, np.ones(5000, np.bool_), starts)
    counts = np.zeros(len(marked))
    for step in range(400):
        batch = data.batch(marked, data.SHARES, 0, step, tokens, 256)
        counts += np.bincount(batch.targets - 100, minlength=7)
    assert_close(counts / counts.sum(), np.array(list(data.SHARES.values())), atol=0.015, name="shares")


def test_answers_only_weighs_exactly_the_answers(streams, tokenizer):
    train = streams[0]
    alone = data.batch(train, {"tasks": 1.0}, 0, 0, 2000, 200, answers_only=True)
    assert sum(alone.lengths) == 2000
    start = 0
    for length in alone.lengths:
        part = slice(start, start + length)
        text, weights, start = "", alone.weights[part], start + length
        for target, weight in zip(alone.targets[part].tolist(), weights.tolist(), strict=True):
            # An answer begins behind [/INST] and its last target is </s>.
            assert weight == (text.count("[/INST]") == 1)
            text = "" if target == data.EOS else text + tokenizer.id_to_piece(target)
    mixed = data.batch(train, {"bible": 0.5, "stories": 0.5}, 0, 0, 1024, 128, answers_only=True)
    assert (mixed.weights == 1).all()


def test_held_out_sets_count_their_characters(streams, tokenizer):
    found = data.held_out(streams[1], tokenizer, tokens=4096, window=128)
    assert list(found) == list(data.SHARES)
    for domain, (batches, characters) in found.items():
        assert 3500 <= sum(len(batch.ids) for batch in batches) <= 4096 and characters > 4096
        text = ""
        for batch in batches:
            assert max(batch.lengths) <= 128 and (batch.weights == 1).all()
            for ids in np.split(batch.targets, np.cumsum(batch.lengths)[:-1]):
                pieces = [tokenizer.id_to_piece(i) for i in ids.tolist() if not tokenizer.is_byte(i)]
                raw = bytes(i - 3 for i in ids.tolist() if tokenizer.is_byte(i))
                shown = "".join(pieces).replace("</s>\u2581", "</s>").replace("</s>", "")
                if domain in ("stories", "tasks"):
                    assert shown[0] == "\u2581"
                    shown = shown[1:]
                text += shown + raw.decode("utf-8", errors="ignore")
        assert characters == len(text)


def test_held_out_characters_of_whole_stories_are_the_stories_own(tokenizer):
    stories = ["Tom had a kite. It was red.", "Caf\u00e9s are nice.\n  \u65e5 yes"]
    stream = data.pack([[([1] + tokenizer.encode(story) + [2], True)] for story in stories])
    empty = data.held_out({"stories": stream}, tokenizer, tokens=len(stream.ids))["stories"]
    assert empty.characters == sum(map(len, stories))
    assert sum(len(batch.ids) for batch in empty.batches) == len(stream.ids) - 2


def test_stored_streams_are_read_back_and_follow_the_tokenizer(tmp_path, monkeypatch, texts, model):
    short = {domain: (train[:4000], held[:4000]) for domain, (train, held) in texts.items()}
    build = data.build_streams
    small = {"stories": 2000, "tasks": 2000}
    monkeypatch.setattr(data, "texts", lambda: short)
    monkeypatch.setattr(data, "build_streams", lambda sp, split, _, side: build(sp, split, small, side))
    made = data.load_streams(model, tmp_path)
    monkeypatch.setattr(data, "build_streams", None)
    again = data.load_streams(model, tmp_path)
    for first, second in zip(made, again, strict=True):
        for domain in data.SHARES:
            assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes()
                       for a, b in zip(first[domain], second[domain], strict=True))
    with pytest.raises(TypeError):
        data.load_streams(data.train_tokenizer(texts, vocab_size=600, characters=100_000), tmp_path)
